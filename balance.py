"""Weights of the classes against their imbalance: counted from the labels, or read from a table.

A run keeps its own as `class_weight.csv`, a table that `--class_weight` takes as well.
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

from checkpoint import text, write_whole
from dataset import SegmentationDataset, make_loader
from decoding import UnreadableError, read_label
from distributed import Team
from utils import UserError, is_labelled

logger = logging.getLogger(__name__)

HEAVIEST = float(np.finfo(np.float32).max)
EXPONENTS = {"median": 1.0, "sqrt": 0.5}  # of what `median_frequency` gives


@dataclass(frozen=True)
class Balance:
    """How much a pixel of each class counts in the loss.

    Attributes:
        names: num_class, the classes' names.
        weight: num_class, float64, finite and not negative.
    """

    names: Sequence[str]
    weight: np.ndarray

    def total(self, labels: Tensor) -> float:
        """The weights of all labelled pixels of labels (integers of any shape), added up."""
        return float(class_pixels(labels, len(self.weight)).numpy() @ self.weight)

    def table(self) -> str:
        """The text of `class_weight.csv`, from which `read_weights` gets the very same weights."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(("index", "name", "weight"))
        for i, (name, weight) in enumerate(zip(self.names, self.weight.tolist(), strict=True)):
            writer.writerow((i + 1, name, weight))
        return table.getvalue()

    def __str__(self) -> str:
        least, most = self.weight.argmin(), self.weight.argmax()
        return " to ".join(f"{self.weight[i]:.3g} ({self.names[i]})" for i in (least, most))


class ClassCounts(Dataset):
    """Of each of some pictures, 2 x num_class: the pixels of each class in its label, and those of
    the whole label where the class occurs. A label that cannot be read, of which training makes
    another picture, has none."""

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


def find_balance(
    source: str | Path,
    pictures: SegmentationDataset,
    names: Sequence[str],
    workers: int,
    team: Team,
) -> Balance | None:
    """The weights that were asked for; all processes call this at a time, and get the same.

    Args:
        source: none; median, for `median_frequency`; sqrt, for the square roots of that; or the
            file of a table for `read_weights`. Medians are kept beside the pictures' list, and
            taken from there for as long as neither the list nor the labels change.
        pictures: those that are trained on; each process counts its share.
        names: of the classes.
        workers: processes that read labels.

    Raises:
        UserError: there is no such table, or a label holds what is no class, or none holds any.
    """
    if source == "none":
        return None
    weight, exponent = None, EXPONENTS.get(source)
    kept = Path(f"{pictures.list_file}.class_weight.csv")
    with team.agree():
        if team.rank == 0 and exponent:
            heading = f"# counted from labels {fingerprint(pictures)}\n"
            weight = read_kept(kept, heading, len(names))
        elif team.rank == 0:
            weight = read_weights(source, len(names))
    weight = team.gather(weight)[0]
    if weight is None:
        logger.info("Counting the pixels of each class in %d labels", len(pictures))
        counts = torch.zeros(2, len(names), dtype=torch.int64)
        with team.agree():
            share = range(team.rank, len(pictures), team.size)
            loader = make_loader(ClassCounts(pictures), workers, None, share)
            # One bar for all, and, as None has it, on a terminal only.
            for count in tqdm(loader, "Labels", leave=False, disable=team.rank > 0 or None):
                counts += count
        pixels, area = team.add_up(counts).numpy()
        with team.agree():
            if not pixels.any():
                raise UserError(
                    f"{pictures.list_file}: no label has a pixel of a class to be weighted"
                )
        weight = median_frequency(pixels, area)
        if team.rank == 0:
            try:
                write_whole(kept, text(heading + Balance(names, weight).table()))
            except (UserError, OSError) as error:
                logger.warning("The next run will count anew: %s", error)
    return Balance(names, weight ** (exponent or 1))


def median_frequency(pixels: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Median-frequency balancing of D. Eigen and R. Fergus, "Predicting Depth, Surface Normals and
    Semantic Labels with a Common Multi-Scale Convolutional Architecture", ICCV 2015: the weight of
    class c is median_freq / freq(c), where freq(c) = pixels of c / pixels of the pictures in which
    c occurs, and median_freq is the median of these.

    Args:
        pixels: num_class, pixels of each class; some are not 0.
        area: num_class, pixels, unlabelled ones too, of the pictures in which the class occurs.

    Returns:
        num_class, float64. A class that never occurs takes no part in the median, and its weight,
        which no pixel has, is 1.
    """
    occurs = pixels > 0
    frequency = pixels[occurs] / area[occurs]
    weight = np.ones(len(pixels))
    weight[occurs] = np.median(frequency) / frequency
    return weight


def class_pixels(labels: Tensor, num_class: int) -> Tensor:
    """How many pixels of each class labels of any shape have (num_class, int64)."""
    # Selecting the labelled ones would take eight times as long as counting the others aside.
    labels = labels.where(is_labelled(labels, num_class), num_class)
    return torch.bincount(labels.flatten(), minlength=num_class + 1)[:num_class]


def read_weights(path: str | Path, num_class: int) -> np.ndarray:
    """The weights (num_class, float64) in a table with the columns index and weight.

    Other columns do not matter, nor do lines that begin with #.

    Raises:
        UserError: no such table, not one of the classes 1…num_class, or of a weight that is
            negative or not finite, or of nothing but zeros.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = (line for line in file if not line.startswith("#"))
            # A row too many tells as much as all of a table that goes on and on.
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
        if not 0 <= weight[index - 1] <= HEAVIEST:
            raise UserError(
                f"--class_weight {path}: class {index} has the weight {weight[index - 1]}; "
                "it should be finite and not negative"
            )
    if not weight.astype(np.float32).any():
        raise UserError(f"--class_weight {path}: all weights are 0, so that there is no loss")
    return weight


def read_kept(path: Path, heading: str, num_class: int) -> np.ndarray | None:
    """The weights in a table that begins with a heading; none where there is no such one."""
    with suppress(OSError, ValueError, UserError):
        with path.open(encoding="utf-8") as file:
            current = file.readline() == heading
        return read_weights(path, num_class) if current else None
    return None


def fingerprint(pictures: SegmentationDataset) -> str:
    """A hash of all that the counts depend on: settings, and labels by path, size and time of their
    last change."""
    settings = f"{pictures.num_class} {pictures.label_offset}\n"
    digest = hashlib.sha256(settings.encode())
    for index in range(len(pictures)):
        _, path = pictures.paths(index)
        digest.update(os.fsencode(os.path.abspath(path)))
        with suppress(OSError):  # what cannot be read is not counted either
            status = os.stat(path)
            digest.update(f"\n{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
