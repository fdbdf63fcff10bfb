"""Every form of data set becomes the same pictures, labels, classes and splits."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.classes import read_classes
from common.data_file import data_flags, load_data
from common.images import read_label

from . import sources
from .sources import DRAWN, NAMES, SPLITS, WITH_GROUND


def prepared(script, source: Path, *flags: object):
    return script("prepare.py", source, "--data", "mine", "--workers", 0, *flags)


def check_result(names: tuple[str, ...]) -> None:
    """The data set in `mine` has all splits, pictures and labels; `names` are its classes."""
    content = load_data("mine")
    settings = data_flags("mine", content)
    assert content["num_class"] == len(names) and {*content["lists"]} == {*SPLITS}
    classes = read_classes(settings["list_class"], len(names))
    assert tuple(classes.names) == names
    value_of = {NAMES[0]: 0, "background": 0} | {name: v for v, name in enumerate(NAMES)}
    order = np.array([value_of[name] for name in names])
    seen = []
    for split, count in SPLITS.items():
        lines = Path(f"mine/{split}.txt").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            path = Path("mine/images", line)
            number = int("".join(c for c in path.stem.split(".")[0] if c.isdigit())[-6:] or -1)
            seen.append(number)
            picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
            assert np.abs(picture - np.asarray(sources.picture(number))).mean() < 8
            label = Path("mine/annotations", line).with_suffix(".png")
            values = read_label(label, len(names), content["label_offset"])
            assert (order[values] == sources.label(number)).all()
    assert [split for split, n in sources.numbered() if n in seen] == [
        s for s, _ in sources.numbered()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("form", WITH_GROUND)
def test_images_as_labels(form: Callable, script, tmp_path):
    form(tmp_path / "source")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "source").rglob("*")}
    result = prepared(script, tmp_path / "source")
    assert result.code == 0, result.out + result.err
    assert result.out.endswith("ready: python train.py --data mine\n")
    check_result(NAMES)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "source").rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("form", DRAWN)
def test_annotations_as_labels(form: Callable, script, tmp_path):
    if form is sources.coco:
        pytest.importorskip("pycocotools")
    form(tmp_path / "source")
    result = prepared(script, tmp_path / "source")
    assert result.code == 0, result.out + result.err
    check_result(("background", *DRAWN[form]))
