"""A whole training step against the classic recipe's and against other libraries', and its memory.

    python -m benchmarks.step

A step goes from two pictures of 384 x 384 pixels and 150 classes to updated weights. The other
libraries are those of `benchmarks/requirements.txt`; one that is not installed is left out. Their
networks are trained as ours is: with a fused optimiser, channels last, the loss at full size, and
half precision if train.py uses it on this machine.
"""

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.classic import classic_logits, classic_loss, classic_network
from benchmarks.common import Job, Row, Tables, against_classic, compare, main
from benchmarks.contenders import COMPARED, Builder, compared
from common.devices import select_amp
from models import ENCODERS, ModelBuilder, SegmentationModel
from models.cost import kept_tensors
from models.decoders import Decoder
from models.depthwise import speed_up_gradients
from models.encoder import Encoder
from utils import keep_freed_memory


class Crops(NamedTuple):
    """What a step is about: so many square crops, their sides in pixels, and classes."""

    number: int
    side: int
    classes: int

    @property
    def images(self) -> tuple[int, int, int, int]:
        """The shape of the pictures."""
        return self.number, 3, self.side, self.side


CROPS = Crops(2, 384, 150)
SGD = partial(torch.optim.SGD, momentum=0.9, weight_decay=1e-4, fused=True)
AUXILIARY = 0.4  # weight of an auxiliary loss
GIGABYTES = (12, 24, 80)


def classic(arch_encoder: str, arch_decoder: str, crops: Crops = CROPS) -> Job:
    """The classic recipe."""
    encoder, decoder = build(arch_encoder, arch_decoder, crops.classes)
    for network in (encoder, decoder):
        classic_network(network)
    images = torch.randn(crops.images)

    def loss(labels: Tensor) -> Tensor:
        return classic_loss(classic_logits(encoder, decoder, images), labels)

    make_optimizer = partial(SGD, fused=False)
    return step(nn.ModuleList([encoder, decoder]), loss, crops, make_optimizer)


def ours(
    arch_encoder: str,
    arch_decoder: str,
    amp: torch.dtype | None = None,
    grad_checkpoint: bool = False,
    make_optimizer: Callable[..., Optimizer] = SGD,
) -> Job:
    """What train.py does with its defaults, or with --amp, --grad_checkpoint or --optim."""
    encoder, decoder = build(arch_encoder, arch_decoder)
    encoder.grad_checkpoint = grad_checkpoint
    model = SegmentationModel(encoder, decoder, amp)
    speed_up_gradients(model)
    return our_step(model, make_optimizer=make_optimizer)


def our_step(
    model: SegmentationModel, crops: Crops = CROPS, make_optimizer: Callable[..., Optimizer] = SGD
) -> Job:
    """A step of a network of ours, whose pictures and labels are bytes, as the loader has them."""
    keep_freed_memory()
    images = torch.randint(256, crops.images, dtype=torch.uint8)
    return step(model, lambda labels: model(images, labels.to(torch.uint8)), crops, make_optimizer)


def peer(build_peer: Builder, amp: torch.dtype | None, crops: Crops = CROPS) -> Job:
    """The network of another library."""
    model, forward = build_peer(crops.classes)
    device = torch.get_default_device().type
    model.to(memory_format=torch.channels_last)
    images = torch.randn(crops.images).contiguous(memory_format=torch.channels_last)

    def loss(labels: Tensor) -> Tensor:
        with torch.autocast(device, dtype=amp) if amp else nullcontext():
            outputs = forward(images)
        main, *auxiliary = (
            nn.functional.cross_entropy(logits.float(), labels, ignore_index=-1)
            for logits in outputs
        )
        return sum((AUXILIARY * part for part in auxiliary), main)

    return step(model, loss, crops)


def build(
    arch_encoder: str, arch_decoder: str, num_class: int = CROPS.classes
) -> tuple[Encoder, Decoder]:
    """An encoder and a decoder with random weights."""
    encoder = ModelBuilder.build_encoder(arch_encoder, weights="none")
    return encoder, ModelBuilder.build_decoder(arch_decoder, encoder.channels, num_class)


def step(
    model: nn.Module,
    loss: Callable[[Tensor], Tensor],
    crops: Crops = CROPS,
    make_optimizer: Callable[..., Optimizer] = SGD,
) -> Job:
    """Loss, gradient and update of the weights; `loss` takes labels of the crops."""
    model.train()
    optimizer = make_optimizer(model.parameters(), lr=1e-3)
    labels = torch.randint(crops.classes, (crops.number, crops.side, crops.side))

    def job() -> None:
        optimizer.zero_grad()
        loss(labels).backward()
        optimizer.step()

    return job


def largest_batches() -> list[Row]:
    """How many pictures fit on a GPU, computed from what autograd keeps of a picture."""
    full_size = CROPS.classes * CROPS.side**2 * 4
    rows: list[Row] = []
    for arch in ENCODERS:
        with torch.device("meta"):
            encoder, decoder = build(arch, "c1_bilinear")
        weights = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
        whole, _ = kept_bytes(encoder, torch.float32)
        half, half_checkpointed = kept_bytes(encoder, torch.bfloat16)
        cases = {
            # Also kept: log-probabilities, their gradient and that of the logits, at full size.
            "classic": (whole + 3 * full_size, 12),  # 12 bytes: a weight, its gradient, momentum
            "`--amp bf16`": (half, 14),  # also its copy in half precision
            "`--amp bf16 --grad_checkpoint 1`": (half_checkpointed, 14),
        }
        row: Row = {"encoder, with `c1_bilinear`": arch}
        for name, (kept, weight_bytes) in cases.items():
            fits = [(gb * 2**30 - weights * weight_bytes) // kept for gb in GIGABYTES]
            row[f"{name}: MB a picture"] = kept / 2**20
            row[f"{name}: fit in {', '.join(map(str, GIGABYTES))} GB"] = ", ".join(map(str, fits))
        rows.append(row)
    return rows


def kept_bytes(encoder: Encoder, dtype: torch.dtype) -> tuple[int, int]:
    """Bytes that a picture takes until the backward pass, without and with checkpointing."""
    encoder.to(dtype)
    x = torch.empty(1, *CROPS.images[1:], dtype=dtype, device="meta")
    inputs, insides = [], []
    whole: dict[int, Tensor] = {}
    for block in chain(*encoder.stages()):
        inputs.append(sum(tensor.nbytes for tensor in (x if isinstance(x, list) else [x])))
        x, kept = kept_tensors(partial(block, x), encoder)
        insides.append(sum(tensor.nbytes for tensor in kept.values()))
        whole |= kept  # without duplicates: two blocks may keep one tensor
    return sum(tensor.nbytes for tensor in whole.values()), sum(inputs) + max(insides)


def tables(args: argparse.Namespace) -> Tables:
    """Comparisons of networks, and the largest batches."""
    amp = select_amp("auto", torch.device("cpu"))
    r34c1, r50psp = ("resnet34_dilated8", "c1_bilinear"), ("resnet50_dilated8", "psp_bilinear")
    results: Tables = {}
    for arch in (r34c1, *COMPARED):
        contenders = compared(arch, peer)
        if arch in (r34c1, r50psp):
            contenders = against_classic("train.py", classic, ours, arch) | contenders
        else:  # the first is what the others are compared with
            contenders |= {"`train.py`": partial(ours, *arch, amp)}
        if arch == r34c1:
            contenders["`train.py --amp off --grad_checkpoint 1`"] = partial(
                ours, *arch, grad_checkpoint=True
            )
        results[f"Training step, {' + '.join(arch)}"] = compare(contenders, args.rounds)
    return results | {"Largest batch of 384 x 384 pictures, on paper": largest_batches()}


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
