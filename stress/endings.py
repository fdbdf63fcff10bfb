"""Faults that end a script: it must say so, and lose nothing.

Two trainings in one folder, a disk and a shared memory that are full, weights that are not numbers,
and kills at a write.
"""

import json
import logging
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from common.files import saved_file
from report.analysis import read_counts
from stress.crashes import ROOT, Outcome, outcome, said, same, scene, train

LONGEST = 600  # seconds, after which a script hangs
SCRIPTS: dict[str, dict[str, object]] = {"eval.py": {"report": 1, "workers": 0}, "test.py": {}}

# Runs a script that is killed at the n-th call by which files reach the disk or their names.
KILLED_AT = """
import os, runpy, signal, sys
left, path = int(sys.argv[1]), sys.argv[2]
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(path))

def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

for name in ("fsync", "replace", "rename", "link"):
    setattr(os, name, counted(getattr(os, name)))
try:
    runpy.run_path(path, run_name="__main__")
finally:
    print(-left)
"""

logger = logging.getLogger(__name__)


class Row:
    """A row of the table: how many faults of a kind were injected, survived and lost."""

    def __init__(self, kind: str):
        self.kind = kind
        self.survived = self.lost = 0

    def count(self, intact: bool, said: str = "") -> None:
        """Count a fault; what a script said tells why it is lost."""
        self.survived, self.lost = self.survived + intact, self.lost + (not intact)
        if not intact:
            logger.error("%s: lost; %s", self.kind, said)

    def values(self) -> tuple[str, int, int, int]:
        """(kind, injected, survived, lost)."""
        return self.kind, self.survived + self.lost, self.survived, self.lost


def run(count: int, seed: int) -> list[tuple[str, int, int, int]]:
    """Inject `count` faults of each kind.

    Returns:
        Rows (kind of fault, injected, survived, lost).
    """
    if not count:
        return []
    rng = random.Random(seed)
    with scene() as (folder, expected, _):
        rows = [
            two_starts(count, rng, folder, expected),
            full_disk(count, rng, folder, expected),
            full_shared_memory(count, rng, folder, expected),
            not_numbers(count, rng, folder),
            *(killed_at_a_write(name, count, rng, folder) for name in SCRIPTS),
        ]
    return [row.values() for row in rows]


def two_starts(count: int, rng: random.Random, folder: Path, expected: Outcome) -> Row:
    """Two trainings of one name: one ends as if alone, and the other is refused."""
    row = Row("two trainings of one name")
    for i in range(count):
        first = train(folder, f"twice{i}")
        time.sleep(rng.uniform(0, 1))
        codes = [process.wait(LONGEST) for process in (first, train(folder, f"twice{i}"))]
        intact = sorted(codes) == [0, 2] and same(outcome(folder / f"ckpt/twice{i}"), expected)
        row.count(intact, said(folder, f"twice{i}"))
        shutil.rmtree(folder / f"ckpt/twice{i}")
    return row


def full_disk(count: int, rng: random.Random, folder: Path, expected: Outcome) -> Row:
    """Files that cannot grow beyond some size: the training ends, and goes on later."""
    row = Row("training without room for its files")
    for i in range(count):
        size = round(10 ** rng.uniform(2, 8))
        goes_on(row, folder, f"disk{i}", expected, ["prlimit", f"--fsize={size}"], workers=0)
    return row


def full_shared_memory(count: int, rng: random.Random, folder: Path, expected: Outcome) -> Row:
    """A small /dev/shm, in a mount namespace of its own: the training ends, and goes on later."""
    row = Row("training in little shared memory")
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    if shutil.which("unshare") and subprocess.run(probe, capture_output=True).returncode == 0:
        for i in range(count):
            mount = f'mount -t tmpfs -o size={rng.randrange(4, 2_000)}k tmpfs /dev/shm; exec "$@"'
            under = ["unshare", "-rm", "sh", "-c", mount, "sh"]
            goes_on(row, folder, f"memory{i}", expected, under, workers=2)
    return row


def goes_on(
    row: Row, folder: Path, run_id: str, expected: Outcome, under: list[str], **changes: object
) -> None:
    """Count a training under some command, which may end it, and then without."""
    try:
        ended = train(folder, run_id, 1, under, **changes).wait(LONGEST) in (0, 2)
    except subprocess.TimeoutExpired:
        ended = False
    again = ended and train(folder, run_id).wait(LONGEST) == 0
    intact = again and same(outcome(folder / f"ckpt/{run_id}"), expected)
    row.count(intact, said(folder, run_id))
    shutil.rmtree(folder / f"ckpt/{run_id}", ignore_errors=True)


def not_numbers(count: int, rng: random.Random, folder: Path) -> Row:
    """One weight or statistic that is not a number: there is no score and no label of it."""
    row = Row("a value of a network is not a number")
    damaged = folder / "ckpt/damaged"
    for _ in range(count):
        shutil.copytree(folder / "ckpt/whole", damaged)
        path = rng.choice(sorted(damaged.glob("*coder_*.pth")))
        state = torch.load(path, weights_only=True)
        names = [name for name, value in state.items() if value.is_floating_point()]
        tensor = state[rng.choice(names)]
        tensor[tuple(rng.randrange(side) for side in tensor.shape)] = torch.nan
        torch.save(state, path)
        suffix = path.name.partition("coder")[2]
        codes = [
            subprocess.run(command(name, folder, "damaged", suffix), capture_output=True).returncode
            for name in SCRIPTS
        ]
        row.count(codes == [2, 2] and not list((folder / "result").rglob("*.png")))
        shutil.rmtree(damaged)
        shutil.rmtree(folder / "result", ignore_errors=True)
    return row


def killed_at_a_write(name: str, count: int, rng: random.Random, folder: Path) -> Row:
    """A script that is killed at any of its writes: each of its files is whole, or not there."""
    row = Row(f"{name} killed at a write")
    whole = command(name, folder, "whole", "_latest.pth")
    results = folder / "result"

    def is_whole(path: Path) -> bool:
        saved = saved_file(path.parent, path.name)
        return not saved.exists() or content(saved) == expected[path]

    def run_until(call: int) -> str:
        script = [sys.executable, "-c", KILLED_AT, str(call), *whole[1:]]
        return subprocess.run(script, capture_output=True, text=True, timeout=LONGEST).stdout

    calls = int(run_until(0).splitlines()[-1])
    expected = {path: content(path) for path in results.rglob("*.*")}
    for _ in range(count):
        if rng.random() < 0.5:  # as if for the first time
            shutil.rmtree(results)
        run_until(rng.randint(1, calls))
        row.count(all(map(is_whole, expected)))
        run_until(0)
    shutil.rmtree(results)
    return row


def command(name: str, folder: Path, run_id: str, suffix: str) -> list[str]:
    """A script as it would be typed."""
    settings = SCRIPTS[name] | {
        "id": run_id,
        "suffix": suffix,
        "ckpt": folder / "ckpt",
        "result": folder / "result",
        "visualize": 1,
        "scales": 1,
        "device": "cpu",
    }
    settings |= {"test_img": folder / "images/validation"} if name == "test.py" else {}
    flags = [f"--{key}={value}" for key, value in settings.items()]
    return [sys.executable, str(ROOT / name), *flags]


def content(path: Path) -> object:
    """What a file holds, without times and commands; an error if it is not whole."""
    if path.suffix == ".npz":
        return read_counts(path).hits.tolist()
    if path.suffix == ".json":
        return json.loads(path.read_text())["classes"]
    if path.name == "report.html":
        return path.read_text().rstrip().endswith("</html>")
    return path.read_bytes()
