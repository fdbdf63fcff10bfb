import os
import pickle

import pytest
import torch
from torch import nn

from training.checkpoint import Checkpoint, Progress, history_table
from utils import UserError


def test_epochs_without_a_validation_leave_gaps():
    table = history_table([{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "mean_iou": 0.5}])
    lines = table.splitlines()
    assert lines[0] == (
        "epoch,seconds,train_loss,train_accuracy,val_loss,pixel_accuracy,mean_iou,"
        "lr_encoder,lr_decoder"
    )
    assert lines[1:] == ["1,,2.5,,,,,,", "2,,,,,,0.5,,"]


def new_training(folder, seed: int) -> Checkpoint:
    torch.manual_seed(seed)
    model = nn.Module()
    model.encoder, model.decoder = nn.Linear(2, 3), nn.Linear(3, 4)
    optimizer = torch.optim.AdamW([*model.encoder.parameters(), *model.decoder.parameters()])
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Checkpoint(folder, {"seed": seed}, model, optimizer, scaler, Progress(total=7))


def test_a_loaded_training_goes_on_as_the_saved_one(tmp_path):
    def step(run: Checkpoint) -> None:
        run.optimizer.zero_grad()
        run.model.decoder(run.model.encoder(torch.ones(1, 2))).square().sum().backward()
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
    assert torch.equal(saved.model.encoder.weight, loaded.model.encoder.weight)
    best = torch.load(tmp_path / "encoder_best.pth", weights_only=True)
    assert not torch.equal(best["weight"], saved.model.encoder.weight)


@pytest.mark.parametrize("scaled", ["before", "after"])
def test_a_training_goes_on_where_losses_are_scaled_only_before_or_after(scaled, tmp_path):
    """As of --amp auto, on another GPU."""
    saved, loaded = new_training(tmp_path, 1), new_training(tmp_path, 2)
    changed = saved if scaled == "before" else loaded
    changed.scaler = torch.amp.GradScaler("cpu", init_scale=8)
    saved.save()
    loaded.load()
    assert torch.equal(saved.model.encoder.weight, loaded.model.encoder.weight)
    assert loaded.scaler.get_scale() == (1 if scaled == "before" else 8)


def test_a_process_that_is_not_to_write_leaves_the_folder_alone(tmp_path):
    run = new_training(tmp_path, 1)
    run.is_main = False
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
