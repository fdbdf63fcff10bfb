"""`training/owner.py`: a run's folder belongs to one training at a time."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.owner import OWNER, own
from utils import UserError

from ..conftest import ROOT

# POSIX locks belong to a process: another one has to hold or to ask.
HOLD = """
import os, sys, time
from pathlib import Path
from training.owner import own
from utils import UserError
try:
    with own(Path(sys.argv[1])):
        if sys.argv[2:]:
            if child := os.fork():
                print(child, flush=True)
            time.sleep(60)
        print("held", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""


@contextmanager
def another(folder: Path, *fork: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-c", HOLD, str(folder), *fork]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.stdin.close()


def test_a_folder_that_is_held_is_refused_with_the_name_of_its_holder(tmp_path):
    folder = tmp_path / "ckpt/run"
    with another(folder) as first:
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError) as refused, own(folder):
            pass
    message = str(refused.value)
    assert f"process {first.pid} on {socket.gethostname()} since 20" in message
    assert "--id" in message and str(folder / OWNER) in message
    with own(folder):  # it has ended, and left nothing
        pass
    assert not list(tmp_path.iterdir())


def test_a_holder_that_is_killed_leaves_no_lock_not_even_with_a_child_that_lives_on(tmp_path):
    with another(tmp_path, "fork") as first:
        child = int(first.stdout.readline())
        first.kill()
        first.wait()
        try:
            assert (tmp_path / OWNER).exists()
            with own(tmp_path):
                assert str(os.getpid()) in (tmp_path / OWNER).read_text()
        finally:
            os.kill(child, 9)
    assert not (tmp_path / OWNER).exists()


def test_what_a_run_has_saved_stays(tmp_path):
    folder = tmp_path / "run"
    with own(folder):
        (folder / "encoder_latest.pth").write_text("weights")
    assert [path.name for path in folder.iterdir()] == ["encoder_latest.pth"]


def test_of_many_that_start_at_once_one_gets_the_folder(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    lines = [process.stdout.readline() for process in processes]
    assert lines.count("held\n") == 1
    assert sum(f"{folder} belongs to a training" in line for line in lines) == 3
    for process in processes:
        process.communicate()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def lockf(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with own(tmp_path / "run"):
        assert "start no second training there" in caplog.text
