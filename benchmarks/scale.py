"""What training needs with many processes and with many pictures.

    python -m benchmarks.scale
    python -m benchmarks.scale --rate 40        # a GPU that trains on 40 pictures a second

The first table is computed from the speed of one process. It assumes that the processes never wait
for each other or for pictures, and shows how fast network and storage must be for that. The second
table is measured: time and memory for long lists of pictures.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.common import Row, Tables, main, measure, resident
from benchmarks.loader import MAKE_SAMPLE, PICTURES
from benchmarks.step import CROPS, build, ours
from common.lists import read_list
from dataset import EpochSampler

ARCH, DECODER = "resnet50_dilated8", "psp_bilinear"
GPUS = (1, 8, 64, 512)
LISTS = (20_000, 1_000_000, 10_000_000, 100_000_000)


def tables(args: argparse.Namespace) -> Tables:
    """What many processes need, computed, and what long lists need, measured."""
    milliseconds = CROPS.number / args.rate * 1e3 if args.rate else measure(ours(ARCH, DECODER))[0]
    gradient = sum(4 * p.numel() for network in build(ARCH, DECODER) for p in network.parameters())
    size = bytes_of_a_picture()
    return {
        f"{ARCH} + {DECODER} on paper: {milliseconds:,.0f} ms a step of {CROPS.number} pictures of "
        f"{size / 1e3:.0f} kB, gradients of {gradient / 1e6:.0f} MB": [
            processes(n, milliseconds / 1e3, gradient, size) for n in GPUS
        ],
        "Lists of pictures": [in_process_of_its_own(n) for n in LISTS],
    }


def processes(n: int, seconds: float, gradient: float, size: float) -> Row:
    """The speed of `n` processes that never wait, and what network and storage must provide.

    Args:
        n: number of processes.
        seconds: duration of a step.
        gradient: bytes of the gradients.
        size: bytes of a picture with its label.
    """
    rate = n * CROPS.number / seconds
    ring = 2 * (n - 1) / n * gradient  # bytes that each sends, and receives, in a ring all-reduce
    return {
        "processes": str(n),
        "pictures a second": rate,
        "hours for 100 epochs of 20,210": 100 * 20_210 / rate / 3600,
        "MB a second that each sends": ring / seconds / 1e6,
        "MB of pictures a second, all": rate * size / 1e6,
        "steps an epoch of 20,210": 20_210 / (n * CROPS.number),
    }


def bytes_of_a_picture() -> float:
    """The mean size of a JPEG of 683 x 512 pixels with its label."""
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", "683", "512", "--num_train", str(PICTURES), "--num_val", "0"]
        command = [sys.executable, str(MAKE_SAMPLE), "--out", folder, *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        files = list(Path(folder).rglob("*.*g"))
        return sum(path.stat().st_size for path in files) / PICTURES


def in_process_of_its_own(length: int) -> Row:
    """`list_of` in a new process."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(list_of, (length,))


def list_of(length: int) -> Row:
    """Time and memory to read a list of `length` pictures, and to shuffle it."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        block = 100_000
        for begin in range(0, length, block):
            numbers = range(begin, min(begin + block, length))
            file.writelines(f"training/{i // 1000:06d}/ADE_train_{i:09d}.jpg\n" for i in numbers)
        file.flush()
        before = resident("VmRSS")
        start = time.perf_counter()
        names = read_list(file.name)
        read = time.perf_counter() - start
        size = os.path.getsize(file.name)
    peak = resident("VmHWM") - before  # of this process alone
    start = time.perf_counter()
    next(iter(EpochSampler(length, 16, seed=0)))
    return {
        "pictures": f"{length:,}",
        "s to read": read,
        "s to shuffle": time.perf_counter() - start,
        "MB of the list": size / 1e6,
        "MB in memory, shared by the workers": (len(names.content) + names.bounds.nbytes) / 1e6,
        "MB at most while reading": peak / 1e3,
        "MB of an epoch's order": np.dtype(np.int64).itemsize * length / 1e6,
    }


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        rate={"type": float, "help": "pictures a second of one process (default: measured here)"},
    )
