"""Fair comparisons: contenders take turns, and each is weighed in a process of its own."""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

Contender = Callable[[], object]
Row = dict[str, str | float]


def arguments(description: str) -> argparse.Namespace:
    """The flags of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print an object rather than tables")
    parser.add_argument("--rounds", type=int, default=9, help="counted turns of each contender")
    return parser.parse_args()


def compare(contenders: dict[str, Contender], rounds: int) -> list[Row]:
    """Time contenders in turns, A B C A B C …, after a turn that does not count.

    Returns:
        A row for each: milliseconds (median, least and most), and how many times as fast as the
        first it is (the median of the rounds' ratios: a machine that slows down slows both).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for counted in [False] + [True] * rounds:
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    first = next(iter(seconds.values()))
    return [
        {
            "contender": name,
            "median ms": 1e3 * statistics.median(times),
            "min ms": 1e3 * min(times),
            "max ms": 1e3 * max(times),
            "times as fast": statistics.median(a / b for a, b in zip(first, times, strict=True)),
        }
        for name, times in seconds.items()
    ]


def peak_memory(contender: Contender) -> float:
    """MB that a call adds to the memory of a process of its own at most, once it has warmed up.

    Args:
        contender: something that can be pickled, such as a `functools.partial` of a function.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=weigh, args=(contender, theirs))
    process.start()
    megabytes = ours.recv()
    process.join()
    return megabytes


def weigh(contender: Contender, pipe: Connection) -> None:
    """Send the growth of the resident set during a call, in MB (Linux only)."""
    contender()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the warm-up freed does not count as ours
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    contender()
    pipe.send((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """kB in a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def report(tables: dict[str, list[Row]], as_json: bool) -> None:
    """Print tables by title, and what they were measured on."""
    machine = {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if as_json:
        print(json.dumps({"machine": machine, **tables}, indent=2))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    for title, rows in tables.items():
        print(f"\n{title}\n")
        print("| " + " | ".join(rows[0]) + " |")
        print("| --- " + "| ---: " * (len(rows[0]) - 1) + "|")
        for row in rows:
            cells = [value if isinstance(value, str) else f"{value:,.3g}" for value in row.values()]
            print("| " + " | ".join(cells) + " |")


def processor() -> str:
    """The name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
