"""Fair comparisons: each contender lives in a process of its own, and they take turns."""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from utils import select_amp

Job = Callable[[], object]
Contender = Callable[[], Job]  # prepares a job; what can be pickled, such as a `functools.partial`
Row = dict[str, str | float]
Tables = dict[str, list[Row]]


def main(description: str, tables: Callable[[argparse.Namespace], Tables], **flags: dict) -> None:
    """The command line of a benchmark, whose own `flags` come on top."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print an object rather than tables")
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each contender")
    for name, settings in flags.items():
        parser.add_argument(f"--{name}", **settings)
    args = parser.parse_args()
    results = tables(args)
    if args.json:
        print(json.dumps({"machine": machine(), **results}, indent=2))
    else:
        print(markdown(results))


def against_classic(
    script: str, classic: Callable[..., Job], ours: Callable[..., Job], arch: tuple[str, str]
) -> dict[str, Contender]:
    """The classic recipe, ours, and ours in half precision where this machine is fast at it."""
    contenders = {
        "classic recipe": partial(classic, *arch),
        f"`{script} --amp off`": partial(ours, *arch),
    }
    if amp := select_amp("auto", torch.device("cpu")):
        contenders[f"`{script}`"] = partial(ours, *arch, amp)
    return contenders


def compare(contenders: dict[str, Contender], rounds: int) -> list[Row]:
    """Time contenders in turns, A B C A B C …, after one that does not count.

    Returns:
        A row for each: milliseconds (median, least and most), how many times as fast as the first
        it is (the median of the rounds' ratios: a machine that slows down slows both), and the MB
        by which its memory grows at most during its turns.
    """
    with ExitStack() as stack:
        pipes = {name: stack.enter_context(start(job)) for name, job in contenders.items()}
        seconds = {name: [] for name in contenders}
        for _ in range(rounds):
            for name, pipe in pipes.items():
                seconds[name].append(ask(pipe, "time"))
        extra = {name: ask(pipe, "weigh") for name, pipe in pipes.items()}
    first = next(iter(seconds.values()))
    return [
        {
            "contender": name,
            "median ms": 1e3 * statistics.median(times),
            "min ms": 1e3 * min(times),
            "max ms": 1e3 * max(times),
            "times as fast": statistics.median(a / b for a, b in zip(first, times, strict=True)),
            "extra MB": extra[name],
        }
        for name, times in seconds.items()
    ]


@contextmanager
def start(contender: Contender) -> Iterator[Connection]:
    """A pipe to a process in which the contender has warmed up, which is gone in the end: on its
    way out, it would slow down what is measured next."""
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(contender, theirs), daemon=True)
    process.start()
    theirs.close()
    with ours:
        ask(ours, "ready?")
        yield ours
    process.join()


def ask(pipe: Connection, question: str) -> float:
    """What the process at the other end answers."""
    pipe.send(question)
    return pipe.recv()


def serve(contender: Contender, pipe: Connection) -> None:
    """Run a contender's job as often as asked."""
    job = contender()
    grown = warm_up(job)
    answers = {"ready?": float, "time": lambda: duration(job), "weigh": grown}
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        pipe.send(answers[question]())


def measure(job: Job) -> tuple[float, float]:
    """Milliseconds that a job takes once warm, the median of three unless they are long, and MB by
    which memory grows, in this process."""
    grown = warm_up(job)
    seconds = [duration(job)]
    while len(seconds) < 3 and sum(seconds) < 10:
        seconds.append(duration(job))
    return 1e3 * statistics.median(seconds), grown()


def warm_up(job: Job) -> Callable[[], float]:
    """Do a job; returns what tells the MB by which memory grew at most since then (Linux only)."""
    job()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what the job freed does not count as had
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    return lambda: (resident("VmHWM") - before) / 1024


def duration(job: Job) -> float:
    """Seconds that a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def resident(field: str) -> int:
    """kB in a field of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(names, platform.machine()),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def markdown(tables: Tables) -> str:
    """Tables under their titles, and what they were measured on."""
    blocks = [", ".join(f"{key} {value}" for key, value in machine().items())]
    for title, rows in tables.items():
        lines = [
            "| " + " | ".join(rows[0]) + " |",
            "| --- " + "| ---: " * (len(rows[0]) - 1) + "|",
            *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows),
        ]
        blocks += [f"**{title}**", "\n".join(lines)]
    return "\n\n".join(blocks)


def cell(value: str | float) -> str:
    """Three digits that count."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
