"""A whole training step against the classic recipe's and against peers', and the memory it takes.

    python -m benchmarks.step

Two pictures of 384 x 384 pixels and 150 classes, from pictures to updated weights. Peers come from
`benchmarks/requirements.txt` and are left out where they are not installed; they are given fused
optimisers, the memory format that suits them, the loss at full resolution, as ours is, and half
precision where train.py would take it here.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from importlib.util import find_spec

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.classic import classic_logits, classic_loss, classic_network, upsampled
from benchmarks.common import Contender, Job, Row, Tables, against_classic, compare, main
from models import ENCODERS, ModelBuilder, SegmentationModel
from models.encoder import Encoder
from utils import keep_freed_memory, select_amp

CLASSES, SIDE, BATCH = 150, 384, 2
GIGABYTES = (12, 24, 80)


def classic(arch: str, decoder: str, side: int = SIDE, batch: int = BATCH) -> Job:
    """The classic recipe."""
    encoder, decoder = map(classic_network, build(arch, decoder))
    images = torch.randn(batch, 3, side, side)

    def loss(labels: Tensor) -> Tensor:
        return classic_loss(classic_logits(encoder, decoder, images), labels)

    return step(nn.ModuleList([encoder, decoder]), loss, side, batch, fused=False)


def ours(
    arch: str,
    decoder: str,
    amp: torch.dtype | None = None,
    grad_checkpoint: bool = False,
    side: int = SIDE,
    batch: int = BATCH,
) -> Job:
    """What train.py does with its defaults, or with --amp or --grad_checkpoint."""
    keep_freed_memory()
    encoder, decoder = build(arch, decoder)
    encoder.grad_checkpoint = grad_checkpoint
    model = SegmentationModel(encoder, decoder, amp)
    images = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    return step(model, lambda labels: model(images, labels.to(torch.uint8)), side, batch)


def peer(
    build_peer: Callable[[], tuple[nn.Module, Callable[[Tensor], Tensor]]],
    amp: torch.dtype | None,
) -> Job:
    """Another library's network, whose logits `forward` gives at full size."""
    model, forward = build_peer()
    model.to(memory_format=torch.channels_last)
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)

    def loss(labels: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=amp) if amp else nullcontext():
            logits = forward(images)
        return F.cross_entropy(logits.float(), labels, ignore_index=-1)

    return step(model, loss, SIDE, BATCH)


def smp_pspnet34() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    import segmentation_models_pytorch as smp

    model = smp.PSPNet("resnet34", encoder_weights=None, encoder_depth=5, classes=CLASSES)
    model.encoder.make_dilated(8)
    return model, model


def torchvision_fcn50() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    fcn = torchvision.models.segmentation.fcn_resnet50
    model = fcn(weights=None, weights_backbone=None, num_classes=CLASSES)
    return model, lambda images: model(images)["out"]


def mit_semseg_ppm50() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    from mit_semseg.models.models import PPM, ResnetDilated
    from mit_semseg.models.resnet import resnet50

    encoder = ResnetDilated(resnet50(pretrained=False), dilate_scale=8)
    decoder = PPM(num_class=CLASSES, fc_dim=2048)

    def forward(images: Tensor) -> Tensor:
        return upsampled(decoder(encoder(images, return_feature_maps=True)), (SIDE, SIDE))

    return nn.ModuleList([encoder, decoder]), forward


def build(arch: str, decoder: str) -> tuple[nn.Module, nn.Module]:
    encoder = ModelBuilder.build_encoder(arch, weights="none")
    return encoder, ModelBuilder.build_decoder(decoder, encoder.fc_dim, CLASSES)


def step(
    model: nn.Module, loss: Callable[[Tensor], Tensor], side: int, batch: int, fused: bool = True
) -> Job:
    """Loss, gradient and update."""
    model.train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4, fused=fused
    )
    labels = torch.randint(CLASSES, (batch, side, side))

    def job() -> None:
        optimizer.zero_grad()
        loss(labels).backward()
        optimizer.step()

    return job


def installed(package: str, contenders: dict[str, Contender]) -> dict[str, Contender]:
    """The contenders that a package provides, if it is there."""
    return contenders if find_spec(package) else {}


def largest_batches() -> list[Row]:
    """Pictures that fit on a GPU, on paper: what autograd keeps of a picture, counted."""
    full_size = CLASSES * SIDE * SIDE * 4
    rows = []
    for arch in ENCODERS:
        with torch.device("meta"):
            encoder, decoder = build(arch, "c1_bilinear")
        weights = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
        whole, _ = kept_bytes(encoder, torch.float32)
        half, half_checkpointed = kept_bytes(encoder, torch.bfloat16)
        cases = {
            # Log-probabilities, their gradient and that of the logits at full size come on top.
            "classic": (whole + 3 * full_size, 12),  # bytes a weight: it, its gradient, momentum
            "`--amp bf16`": (half, 14),  # and its rounded copy
            "`--amp bf16 --grad_checkpoint 1`": (half_checkpointed, 14),
        }
        row = {"encoder, with `c1_bilinear`": arch}
        for name, (kept, weight_bytes) in cases.items():
            fits = [(gb * 2**30 - weights * weight_bytes) // kept for gb in GIGABYTES]
            row[f"{name}: MB a picture"] = kept / 2**20
            row[f"{name}: fit in {', '.join(map(str, GIGABYTES))} GB"] = ", ".join(map(str, fits))
        rows.append(row)
    return rows


def kept_bytes(encoder: Encoder, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that a picture's features take until the backward pass: all, or with checkpointing."""
    encoder.to(dtype)
    parameters = {p.untyped_storage()._cdata for p in encoder.parameters()}
    x = torch.empty(1, 3, SIDE, SIDE, dtype=dtype, device="meta")
    inputs, insides, whole = [], [], {}
    for block in encoder.blocks():
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            return kept.setdefault(tensor.untyped_storage()._cdata, tensor)

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            inputs.append(x.nbytes)
            x = block(x)
        kept = {key: tensor for key, tensor in kept.items() if key not in parameters}
        insides.append(sum(tensor.nbytes for tensor in kept.values()))
        whole |= kept  # a block's output is often kept by the next one, too
    return sum(tensor.nbytes for tensor in whole.values()), sum(inputs) + max(insides)


def tables(args: argparse.Namespace) -> Tables:
    r34c1, r34psp = ("resnet34_dilated8", "c1_bilinear"), ("resnet34_dilated8", "psp_bilinear")
    r50psp = ("resnet50_dilated8", "psp_bilinear")
    amp = select_amp("auto", torch.device("cpu"))
    precision = ", in half precision" if amp else ""
    smp, mit, fcn = (
        {f"{name}{precision}": partial(peer, build_peer, amp)}
        for name, build_peer in (
            ("segmentation-models-pytorch, PSPNet of ResNet-34", smp_pspnet34),
            ("mit-semseg, ResNet50dilated + PPM", mit_semseg_ppm50),
            ("torchvision, fcn_resnet50", torchvision_fcn50),
        )
    )
    checkpointed = {
        "`train.py --amp off --grad_checkpoint 1`": partial(ours, *r34c1, grad_checkpoint=True)
    }
    return {
        "Training step, resnet34_dilated8 + c1_bilinear": compare(
            against_classic("train.py", classic, ours, r34c1) | checkpointed, args.rounds
        ),
        "Training step, resnet34_dilated8 + psp_bilinear": compare(
            {"`train.py`": partial(ours, *r34psp, amp)}
            | installed("segmentation_models_pytorch", smp),
            args.rounds,
        ),
        "Training step, resnet50_dilated8 + psp_bilinear": compare(
            against_classic("train.py", classic, ours, r50psp) | installed("mit_semseg", mit) | fcn,
            args.rounds,
        ),
        "Largest batch of 384 x 384 pictures, on paper": largest_batches(),
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
