"""Class weights against imbalance: counted from the labels, or read from a table.

A run keeps its own as `class_weight.csv`; `--class_weight` takes such a table as well.
"""

import csv
import hashlib
import io
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from common.distributed import World
from common.files import text, write_atomically
from common.images import UnreadableError, read_label
from common.loader import make_loader
from common.metrics import class_pixels
from dataset import SegmentationDataset
from utils import UserError

logger = logging.getLogger(__name__)

MAX_WEIGHT = float(np.finfo(np.float32).max)
EXPONENTS = {"median": 1.0, "sqrt": 0.5}  # of the weights of `median_frequency`


@dataclass(frozen=True)
class ClassWeights:
    """How much a pixel of each class counts in the loss.

    Attributes:
        names: num_class, the classes' names.
        weight: num_class, float64, finite and not negative.
    """

    names: Sequence[str]
    weight: np.ndarray

    def total(self, pixels: Tensor) -> float:
        """The sum of the weights of pixels, of which there are so many of each class."""
        return float(pixels.numpy() @ self.weight)

    def table(self) -> str:
        """The text of `class_weight.csv`; `read_weights` gets the very same weights from it."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("index", "name", "weight"))
        for i, (name, weight) in enumerate(zip(self.names, self.weight.tolist(), strict=True)):
            writer.writerow((i + 1, name, weight))
        return table.getvalue()

    def __str__(self) -> str:
        least, most = int(self.weight.argmin()), int(self.weight.argmax())
        return " to ".join(f"{self.weight[i]:.3g} ({self.names[i]})" for i in (least, most))


class ClassCounts(Dataset):
    """Item i is 2 x num_class: the pixels of each class in a label, and of a label that has it.

    A label that cannot be read has none: training replaces its picture.
    """

    def __init__(self, pictures: SegmentationDataset):
        self.pictures = pictures

    def __getitem__(self, index: int) -> Tensor:
        num_class = self.pictures.num_class
        _, path = self.pictures.paths(index)
        try:
            label = torch.from_numpy(read_label(path, num_class, self.pictures.label_offset))
        except UnreadableError:
            return torch.zeros(2, num_class, dtype=torch.int64)
        pixels = class_pixels(label, num_class)
        return torch.stack([pixels, (pixels > 0) * label.numel()])


def find_class_weights(
    source: str | Path,
    pictures: SegmentationDataset,
    names: Sequence[str],
    workers: int,
    world: World,
) -> ClassWeights | None:
    """The class weights that were asked for. All processes call this together and get the same.

    Args:
        source: none; median, for `median_frequency`; sqrt, for the square roots of that; or the
            file of a table for `read_weights`. Medians are kept beside the pictures' list, and
            taken from there for as long as neither the list nor the labels change.
        pictures: the training pictures; each process counts its share.
        names: of the classes.
        workers: processes that read labels.
        world: the processes.

    Raises:
        UserError: there is no such table, a label holds a value that is no class, or no label has a
            pixel of any class.
    """
    if source == "none":
        return None
    weight, heading = None, ""
    with world.fail_together():
        if world.is_main and source in EXPONENTS:
            heading = f"# counted from labels {fingerprint(pictures)}\n"
            weight = read_cache(pictures, heading)
        elif world.is_main:
            weight = read_weights(source, len(names))
    weight = world.all_gather(weight)[0]
    if weight is None:
        logger.info("Counting the pixels of each class in %d labels", len(pictures))
        weight = median_frequency(*count_pixels(pictures, workers, world))
        if world.is_main:
            write_cache(pictures, heading + ClassWeights(names, weight).table())
    return ClassWeights(names, weight ** EXPONENTS.get(str(source), 1.0))


def count_pixels(
    pictures: SegmentationDataset, workers: int, world: World
) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of `median_frequency`, from the labels of all processes' shares.

    Raises:
        UserError: a label holds a value that is no class, or no label has a pixel of any class.
    """
    counts = torch.zeros(2, pictures.num_class, dtype=torch.int64)
    with world.fail_together():
        share = range(world.rank, len(pictures), world.size)
        loader = make_loader(ClassCounts(pictures), workers, None, share)
        # One bar for all processes; None shows it on a terminal only.
        for count in tqdm(loader, "Labels", leave=False, disable=None if world.is_main else True):
            counts += count
    pixels, area = world.all_reduce(counts).numpy()
    with world.fail_together():
        if not pixels.any():
            raise UserError(f"{pictures.list_file}: no label has a pixel of a class to be weighted")
    return pixels, area


def median_frequency(pixels: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Median-frequency balancing (Eigen and Fergus, 2015).

    D. Eigen and R. Fergus, "Predicting Depth, Surface Normals and Semantic Labels with a Common
    Multi-Scale Convolutional Architecture", ICCV 2015: the weight of class c is median_freq /
    freq(c), where freq(c) = pixels of c / pixels of the pictures in which c occurs, and median_freq
    is the median of these.

    Args:
        pixels: num_class, pixels of each class; some are not 0.
        area: num_class, pixels, unlabelled ones too, of the pictures in which the class occurs.

    Returns:
        num_class, float64. A class that never occurs takes no part in the median. Its weight is 1.
    """
    occurs = pixels > 0
    frequency = pixels[occurs] / area[occurs]
    weight = np.ones(len(pixels))
    weight[occurs] = np.median(frequency) / frequency
    return weight


def read_weights(path: str | Path, num_class: int) -> np.ndarray:
    """The weights (num_class, float64) in a table with the columns index and weight.

    Other columns and lines that begin with # do not matter.

    Raises:
        UserError: there is no such table, it does not list the classes 1…num_class, a weight is
            negative or not finite, or all weights are 0.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = (line for line in file if not line.startswith("#"))
            # One row too many is enough to refuse a table that goes on and on.
            rows = list(islice(csv.DictReader(lines, restval=""), num_class + 1))
        indices = [int(row["index"]) for row in rows]
        weight = np.array([float(row["weight"]) for row in rows])
    except OSError as error:
        raise UserError(
            f"--class_weight {path}: {error.strerror}; "
            "give none, median, sqrt or a table of index,weight"
        ) from error
    except (csv.Error, KeyError, ValueError, OverflowError) as error:
        raise UserError(f"--class_weight {path}: not a table of index,weight ({error})") from error
    if indices != list(range(1, num_class + 1)):
        raise UserError(f"--class_weight {path} does not list the classes 1…{num_class} in order")
    for index in indices:
        if not 0 <= weight[index - 1] <= MAX_WEIGHT:
            raise UserError(
                f"--class_weight {path}: class {index} has the weight {weight[index - 1]}; "
                "it should be finite and not negative"
            )
    if not weight.astype(np.float32).any():
        raise UserError(f"--class_weight {path}: all weights are 0, so that there is no loss")
    return weight


def cache_file(pictures: SegmentationDataset) -> Path:
    """The cache of the medians, beside the pictures' list."""
    return Path(f"{pictures.list_file}.class_weight.csv")


def read_cache(pictures: SegmentationDataset, heading: str) -> np.ndarray | None:
    """The medians in the cache, if it has this heading; otherwise None."""
    path = cache_file(pictures)
    with suppress(OSError, ValueError, UserError):
        with path.open(encoding="utf-8") as file:
            current = file.readline() == heading
        return read_weights(path, pictures.num_class) if current else None
    return None


def write_cache(pictures: SegmentationDataset, table: str) -> None:
    """Write a table of medians to the cache; a folder that refuses is only warned of."""
    try:
        write_atomically(cache_file(pictures), text(table))
    except (UserError, OSError) as error:
        logger.warning("The next run will count anew: %s", error)


def fingerprint(pictures: SegmentationDataset) -> str:
    """A hash of all that the counts depend on: settings, and the labels' paths, sizes and times."""
    settings = f"{pictures.num_class} {pictures.label_offset}\n"
    digest = hashlib.sha256(settings.encode())
    for index in range(len(pictures)):
        _, path = pictures.paths(index)
        digest.update(os.fsencode(os.path.abspath(path)))
        with suppress(OSError):  # a label that cannot be read is not counted either
            status = os.stat(path)
            digest.update(f"\n{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
