"""What `python prepare.py --data` finds in a data set, and what it leaves in peace."""

import json
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from ..conftest import Data


def options_of(data: Data) -> list[str]:
    """The flags of a check."""
    return ["--data", str(data.folder), "--workers", "0"]


def set_label(data: Data, name: str, value: int, pixels: int) -> None:
    """Give a value to so many pixels, from the fourth row on."""
    label = cv2.imread(str(data.label(name)), cv2.IMREAD_UNCHANGED)
    label[3:].reshape(-1)[:pixels] = value
    cv2.imwrite(str(data.label(name)), label)


def relabel(data: Data, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of all labels."""
    for path in data.folder.glob("annotations/*/*.png"):
        cv2.imwrite(str(path), change(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)))


@pytest.fixture
def data(data: Data) -> Data:
    """The data set with a class table and its `data.json`."""
    rows = [f"{i},class {i},{i},0,0" for i in range(1, 5)]
    (data.folder / "classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    write_data(data, 1)
    return data


def write_data(data: Data, label_offset: int) -> None:
    """Write its `data.json`."""
    content = {
        "num_class": data.num_class,
        "label_offset": label_offset,
        "list_class": "classes.csv",
        "root_img": "images",
        "root_seg": "annotations",
        "lists": {"train": "train.txt", "val": "val.txt"},
    }
    (data.folder / "data.json").write_text(json.dumps(content))


@pytest.fixture
def sound(data: Data) -> Data:
    """The data set with all of its four classes in use."""
    for name in ("train/0", "val/0"):
        set_label(data, name, 4, 100)
    return data


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sound_data_set_is_ready_and_the_next_command_is_told(workers, sound, script):
    result = script("prepare.py", *options_of(sound), "--workers", workers)
    assert result.code == 0 and result.err == ""
    *_, last = result.out.splitlines()
    assert last == f"ready: python train.py --data {sound.folder}"
    assert "To mend" not in result.out and "Note" not in result.out
    assert f"{sound.folder}/train.txt: 6 pictures, all 80 x 64" in result.out
    for name in ("classes.png", "sheet.png"):
        assert min(Image.open(sound.folder / name).size) > 100


def spoil_missing(data: Data) -> None:
    data.picture("train/1").unlink()
    data.label("val/2").unlink()


def spoil_unreadable(data: Data) -> None:
    content = data.picture("train/1").read_bytes()
    data.picture("train/1").write_bytes(content[: len(content) // 2])
    data.label("train/2").write_bytes(b"foreign")


def spoil_size(data: Data) -> None:
    Image.new("L", (64, 80), 1).save(data.label("train/1"))


def spoil_colour(data: Data) -> None:
    Image.new("RGB", (80, 64)).save(data.label("train/1"))


def spoil_list(data: Data) -> None:
    with (data.folder / "train.txt").open("a") as file:
        file.write("../elsewhere.jpg\n")


def spoil_split(data: Data) -> None:
    data.picture("val/1").write_bytes(data.picture("train/3").read_bytes())


def spoil_value(data: Data) -> None:
    for i in range(6):
        set_label(data, f"train/{i}", 9, 10)


def spoil_many_values(data: Data) -> None:
    for i in range(6):
        set_label(data, "train/0", 20 + i, 600 - 100 * i)


def spoil_all_labels(data: Data) -> None:
    relabel(data, np.zeros_like)


DEFECTS = {
    "missing files": (
        spoil_missing,
        ["missing pictures (1): {}/images/train/1.jpg; the source has moved"],
        ["missing labels (1): {}/annotations/val/2.png; the source has moved"],
    ),
    "unreadable files": (
        spoil_unreadable,
        ["unreadable pictures (1): {}/images/train/1.jpg", "cut short", "replace"],
        ["unreadable labels (1): {}/annotations/train/2.png", "not a picture in PNG", "replace"],
    ),
    "another size": (spoil_size, ["annotations/train/1.png is 64 x 80", "1.jpg 80 x 64", "scale"]),
    "colours": (spoil_colour, ["labels in colours (1): {}/annotations/train/1.png", "indices"]),
    "names that lead out": (spoil_list, ["../elsewhere.jpg", "folder of pictures", "relative to"]),
    "a leak": (spoil_split, ["train.txt", "val.txt", "(1)", "train/3.jpg = val/1.jpg", "take"]),
    "a value": (
        spoil_value,
        ["value 9 (60 pixels in 6 labels: ", "train/4.png, …)", "from 1 to 4", "prepare"],
    ),
    "many values": (
        spoil_many_values,
        ["value 20 (100 pixels"],
        ["value 21 ("],
        ["value 22 ("],
        ["value 23 ("],
        ["value 24 ("],
        ["1 more values", "(100 pixels)", "25", "train/0.png", "interpolation"],
    ),
    "nothing labelled": (
        spoil_all_labels,
        ["{}/train.txt: the labels have 0 of 4 classes"],
        ["{}/val.txt: the labels have 0 of 4 classes"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
def test_what_is_to_be_mended_is_told_with_files_and_the_way_out(defect, sound, script):
    spoil, *lines = DEFECTS[defect]
    spoil(sound)
    result = script("prepare.py", *options_of(sound))
    assert result.code == 1 and result.err == "", result.err
    told = result.out.partition("To mend:\n")[2].splitlines()
    assert len(told) == len(lines), told
    for number, (line, culprits) in enumerate(zip(told, lines, strict=True), 1):
        assert line.startswith(f"{number}. ")
        for culprit in culprits:
            assert culprit.format(sound.folder) in line


def test_all_defects_are_found_in_one_pass(sound, script):
    for spoil in (spoil_missing, spoil_list, spoil_value):
        spoil(sound)
    sound.picture("train/3").write_bytes(b"")
    Image.new("L", (64, 80), 1).save(sound.label("train/4"))
    result = script("prepare.py", *options_of(sound), "--workers", 2)
    told = result.out.partition("To mend:\n")[2].splitlines()
    kinds = [
        "names",
        "missing pictures",
        "missing labels",
        "unreadable pictures",
        "labels of another",
    ]
    assert result.code == 1 and len(told) == 6
    for number, (line, kind) in enumerate(zip(told, [*kinds, "value 9"], strict=True), 1):
        assert line.startswith(f"{number}. {kind}")


@pytest.mark.slow
def test_labels_may_count_from_0(sound, script):
    write_data(sound, 0)
    result = script("prepare.py", *options_of(sound))
    assert result.code == 1 and "value 4 (" in result.out and "from 0 to 3" in result.out
    relabel(sound, lambda label: label - 1)
    result = script("prepare.py", *options_of(sound))
    names = (sound.folder / "train.txt").read_text().split()
    values = np.stack([np.asarray(Image.open(sound.label(name[:-4]))) for name in names])
    share = f"{(values == 255).mean():.2%} of the pixels unlabelled"
    assert result.code == 0 and share in result.out


@pytest.mark.slow
def test_too_few_classes_are_never_ready(data, script):
    rows = [f"{i},class {i},{i},0,0" for i in range(1, 9)]
    (data.folder / "classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    data = Data(data.folder, num_class=8)
    write_data(data, 1)
    result = script("prepare.py", *options_of(data))
    assert result.code == 1 and "1. " in result.out and "have 3 of 8 classes" in result.out
    assert script("prepare.py", *options_of(data), "--yes").code == 0
    relabel(data, lambda label: label // 3)
    result = script("prepare.py", *options_of(data), "--yes")
    assert result.code == 1 and "train.txt: the labels have 1 of 8 classes" in result.out


def test_unused_and_rare_classes_are_hints(data, script):
    set_label(data, "train/0", 4, 5)
    result = script("prepare.py", *options_of(data))
    assert result.code == 0 and "ready" in result.out
    hints = [line for line in result.out.splitlines() if line.startswith("Note: ")]
    assert len(hints) == 2
    assert f"no label of {data.folder}/val.txt has (1): class 4" in hints[0]
    assert "less than 0.1% of the pixels (1): class 4 0.016%; train.py --class_weight" in hints[1]


@pytest.mark.slow
def test_a_class_that_training_lacks_and_validation_has_is_a_hint(data, script):
    set_label(data, "val/0", 4, 100)
    result = script("prepare.py", *options_of(data))
    assert "classes that are scored, but never trained on (1): class 4" in result.out


def test_pictures_twice_in_a_list_and_labels_without_classes_are_hints(sound, script):
    sound.picture("train/4").write_bytes(sound.picture("train/2").read_bytes())
    cv2.imwrite(str(sound.label("val/1")), np.zeros((64, 80), np.uint8))
    result = script("prepare.py", *options_of(sound))
    assert result.code == 0
    assert "several times (1): train/2.jpg = train/4.jpg" in result.out
    assert f"without a pixel of a class (1): {sound.folder}/annotations/val/1.png" in result.out


@pytest.mark.slow
def test_sizes_and_shares_are_those_of_the_files(sound, script):
    for name, size in (("train/1", (40, 30)), ("train/2", (100, 70))):
        Image.new("RGB", size, "red").save(sound.picture(name))
        Image.new("L", size, 1).save(sound.label(name))
    result = script("prepare.py", *options_of(sound))
    assert "smallest 40 x 30, median 80 x 64, largest 100 x 70" in result.out
    names = (sound.folder / "train.txt").read_text().split()
    labels = [np.asarray(Image.open(sound.label(name[:-4]))) for name in names]
    values = np.concatenate([label.ravel() for label in labels])
    assert f"{(values == 0).mean():.2%} of the pixels unlabelled" in result.out
    rows = {
        line.split()[1]: line.split() for line in result.out.splitlines() if "   class " in line
    }
    for value in (1, 2, 3, 4):
        assert rows[str(value)][2] == f"{(values == value).sum() / (values > 0).sum():.2%}"


@pytest.mark.parametrize(
    ("args", "culprit"),
    [
        ([], "--data"),
        (["--data", "nowhere"], "prepare.py SOURCE --data nowhere"),
        (["nowhere", "--data", "mine"], "nowhere is no folder"),
        (["nowhere", "--data", "mine", "--num_class", "0"], "--num_class"),
        (["nowhere", "--data", "mine", "--list_class", "none.csv"], "nowhere"),
        (["data", "--data", "/dev/null/a"], "--data"),
    ],
)
def test_wrong_flags_are_one_line_and_exit_code_2(args, culprit, script):
    result = script("prepare.py", *args)
    assert result.code == 2 and result.err.count("\n") == 1 and culprit in result.err
