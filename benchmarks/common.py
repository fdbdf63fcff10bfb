"""Fair comparisons: each contender has a process of its own, and the contenders take turns."""

import argparse
import ctypes
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from common.devices import select_amp
from common.files import text, write_atomically
from dataset import SegmentationDataset
from models import ModelError
from utils import UserError

Job = Callable[[], object]
Contender = Callable[[], Job]  # prepares a job; can be pickled, as a `functools.partial` can
Row = dict[str, str | float]  # the cells by the titles of their columns
Tables = dict[str, list[Row]]

BEGIN, END = "<!-- benchmarks: begin -->\n", "<!-- benchmarks: end -->\n"  # in documents


def main(description: str, tables: Callable[[argparse.Namespace], Tables], **flags: dict) -> None:
    """The command line of a benchmark; `flags` are the settings of its own flags by name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print an object rather than tables")
    parser.add_argument("--rounds", type=int, default=3, help="counted turns of each contender")
    for name, settings in flags.items():
        parser.add_argument(f"--{name}", **settings)
    args = parser.parse_args()
    try:
        results = tables(args)
    except (UserError, ModelError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    if args.json:
        print(json.dumps({"machine": machine(), **results}, indent=2))
    else:
        print(markdown(results))


def against_classic(
    script: str, classic: Callable[..., Job], ours: Callable[..., Job], arch: tuple[str, str]
) -> dict[str, Contender]:
    """The classic recipe, ours, and ours in half precision if this machine has it natively."""
    contenders: dict[str, Contender] = {
        "classic recipe": partial(classic, *arch),
        f"`{script} --amp off`": partial(ours, *arch),
    }
    if amp := select_amp("auto", torch.device("cpu")):
        contenders[f"`{script}`"] = partial(ours, *arch, amp)
    return contenders


def compare(contenders: Mapping[str, Contender], rounds: int) -> list[Row]:
    """Time contenders in turns, A B C A B C …, after a turn of each that does not count.

    Returns:
        A row for each: milliseconds (median, least and most), how many times as fast as the first
        it is, and the MB by which its memory grows at most during its turns. The ratio is the
        median of the rounds' ratios: a machine that slows down slows both down.
    """
    with ExitStack() as stack:
        pipes = {name: stack.enter_context(start(job)) for name, job in contenders.items()}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
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
    """A pipe to a process in which the contender has done its job once.

    Leaving the context waits until the process has ended, as that would slow down what is measured
    next.
    """
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
    """The answer of the process at the other end."""
    pipe.send(question)
    return pipe.recv()


def serve(contender: Contender, pipe: Connection) -> None:
    """Prepare a contender's job, and answer questions about it until the pipe is closed."""
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
    """Milliseconds that a job takes in this process, and MB by which memory grows at most.

    The job is done once before. The time is the median of up to three, and of fewer if they take
    more than 10 seconds.
    """
    grown = warm_up(job)
    seconds = [duration(job)]
    while len(seconds) < 3 and sum(seconds) < 10:
        seconds.append(duration(job))
    return 1e3 * statistics.median(seconds), grown()


def warm_up(job: Job) -> Callable[[], float]:
    """Do a job; returns a function: MB by which memory grew at most since then (Linux only)."""
    job()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that the job freed does not count
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident("VmRSS")
    return lambda: (resident("VmHWM") - before) / 1024


def duration(job: Job) -> float:
    """Seconds that a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def resident(field: str) -> int:
    """The kB in a field of this process's status, such as VmRSS."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def machine() -> dict[str, str | int]:
    """The machine and the versions that the figures were measured with."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "processor": next(names, platform.machine()),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def validation_pictures(config: dict, number: int = -1) -> SegmentationDataset:
    """The validation pictures of a run of these settings, so many of them; -1 = all.

    Raises:
        UserError: the settings know no data, or its files are missing.
    """
    if "list_val" not in config:
        raise UserError("--id: its config.json names no validation pictures: take a trained run")
    return SegmentationDataset(
        config["list_val"],
        config["root_img"],
        config["root_seg"],
        config["num_class"],
        number,
        config.get("label_offset", 1),
    )


def markdown(tables: Tables) -> str:
    """The machine, and the tables under their titles."""
    blocks = [", ".join(f"{key} {value}" for key, value in machine().items())]
    for title, rows in tables.items():
        lines = [
            "| " + " | ".join(rows[0]) + " |",
            "| --- " + "| ---: " * (len(rows[0]) - 1) + "|",
            *("| " + " | ".join(map(cell, row.values())) + " |" for row in rows),
        ]
        blocks += [f"**{title}**", "\n".join(lines)]
    return "\n\n".join(blocks)


def renew(document: Path, tables: Tables) -> None:
    """Put the tables into a document, in the place of those that it has."""
    before, rest = document.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    section = f"{BEGIN}\n{markdown(tables)}\n\n{END}"
    write_atomically(document, text(before + section + after))


def cell(value: str | float) -> str:
    """The text of a cell: numbers have three significant digits."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
