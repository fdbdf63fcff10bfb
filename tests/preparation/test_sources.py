"""Which files are pictures, labels and lists, and which pictures are for what."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from preparation.sources import SourceSettings, read_source
from utils import UserError

from .sources import NAMES, label, numbered, pairs, picture, roboflow, save, table_of_names, write


@pytest.fixture
def source(tmp_path) -> Path:
    root = tmp_path / "source"
    table_of_names(root)
    return root


def flat(root: Path, ending: str = ".jpg") -> None:
    """Eight pictures and labels in two folders."""
    for _, n in numbered():
        save(picture(n), root / f"images/{n}{ending}")
        save(label(n), root / f"masks/{n}.png")


def splits(root: Path, **settings: object) -> dict[str, list[int]]:
    """The numbers of the pictures of each split; every label is its picture's."""
    found: dict[str, list[int]] = {}
    for pair in read_source(root, SourceSettings(**settings)).pairs:
        number = int(Path(pair.picture).stem.strip("abcdefghijklmnopqrstuvwxyz_"))
        assert (pair.label.read().values == label(number)).all()
        found.setdefault(pair.split, []).append(number)
    return {split: sorted(numbers) for split, numbers in found.items()}


KEPT = {"train": [0, 1, 2, 3], "val": [4, 5], "test": [6, 7]}


@pytest.mark.parametrize(
    "folders",
    [
        "training_data/{split}/images/{n}.jpg training_data/{split}/masks/{n}.png",
        "test_site/{split}/{n}.jpg test_site/{split}_masks/{n}.png",
        "{split}set/images/{n}.jpg {split}set/masks/{n}.png",
        "{split}1/images/{n}.jpg {split}1/masks/{n}.png",
        "images/{split}_{n}.jpg masks/{split}_{n}.png",
        "images/{split}2017/{n}.jpg annotations/{split}2017/{n}.png",
        "data/{split}/image_2/{n}.jpg data/{split}/semantic/{n}.png",
        "{split}/mask_images/{n}.png {split}/images/{n}.jpg",
        "{split}/images/{n}.JPG {split}/images/{n}_mask.png",
    ],
)
def test_splits_of_folders_are_kept(folders, source):
    first, second = folders.split()
    image, mask = (second, first) if "mask_images" in first else (first, second)
    pairs(source, image, mask)
    assert splits(source) == KEPT


def by_text(root: Path, name: str, line: str) -> None:
    """Lists with a line for each picture."""
    for split in KEPT:
        lines = [line.format(n=n) for s, n in numbered() if s == split]
        write(root / name.format(split=split), "\n".join(lines))


LISTS = {
    "stems": lambda root: by_text(root, "{split}.txt", "{n}"),
    "names": lambda root: by_text(root, "lists/{split}list.txt", "images/{n}.jpg"),
    "of another machine": lambda root: by_text(root, "{split}.txt", "/home/me/ds/images/{n}.jpg"),
    "with backslashes": lambda root: by_text(root, "{split}.txt", "images\\{n}.jpg"),
    "two columns": lambda root: by_text(
        root, "{split}.lst", "/home/me/images/{n}.jpg masks/{n}.png"
    ),
    "folders of lists": lambda root: by_text(root, "splits/{split}/list.txt", "{n}.jpg"),
    "cells": lambda root: by_text(root, "{split}.csv", "images/{n}.jpg,masks/{n}.png"),
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_of_the_source_are_used(form, source):
    flat(source)
    LISTS[form](source)
    assert splits(source) == KEPT


def test_a_csv_with_a_header_tells_columns_and_splits(source):
    flat(source)
    rows = [f"{n + 1},masks/{n}.png,images/{n}.jpg,{split}" for split, n in numbered()]
    write(source / "meta.csv", "\n".join(["id,mask,image,split", *rows]))
    assert splits(source) == KEPT


def test_a_json_of_splits_and_folders_of_videos(source):
    flat(source)
    content = {split: [f"{n}.jpg" for n in numbers] for split, numbers in KEPT.items()}
    write(source / "split.json", json.dumps(content))
    assert splits(source) == KEPT
    for split, n in numbered():
        for folder, ending, image in (("frames", "jpg", picture(n)), ("masks2", "png", label(n))):
            save(image, source.with_name("videos") / folder / f"video_{split}" / f"{n}.{ending}")
    videos = source.with_name("videos")
    for split in KEPT:
        write(videos / f"lists/{split}.txt", f"video_{split}\n")
    assert splits(videos) == KEPT


def test_trainval_is_divided_where_there_is_no_list_for_training(source):
    flat(source)
    write(source / "trainval.txt", "\n".join(map(str, range(6))))
    write(source / "test.txt", "6\n7")
    found = splits(source)
    assert found["test"] == [6, 7] and sorted(found["train"] + found["val"]) == [*range(6)]
    write(source / "train.txt", "0\n1")
    assert splits(source)["train"] != [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("folders", ["test", "testing"])
def test_nothing_is_trained_on_a_test_split_alone(folders, source):
    for _, n in numbered():
        save(picture(n), source / folders / f"images/{n}.jpg")
        save(label(n), source / folders / f"masks/{n}.png")
    with pytest.raises(UserError, match="all 8 pairs are of a test split"):
        read_source(source, SourceSettings())


def test_a_list_whose_pictures_are_not_there_is_refused(source):
    flat(source)
    write(source / "test.txt", "images/70.jpg\nimages/71.jpg")
    with pytest.raises(UserError, match="test.txt names pictures that are not there"):
        read_source(source, SourceSettings())


def test_labels_never_come_from_another_split(source):
    for split, n in numbered():
        save(picture(n), source / f"{split}/images/{n}.jpg")
        if split != "test":
            save(label(n), source / f"{split}/masks/{n}.png")
    save(label(6), source / "train/masks/6.png")
    result = read_source(source, SourceSettings())
    assert sorted(Path(pair.picture).stem for pair in result.pairs) == list("012345")
    assert any("pictures without a label, left out (2)" in remark for remark in result.remarks)


def test_folders_that_are_neither_are_said_or_refused(source):
    flat(source)
    for _, n in numbered():
        save(picture(n + 20), source / f"depth/{n}.png")
        save(picture(n + 40), source / f"augmented/{n}.jpg")
    remarks = read_source(source, SourceSettings()).remarks
    assert "folders of neither pictures nor labels, left out (2): augmented, depth" in remarks
    (source / "images").rename(source / "a")
    with pytest.raises(UserError, match="pictures without a label \\(16\\): a/0.jpg"):
        read_source(source, SourceSettings())  # which of the two has the pictures?


def test_hidden_files_and_circles_count_nowhere(source):
    flat(source)
    for folder in ("images", "masks"):
        write(source / folder / "._0.jpg", "resource fork")
        write(source / folder / ".ipynb_checkpoints/0-checkpoint.png", "")
        (source / folder / "again").symlink_to(source)
    write(source / "__MACOSX/images/0.jpg", "")
    assert sum(map(len, splits(source).values())) == 8


def test_labels_with_a_name_of_their_own(source):
    for _, n in numbered():
        save(picture(n), source / f"{n}.jpg")
        save(label(n), source / f"expert/{n}-final.png")
        save(label(n + 1), source / f"novice/{n}-final.png")
    found = splits(source, label_name="expert/{stem}-final.png")
    assert sum(map(len, found.values())) == 8


@pytest.mark.parametrize("other", ["class_dict.csv", "labels.txt"])
def test_two_tables_that_differ_are_asked_about(other, source):
    flat(source)
    write(source / other, "name,r,g,b\nx,1,2,3\ny,4,5,6")
    with pytest.raises(UserError, match="class tables that differ"):
        read_source(source, SourceSettings())


def test_cityscapes_own_ids_become_its_19_classes(tmp_path):
    """As the data set is distributed, without training ids."""
    ids = np.array([0, 7, 23, 26], np.uint8)  # static, road, sky, car
    for split, n in numbered():
        stem = f"{split}/aachen/aachen_00000{n}_000019"
        save(picture(n), tmp_path / f"leftImg8bit/{stem}_leftImg8bit.png")
        save(ids[label(n)], tmp_path / f"gtFine/{stem}_gtFine_labelIds.png")
        save(label(n) * 60, tmp_path / f"gtFine/{stem}_gtFine_color.png")
        save(label(n).astype(np.uint16) * 1000, tmp_path / f"gtFine/{stem}_gtFine_instanceIds.png")
        write(tmp_path / f"gtFine/{stem}_gtFine_polygons.json", "{}")
    source = read_source(tmp_path, SourceSettings())
    assert len(source.pairs) == 8 and source.table is not None
    values = {row.name: row.value for row in source.table.rows}
    assert (values["road"], values["sky"], values["car"], values["bicycle"]) == (7, 23, 26, 33)
    assert all(pair.label.path.endswith("_labelIds.png") for pair in source.pairs)


def test_no_pairs_tell_what_is_there(tmp_path):
    for n in range(6):
        save(picture(n), tmp_path / f"scans/{n}.tif")
    with pytest.raises(UserError) as error:
        read_source(tmp_path, SourceSettings())
    assert "0 pairs" in str(error.value) and "6 .tif" in str(error.value)
    assert len(NAMES) == 4 and "--label_name" in str(error.value)


def test_a_prepared_data_set_is_a_source_whose_values_are_known(source, script):
    flat(source)
    for n in range(8):  # 0 and 3 occur nowhere, so that the values alone tell nothing
        save(np.clip(label(n), 1, 2), source / f"masks/{n}.png")
    flags = ("--workers", 0, "--yes", "--background", "class")
    assert script("prepare.py", source, "--data", "one", *flags).code == 0
    result = script("prepare.py", "one", "--data", "two", *flags[:3])
    assert result.code == 0 and "values by one/classes.csv: 0 = ground, 1 = sky" in result.out
    for n in range(8):
        path = f"annotations/images/{n}.png"
        assert Path("two/annotations/images", path[12:]).exists()
        assert (np.asarray(Image.open(f"one/{path}")) == np.clip(label(n), 1, 2)).all()


def test_one_split_of_a_source_is_told_of_the_others_beside_it(tmp_path):
    root = tmp_path / "street"
    roboflow(root)
    folders = sorted(path.name for path in root.iterdir() if path.is_dir())
    one = next(name for name in folders if name.startswith("train"))
    others = ", ".join(name for name in folders if name != one)
    remarks = read_source(root / one, SourceSettings()).remarks
    assert any(f"beside {root / one} are {others}" in remark for remark in remarks)
    remarks = read_source(root, SourceSettings()).remarks
    assert not any(remark.startswith("beside") for remark in remarks)


def test_the_same_call_changes_nothing_and_another_one_is_refused(source, script):
    flat(source)
    flags = ("--data", "one", "--workers", 0, "--background", "class")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in Path("one").rglob("*") if path.is_file()}

    assert script("prepare.py", source, *flags).code == 0
    before = content()
    assert script("prepare.py", source, *flags).code == 0
    assert content() == before
    shutil.copytree(source, "other")
    for others, told in [
        ([source, *flags, "--seed", 7], "(--seed 1234, not 7)"),
        (["other", *flags], f"(from ['{source}'])"),
    ]:
        result = script("prepare.py", *others)
        assert result.code == 2 and told in result.err
    (source / "images/0.jpg").unlink()
    result = script("prepare.py", source, *flags)
    assert result.code == 2 and "(the source has changed since)" in result.err
    after = content()  # without what was a link to the lost picture
    assert len(after) == len(before) - 1 and after.items() <= before.items()


def test_sources_of_different_classes_are_told_which(source, script):
    flat(source)
    shutil.copytree(source, "other")
    for folder, name in ((source, "grass"), (Path("other"), "sand")):
        (folder / "classes.txt").write_text("\n".join([name, *NAMES[1:]]))
    flags = ("--data", "both", "--workers", 0, "--background", "class")
    result = script("prepare.py", source, "other", *flags)
    assert result.code == 1, result.err
    assert f"({source} alone has grass; other alone has sand)" in result.out
