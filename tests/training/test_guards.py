"""What goes wrong in a training is counted and told, or ends it in one line."""

import csv
import os
import signal
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import dataset
import train
from common.distributed import World
from dataset import EpochSampler
from models import SegmentationModel
from training import trainer
from training.checkpoint import Progress
from training.guards import (
    MAX_SKIPPED,
    count_skipped,
    count_unreadable,
    refuse_loss,
    refuse_unreadable,
)
from utils import UserError

from ..conftest import SMALL, flags

ALONE = World("cpu")


@pytest.mark.slow
def test_a_few_unreadable_pictures_are_told_once_and_replaced(script, data):
    """One in two hundred, in both of two epochs."""
    data.picture("train/1").write_bytes(b"no picture")
    others = [f"train/{i}.jpg" for i in (0, 2, 3, 4, 5)]
    (data.folder / "train.txt").write_text("\n".join(["train/1.jpg", *others * 40]))
    options = flags(id="run", batch_size_per_gpu=40, num_epoch=2, workers=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err
    assert result.out.count("unreadable pictures that were replaced: 1,") == 2


def test_an_unreadable_picture_is_named_once(caplog):
    progress = Progress(total=1000)
    for defects in (["a.jpg is cut short"], [], ["b.jpg is empty", "a.jpg is cut short"]):
        count_unreadable(defects, progress, ALONE)
    assert progress.replaced == 3
    assert [record.getMessage().split(": ")[1] for record in caplog.records] == [
        "a.jpg is cut short",
        "b.jpg is empty",
    ]


def test_more_than_one_in_a_hundred_end_the_run_with_the_list_after_a_save():
    saves = []
    progress = Progress(total=300, epoch=4)
    checkpoint = SimpleNamespace(progress=progress, save=lambda: saves.append(progress.replaced))
    count_unreadable(["a is cut", "b is cut", "c is cut"], progress, ALONE)
    refuse_unreadable(checkpoint, ALONE)
    assert not saves
    count_unreadable(["d is cut"], progress, ALONE)
    with pytest.raises(
        UserError, match="1% of the 300 .* epoch 4 .*: a is cut; b is cut; c is cut; d"
    ):
        refuse_unreadable(checkpoint, ALONE)
    assert saves == [4]


@pytest.mark.slow
def test_a_run_with_too_many_unreadable_pictures_goes_on_each_time_it_is_resumed(script, data):
    """Only the first of six pictures can be read: it stands in for all others."""
    first = next(iter(EpochSampler(6, 1, seed=1234)))[0][1]
    for i in {*range(6)} - {first}:
        data.picture(f"train/{i}").write_bytes(b"no picture")
    options = flags(id="run", num_epoch=1, batch_size_per_gpu=1, resume=1)
    codes = []
    while not codes or codes[-1] == 2 and len(codes) < 9:
        result = script("train.py", *SMALL, *data.flags, *options)
        codes.append(result.code)
    assert codes == [2, 2, 2, 2, 2, 0], result.err
    assert "unreadable pictures that were replaced: 5," in result.out


@pytest.mark.slow
def test_evaluation_skips_no_picture(script, data):
    options = flags(id="run", num_epoch=1, num_val=2)
    assert script("train.py", *SMALL, *data.flags, *options).code == 0
    data.picture("val/2").write_bytes(b"no picture")
    result = script("eval.py", "--id", "run", "--workers", "0")
    assert result.code == 2 and "val/2.jpg" in result.err


def test_a_loss_that_is_not_finite_is_refused_with_its_pictures():
    with pytest.raises(UserError, match="loss is nan in epoch 2 after 8 .* at a.jpg, b.jpg: lower"):
        refuse_loss(float("nan"), "epoch 2 after 8 of its pictures", ["a.jpg", "b.jpg"], ALONE)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 1])
def test_a_loss_that_is_not_finite_never_reaches_the_weights(lag, script, data, monkeypatch):
    """The second step's loss is infinite; what was saved is what the first step made."""
    monkeypatch.setitem(trainer.LAG, "cpu", lag)
    losses = iter([1.0, float("inf"), 1.0])
    forward = SegmentationModel.forward

    def spoilt(self, images, labels=None, **kwargs):
        out = forward(self, images, labels, **kwargs)
        return out if labels is None else (out[0] * next(losses), out[1])

    monkeypatch.setattr("models.SegmentationModel.forward", spoilt)
    options = flags(id="run", ckpt_minutes=0, num_epoch=2)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 2 and "the loss is inf in epoch 1 after 3 of its pictures" in result.err
    state = torch.load("ckpt/run/training_latest.pth", weights_only=True)
    assert state["progress"]["pictures"] == 3
    weights = torch.load("ckpt/run/encoder_latest.pth", weights_only=True)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.slow
def test_a_dead_network_is_not_saved_over_a_living_one(script, data, monkeypatch):
    """The optimiser's second step makes a weight infinite, though its loss was finite."""
    steps = count(1)
    step = torch.optim.SGD.step

    def deadly(self, *args, **kwargs):
        step(self, *args, **kwargs)
        if next(steps) == 2:
            self.param_groups[0]["params"][0].data[0] = torch.inf

    monkeypatch.setattr("torch.optim.SGD.step", deadly)
    options = flags(id="run", ckpt_minutes=0, num_epoch=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 2 and "encoder.conv1.weight of the network is not finite" in result.err
    assert torch.load("ckpt/run/training_latest.pth")["progress"]["pictures"] == 3
    assert torch.load("ckpt/run/encoder_latest.pth")["conv1.weight"].isfinite().all()


@pytest.mark.slow
def test_a_network_whose_output_is_not_finite_has_no_scores_and_no_labels(script, data):
    """A single weight of a single class is spoilt."""
    options = flags(id="run", num_epoch=1)
    assert script("train.py", *SMALL, *data.flags, *options).code == 0
    path = "ckpt/run/decoder_best.pth"
    weights = torch.load(path)
    weights["conv_last.weight"][2, 0] = torch.nan
    torch.save(weights, path)
    picture = flags(test_img=data.picture("val/0"), result="out")
    for command in (["eval.py", "--workers", "0"], ["test.py", *picture]):
        result = script(command[0], "--id", "run", *command[1:])
        assert result.code == 2 and result.err.count("\n") == 1
        assert "output is not finite" in result.err and "--amp off" in result.err
    assert not Path("result/run/scores.json").exists() and not Path("out").exists()


@pytest.mark.slow
def test_a_validation_whose_output_is_not_finite_ends_the_run(script, data, monkeypatch):
    """As where half precision overflows; the save before the validation stays."""
    forward = train.SegmentationModel.forward

    def overflowing(self, images, labels=None, **flags):
        out = forward(self, images, labels, **flags)
        return out if labels is not None else out / 0

    monkeypatch.setattr("models.SegmentationModel.forward", overflowing)
    result = script("train.py", *SMALL, *data.flags, *flags(id="run", num_epoch=1))
    assert result.code == 2 and "output is not finite" in result.err
    assert "mIoU" not in result.out
    names = {path.name for path in Path("ckpt/run").glob("*.pth")}
    assert names == {"encoder_latest.pth", "decoder_latest.pth", "training_latest.pth"}


def test_skipped_steps_are_counted_and_only_a_run_of_them_ends_the_training():
    progress = Progress()
    for skipped in 3 * [*MAX_SKIPPED * [True], False]:
        count_skipped(skipped, progress)
    assert progress.skipped == 3 * MAX_SKIPPED
    for _ in range(MAX_SKIPPED):
        count_skipped(True, progress)
    with pytest.raises(UserError, match=f"{MAX_SKIPPED} steps in a row"):
        count_skipped(True, progress)


@pytest.mark.slow
def test_a_gradient_that_overflows_once_costs_a_step_and_no_more(script, data, monkeypatch):
    """With --amp fp16, at a scale that overflows by itself nowhere: the first loss is infinite."""
    scaler = partial(torch.amp.GradScaler, init_scale=8.0)
    monkeypatch.setattr("training.trainer.GradScaler", scaler)
    losses = iter([float("inf")])
    forward = SegmentationModel.forward

    def spoilt(self, images, labels=None, **kwargs):
        out = forward(self, images, labels, **kwargs)
        return out if labels is None else (out[0] * next(losses, 1.0), out[1])

    monkeypatch.setattr("models.SegmentationModel.forward", spoilt)
    options = flags(id="run", amp="fp16", num_epoch=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err
    assert "the gradient scaler skipped: 1" in result.out
    weights = torch.load("ckpt/run/encoder_latest.pth", weights_only=True)
    assert all(value.isfinite().all() for value in weights.values())


@pytest.mark.slow
def test_an_epoch_without_a_finite_loss_shows_none(script, data, monkeypatch):
    monkeypatch.setattr(
        "training.trainer.GradScaler", partial(torch.amp.GradScaler, init_scale=8.0)
    )
    forward = train.SegmentationModel.forward

    def spoilt(self, images, labels=None, **flags):
        out = forward(self, images, labels, **flags)
        return out if labels is None else (out[0] * torch.inf, out[1])

    monkeypatch.setattr("models.SegmentationModel.forward", spoilt)
    options = flags(id="run", amp="fp16", num_epoch=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err
    assert "Loss: none so far" in result.out and "Loss: nan" not in result.out
    with Path("ckpt/run/history.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["train_loss"] == row["train_accuracy"] == "" and row["val_loss"]


def test_a_worker_that_is_killed_ends_the_run_in_one_line(script, data, monkeypatch):
    main, read = os.getpid(), dataset.read_picture

    def deadly(path):
        if os.getpid() != main:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path)

    monkeypatch.setattr("dataset.read_picture", deadly)
    result = script("train.py", "--id", "run", *SMALL, *data.flags, "--workers", "1")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "a process that reads pictures was killed" in result.err


@pytest.mark.parametrize(
    ("given", "batch", "wanted"),
    [(None, 15, True), (None, 16, False), (0, 2, False), (1, 64, True)],
)
def test_batchnorm_is_synchronised_where_batches_are_small(given, batch, wanted):
    args = SimpleNamespace(sync_bn=given, batch_size_per_gpu=batch)
    assert train.wants_sync_bn(args) == wanted


@pytest.mark.slow
def test_deterministic_kernels_are_asked_for(script, data, monkeypatch):
    asked = []
    monkeypatch.setattr("torch.use_deterministic_algorithms", lambda *a, **k: asked.append(a))
    options = flags(id="run", num_epoch=1, deterministic=1)
    assert script("train.py", *SMALL, *data.flags, *options).code == 0
    assert asked == [(True,)] and not torch.backends.cudnn.benchmark
