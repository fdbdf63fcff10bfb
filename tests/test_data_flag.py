"""`--data` in train.py and eval.py: one flag for lists, folders, classes and label values."""

import json
import shutil
from pathlib import Path

import pytest

from .conftest import SMALL, flags

pytestmark = pytest.mark.slow  # they train


@pytest.fixture
def mine(data) -> Path:
    """The data set with a class table, a `data.json`, and one of its pictures for tests."""
    rows = [f"{i},thing {i},{i},0,0" for i in range(1, 5)]
    (data.folder / "classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    (data.folder / "test.txt").write_text("val/2.jpg\n")
    content = {
        "num_class": data.num_class,
        "label_offset": 1,
        "list_class": "classes.csv",
        "root_img": "images",
        "root_seg": "annotations",
        "lists": {split: f"{split}.txt" for split in ("train", "val", "test")},
    }
    (data.folder / "data.json").write_text(json.dumps(content))
    return data.folder


def config(run: str) -> dict:
    return json.loads(Path(f"ckpt/{run}/config.json").read_text())


def train(script, run: str, *args: object):
    result = script("train.py", "--id", run, *SMALL, "--num_epoch", 1, *args)
    assert result.code == 0, result.err
    return result


def scored(script, *args: object) -> dict:
    """The scores of an evaluation."""
    result = script("eval.py", "--scales", 1, "--workers", 0, *args)
    assert result.code == 0, result.err
    path = Path("result", args[args.index("--id") + 1], "scores.json")
    return json.loads(path.read_text())


def test_it_says_what_six_flags_say(mine, data, script):
    train(script, "one", "--data", mine)
    train(script, "six", *data.flags, "--list_class", mine / "classes.csv")
    one, six = config("one"), config("six")
    assert one["data"] == str(mine)
    for name in ("list_train", "list_val", "root_img", "root_seg", "num_class", "list_class"):
        assert str(one[name]) == str(six[name])
    histories = [Path(f"ckpt/{run}/history.csv").read_text().splitlines() for run in ("one", "six")]
    one, six = (dict(zip(head.split(","), row.split(","), strict=True)) for head, row in histories)
    assert one | {"seconds": ""} == six | {"seconds": ""}


def test_flags_that_are_given_count_more(mine, script):
    shutil.copy(mine / "train.txt", mine / "few.txt")
    train(script, "run", "--data", mine, "--list_val", mine / "few.txt")
    assert config("run")["list_val"] == str(mine / "few.txt")


def test_a_resumed_run_keeps_its_lists_and_may_get_another_data_set(mine, script):
    train(script, "run", "--data", mine)
    moved = mine.with_name("moved")
    mine.rename(moved)
    result = script("train.py", "--resume", "run")
    assert result.code == 2 and str(mine) in result.err
    assert script("train.py", "--resume", "run", "--data", moved).code == 0


def test_a_split_is_scored(mine, script):
    train(script, "run", "--data", mine)
    val = scored(script, "--id", "run")
    test = scored(script, "--id", "run", "--split", "test")
    same = scored(script, "--id", "run", "--data", mine, "--split", "test")
    alone = scored(script, "--id", "run", "--list_val", mine / "test.txt")
    for name in ("mean_iou", "pixel_accuracy"):
        assert test[name] == same[name] == alone[name]
    assert val["pictures"] == 3 and test["pictures"] == 1


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--split", "dev"], "has no split dev, but train, val, test"),
        (["--data", "nowhere"], "prepare.py SOURCE --data nowhere"),
        (["--data", "ckpt"], "if it is a source: prepare.py ckpt --data NAME"),
        (["--data", "ckpt/run/config.json"], "config.json is a file; give the folder"),
    ],
)
def test_wrong_data_sets_and_splits_are_one_line(args, told, mine, script):
    train(script, "run", "--data", mine)
    result = script("eval.py", "--id", "run", *args)
    assert result.code == 2 and told in result.err and result.err.count("\n") == 1


def test_a_data_set_with_other_classes_is_not_scored(mine, script):
    train(script, "run", "--data", mine)
    text = (mine / "classes.csv").read_text().replace("thing 3", "something else")
    other = mine.with_name("other")
    shutil.copytree(mine, other)
    (other / "classes.csv").write_text(text)
    result = script("eval.py", "--id", "run", "--data", other)
    assert result.code == 2 and "other classes" in result.err


def test_a_split_of_a_run_without_data_needs_it(mine, data, script):
    train(script, "run", *data.flags)
    result = script("eval.py", "--id", "run", "--split", "test")
    assert result.code == 2 and "--data" in result.err


@pytest.mark.parametrize("content", ["", "{", "[]", '{"lists": {}}', '{"num_class": "x"}'])
def test_a_damaged_data_file_is_one_line(content, mine, script):
    (mine / "data.json").write_text(content)
    result = script("train.py", *SMALL, *flags(data=mine))
    assert result.code == 2 and "data.json is damaged" in result.err
