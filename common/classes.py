"""Names and colours of the classes, from a table or generated, and label maps in these colours."""

import csv
import faulthandler
import io
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from PIL import Image

from utils import UserError

ROOT = Path(__file__).parent.parent
ADE20K_CLASSES = "./data/ADE20K_object150_classes.csv"
# The benchmark on ADE20K, as flags name it.
ADE20K: dict[str, Any] = {
    "num_class": 150,
    "list_class": ADE20K_CLASSES,
    "list_val": "./data/ADE20K_object150_val.txt",
    "root_img": "./data/ADEChallengeData2016/images",
    "root_seg": "./data/ADEChallengeData2016/annotations",
    "label_offset": 1,
}
LONGEST_NAME = 200  # characters; a panel's legend has to hold one in a line


@dataclass(frozen=True)
class Classes:
    """Names (num_class) and colours (num_class+1 x 3, RGB uint8; row 0 is for unlabelled)."""

    names: list[str]
    palette: np.ndarray


def read_classes(path: str, num_class: int) -> Classes:
    """Names and colours of the classes 1…num_class.

    Args:
        path: a CSV table with the columns index, name, r, g, b, or a MATLAB file with `colors`, as
            ADE20K's benchmark has it. The default, ADE20K's table, is for its 150 classes; other
            numbers get generated names and colours.
        num_class: number of classes.

    Raises:
        UserError: no such table, or not one of this many classes.
    """
    if path.endswith(".mat"):
        return Classes(read_classes(ADE20K_CLASSES, num_class).names, read_palette(path, num_class))
    if path == ADE20K_CLASSES and num_class != 150:
        names = [f"class {i}" for i in range(1, num_class + 1)]
        return Classes(names, distinct_colours(num_class + 1))
    # The default is the project's own file, wherever a script is called from.
    table = ROOT / path if path == ADE20K_CLASSES else Path(path)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            # One row too many is enough to refuse a table that goes on and on.
            rows = list(islice(csv.DictReader(file, restval=""), num_class + 1))
        indices = [int(row["index"]) for row in rows]
        names = [row["name"] for row in rows]
        colours = [[int(row[channel]) for channel in "rgb"] for row in rows]
        palette = np.array([[0, 0, 0], *colours], dtype=np.uint8)
    except OSError as error:
        raise UserError(f"--list_class {path}: {error.strerror}") from error
    except (csv.Error, KeyError, ValueError, OverflowError) as error:
        raise UserError(
            f"--list_class {path}: not a table of index,name,r,g,b ({error})"
        ) from error
    if indices == list(range(1, len(indices) + 1)) and len(indices) != num_class:
        count = f"{len(indices)} classes" if len(indices) < num_class else "more classes"
        raise UserError(f"--list_class {path} has {count}, and --num_class is {num_class}")
    if indices != list(range(1, num_class + 1)):
        raise UserError(f"--list_class {path} does not list the classes 1…{num_class} in order")
    for name in names:
        if not name.isprintable() or len(name) > LONGEST_NAME:
            raise UserError(f"--list_class {path}: {name!r:.80} is no plain and short name")
    return Classes(names, palette)


def class_table(classes: Classes) -> str:
    """A table of index,name,r,g,b, as `read_classes` takes it."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["index", "name", "r", "g", "b"])
    colours = classes.palette[1:].tolist()
    for index, (name, colour) in enumerate(zip(classes.names, colours, strict=True), 1):
        writer.writerow([index, name, *colour])
    return file.getvalue()


def read_palette(path: str, num_class: int) -> np.ndarray:
    """The colours (num_class+1 x 3, uint8, row 0 black) of a MATLAB file such as color150.mat."""
    try:
        # A process of its own, because some damaged files crash SciPy: that needs no report.
        with ProcessPoolExecutor(1, initializer=faulthandler.disable) as pool:
            content = pool.submit(scipy.io.loadmat, path, variable_names=["colors"]).result()
        colours = np.asarray(content["colors"]).astype(np.float64, casting="same_kind")
    except Exception as error:  # SciPy has a dozen classes for what may be wrong with a file
        raise UserError(f"--list_class {path}: no MATLAB file with `colors` ({error})") from error
    if colours.shape != (num_class, 3):
        raise UserError(
            f"--list_class {path} has colours for {len(colours)} classes, not {num_class}"
        )
    if not ((colours >= 0) & (colours <= 255)).all():
        raise UserError(f"--list_class {path} has colours that are not within 0…255")
    return np.vstack([np.zeros((1, 3)), colours]).astype(np.uint8)


def distinct_colours(n: int) -> np.ndarray:
    """`n` different colours (n x 3, uint8), black first: the colour map of PASCAL VOC.

    Red, green and blue take the bits of an index in turn, each its most significant bit first.
    """
    colours = np.zeros((n, 3), dtype=np.uint8)
    for bit in range(24):
        colours[:, bit % 3] |= ((np.arange(n) >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return colours


def label_map(labels: np.ndarray, num_class: int) -> Image.Image:
    """The picture of labels H x W, classes from 0; it counts them from 1, as annotations do."""
    dtype = np.uint8 if num_class <= 255 else np.uint16
    return Image.fromarray((labels + 1).astype(dtype))


def colour_code(labels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Colours H x W x 3 (uint8) of labels H x W: 0…num_class-1, anything else is unlabelled."""
    indices = labels.astype(np.int64) + 1
    return palette[np.where(indices < len(palette), indices, 0)]
