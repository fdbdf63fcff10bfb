"""Waits end, signals are answered while waiting, and output that cannot be written ends nothing."""

import fcntl
import logging
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from torch import Tensor

from models.weights import read_tensors

from ..conftest import ROOT, SMALL, flags

pytestmark = pytest.mark.slow  # they train

OPTIONS = [*SMALL, *flags(id="run", num_epoch=1, disp_iter=1)]
FEW_STEPS = [*OPTIONS, "--num_val", "1"]


def test_full_shared_memory_is_named_in_one_line(script, data, monkeypatch):
    def share_memory(_) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: …")

    monkeypatch.setattr(Tensor, "share_memory_", share_memory)
    result = script("train.py", *OPTIONS, *data.flags, "--workers", "1")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "--workers" in result.err and "--shm-size" in result.err


def test_a_loader_does_not_start_without_shared_memory(script, data, monkeypatch):
    monkeypatch.setattr("common.loader.LEAST_SHARED", 2**60)
    result = script("train.py", *OPTIONS, *data.flags, "--workers", "1")
    assert result.code == 2 and "--shm-size" in result.err and not Path("ckpt").exists()
    assert script("train.py", *OPTIONS, *data.flags, "--workers", "0").code == 0


def test_a_picture_that_never_comes_ends_the_training(script, data, monkeypatch):
    monkeypatch.setattr("common.loader.LONGEST_WAIT", 1)
    monkeypatch.setattr("dataset.TrainDataset.__getitem__", lambda *_: time.sleep(60))
    result = script("train.py", *OPTIONS, *data.flags, "--workers", "1")
    assert result.code == 2 and "no picture has come" in result.err


def test_a_signal_is_answered_while_a_picture_is_waited_for(script, data, monkeypatch):
    def hang(*_) -> None:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr("dataset.TrainDataset.__getitem__", hang)
    result = script("train.py", *OPTIONS, *data.flags, "--workers", "1")
    assert result.code == 143 and "Stopped by SIGTERM after a save" in result.out, result.err
    assert read_tensors("ckpt/run/training_latest.pth")["progress"]["pictures"] == 0


@pytest.mark.parametrize("ignored", [False, True], ids=["a terminal that closes", "nohup"])
def test_a_closed_terminal_saves_the_training_and_after_nohup_means_nothing(
    ignored, script, data, monkeypatch
):
    def hang_up(*args) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        return adjust(*args)

    from training import trainer

    adjust = trainer.adjust_learning_rates
    monkeypatch.setattr(trainer, "adjust_learning_rates", hang_up)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        result = script("train.py", *OPTIONS, *data.flags)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.code == (0 if ignored else 129), result.err
    assert ("Stopped by SIGHUP after a save" in result.out) != ignored
    assert read_tensors("ckpt/run/training_latest.pth")["progress"]["pictures"] == 3 * (not ignored)


def test_a_bar_on_a_terminal_that_is_gone_ends_nothing(data, tmp_path):
    """The terminal breaks before its signal comes, or, as here, none comes."""
    screen, terminal = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    command = [sys.executable, ROOT / "train.py", *FEW_STEPS, *data.flags]
    with subprocess.Popen(command, cwd=tmp_path, stdout=terminal, stderr=terminal) as run:
        os.close(terminal)
        shown = b""
        while b"Epoch 1" not in shown:
            shown += os.read(screen, 10_000)
        os.close(screen)
        assert run.wait() == 0
    assert "mIoU" in (tmp_path / "ckpt/run/train.log").read_text()


def test_output_that_nobody_reads_and_a_full_disk_are_told_once(data, tmp_path):
    (tmp_path / "ckpt/run").mkdir(parents=True)
    (tmp_path / "ckpt/run/train.log").symlink_to("/dev/full")
    reading, writing = os.pipe()
    os.close(reading)  # as after `| head -0`
    command = [sys.executable, ROOT / "train.py", *FEW_STEPS, *data.flags]
    result = subprocess.run(
        command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert result.returncode == 0
    lines = result.stderr.splitlines()
    assert lines == [
        "train.py: standard output cannot be written: Broken pipe; going on",
        "train.py: some lines of the log are lost: No space left on device; going on",
    ]
    assert (tmp_path / "ckpt/run/encoder_latest.pth").exists()


def test_a_path_that_is_no_text_is_saved_and_read(script, data):
    place = os.fsdecode(b"ck\xffpt")
    for options in (OPTIONS, ["--resume", f"{place}/run", "--num_val", "-1"]):
        result = script("train.py", *options, *data.flags, "--ckpt", place, "--vis", place)
        assert result.code == 0, result.err
    where = flags(id="run", ckpt=place, result=place, scales=1, workers=0)
    assert script("eval.py", *where, "--report", "1").code == 0
    picture = data.picture("val/0")
    assert script("test.py", *flags(id="run", ckpt=place, result=place, test_img=picture)).code == 0
    assert Path(place, "run/report.html").exists() and Path(place, "0_prediction.png").exists()


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"MASTER_ADDR": None}, "MASTER_ADDR is not set"),
        ({"MASTER_PORT": None}, "MASTER_PORT is not set"),
        ({"RANK": "first"}, "RANK is first"),
        ({"RANK": "2"}, "RANK is 2"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is -1"),
        ({}, "rank 0 cannot be reached at 127.0.0.1:1"),
    ],
)
def test_a_job_that_lacks_what_torchrun_sets_is_one_line(
    changes, culprit, script, data, monkeypatch
):
    job = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in (job | changes).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    result = script("train.py", *OPTIONS, *data.flags, "--timeout", "1")
    logging.disable(logging.NOTSET)  # which rank 1 had done: the main process logs for all
    assert result.code == 2 and culprit in result.err.splitlines()[-1]
    assert not Path("ckpt").exists()
