import json

import pytest
import torch
from torch import nn

from checkpoint import (
    check_writable,
    find_run,
    new_run,
    save_config,
    save_history,
    save_weights,
    write_whole,
)
from utils import UserError


@pytest.fixture
def run(tmp_path):
    """A run of the name "street" in tmp_path."""
    folder = new_run(tmp_path, "street")
    save_weights(folder, "_best.pth", nn.Linear(2, 3), nn.Linear(3, 4))
    save_config(folder, {"arch_encoder": "x", "name": "Straße"})
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


def test_epochs_without_a_validation_leave_gaps(tmp_path):
    save_history(tmp_path, [{"epoch": 1, "train_loss": 2.5}, {"epoch": 2, "mean_iou": 0.5}])
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,seconds,train_loss,val_loss,pixel_accuracy,mean_iou"
    assert lines[1:] == ["1,,2.5,,,", "2,,,,,0.5"]


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"old": 1}))

    def fail(partial):
        partial.write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
