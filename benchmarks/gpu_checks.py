"""Checks of a GPU, or of a CPU in its place: does it compute what it should?"""

import csv
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.runs import PARTS
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax
from models.weights import read_state
from training.muon import orthogonalize

ROOT = Path(__file__).parent.parent
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
    for options in ((0.0, 0.0, 0.0), (0.1, 0.0, 0.0), (0.1, 0.5, 0.0), (0.1, 0.5, 0.75)):
        loss, gradient = loss_and_gradient(logits, labels, extent, weight, *options)
        exact, slope = loss_and_gradient(logits.double(), labels, extent, weight.double(), *options)
        error = (gradient - slope).abs().max() / slope.abs().max()
        if error > CLOSE or (loss - exact).abs() > CLOSE * exact:
            return f"at {options}: loss {loss} for {exact}, gradient off by {error:.1e}"
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


def muon_is_exact(device: torch.device) -> str:
    """Muon's iteration against itself in double precision; TF32 would not do for it."""
    torch.manual_seed(0)
    update = torch.randn(256, 2304, device=device) * torch.logspace(0, -4, 2304, device=device)
    error = (orthogonalize(update) - orthogonalize(update.double())).abs().max()
    return "" if error < CLOSE else f"off by {error:.1e}"


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
    yield "Muon against double precision", muon_is_exact(device)
    yield from trainings(device)
