import json
import multiprocessing
import os
import pickle
import resource
import shutil
from contextlib import suppress

import pytest
import torch
from torch import nn

import checkpoint
from checkpoint import (
    Progress,
    Run,
    check_writable,
    find_run,
    history_table,
    new_run,
    run_file,
    save_together,
    tensors,
    text,
    write_whole,
)
from utils import UserError


@pytest.fixture
def run(tmp_path):
    """A run of the name "street" in tmp_path."""
    folder = new_run(tmp_path, "street")
    config = json.dumps({"arch_encoder": "x", "name": "Straße"})
    files = {
        "encoder_best.pth": tensors(nn.Linear(2, 3).state_dict()),
        "decoder_best.pth": tensors(nn.Linear(3, 4).state_dict()),
        "config.json": text(config),
    }
    save_together(folder, files)
    return folder


def test_what_was_saved_is_found(run, tmp_path):
    config, encoder, decoder = find_run(tmp_path, "street", "_best.pth")
    assert config == {"arch_encoder": "x", "name": "Straße"}
    assert torch.load(encoder, weights_only=True)["weight"].shape == (3, 2)
    assert torch.load(decoder, weights_only=True)["weight"].shape == (4, 3)
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "decoder_best.pth",
        "encoder_best.pth",
    ]


def test_a_pair_of_weights_without_settings_is_a_run_too(run, tmp_path):
    (run / "config.json").unlink()
    assert find_run(tmp_path, "street", "_best.pth")[0] == {}


def test_a_new_run_makes_no_folder_until_it_is_saved(tmp_path):
    new_run(tmp_path, "other")
    assert not list(tmp_path.iterdir())


def test_a_run_is_never_overwritten(run, tmp_path):
    with pytest.raises(UserError, match="--id street: .* holds a run"):
        new_run(tmp_path, "street")


def test_an_unknown_run_is_answered_with_the_nearest(run, tmp_path):
    (tmp_path / "not_a_run").mkdir()
    with pytest.raises(UserError, match="--id stret.*the nearest: street$"):
        find_run(tmp_path, "stret", "_best.pth")
    with pytest.raises(UserError, match="train.py"):
        find_run(tmp_path / "nowhere", "street", "_best.pth")


def test_an_unknown_suffix_is_answered_with_those_there_are(run, tmp_path):
    with pytest.raises(UserError, match="--suffix _epoch_9.pth.*complete pairs: _best.pth"):
        find_run(tmp_path, "street", "_epoch_9.pth")
    (run / "decoder_best.pth").unlink()
    with pytest.raises(UserError, match="no .*decoder_best.pth; complete pairs: none"):
        find_run(tmp_path, "street", "_best.pth")


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
def test_damaged_settings_are_named(content, run, tmp_path):
    (run / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged"):
        find_run(tmp_path, "street", "_best.pth")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "/tmp", "-x", "a\nb", "x" * 300])
def test_an_id_is_a_plain_name(name, tmp_path):
    with pytest.raises(UserError, match="--id"):
        new_run(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_found_out_without_making_it(tmp_path):
    (tmp_path / "file").write_text("")
    check_writable("--ckpt", tmp_path / "a/b")
    assert not (tmp_path / "a").exists()
    for folder in (tmp_path / "file", tmp_path / "file/a/b"):
        with pytest.raises(UserError, match="--ckpt .*file is no folder"):
            check_writable("--ckpt", folder)


def test_epochs_without_a_validation_leave_gaps():
    table = history_table([{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "mean_iou": 0.5}])
    lines = table.splitlines()
    assert lines[0] == (
        "epoch,seconds,train_loss,train_accuracy,val_loss,pixel_accuracy,mean_iou,"
        "lr_encoder,lr_decoder"
    )
    assert lines[1:] == ["1,,2.5,,,,,,", "2,,,,,,0.5,,"]


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"old": 1}))

    def fail(file):
        file.write(b"{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


class PowerCut(BaseException):
    """Ends the process here, as far as the code under test can tell."""


def calls_of(names: list[str], run, monkeypatch, stop_at: int | None = None) -> int:
    """Run something, cut off at one of its calls of the system's functions; returns how many."""
    count = 0

    def watched(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == stop_at:
                raise PowerCut
            return function(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(checkpoint.os, name, watched(getattr(os, name)))
        # After a cut, nothing can be tidied up any more.
        rmtree = shutil.rmtree
        patch.setattr(
            checkpoint.shutil,
            "rmtree",
            lambda *a, **k: None if count == stop_at else rmtree(*a, **k),
        )
        with suppress(PowerCut):
            run()
    return count


def test_a_save_that_is_cut_off_anywhere_leaves_all_files_old_or_all_new(tmp_path, monkeypatch):
    names = ("encoder_latest.pth", "decoder_latest.pth", "training_latest.pth")
    system = ["fsync", "rename", "replace", "open", "link"]

    def save(generation: int) -> None:
        files = {name: text(f"{generation} {name}") for name in names}
        files["encoder_best.pth"] = "encoder_latest.pth"
        save_together(tmp_path / "run", files)

    def generations() -> set[str]:
        return {run_file(tmp_path / "run", name).read_text().split()[0] for name in names}

    total = calls_of(system, lambda: save(0), monkeypatch)
    assert total > 10
    seen = set()
    for generation, stop_at in enumerate(range(1, total + 1), start=1):
        before = generations()
        calls_of(system, lambda generation=generation: save(generation), monkeypatch, stop_at)
        after = generations()
        assert len(after) == 1 and after <= before | {str(generation)}
        seen.add(after == before)
    assert seen == {True, False}
    save(99)  # the next save puts everything right
    assert generations() == {"99"}
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        [*names, "encoder_best.pth"]
    )


def save_on_a_full_disk(folder) -> None:
    """In a process of its own: files may not become larger than 10 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    files = {
        "config.json": text("new"),
        "encoder_latest.pth": tensors({"weight": torch.zeros(100_000)}),
    }
    with pytest.raises(UserError, match="cannot save to .*; what was saved before stays"):
        save_together(folder, files)


def test_a_full_disk_is_one_line_and_leaves_what_was_saved(tmp_path):
    save_together(tmp_path, {"config.json": text("old")})
    process = multiprocessing.get_context("spawn").Process(
        target=save_on_a_full_disk, args=(tmp_path,)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == "old"


def new_training(folder, seed: int) -> Run:
    torch.manual_seed(seed)
    encoder, decoder = nn.Linear(2, 3), nn.Linear(3, 4)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Run(folder, {"seed": seed}, encoder, decoder, optimizer, scaler, Progress(total=7))


def test_a_loaded_training_goes_on_as_the_saved_one(tmp_path):
    def step(run: Run) -> None:
        run.optimizer.zero_grad()
        run.decoder(run.encoder(torch.ones(1, 2))).square().sum().backward()
        run.optimizer.step()

    saved, loaded = new_training(tmp_path, 1), new_training(tmp_path, 2)
    step(saved)
    saved.progress.history.append({"epoch": 1, "train_loss": 0.1})
    saved.progress.pictures = 3
    saved.save("_best.pth")
    loaded.load()
    assert loaded.progress == saved.progress
    for run in (saved, loaded):
        step(run)
    assert torch.equal(saved.encoder.weight, loaded.encoder.weight)
    best = torch.load(tmp_path / "encoder_best.pth", weights_only=True)
    assert not torch.equal(best["weight"], saved.encoder.weight)


@pytest.mark.parametrize("scaled", ["before", "after"])
def test_a_training_goes_on_where_losses_are_scaled_only_before_or_after(scaled, tmp_path):
    """As of --amp auto, on another GPU."""
    saved, loaded = new_training(tmp_path, 1), new_training(tmp_path, 2)
    changed = saved if scaled == "before" else loaded
    changed.scaler = torch.amp.GradScaler("cpu", init_scale=8)
    saved.save()
    loaded.load()
    assert torch.equal(saved.encoder.weight, loaded.encoder.weight)
    assert loaded.scaler.get_scale() == (1 if scaled == "before" else 8)


def test_a_process_that_is_not_to_write_leaves_the_folder_alone(tmp_path):
    run = new_training(tmp_path, 1)
    run.writes = False
    run.save()
    assert not list(tmp_path.iterdir())


class Bomb:
    """What runs code when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["encoder_latest.pth", "training_latest.pth"])
@pytest.mark.parametrize(
    "write", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))]
)
def test_a_checkpoint_that_would_run_code_is_refused_and_runs_none(name, write, tmp_path):
    new_training(tmp_path, 1).save()
    write({"weight": Bomb(tmp_path / "hit")}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} is not a whole PyTorch weights file"):
        new_training(tmp_path, 1).load()
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("content", [{}, {"progress": {}, "optimizer": {}, "scaler": {}}, [1]])
def test_the_state_of_another_training_is_named(content, tmp_path):
    new_training(tmp_path, 1).save()
    torch.save(content, tmp_path / "training_latest.pth")
    with pytest.raises(UserError, match="training_latest.pth is of another training"):
        new_training(tmp_path, 1).load()
