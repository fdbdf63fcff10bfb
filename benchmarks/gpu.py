"""One GPU in ten minutes: is it right, how fast is it, and what does it wait for?

    python -m benchmarks.gpu             # make gpu

Checks come first: head and Muon against double precision, the same bits twice, trainings in each
precision, a resumed one, one under torchrun, and one of two processes on the GPU. Then the head,
steps and whole pictures are timed, and a step is profiled: launches, and the lines at which the CPU
waited for the GPU. Without a GPU, or with --tiny 1, all is done in a small size: that shows that
the command works, and measures nothing. Nothing is installed, and nothing stays behind.
"""

import argparse
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Contender, Row, Tables, main
from benchmarks.contenders import compared
from benchmarks.gpu_checks import FULL, ROOT, TINY, Size, checks, logits_and_labels
from benchmarks.head import interpolated_loss
from benchmarks.step import Crops, classic, peer
from common.devices import describe_device
from inference import SCALES, predict
from models import ModelBuilder, SegmentationModel, upsample
from models.loss import upsample_cross_entropy

NETWORKS = (
    ("resnet34_dilated8", "c1_bilinear"),
    ("resnet50dilated", "ppm_deepsup"),
    ("resnet50", "upernet"),
    ("mobilenetv2dilated", "fpn"),
    ("resnet34_dilated8", "psp_bilinear"),
)


def timed(job: Callable[[], object], device: torch.device, turns: int) -> tuple[float, float]:
    """Milliseconds of a turn, and the most GB of a GPU that are taken meanwhile."""
    for _ in range(2):
        job()
    wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    for _ in range(turns):
        job()
    wait(device)
    seconds = (time.perf_counter() - start) / turns
    peak = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else 0.0
    return 1e3 * seconds, peak


def wait(device: torch.device) -> None:
    """Wait for a GPU to have done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gradients_of(loss: Callable[..., Tensor], logits: Tensor, labels: Tensor) -> None:
    """A loss and its gradient."""
    loss(logits.detach().requires_grad_(), labels).backward()


def banded_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss without the kernels."""
    usable, upsample.TRITON = upsample.TRITON, False
    try:
        return upsample_cross_entropy(logits, labels)
    finally:
        upsample.TRITON = usable


def heads(device: torch.device, size: Size) -> list[Row]:
    """Loss and gradient in several ways."""
    logits, labels = logits_and_labels(device, size)
    ways: dict[str, Callable[..., Tensor]] = {
        "`interpolate`, `cross_entropy`": interpolated_loss,
        "in bands": banded_loss,
        "`upsample_cross_entropy`": upsample_cross_entropy,
    }
    if device.type == "cuda":
        ways["`interpolate`, `cross_entropy`, compiled"] = torch.compile(interpolated_loss)
    rows: list[Row] = []
    for name, loss in ways.items():
        ms, gb = timed(partial(gradients_of, loss, logits, labels), device, size.turns)
        rows.append({"head": name, "ms": ms, "peak GB": gb})
    return rows


def network(
    arch: tuple[str, str], device: torch.device, size: Size, amp: bool
) -> SegmentationModel:
    """A network with random weights."""
    encoder = ModelBuilder.build_encoder(arch[0], weights="none")
    decoder = ModelBuilder.build_decoder(arch[1], encoder.channels, size.classes)
    return SegmentationModel(encoder, decoder, torch.bfloat16 if amp else None).to(device)


def stepping(
    arch: tuple[str, str], device: torch.device, size: Size, how: str
) -> Callable[[], None]:
    """A training step, as train.py does it with flags."""
    model = network(arch, device, size, "bf16" in how).train()
    model.encoder.grad_checkpoint = "grad_checkpoint" in how
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, fused=True)
    if "compile" in how:
        model.compile()
    shape = size.batch, size.side, size.side
    images = torch.randint(256, (shape[0], 3, *shape[1:]), dtype=torch.uint8, device=device)
    labels = torch.randint(size.classes, shape, dtype=torch.uint8, device=device)

    def job() -> None:
        optimizer.zero_grad()
        model(images, labels).backward()
        optimizer.step()

    return job


def others(arch: tuple[str, str], size: Size) -> dict[str, Contender]:
    """Steps of the classic recipe and of other libraries, which one of ours is compared with."""
    crops = Crops(size.batch, size.side, size.classes)
    made = compared(arch, partial(peer, crops=crops))
    if arch[1] in ("c1_bilinear", "psp_bilinear"):
        made["classic recipe"] = partial(classic, *arch, crops)
    return made


def steps(device: torch.device, size: Size) -> list[Row]:
    """Training steps, ours and others', the libraries' that are installed."""
    rows: list[Row] = []
    ways = ["--amp off"]
    if device.type == "cuda":
        ways += [f"--amp bf16{more}" for more in ("", " --grad_checkpoint 1", " --compile 1")]
    for arch in NETWORKS[: size.networks]:
        with torch.device(device):
            contenders: dict[str, Contender] = others(arch, size)
        contenders |= {how: partial(stepping, arch, device, size, how) for how in ways}
        for how, contender in contenders.items():
            with torch.device(device):
                job = contender()
            ms, gb = timed(job, device, size.turns)
            rows.append(
                {
                    "network": " + ".join(arch),
                    "step": how,
                    "ms": ms,
                    "pictures/s": 1e3 * size.batch / ms,
                    "peak GB": gb,
                }
            )
    return rows


def pictures(device: torch.device, size: Size) -> list[Row]:
    """Whole pictures: one at five scales, and a photograph at its own."""
    rows: list[Row] = []
    for arch in NETWORKS[: size.networks]:
        model = network(arch, device, size, amp=device.type == "cuda").freeze()
        for shape, scales in ((size.whole, SCALES), (size.photograph, (1.0,))):
            image = torch.randint(256, (1, 3, *shape), dtype=torch.uint8)
            job = partial(predict, model, image, shape, scales=scales)
            ms, gb = timed(job, device, max(1, size.turns // 4))
            name = f"{shape[0]} x {shape[1]}, {len(scales)} scales"
            rows.append({"network": " + ".join(arch), "picture": name, "ms": ms, "peak GB": gb})
    return rows


def profiled(device: torch.device, size: Size) -> list[Row]:
    """Launches of a step, and the lines at which the CPU waits for the GPU."""
    on_gpu = device.type == "cuda"
    job = stepping(NETWORKS[0], device, size, "bf16" if on_gpu else "off")
    job()
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as found:
        job()
        wait(device)
    what = "launches" if on_gpu else "operators"
    rows: list[Row] = [{"where": f"a step's {what}", "number": len(found.events())}]
    if not on_gpu:
        return rows
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        job()
    torch.cuda.set_sync_debug_mode("default")
    lines = Counter(f"{os.path.relpath(w.filename, ROOT)}:{w.lineno}" for w in caught)
    return rows + [{"where": f"waits at {line}", "number": n} for line, n in lines.items()]


def tables(args: argparse.Namespace) -> Tables:
    """The checks, printed as they are done, and all measurements.

    Raises:
        SystemExit: a check fails; all have been done.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = TINY if args.tiny or device.type == "cpu" else FULL
    print(f"{describe_device(device)}, torch {torch.__version__}", file=sys.stderr)
    failed = False
    for name, wrong in checks(device, size):
        print(f"{name}: {wrong or 'PASS'}", file=sys.stderr, flush=True)
        failed |= bool(wrong)
    if failed:
        sys.exit(1)
    return {
        "Loss and gradient": heads(device, size),
        "Steps": steps(device, size),
        "Whole pictures": pictures(device, size),
        "A step": profiled(device, size),
    }


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        tiny={"type": int, "default": 0, "choices": (0, 1), "help": "1 = in a small size"},
    )
