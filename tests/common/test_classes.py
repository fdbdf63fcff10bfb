import numpy as np
import pytest
import scipy.io

from common.classes import ADE20K_CLASSES, colour_code, distinct_colours, read_classes
from utils import UserError

from ..conftest import ROOT


def test_the_table_of_ade20k_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    classes = read_classes(ADE20K_CLASSES, 150)
    assert (classes.names[0], classes.names[2], classes.names[149]) == ("wall", "sky", "flag")
    assert classes.palette[:4].tolist() == [[0, 0, 0], [120] * 3, [180, 120, 120], [6, 230, 230]]


def test_other_numbers_of_classes_get_names_and_distinct_colours():
    classes = read_classes(ADE20K_CLASSES, 300)
    assert classes.names[0] == "class 1" and len(classes.names) == 300
    assert len(np.unique(classes.palette, axis=0)) == 301
    assert distinct_colours(22)[[0, 1, 2, 15]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
    ]


def test_a_matlab_palette_changes_the_colours_and_keeps_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = str(tmp_path / "color150.mat")
    colours = np.random.default_rng(0).integers(0, 256, (150, 3)).astype(np.uint8)
    scipy.io.savemat(path, {"colors": colours})
    classes = read_classes(path, 150)
    assert classes.names[2] == "sky" and (classes.palette[1:] == colours).all()
    with pytest.raises(UserError, match="150 classes, not 11"):
        read_classes(path, 11)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("index,name\n1,a\n", "not a table"),
        ("index,name,r,g,b\n1,a,0,0,x\n", "not a table"),
        ("index,name,r,g,b\n1,a,0,0,300\n", "not a table"),
        ("index,name,r,g,b\n2,a,0,0,0\n", "1…1 in order"),
        ("index,name,r,g,b\n1,a,0,0,0\n2,b,1,1,1\n", "more classes, and --num_class is 1"),
        ("", "0 classes, and --num_class is 1"),
    ],
)
def test_a_table_of_another_kind_is_refused(text, complaint, tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"classes.csv.*{complaint}"):
        read_classes(str(path), 1)


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("index,name,r,g,b\n1,été,1,2,3\n", encoding="utf-8-sig")
    assert read_classes(str(path), 1).names == ["été"]


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"hello" * 99])
def test_a_damaged_matlab_file_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "color150.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match="color150.mat"):
        read_classes(str(path), 150)


def test_absent_tables_are_named(tmp_path):
    for name in ("classes.csv", "classes.mat"):
        with pytest.raises(UserError, match=name):
            read_classes(str(tmp_path / name), 3)


def test_unlabelled_pixels_are_black_in_any_type():
    palette = np.arange(12, dtype=np.uint8).reshape(4, 3)
    palette[0] = 0
    for labels in (np.array([[0, 2, 255]], np.uint8), np.array([[0, 2, -1]], np.int32)):
        assert colour_code(labels, palette).tolist() == [[[3, 4, 5], [9, 10, 11], [0, 0, 0]]]
