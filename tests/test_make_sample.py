import csv
import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.classes import ADE20K_CLASSES, read_classes
from common.data_file import data_flags, load_data
from dataset import SegmentationDataset

from .conftest import ROOT, Result, flags

STREET = "sky building road sidewalk tree grass car person mountain water"
ROOM = "wall floor ceiling windowpane door bed table chair painting lamp cabinet"


def digests(folder: Path) -> dict[str, str]:
    """A digest of every file by its path within the folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def make(script: Callable[..., Result]) -> Callable[..., Result]:
    """Runs the generator."""
    return lambda *args: script("data/make_sample.py", *args)


AFTER_THREADS = """
import runpy
import cv2, numpy
cv2.setNumThreads(2)
cv2.GaussianBlur(numpy.zeros((2000, 2000, 3), numpy.uint8), (9, 9), 3)
runpy.run_path("make_sample.py", run_name="__main__")
"""


@pytest.mark.slow
def test_processes_do_not_wait_for_the_threads_of_the_one_they_are_forked_from(tmp_path):
    command = [sys.executable, "-c", AFTER_THREADS, "--out", tmp_path, "--size", "96", "72"]
    few = ("--num_train", "2", "--num_val", "0", "--workers", "2")
    subprocess.run([*command, *few], cwd=ROOT / "data", check=True, timeout=120)


@pytest.mark.slow
def test_scenes_have_the_layout_of_ade20k_and_can_be_read(make, tmp_path):
    result = make("--out", tmp_path / "s", "--num_train", 3, "--num_val", 2, "--size", 96, 72)
    assert result.code == 0 and "3 training and 2 validation scenes" in result.out, result.err
    assert digests(tmp_path / "s").keys() == {
        "train.txt",
        "val.txt",
        "data.json",
        *(f"images/training/ADE_train_{i:08d}.jpg" for i in (1, 2, 3)),
        *(f"annotations/training/ADE_train_{i:08d}.png" for i in (1, 2, 3)),
        *(f"images/validation/ADE_val_{i:08d}.jpg" for i in (1, 2)),
        *(f"annotations/validation/ADE_val_{i:08d}.png" for i in (1, 2)),
    }
    folders = (tmp_path / "s/images", tmp_path / "s/annotations")
    for part, n in (("train", 3), ("val", 2)):
        items = SegmentationDataset(tmp_path / f"s/{part}.txt", *folders, num_class=150)
        assert len(items) == n
        for image, label, _ in items:
            assert image.shape == (3, 72, 96) and (label < 150).all()


@pytest.mark.slow
def test_a_seed_gives_the_same_files_whatever_the_number_of_workers(make, tmp_path):
    for name, seed, workers in (("a", 5, 1), ("b", 5, 2), ("c", 6, 1)):
        options = flags(out=tmp_path / name, num_train=4, num_val=2, seed=seed, workers=workers)
        make(*options, "--size", 64, 64)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    settings = data_flags(tmp_path / "a", load_data(tmp_path / "a"))
    assert len(read_classes(str(settings["list_class"]), 150).names) == 150
    assert (tmp_path / "a/train.txt").samefile(settings["list_train"])
    assert a == b
    assert all(a[name] != c[name] for name in a if name.endswith(".jpg"))
    assert len({a[name] for name in a if name.endswith(".jpg")}) == 6


@pytest.mark.slow
def test_streets_and_rooms_show_the_classes_they_should(make, tmp_path):
    make("--out", tmp_path / "s", "--num_train", 40, "--num_val", 0, "--size", 96, 72)
    with (ROOT / ADE20K_CLASSES).open() as file:
        index = {row["name"]: int(row["index"]) for row in csv.DictReader(file)}
    labels = np.stack(
        [
            cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            for path in (tmp_path / "s/annotations/training").iterdir()
        ]
    )
    for name in (*STREET.split(), *ROOM.split()):
        scenes = (labels == index[name]).any((1, 2)).mean()
        assert scenes > 0.1, name
    assert (labels > 0).all()
    assert (labels == index["sky"]).any((1, 2)).mean() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    "options", [("--size", 32, 64), ("--num_train", -1), ("--num_val", "x"), ("--scenes", 3)]
)
def test_bad_arguments_end_in_exit_code_2_and_leave_nothing(options, make, tmp_path):
    result = make("--out", tmp_path / "s", *options)
    assert result.code == 2 and options[0] in result.err
    assert not (tmp_path / "s").exists()
