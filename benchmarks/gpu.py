"""One GPU in ten minutes: is it right, how fast is it, and what does it wait for?

    python -m benchmarks.gpu             # make gpu

Checks come first: the head against double precision, the same bits twice, trainings in each
precision, a resumed one, one under torchrun, and one of two processes on the GPU. Then the head,
steps and whole pictures are timed, and a step is profiled: launches, and the lines at which the CPU
waited for the GPU. Without a GPU, or with --tiny 1, all is done in a small size: that shows that
the command works, and measures nothing. Nothing is installed, and nothing stays behind.
"""

import argparse
import csv
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.common import Contender, Row, Tables, main
from benchmarks.contenders import compared
from benchmarks.head import interpolated_loss
from benchmarks.step import Crops, classic, peer
from common.devices import describe_device
from common.runs import PARTS
from inference import SCALES, predict
from models import ModelBuilder, SegmentationModel, upsample
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax
from models.weights import read_state

ROOT = Path(__file__).parent.parent
NETWORKS = (
    ("resnet34_dilated8", "c1_bilinear"),
    ("resnet50dilated", "ppm_deepsup"),
    ("resnet50", "upernet"),
    ("mobilenetv2dilated", "fpn"),
    ("resnet34_dilated8", "psp_bilinear"),
)
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
NEAR = 1e-3  # of losses; BatchNorm apart changes them by 4e-3, and TF32 makes them less exact
CLOSE = 1e-5  # of the largest gradient, and of the loss, in single precision


@dataclass(frozen=True)
class Size:
    """How much is computed.

    Attributes:
        batch, side: pictures of a step, and their sides.
        classes: number of classes.
        whole: height and width of a picture that is labelled at several scales.
        photograph: height and width of a large one.
        turns: repetitions of what is timed.
        networks: the first so many of `NETWORKS`.
    """

    batch: int
    side: int
    classes: int
    whole: tuple[int, int]
    photograph: tuple[int, int]
    turns: int
    networks: int


FULL = Size(16, 384, 150, (512, 683), (4000, 6000), 20, 5)
TINY = Size(2, 64, 7, (60, 83), (96, 128), 1, 1)


def logits_and_labels(device: torch.device, size: Size) -> tuple[Tensor, Tensor]:
    """Logits of 1/8 of the pictures' size, and labels, some of them none."""
    torch.manual_seed(0)
    small = size.side // 8
    logits = 3 * torch.randn(size.batch, size.classes, small, small, device=device)
    labels = torch.randint(-1, size.classes, (size.batch, size.side, size.side), device=device)
    return logits.contiguous(memory_format=torch.channels_last), labels


def loss_and_gradient(logits: Tensor, labels: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient at the logits."""
    z = logits.detach().clone().requires_grad_()
    loss = upsample_cross_entropy(z, labels, *options)
    return loss.detach(), torch.autograd.grad(loss, z)[0]


def head_is_exact(device: torch.device, size: Size) -> str:
    """The head against itself in double precision, which is for the bands; "" = it is right."""
    logits, labels = logits_and_labels(device, size)
    extent = (logits.shape[-2] - 0.4, logits.shape[-1] - 0.2)
    weight = torch.rand(size.classes, device=device)
    for smoothing, threshold in ((0.0, 0.0), (0.1, 0.0), (0.1, 0.5)):
        options = extent, weight, smoothing, threshold
        loss, gradient = loss_and_gradient(logits, labels, *options)
        exact, slope = loss_and_gradient(
            logits.double(), labels, extent, weight.double(), smoothing, threshold
        )
        error = (gradient - slope).abs().max() / slope.abs().max()
        if error > CLOSE or (loss - exact).abs() > CLOSE * exact:
            return (
                f"at {smoothing, threshold}: loss {loss} for {exact}, gradient off by {error:.1e}"
            )
    return labels_are_exact(logits, (size.side, size.side), extent)


def labels_are_exact(logits: Tensor, shape: tuple[int, int], extent: tuple[float, float]) -> str:
    """The labels of one scale, and of two, against those in double precision."""
    pair, extents, mirrored = [logits, logits[..., :-1]], [extent, None], [False, True]
    found = [
        (
            upsample_argmax(scales[0], shape, extent),
            average_upsampled_probabilities(scales, shape, extents, mirrored)[0],
        )
        for scales in (pair, [z.double() for z in pair])
    ]
    agreeing = min((a == b).float().mean().item() for a, b in zip(*found, strict=True))
    return "" if agreeing > 0.9999 else f"labels agree in {agreeing:.4%} of the pixels"


def head_is_repeatable(device: torch.device, size: Size) -> str:
    """The same bits twice."""
    case = logits_and_labels(device, size)
    gradients = [loss_and_gradient(*case)[1] for _ in range(2)]
    return "" if torch.equal(*gradients) else "two gradients of one loss differ"


def command(folder: Path, name: str, device: torch.device, *flags: str) -> list[str]:
    """A training of a small sample, in FOLDER/ckpt/NAME."""
    settings = {
        "id": name,
        "data": folder / "sample",
        "ckpt": folder / "ckpt",
        "vis": folder / "vis",
        "device": device.type,
        "workers": 2,
        "arch_encoder": "resnet18dilated",
        "weights_encoder": "none",
        "imgSize": 64,
        "segSize": 64,
        "batch_size_per_gpu": 4,
        "num_epoch": 2,
    }
    given = [f"--{flag}={value}" for flag, value in settings.items()]
    return [str(ROOT / "train.py"), *given, *flags]


def run(*arguments: str) -> str:
    """Run Python; returns the end of what it prints if it fails."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-300:]


def cut_and_resumed(saved: Path, *arguments: str) -> str:
    """Stop a training after its first save, to a folder, and go on with it."""
    process = subprocess.Popen([sys.executable, *arguments, "--ckpt_minutes", "0"], **QUIET)
    while process.poll() is None and not (saved / "training_latest.pth").exists():
        time.sleep(0.01)
    process.terminate()
    if process.wait() not in (0, 128 + signal.SIGTERM):
        return f"exit code {process.returncode} after SIGTERM"
    return run(*arguments, "--resume", "1")


def same_weights(folder: Path, first: str, second: str) -> str:
    """Whether two runs have the same weights, to the last bit."""
    for part in PARTS:
        states = [read_state(folder / f"ckpt/{run}/{part}_latest.pth") for run in (first, second)]
        differing = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
        if differing:
            return f"{len(differing)} tensors of the {part} differ, {differing[0]} for one"
    return ""


def same_losses(folder: Path, first: str, second: str) -> str:
    """Whether two runs, whose sums are rounded differently, have the same losses nevertheless."""
    losses = []
    for run in (first, second):
        with (folder / f"ckpt/{run}/history.csv").open() as file:
            losses.append([float(row["train_loss"]) for row in csv.DictReader(file)])
    near = all(math.isclose(a, b, rel_tol=NEAR) for a, b in zip(*losses, strict=True))
    return "" if near else f"losses of {losses[0]} and {losses[1]}"


def trainings(device: torch.device) -> Iterator[tuple[str, str]]:
    """Trainings by what they show, and what is wrong."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = ("--out", str(folder / "sample"), "--num_train", "8", "--num_val", "4")
        run(str(ROOT / "data/make_sample.py"), *sample)
        for amp in ("bf16", "fp16") if device.type == "cuda" else ():
            yield f"train.py --amp {amp}", run(*command(folder, amp, device, "--amp", amp))
        exact = ("--deterministic", "1", "--amp", "off")
        failed = run(*command(folder, "whole", device, *exact))
        yield "train.py --amp off", failed
        wrong = cut_and_resumed(folder / "ckpt/cut", *command(folder, "cut", device, *exact))
        wrong = failed or wrong or same_weights(folder, "whole", "cut")
        yield "cut and resumed, to the last bit", wrong
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
        yield "torchrun, one process", run(*torchrun, "1", *command(folder, "torchrun", device))
        shared = command(folder, "shared", device, *exact, "--batch_size_per_gpu", "2")
        wrong = run(*torchrun, "2", "-m", "benchmarks.shared_gpu", *shared)
        wrong = failed or wrong or same_losses(folder, "whole", "shared")
        yield "two processes on one GPU, as one", wrong


def checks(device: torch.device, size: Size) -> Iterator[tuple[str, str]]:
    """All checks by name, and what is wrong."""
    yield "head against double precision", head_is_exact(device, size)
    yield "the head's bits twice", head_is_repeatable(device, size)
    yield from trainings(device)


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
