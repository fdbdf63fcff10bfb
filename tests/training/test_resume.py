"""A training that ends early, by whatever means, goes on as if it had not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch

from common.files import STAGING, saved_file
from common.metrics import ConfusionMatrix
from models import ModelBuilder
from models.weights import read_tensors
from stress import crashes
from training import trainer
from utils import StopRequest

from ..conftest import ROOT, SMALL, TINY, changed_training, flags, make_data

pytestmark = pytest.mark.slow  # they train

# Three steps an epoch, dropout, an optimiser with a state worth keeping, and all that is drawn,
# averaged or counted on the way.
RECIPE = [
    *TINY,
    *flags(
        drop_path=0.2,
        batch_size_per_gpu=2,
        num_epoch=3,
        optim="Muon",
        eval_epoch=2,
        disp_iter=1,
        class_weight="median",
        logit_adjust=0.5,
        lr_schedule="cosine",
        warmup_iters=4,
        norm_weight_decay=0,
        clip_grad=0.5,
        ema_decay=0.7,
        label_smoothing=0.1,
        ohem_thresh=0.5,
        cat_max_ratio=0.5,
        color_jitter=1,
        classmix=0.5,
    ),
]


def test_two_that_go_on_with_a_run_at_a_time_are_one(tmp_path):
    """And so are two that start it: the second is refused, and nothing of the first is lost."""
    data = make_data(tmp_path / "data")
    command = [sys.executable, ROOT / "train.py", "--id", "run", "--resume", "1", *RECIPE]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, *data.flags], cwd=tmp_path, **pipes) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    assert sorted(codes) == [0, 2], outputs
    error = outputs[codes.index(2)][1]  # it may be refused before the first has left its name
    assert "ckpt/run belongs to a training that is still running (" in error
    assert error.count("\n") == 1
    log = (tmp_path / "ckpt/run/train.log").read_text()
    assert log.count("Epoch: [1][0/3]") == 1
    assert not (tmp_path / "ckpt/run/.owner").exists()


@pytest.mark.parametrize("change", ["list_train", "list_val", "num_val"])
def test_a_run_knows_its_pictures_by_their_names_not_by_the_name_of_the_list(
    change, whole, tmp_path
):
    data = make_data(tmp_path / "data")
    shutil.copytree(whole, tmp_path / "ckpt/whole")
    names = {part: (data.folder / f"{part}.txt").read_text().split() for part in ("train", "val")}
    for part in names:  # the same pictures in another place
        (tmp_path / f"{part}.txt").write_text("\n".join(names[part]))
    options = flags(
        list_train=tmp_path / "train.txt",
        list_val=tmp_path / "val.txt",
        root_img=data.folder / "images",
        root_seg=data.folder / "annotations",
    )
    if change == "num_val":
        options += ["--num_val", "2"]
    else:  # as many, but others
        part = change.removeprefix("list_")
        (tmp_path / f"{part}.txt").write_text("\n".join([*names[part][:-1], names[part][0]]))
    command = [sys.executable, ROOT / "train.py", "--resume", tmp_path / "ckpt/whole", *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "names other pictures than" in result.stderr


def assert_same(one: Path, other: Path) -> None:
    assert crashes.same(crashes.outcome(one), crashes.outcome(other))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The folder of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    options = ["--id", "whole", *RECIPE, *make_data(folder / "data").flags]
    subprocess.run([sys.executable, ROOT / "train.py", *options], cwd=folder, check=True)
    return folder / "ckpt/whole"


@pytest.fixture
def send(monkeypatch):
    """Arranges for signals to come in the middle of a step: at the n-th call of a function."""

    def arrange(at: dict[int, int], name: str = "adjust_learning_rates"):
        function = getattr(trainer, name)
        calls = count(1)

        def interrupted(*args):
            number = at.get(next(calls))
            if number:
                os.kill(os.getpid(), number)
            return function(*args)

        monkeypatch.setattr(trainer, name, interrupted)

    return arrange


@pytest.mark.parametrize("step", [3, 4, 8])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(step, script, data, whole, send):
    """Stopped within an epoch, at its end, and on either side of a validation."""
    send({step: signal.SIGTERM})
    result = script("train.py", "--id", "cut", *RECIPE, *data.flags)
    assert result.code == 143 and "train.py --resume cut" in result.out, result.err
    (data.folder / "train.txt.class_weight.csv").write_text("of other labels")
    result = script("train.py", "--resume", "cut", "--workers", "2")
    assert result.code == 0 and "Counting" not in result.out, result.err
    assert_same(whole, Path("ckpt/cut"))


def test_a_frozen_encoder_stays_as_it_is_without_gradients(script, data, send, monkeypatch):
    """With --lr_encoder 0: weights and statistics, through weight decay and a resumption."""
    arch = "timm:test_resnet"
    encoder = ModelBuilder.build_encoder(arch, weights="none")
    torch.save(encoder.state_dict(), "encoder.pth")
    step = trainer.Trainer.optimizer_step

    def checked_step(self, *args):
        assert all(value.grad is None for value in self.network.encoder.parameters())
        assert not any(module.training for module in self.network.encoder.modules())
        step(self, *args)

    monkeypatch.setattr(trainer.Trainer, "optimizer_step", checked_step)
    options = flags(arch_encoder=arch, weights_encoder="encoder.pth", lr_encoder=0, ckpt_epoch=1)
    decay = flags(num_epoch=2, weight_decay=0.1)
    command = ["train.py", *RECIPE, *data.flags, *options, *decay]
    assert script(*command, "--id", "whole").code == 0
    send({4: signal.SIGTERM})
    assert script(*command, "--id", "cut").code == 143
    assert script("train.py", "--resume", "cut").code == 0
    assert_same(Path("ckpt/whole"), Path("ckpt/cut"))
    trained = read_tensors("ckpt/whole/encoder_latest.pth")
    torch.testing.assert_close(trained, dict(encoder.state_dict()), rtol=0, atol=0)
    first, last = (read_tensors(f"ckpt/whole/decoder_{kind}.pth") for kind in ("epoch_1", "latest"))
    assert all(not torch.equal(first[key], last[key]) for key in last)


def test_a_run_may_be_cut_again_and_again(script, data, whole, send):
    send({2: signal.SIGINT, 4: signal.SIGUSR1, 9: signal.SIGTERM})
    codes = [
        script("train.py", "--id", "cut", "--resume", "1", *RECIPE, *data.flags).code
        for _ in range(4)
    ]
    assert codes == [130, 138, 143, 0]
    assert_same(whole, Path("ckpt/cut"))


def test_a_validation_that_is_cut_is_done_anew(script, data, whole, send):
    send({1: signal.SIGTERM}, "upsample_argmax")
    options = ("--id", "cut", "--resume", "1", *RECIPE, *data.flags)
    assert [script("train.py", *options).code for _ in range(2)] == [143, 0]
    assert_same(whole, Path("ckpt/cut"))


def test_what_ends_a_validation_costs_no_training(script, data, whole, monkeypatch):
    scores = ConfusionMatrix.scores
    failures = iter([True])

    def fail_once(self):
        if next(failures, False):
            raise MemoryError
        return scores(self)

    monkeypatch.setattr("common.metrics.ConfusionMatrix.scores", fail_once)
    options = ("--id", "cut", "--resume", "1", *RECIPE, *data.flags)
    result = script("train.py", *options)
    assert result.code == 2 and "out of memory" in result.err
    result = script("train.py", *options)
    assert result.code == 0 and "Going on in epoch 2 after 6 of its pictures" in result.out
    assert_same(whole, Path("ckpt/cut"))


def test_saves_come_within_an_epoch_too(script, data, whole, monkeypatch):
    """Killed in the second epoch's third step, a training that saves at every step has lost one."""
    steps = count(1)

    def killed(*args):
        if next(steps) == 6:
            raise SystemExit(9)

    monkeypatch.setattr("training.trainer.count_skipped", killed)
    options = ("--id", "cut", "--resume", "1", *RECIPE, *data.flags, "--ckpt_minutes", "0")
    assert script("train.py", *options).code == 9
    result = script("train.py", *options)
    assert result.code == 0 and "Going on in epoch 2 after 4 of its pictures" in result.out
    assert_same(whole, Path("ckpt/cut"))


@pytest.mark.parametrize("optim", ["SGD", "AdamW"])
def test_a_step_whose_loss_is_not_finite_changes_no_weight_before_it_is_read(optim):
    """A fused optimiser looks at what a gradient scaler would tell it."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(torch.optim, optim)([parameter], lr=1.0, fused=True)
    parameter.grad = torch.full((3,), torch.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert (parameter == 1).all()


def test_results_that_are_read_late_are_the_same(script, data, whole, monkeypatch):
    monkeypatch.setitem(trainer.LAG, "cpu", 1)
    options = ("--id", "late", *RECIPE, *data.flags)
    assert script("train.py", *options, "--disp_iter", "100").code == 0
    assert_same(whole, Path("ckpt/late"))


def test_killed_at_a_random_instant_a_training_ends_with_the_very_same_network(monkeypatch):
    """With a small network; `make stress` takes a large one, whose saves are longer."""
    changes = {"arch_encoder": "timm:test_resnet", "arch_decoder": "c1_bilinear"}
    monkeypatch.setattr(crashes, "RECIPE", crashes.RECIPE | changes)
    assert crashes.run(count=1, seed=0) == [("training killed", 1, 1, 0)]


def test_a_run_that_is_complete_has_its_files_in_place_once_it_is_resumed(
    script, data, whole, tmp_path
):
    """Where a crash has cut the moving of the last save's files."""
    run = tmp_path / "here/ckpt/whole"
    shutil.copytree(whole, run)
    (run / STAGING).mkdir()
    for name in ("decoder_latest.pth", "history.csv"):
        (run / name).rename(run / STAGING / name)
        (run / name).write_text("of an earlier save")
    result = script("train.py", "--resume", "whole", *data.flags)
    assert result.code == 0, result.err
    assert_same(whole, run)
    assert not (run / STAGING).exists()


def test_a_second_signal_stops_at_once_and_leaves_the_last_save(data, tmp_path):
    """In a process of its own, whose second step never ends."""
    change = """
from training import optimizer
rates = []
def adjust_learning_rates(*rate):
    rates.append(rate)
    if len(rates) == 2:
        print("asleep", flush=True)
        time.sleep(600)
optimizer.adjust_learning_rates = adjust_learning_rates
"""
    options = [*RECIPE, *data.flags, "--id", "run", "--ckpt_minutes", "0"]
    command = [sys.executable, changed_training(tmp_path, change), *options]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line == "asleep\n":
                break
        process.send_signal(signal.SIGTERM)
        time.sleep(1.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        assert "train.py --resume" not in process.stdout.read()
    for name in ("encoder_latest.pth", "decoder_latest.pth", "training_latest.pth"):
        assert read_tensors(saved_file(tmp_path / "ckpt/run", name))


def test_a_request_that_comes_twice_in_one_moment_is_one(monkeypatch):
    ended, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("os._exit", ended.append)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and not ended
        monkeypatch.setattr(stop, "since", stop.since - 2)
        os.kill(os.getpid(), signal.SIGINT)
        assert ended == [130]
    assert signal.getsignal(signal.SIGINT) == before


def test_resuming_takes_the_settings_of_the_run_and_lets_some_change(script, data, send):
    send({4: signal.SIGTERM})
    assert script("train.py", "--id", "cut", *RECIPE, *data.flags).code == 143
    moved = Path("elsewhere")
    moved.mkdir()
    Path("ckpt/cut").rename(moved / "cut")
    result = script("train.py", "--resume", moved / "cut", "--disp_iter", "2", "--vis", "panels")
    assert result.code == 0, result.err
    config = json.loads((moved / "cut/config.json").read_text())
    assert config["disp_iter"] == 2 and config["optim"] == "Muon" and config["id"] == "cut"
    assert list(Path("panels/cut").iterdir())


@pytest.fixture
def cut(script, data, send) -> Path:
    """A run that was stopped in its second epoch."""
    send({4: signal.SIGTERM})
    assert script("train.py", "--id", "cut", *RECIPE, *data.flags).code == 143
    return Path("ckpt/cut").resolve()


def damage_training(folder: Path) -> None:
    (folder / "training_latest.pth").write_bytes(b"")


def cut_weights(folder: Path) -> None:
    path = folder / "encoder_latest.pth"
    path.write_bytes(path.read_bytes()[:1000])


def remove_training(folder: Path) -> None:
    (folder / "training_latest.pth").unlink()


def remove_class_weights(folder: Path) -> None:
    (folder / "class_weight.csv").unlink()


def lengthen_list(folder: Path) -> None:
    path = Path(json.loads((folder / "config.json").read_text())["list_train"])
    path.write_text(path.read_text() + "train/0.jpg\n")


BAD_RESUMES = {
    "unknown run": (None, ["--resume", "cat"], ["--resume cat", "the nearest: cut"]),
    "unknown folder": (None, ["--resume", "no/cut"], ["--resume cut", "no such run"]),
    "another network": (
        None,
        ["--resume", "cut", "--arch_decoder", "psp_bilinear"],
        ["--arch_decoder", "ckpt/cut", "another run"],
    ),
    "another schedule": (
        None,
        ["--resume", "cut", "--num_epoch", "9", "--lr_encoder", "1"],
        ["--num_epoch --lr_encoder"],
    ),
    "another list": (
        lengthen_list,
        ["--resume", "cut"],
        ["--list_train", "train.txt names other pictures"],
    ),
    "empty state": (damage_training, ["--resume", "cut"], ["training_latest.pth is not a whole"]),
    "weights cut short": (cut_weights, ["--resume", "cut"], ["encoder_latest.pth is not a whole"]),
    "other weights": (
        None,
        ["--resume", "cut", "--class_weight", "none"],
        ["--class_weight would make"],
    ),
    "no weights": (remove_class_weights, ["--resume", "cut"], ["cut/class_weight.csv: No such"]),
    "no state": (remove_training, ["--resume", "cut"], ["training_latest.pth: no such file"]),
}


def test_what_cannot_be_resumed_is_one_line_and_changes_nothing(script, data, cut):
    state = {path: path.read_bytes() for path in cut.iterdir()}
    listed = (data.folder / "train.txt").read_text()
    for case, (spoil, options, culprits) in BAD_RESUMES.items():
        if spoil:
            spoil(cut)
        before = {path: path.read_bytes() for path in cut.iterdir()}
        result = script("train.py", *options)
        assert result.code == 2 and result.err.count("\n") == 1, (case, result.err)
        assert all(culprit in result.err for culprit in culprits), (case, result.err)
        assert {path: path.read_bytes() for path in cut.iterdir()} == before
        for path, content in state.items():
            path.write_bytes(content)
        (data.folder / "train.txt").write_text(listed)


@pytest.mark.parametrize("weights", [pytest.param("none", marks=pytest.mark.stress), "median"])
def test_accumulated_batches_are_one_large_batch(weights, script, data, tmp_path):
    """With BatchNorm frozen, as each batch has statistics of its own; the last step is shorter."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    states = []
    for size, accumulate in ((4, 1), (2, 2), (1, 4)):
        run = f"{size}x{accumulate}"
        result = script(
            "train.py",
            *SMALL,
            *data.flags,
            *flags(
                id=run,
                num_epoch=2,
                fix_bn=1,
                class_weight=weights,
                weights_encoder=tmp_path / "encoder.pth",
                lr_encoder=0.1,
            ),
            *flags(batch_size_per_gpu=size, accumulate=accumulate),
        )
        assert result.code == 0, result.err
        states.append(torch.load(f"ckpt/{run}/encoder_latest.pth", weights_only=True))
    assert not torch.equal(states[0]["conv1.weight"], encoder.state_dict()["conv1.weight"])
    for state in states[1:]:
        torch.testing.assert_close(state, states[0], rtol=1e-5, atol=1e-5)
