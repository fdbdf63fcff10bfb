"""Lists of a folder of pictures and labels, and labels in colours made into class indices."""

import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from preparation.lists import Lists, ListSettings, make_lists, split
from utils import UserError

PALETTE = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (64, 64, 64)]  # black is unlabelled
VALUES = np.arange(4, dtype=np.uint8)[None].repeat(8, 0).repeat(3, 1)  # 8 x 12


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Ten pictures and their labels of three classes, counted from 1; and their table."""
    folder = tmp_path / "mine"
    for i in range(10):
        add_pair(folder, f"{i}.jpg", f"{i}.png", VALUES)
    rows = [f"{i},{'abc'[i - 1]},{r},{g},{b}" for i, (r, g, b) in enumerate(PALETTE) if i]
    (folder / "classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    return folder


def add_pair(folder: Path, picture: str, label: str, values: np.ndarray) -> None:
    """Add a picture that has no equal, and its label."""
    rng = np.random.default_rng(len(list(folder.rglob("*"))))
    noise = rng.integers(0, 256, (*values.shape, 3), np.uint8)
    for path, content in (
        (folder / "images" / picture, noise),
        (folder / "annotations" / label, values),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(path)


def in_colours(folder: Path, ending: str = "") -> None:
    """Give all labels colours in place of values, and names with an ending."""
    for path in list((folder / "annotations").rglob("*.png")):
        values = np.asarray(Image.open(path))
        path.unlink()
        colours = np.array(PALETTE, np.uint8)[values]
        Image.fromarray(colours).save(path.with_name(f"{path.stem}{ending}.png"))


def run(folder: Path, **settings: object) -> Lists:
    return make_lists(folder, folder / "images", folder / "annotations", ListSettings(**settings))


def lists(folder: Path) -> tuple[list[str], list[str]]:
    return tuple((folder / f"{part}.txt").read_text().splitlines() for part in ("train", "val"))


def test_pictures_are_split_by_fraction_and_seed(mine, script):
    result = script("prepare.py", "--make_list", mine, "--val_fraction", "0.3", "--seed", "5")
    assert result.code == 0 and result.err == ""
    train, val = lists(mine)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(train + val) == [f"{i}.jpg" for i in range(10)]
    assert train == sorted(train) and val == sorted(val)


def test_a_split_depends_on_the_seed_alone():
    names = [f"{i}.jpg" for i in range(40)]
    splits = [split(names, 0.25, seed, []) for seed in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]
    for fraction, count in ((0, 1), (0.001, 1), (0.5, 20), (0.999, 39), (None, 8)):
        assert len(split(names, fraction, 1, [])[1]) == count


def test_subfolders_for_training_and_validation_are_kept_apart_unless_a_fraction_is_given():
    names = [*(f"Training/{i}.jpg" for i in range(4)), "test/0.jpg", "validation/0.jpg"]
    remarks = []
    assert split(names, None, 1, remarks) == (names[:4], names[5:])
    assert any("test/0.jpg" in remark for remark in remarks)
    assert len(split(names, 0.5, 1, [])[1]) == 3


@pytest.mark.slow
def test_the_command_it_prints_checks_the_data_set_and_finds_it_ready(mine, script):
    listed = script("prepare.py", "--make_list", mine, "--list_class", mine / "classes.csv")
    command = shlex.split(listed.out.splitlines()[-1])
    assert command[:2] == ["python", "prepare.py"] and listed.code == 0
    checked = script(*command[1:], "--workers", "0")
    assert checked.code == 0, checked.out
    trained = shlex.split(checked.out.splitlines()[-1].removeprefix("ready: "))
    assert trained[:2] == ["python", "train.py"]
    options = dict(zip(trained[2::2], trained[3::2], strict=True))
    assert options["--num_class"] == "3" and options["--root_seg"] == f"{mine}/annotations"
    assert options["--list_class"] == f"{mine}/classes.csv" and "--label_offset" not in options


def test_lists_that_exist_are_never_overwritten(mine, script):
    (mine / "val.txt").write_text("precious")
    result = script("prepare.py", "--make_list", mine)
    assert result.code == 2 and "val.txt" in result.err and "train.txt" not in result.err
    assert (mine / "val.txt").read_text() == "precious" and not (mine / "train.txt").exists()


def test_what_has_no_partner_is_named_and_left_out(mine):
    for i in range(7):
        (mine / f"annotations/{i}.png").rename(mine / f"annotations/other{i}.png")
    add_pair(mine, "9.png", "spare.png", VALUES)
    (mine / "images/.8.jpg").write_bytes(b"hidden")
    (mine / "images/a\nb.jpg").write_bytes((mine / "images/8.jpg").read_bytes())
    Image.fromarray(VALUES).save(mine / "annotations/a\nb.png")
    remarks = "\n".join(run(mine).remarks)
    assert "pictures without a label, left out (7): 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, …" in remarks
    assert "labels without a picture, left out (8): other0.png" in remarks
    assert "another one has already, left out (1): 9.png" in remarks
    assert "no list can hold, left out (1): a" in remarks
    assert sorted(sum(lists(mine), [])) == ["7.jpg", "8.jpg", "9.jpg"]


def test_unreadable_labels_are_named_and_left_out(mine):
    (mine / "annotations/4.png").write_bytes(b"foreign")
    remarks = "\n".join(run(mine).remarks)
    assert "unreadable labels, left out (1)" in remarks and "4.png is not a picture" in remarks
    assert "4.jpg" not in sum(lists(mine), [])


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["", "_L", "_mask", "_label"])
@pytest.mark.parametrize("workers", [0, 2])
def test_labels_in_colours_become_class_indices(ending, workers, mine):
    in_colours(mine, ending)
    made = run(mine, list_class=str(mine / "classes.csv"), num_class=3, workers=workers)
    assert made.root_seg == mine / "annotations_index" and made.label_offset == 1
    for name in sum(lists(mine), []):
        path = made.root_seg / name.replace(".jpg", ".png")
        assert (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) == VALUES).all()


def test_black_is_a_class_where_the_table_says_so_and_classes_may_count_from_0(mine):
    in_colours(mine)
    rows = [f"{i + 1},{i},{r},{g},{b}" for i, (r, g, b) in enumerate(PALETTE)]
    (mine / "classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    made = run(mine, list_class=str(mine / "classes.csv"), num_class=4, label_offset=0)
    assert (np.asarray(Image.open(made.root_seg / "3.png")) == VALUES).all()
    assert made.label_offset == 0


def test_indices_with_names_of_their_own_are_copied_as_they_are(mine):
    for path in list((mine / "annotations").iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.PNG"))
    made = run(mine)
    assert (made.root_seg.name, made.num_class, made.label_offset) == ("annotations_index", 3, 1)
    assert (np.asarray(Image.open(made.root_seg / "3.png")) == VALUES).all()


def spoil_colour(folder: Path) -> None:
    path = folder / "annotations/3.png"
    colours = np.array(Image.open(path))
    colours[:2, :2] = 1, 2, 3
    Image.fromarray(colours).save(path)


def spoil_table(folder: Path) -> None:
    table = folder / "classes.csv"
    table.write_text(table.read_text().replace("0,128,0", "128,0,0"))


def spoil_kinds(folder: Path) -> None:
    Image.fromarray(VALUES).save(folder / "annotations/3.png")


def spoil_target(folder: Path) -> None:
    (folder / "annotations_index").mkdir()


@pytest.mark.parametrize(
    ("spoil", "culprits"),
    [
        (spoil_colour, ["(1, 2, 3) 4 pixels in 1 labels like 3.png", "classes.csv", "black"]),
        (spoil_table, ["classes.csv", "a and b"]),
        (spoil_kinds, ["0.png", "3.png", "--root_seg"]),
        (spoil_target, ["annotations_index", "overwrite"]),
    ],
)
def test_colours_that_cannot_be_converted_are_refused_and_nothing_is_written(spoil, culprits, mine):
    in_colours(mine)
    spoil(mine)
    before = sorted(mine.rglob("*"))
    with pytest.raises(UserError) as error:
        run(mine, list_class=str(mine / "classes.csv"), num_class=3)
    assert all(culprit in str(error.value) for culprit in culprits), error.value
    assert sorted(mine.rglob("*")) == before


def test_photographs_in_place_of_labels_are_refused(mine):
    in_colours(mine)
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    Image.fromarray(noise).save(mine / "annotations/3.png")
    with pytest.raises(UserError, match=r"no class of .* has \(\d\d,\d\d\d\)"):
        run(mine, list_class=str(mine / "classes.csv"), num_class=3)


@pytest.mark.slow
def test_labels_in_colours_need_a_table(mine, script):
    in_colours(mine)
    for options in ([], ["--num_class", "3"], ["--list_class", mine / "classes.csv"]):
        result = script("prepare.py", "--make_list", mine, *options)
        assert result.code == 2 and result.err.count("\n") == 1
        assert "--list_class" in result.err and "--num_class" in result.err


@pytest.mark.parametrize(
    ("values", "given", "expected"),
    [
        ([0, 1, 2, 3], {}, (3, 1)),
        ([1, 2, 3], {}, (3, 1)),
        ([0, 1, 2, 255], {}, (3, 0)),
        ([0, 1], {}, (2, 0)),
        ([0, 1, 2], {"num_class": 3}, (3, 0)),
        ([0, 1, 2], {"num_class": 5}, (5, 1)),
        ([0, 1, 2], {"label_offset": 0}, (3, 0)),
        ([0, 300, 65535], {}, (301, 0)),
        ([0, 255], {"num_class": 7, "label_offset": 1}, (7, 1)),
    ],
)
def test_classes_are_told_from_the_values_unless_they_are_given(values, given, expected, mine):
    for path in (mine / "annotations").iterdir():
        Image.fromarray(np.array([values], np.uint8 if max(values) < 256 else np.uint16)).save(path)
    made = run(mine, **given)
    assert (made.num_class, made.label_offset) == expected
    assert any("values from" in remark for remark in made.remarks) == (len(given) < 2)


@pytest.mark.parametrize("values", [[0], [0, 255], [255]])
def test_values_of_less_than_two_classes_are_refused(values, mine):
    for path in (mine / "annotations").iterdir():
        Image.fromarray(np.array([values], np.uint8)).save(path)
    with pytest.raises(UserError, match="class indices.*--num_class"):
        run(mine)


@pytest.mark.parametrize(
    ("root_img", "root_seg", "culprit"),
    [
        ("nowhere", "annotations", "nowhere is no folder"),
        ("images", "nowhere", "nowhere is no folder"),
        ("images", "images", "--root_seg"),
        ("annotations", "images", "0 of 10 pictures"),
    ],
)
def test_folders_without_pairs_are_refused(root_img, root_seg, culprit, mine):
    with pytest.raises(UserError, match=culprit):
        make_lists(mine, mine / root_img, mine / root_seg)
