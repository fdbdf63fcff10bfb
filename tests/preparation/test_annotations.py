"""Annotations are read as their own tools read them; damaged ones are told."""

import base64
import io
import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.images import UnreadableError
from preparation.labels import CodedMasks, LabelFile
from preparation.sources import SourceSettings, read_source
from preparation.table_files import parse_table
from utils import UserError

from . import sources


def changed(root: Path, pattern: str, change: Callable[[dict], object]) -> None:
    """Change the JSON files that a pattern finds."""
    for path in root.glob(pattern):
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))


def values_of(root: Path, name: str) -> np.ndarray:
    """The values of the label of the picture that is called so."""
    pairs = read_source(root, SourceSettings()).pairs
    pair = next(pair for pair in pairs if Path(pair.picture).stem == name)
    values = pair.label.read().values
    assert values is not None
    return values


def test_labelmes_masks_are_areas_and_ignored_shapes_are_unlabelled(tmp_path):
    sources.labelme(tmp_path)
    mask = io.BytesIO()
    Image.fromarray(np.array([[1, 0], [1, 1]], bool)).save(mask, "PNG")

    def change(document: dict) -> None:
        first, second, _ = document["shapes"]
        first["label"] = "__ignore__"
        second |= {
            "shape_type": "mask",
            "points": [[5, 30], [6, 31]],
            "mask": base64.b64encode(mask.getvalue()).decode(),
        }

    changed(tmp_path, "train/0.json", change)
    values = values_of(tmp_path, "0")
    assert (values[:13] == 65535).all()  # unlabelled by convention
    assert values[29:33, 4:8].tolist() == [[0] * 4, [0, 2, 0, 0], [0, 2, 2, 0], [0] * 4]


def test_yolos_smaller_outlines_cover_larger_ones_whatever_their_order(tmp_path):
    sources.yolo(tmp_path)
    small, large = "2 0.2 0.2 0.4 0.2 0.4 0.4 0.2 0.4", "0 0 0 1 0 1 1 0 1"
    labels = []
    for lines in ((small, large), (large, small)):
        (tmp_path / "labels/train/0.txt").write_text("\n".join(lines))
        labels.append(values_of(tmp_path, "0"))
    assert (labels[0] == labels[1]).all() and {*np.unique(labels[0]).tolist()} >= {1, 3}


def test_yolos_numbers_have_the_names_of_their_keys(tmp_path):
    sources.yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: {0: sky, '2': car, 1: tree}")
    table = read_source(tmp_path, SourceSettings()).table
    assert {row.name: row.value for row in table.rows}["background"] == 0
    truth = {"sky": 1, "tree": 2, "car": 3}
    values = values_of(tmp_path, "0")
    for row in table.rows[1:]:
        assert ((values == row.value) == (sources.label(0) == truth[row.name])).all()
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [sky]")
    with pytest.raises(UserError, match="has class 1, which has no name"):
        read_source(tmp_path, SourceSettings())


def test_boxes_are_no_outlines(tmp_path):
    sources.yolo(tmp_path)
    for path in tmp_path.glob("labels/*/*.txt"):
        path.write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match="boxes rather than outlines"):
        read_source(tmp_path, SourceSettings())


def unknown_category(document: dict) -> None:
    document["annotations"][0]["category_id"] = 99


def stray(document: dict) -> None:
    document["annotations"][0]["image_id"] = "0"


def cut(document: dict) -> None:
    del document["images"][0]["height"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unknown_category, "there is no category 99"),
        (stray, "annotations of pictures that it does not name: '0'"),
        (cut, "annotations are damaged.*'height'"),
    ],
)
def test_coco_that_contradicts_itself_is_refused(change, told, tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path)
    changed(tmp_path, "annotations/instances_train2017.json", change)
    with pytest.raises(UserError, match=told):
        read_source(tmp_path, SourceSettings())


def test_sizes_may_be_written_as_any_number(tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path / "coco")
    sources.labelme(tmp_path / "labelme")
    pattern = "annotations/*.json"
    changed(tmp_path / "coco", pattern, lambda document: document["images"][0].update(height=48.0))
    changed(tmp_path / "labelme", "*/*.json", lambda document: document.update(imageHeight="48"))
    for name, path in (("0" * 12, "coco"), ("0", "labelme")):
        assert values_of(tmp_path / path, name).shape == sources.SIZE


def smaller(code: dict) -> None:
    code["size"] = [24, 64]


def cut_off(code: dict) -> None:
    code["counts"].pop()


@pytest.mark.parametrize(("change", "told"), [(smaller, "size"), (cut_off, "do not cover")])
def test_cocos_runs_that_are_not_of_the_picture_are_told(change, told, tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path)

    def first(document: dict) -> None:
        codes = (annotation["segmentation"] for annotation in document["annotations"])
        change(next(code for code in codes if isinstance(code, dict)))

    changed(tmp_path, "annotations/instances_train2017.json", first)
    with pytest.raises(UserError, match=f"a segmentation is wrong.*{told}"):
        values_of(tmp_path, "0" * 12)


def test_a_code_of_cocos_that_ends_early_is_refused_or_read_right():
    mask = pytest.importorskip("pycocotools.mask")
    whole = {"size": [80, 120], "counts": [0, 9600]}
    short = mask.frPyObjects({"size": [80, 120], "counts": [100, 200]}, 80, 120)
    for _ in range(20):
        CodedMasks("", (80, 120), [(1, whole)]).read()  # leaves ones in memory
        with suppress(UnreadableError):
            values = CodedMasks("", (80, 120), [(1, short)]).read().values
            assert np.flatnonzero(values.T).tolist() == [*range(100, 300)]


def test_labels_of_three_channels_with_16_bits_keep_all_of_them(tmp_path):
    path, values = str(tmp_path / "label.png"), np.array([[0, 3, 300]], np.uint16)
    cv2.imwrite(path, np.stack([values] * 3, axis=2))
    assert (LabelFile(path).read().values == values).all()
    colours = np.array([[[1, 2, 3], [250, 128, 0]]], np.uint16)  # blue, green, red
    cv2.imwrite(path, colours * 257)
    found = LabelFile(path).read()
    assert found.values is None and found.colours.tolist() == [[0x030201, 0x0080FA]]
    cv2.imwrite(path, colours)
    with pytest.raises(UnreadableError, match="colours that need 16 bits"):
        LabelFile(path).read()


def test_a_picture_with_two_labels_is_refused(tmp_path):
    sources.labelme(tmp_path / "labelme")
    path = tmp_path / "labelme/train/1.json"
    path.write_text(path.read_text().replace('"1.jpg"', '"0.jpg"'))
    with pytest.raises(
        UserError, match=r"train/0\.json and .*train/1\.json both label train/0\.jpg"
    ):
        read_source(tmp_path / "labelme", SourceSettings())
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path / "coco")

    def again(document: dict) -> None:
        document["images"].append(document["images"][0] | {"id": 99})

    changed(tmp_path / "coco", "annotations/instances_train2017.json", again)
    with pytest.raises(UserError, match=r"train2017\.json labels twice train2017/0{12}\.jpg"):
        read_source(tmp_path / "coco", SourceSettings())


def test_pictures_that_only_their_last_name_tells_are_told(tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path)

    def moved(document: dict) -> None:
        document["images"][0]["file_name"] = "cam2/" + document["images"][0]["file_name"]

    assert not any(
        "last part" in remark for remark in read_source(tmp_path, SourceSettings()).remarks
    )
    changed(tmp_path, "annotations/instances_train2017.json", moved)
    name = "0" * 12 + ".jpg"
    told = f"by the last part of their names (1): cam2/{name} is train2017/{name}"
    assert any(told in remark for remark in read_source(tmp_path, SourceSettings()).remarks)


def test_labelmes_boxes_may_have_four_corners_and_damaged_shapes_are_told(tmp_path):
    sources.labelme(tmp_path)
    expected = values_of(tmp_path, "0")

    def corners(document: dict) -> None:
        (x, y), (x2, y2) = document["shapes"][-1]["points"]
        document["shapes"][-1]["points"] = [[x, y], [x2, y], [x2, y2], [x, y2]]

    changed(tmp_path, "train/0.json", corners)
    assert (values_of(tmp_path, "0") == expected).all()
    damaged = {"shape_type": "mask", "points": [[5, 30], [6, 31]], "mask": "abcde"}
    changed(tmp_path, "train/0.json", lambda document: document["shapes"][0].update(damaged))
    with pytest.raises(UserError, match=r"0\.json: a mask is wrong"):
        values_of(tmp_path, "0")


def test_cocos_smaller_areas_cover_larger_ones_and_points_are_left_out(tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path)

    def change(document: dict) -> None:
        image = document["images"][0]["id"]
        for annotation in document["annotations"]:
            annotation["area"] = None
        square = [[0, 0, 64, 0, 64, 48, 0, 48]]
        for number, segmentation in ((900, square), (901, [[1, 1, 3, 3]])):
            document["annotations"].append(
                {"id": number, "image_id": image, "category_id": 30, "segmentation": segmentation}
            )

    changed(tmp_path, "annotations/instances_train2017.json", change)
    source = read_source(tmp_path, SourceSettings())
    assert any("without an outline, left out (1): 901" in remark for remark in source.remarks)
    values = values_of(tmp_path, f"{0:012}")
    assert {*np.unique(values).tolist()} == {1, 2, 3}


def test_cocos_keypoints_beside_instances_are_no_labels(tmp_path):
    pytest.importorskip("pycocotools")
    sources.coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    document = json.loads(path.read_text())
    document["categories"] = [{"id": 1, "name": "person", "keypoints": ["nose"]}]
    path.with_name("person_keypoints_train2017.json").write_text(json.dumps(document))
    assert len(read_source(tmp_path, SourceSettings()).pairs) == 8


def test_label_studios_control_may_have_any_name_and_paths_are_quoted(tmp_path):
    sources.label_studio(tmp_path)
    for path in (tmp_path / "brush").iterdir():
        path.rename(path.with_name(path.name.replace("-tag-", "-my brush-")))

    def change(tasks: list) -> None:
        for task in tasks:
            task["data"]["image"] = (
                task["data"]["image"].replace("/", "%2F", 3).replace("%2F", "/", 2)
            )
            task["annotations"] = [{"result": [{"from_name": "my brush"}]}]

    changed(tmp_path, "project.json", change)
    assert len(read_source(tmp_path, SourceSettings()).pairs) == 8


def test_a_source_is_known_again_from_anywhere(tmp_path, monkeypatch):
    sources.nested(tmp_path / "s")
    first = read_source(tmp_path / "s", SourceSettings()).digest
    monkeypatch.chdir(tmp_path)
    assert read_source(Path("s"), SourceSettings()).digest == first
    os.remove(tmp_path / "s/training/masks/0.png")
    assert read_source(Path("s"), SourceSettings()).digest != first


@pytest.mark.parametrize(
    "form", [sources.labelme, sources.coco, sources.yolo, sources.label_studio]
)
def test_a_table_is_matched_with_labels_by_names_whatever_its_order(form, script, tmp_path):
    """Its rows say nothing of the numbers that classes get; without background, that is nothing."""
    form(tmp_path / "source")
    names = [*reversed(sources.NAMES[1:]), "unicorn"]
    Path("table.txt").write_text("\n".join(name.upper() for name in names))
    options = ("--data", "mine", "--workers", 0, "--list_class", "table.txt")
    result = script("prepare.py", tmp_path / "source", *options)
    assert result.code == 0, result.out + result.err
    assert re.search(r"pixels in no outline \(\d+\.\d%\) are unlabelled", result.out)
    table = Path("mine/classes.csv").read_text().splitlines()[1:]
    assert [row.split(",")[1] for row in table] == [name.upper() for name in names]
    labels = list(Path("mine/annotations").rglob("*.png"))
    assert len(labels) == len(list(sources.numbered()))
    for path in labels:
        values, n = np.asarray(Image.open(path)), int(path.stem)
        for truth, name in enumerate(sources.NAMES[1:], 1):
            assert ((values == names.index(name) + 1) == (sources.label(n) == truth)).all()


def test_a_table_without_a_class_of_the_labels_is_refused(script, tmp_path):
    sources.labelme(tmp_path / "source")
    Path("table.txt").write_text("\n".join(["sky", "car", "road"]))
    options = ("--data", "mine", "--workers", 0, "--list_class", "table.txt")
    result = script("prepare.py", tmp_path / "source", *options)
    assert result.code == 1 and not Path("mine").exists()
    assert "1. the class table table.txt lacks classes of the labels (1): tree" in result.out


def test_numbers_of_yolo_without_names_are_those_of_a_tables_rows(tmp_path):
    sources.yolo(tmp_path)
    (tmp_path / "data.yaml").unlink()
    for text in ("a\nb\nc", "value,name\n2,c\n0,a\n1,b"):
        table = read_source(tmp_path, SourceSettings(parse_table(text, "table"))).table
        assert {row.name: row.value for row in table.rows} == {"a": 1, "b": 2, "c": 3}
    with pytest.raises(UserError, match=r"lacks classes of the labels \(1\): class 3"):
        read_source(tmp_path, SourceSettings(parse_table("a\nb", "table")))
