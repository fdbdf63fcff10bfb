"""Crashes of a training: it must end with the weights of a training that did not crash.

The crashes are SIGKILLs, or terminals that close. Every step is saved, so that many of them occur
during a save. Their instants are drawn from a seed, but what a training does at an instant depends
on the machine.
"""

import csv
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
RECIPE = {
    "arch_encoder": "resnet34_dilated16",
    "arch_decoder": "psp_bilinear",
    "weights_encoder": "none",
    "device": "cpu",
    "imgSize": 32,
    "segSize": 32,
    "batch_size_per_gpu": 2,
    "workers": 0,
    "num_epoch": 3,
    "eval_epoch": 2,
    "optim": "AdamW",
    "amp": "off",
    "ckpt_minutes": 0,
}

logger = logging.getLogger(__name__)

Outcome = tuple[dict[str, dict], list[dict]]  # weights by file, rows of the history


def run(
    count: int, seed: int, processes: int = 1, number: signal.Signals = signal.SIGKILL
) -> list[tuple[str, int, int, int]]:
    """Send a signal to trainings `count` times.

    A kill counts as survived if the training resumes, and if its last weights and its history are
    those of an uninterrupted training, bit for bit.

    Returns:
        A row (kind of fault, injected, survived, lost).
    """
    if not count:
        return []
    rng = random.Random(seed)
    survived = lost = 0
    runs = itertools.count()
    with scene(processes) as (folder, expected, duration):
        done, pending, run_id = 0, 0, f"cut{next(runs)}"
        while done < count or pending:
            process = train(folder, run_id, processes)
            if done < count:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(rng.uniform(0, duration))
                victim = rng.randrange(processes)
                if kill(process, victim, processes, number):
                    done, pending = done + 1, pending + 1
                    continue
            intact = process.wait() == 0 and same(outcome(folder / "ckpt" / run_id), expected)
            if not intact:
                logger.error(
                    "a training that was killed %d times (seed %d) is lost: exit code %d; %s",
                    pending,
                    seed,
                    process.returncode,
                    said(folder, run_id),
                )
            survived, lost = survived + pending * intact, lost + pending * (not intact)
            pending, run_id = 0, f"cut{next(runs)}"
    kind = "training killed" if number == signal.SIGKILL else "terminal of a training closed"
    kind += f", one of {processes} processes" if processes > 1 else ""
    return [(kind, count, survived, lost)]


@contextmanager
def scene(processes: int = 1) -> Iterator[tuple[Path, Outcome, float]]:
    """A folder with data and a run, `whole`; the run's outcome, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder)
        start = time.monotonic()
        if train(folder, "whole", processes).wait() != 0:
            raise RuntimeError("the training fails even if nothing happens to it")
        yield folder, outcome(folder / "ckpt/whole"), time.monotonic() - start


def make_data(folder: Path) -> None:
    """Write nine small scenes into a folder."""
    command: list[str | Path] = [sys.executable, ROOT / "data/make_sample.py", "--out", folder]
    options = ["--num_train", "6", "--num_val", "3", "--size", "96", "64", "--workers", "1"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)


def train(
    folder: Path, run_id: str, processes: int = 1, under: Sequence[str] = (), **changes: object
) -> subprocess.Popen:
    """Start a training, or resume it if it was saved; `said` reads what it says.

    Args:
        folder: with the data; runs go there, too.
        run_id: the name of the run.
        processes: to train together.
        under: a command that runs it, such as `prlimit`, with its flags.
        changes: settings by name.
    """
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    python = [sys.executable, *(launcher if processes > 1 else [])]
    settings = RECIPE | {
        "list_train": folder / "train.txt",
        "list_val": folder / "val.txt",
        "root_img": folder / "images",
        "root_seg": folder / "annotations",
        "id": run_id,
        "ckpt": folder / "ckpt",
        "vis": folder / "vis",
        "resume": 1,
        **changes,
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    # A command may limit the size of files, which a log would exceed.
    with open(os.devnull if under else folder / f"{run_id}.log", "wb") as log:
        return subprocess.Popen(
            [*under, *python, ROOT / "train.py", *flags],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def said(folder: Path, run_id: str) -> str:
    """The end of what the last training of a run has printed."""
    path = folder / f"{run_id}.log"
    return path.read_text(errors="replace")[-2000:] if path.exists() else ""


def kill(process: subprocess.Popen, rank: int, processes: int, number: signal.Signals) -> bool:
    """Signal one process of a training, and wait until all have ended; False if it ended before."""
    victim = process.pid if processes == 1 else worker(process.pid, rank)
    if process.poll() is not None or victim is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(victim, number)
    return process.wait() != 0


def worker(launcher: int, rank: int) -> int | None:
    """The id of the process of a rank that a launcher started, or None."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[1]
            environment = (path / "environ").read_bytes().split(b"\0")
            if parent == str(launcher) and f"RANK={rank}".encode() in environment:
                return int(path.name)
    return None


def outcome(folder: Path) -> Outcome:
    """The weights of a run by file, and the rows of its history without their times."""
    weights = {
        path.name: torch.load(path, weights_only=True) for path in folder.glob("*coder_*.pth")
    }
    with (folder / "history.csv").open() as file:
        return weights, [row | {"seconds": None} for row in csv.DictReader(file)]


def same(one: Outcome, other: Outcome) -> bool:
    """Whether two outcomes are the same to the last bit."""
    (weights, history), (other_weights, other_history) = one, other
    return (
        history == other_history
        and weights.keys() == other_weights.keys()
        and all(
            torch.equal(value, other_weights[name][key])
            for name, state in weights.items()
            for key, value in state.items()
        )
    )
