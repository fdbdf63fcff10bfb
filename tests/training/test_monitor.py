"""What a training shows: a bar on a terminal, lines elsewhere, all of it in a log."""

import re
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ..conftest import SMALL

TRAINING = ("train.py", "--id", "run", *SMALL, "--num_epoch", "2", "--disp_iter", "1")
STEP = (
    r"Epoch: \[\d\]\[\d/2\], Time: \d+\.\d\d, Data: \d+\.\d\d, lr_encoder: 0\.\d{6}, "
    r"lr_decoder: 0\.\d{6}, Accuracy: \d+\.\d\d%, Loss: \d+\.\d{4}"
)


@pytest.mark.slow
def test_without_a_terminal_there_are_lines_and_a_log_with_times(script, data, tmp_path):
    result = script(*TRAINING, *data.flags)
    assert result.code == 0 and result.err == ""
    lines = result.out.splitlines()
    assert sum(bool(re.fullmatch(STEP, line)) for line in lines) == 4
    for what in ("Device: CPU", "precision", "million parameters", "GMACs", "results: ckpt/run"):
        assert sum(what in line for line in lines) == 1
    log = (tmp_path / "here/ckpt/run/train.log").read_text().splitlines()
    times, logged = zip(*(line.split(" ", 2)[1:] for line in log), strict=True)
    assert list(logged) == lines[-len(log) :] and len(log) == len(lines)
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d,\d{3}", time) for time in times)


@pytest.mark.slow
def test_on_a_terminal_there_is_a_bar_and_the_log_has_the_lines(
    script, data, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda _: True, raising=False)
    result = script(*TRAINING, *data.flags)
    assert result.code == 0, result.err
    assert not re.search(STEP, result.out) and "validation: Loss" in result.out
    for shown in (
        r"Epoch 2/2 +100%",
        r"loss \d\.\d{4}",
        r"accuracy \d+\.\d%",
        "lr 0.0",
        r"[\d.]+ pictures/s",
        r"data \d+%",
        r"\d\.\d GB",
        r"all done in 0:00:\d\d",
    ):
        assert re.search(shown, result.err), shown
    log = (tmp_path / "here/ckpt/run/train.log").read_text()
    assert len(re.findall(STEP, log)) == 4


@pytest.mark.slow
def test_a_resumed_training_goes_on_in_its_log(script, data, tmp_path, monkeypatch):
    log = tmp_path / "here/ckpt/run/train.log"
    with monkeypatch.context() as patch:
        patch.setattr("training.checkpoint.Progress.next_epoch", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            script(*TRAINING, *data.flags)
    before = log.read_text()
    assert script("train.py", "--resume", "run").code == 0
    assert log.read_text().startswith(before) and "Going on in epoch 1" in log.read_text()


@pytest.mark.slow
def test_tensorboard_gets_curves_and_panels(script, data, tmp_path):
    result = script(*TRAINING, *data.flags, "--tensorboard", "1")
    assert result.code == 0, result.err
    events = EventAccumulator(str(tmp_path / "here/ckpt/run/tensorboard"))
    events.Reload()
    curves = events.Tags()["scalars"]
    assert {"loss/training", "loss/validation", "accuracy/mean IoU", "rate/lr_encoder"} <= {*curves}
    assert [point.step for point in events.Scalars("loss/training")] == [3, 6, 9, 12]
    assert len(events.Tags()["images"]) == 3


def test_without_its_package_tensorboard_is_refused_at_once(script, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    result = script(*TRAINING, *data.flags, "--tensorboard", "1")
    assert result.code == 2 and "pip install tensorboard" in result.err
    assert not (tmp_path / "here/ckpt").exists()
