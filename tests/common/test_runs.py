import json

import pytest
from torch import nn

from common.files import tensors, text, write_together
from common.runs import find_run, new_run
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
    write_together(folder, files)
    return folder


def test_what_was_saved_is_found(run, tmp_path):
    config = find_run(tmp_path, "street", "_best.pth")
    assert config == {"arch_encoder": "x", "name": "Straße"}
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "decoder_best.pth",
        "encoder_best.pth",
    ]


def test_a_pair_of_weights_without_settings_is_a_run_too(run, tmp_path):
    (run / "config.json").unlink()
    assert find_run(tmp_path, "street", "_best.pth") == {}


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
