"""The numbers of a report, picture by picture, and of a comparison of two runs."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from common.files import Content
from utils import UserError

REGION_SIZES = (0, 100, 1_000, 10_000, 100_000)  # pixels from which on a bin begins
DISTANCES = (0, 2, 4, 8, 16)  # pixels from a boundary, likewise
ROUNDS = 2000  # of a bootstrap
FEWEST = 10  # pictures that can tell how much others would differ


@dataclass(frozen=True)
class Counts:
    """Pixels of each picture (names: N) and class: hits, labelled, predicted, N x C, int64 each.

    As in the confusion matrix, only pixels that are labelled count as predicted.
    """

    names: list[str]
    hits: np.ndarray
    labelled: np.ndarray
    predicted: np.ndarray

    def content(self) -> Content:
        """The content of a file that `read_counts` reads."""
        content = io.BytesIO()
        names = np.frombuffer(json.dumps(self.names).encode(), np.uint8)
        pixels = [self.hits, self.labelled, self.predicted]
        np.savez_compressed(content, names=names, pixels=np.stack(pixels))
        return lambda file: file.write(content.getvalue())


def read_counts(path: Path) -> Counts:
    """The counts in a file of `Counts.content`.

    Raises:
        UserError: the file cannot be read, or is none of these.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            names, pixels = json.loads(content["names"].tobytes()), content["pixels"]
        if pixels.dtype != np.int64 or pixels.ndim != 3 or pixels.shape[:2] != (3, len(names)):
            raise ValueError("its arrays do not fit")
        if not all(isinstance(name, str) for name in names) or (pixels < 0).any():
            raise ValueError("its values do not fit")
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no counts of eval.py; evaluate again ({error})") from error
    return Counts(names, *pixels)


def count_pixels(label: np.ndarray, prediction: np.ndarray, num_class: int) -> np.ndarray:
    """Pixels 3 x C: hits, labelled, predicted. Label and prediction are H x W, -1 = no label."""
    known = label >= 0
    label, prediction = label[known], prediction[known]
    parts = (label[label == prediction], label, prediction)
    return np.stack([np.bincount(part, minlength=num_class) for part in parts])


def iou(hits: np.ndarray, labelled: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Intersection over union of pixel counts of any one shape; NaN where there is no pixel."""
    union = labelled + predicted - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)


def mean_known(values: np.ndarray) -> np.ndarray:
    """The mean over the last axis without NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    n = known.sum(-1)
    return np.where(n > 0, np.where(known, values, 0).sum(-1) / np.maximum(n, 1), np.nan)


def by_region_size(label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """(regions, pixels, hits, sum of IoUs) x bins of `REGION_SIZES`, of the label's regions.

    A region is a set of 8-connected pixels of a class. Its IoU is with the union of the predicted
    regions of this class that touch it, minus their pixels in other labelled regions of the class.
    """
    table = np.zeros((4, len(REGION_SIZES)))
    for c in np.unique(label[label >= 0]):
        n, regions = cv2.connectedComponents((label == c).astype(np.uint8))
        found = (prediction == c) & (label >= 0)
        m, blobs = cv2.connectedComponents(found.astype(np.uint8))
        sizes = np.bincount(regions.ravel(), minlength=n)[1:]
        hits = np.bincount(regions[found], minlength=n)[1:]
        # Pixels predicted beyond the label, by blob, and which blobs touch which region.
        beyond = np.bincount(blobs[found & (label != c)], minlength=m)
        pairs = np.unique(regions[found].astype(np.int64) * m + blobs[found])
        pairs = pairs[pairs >= m]
        extra = np.bincount(pairs // m, beyond[pairs % m], minlength=n)[1:]
        bins = np.searchsorted(REGION_SIZES, sizes, side="right") - 1
        rows = (np.ones(n - 1), sizes, hits, hits / (sizes + extra))
        for row, values in zip(table, rows, strict=True):
            row += np.bincount(bins, values, minlength=len(REGION_SIZES))
    return table


def by_distance(label: np.ndarray, prediction: np.ndarray, num_class: int) -> np.ndarray:
    """Pixels 3 x bins of `DISTANCES` x C: hits, labelled, predicted by distance from a boundary.

    A pixel beside one of another class is at distance 0; unlabelled pixels make no boundary.
    """
    edge = np.zeros(label.shape, bool)
    for a, b, near, far in (
        (label[1:], label[:-1], edge[1:], edge[:-1]),
        (label[:, 1:], label[:, :-1], edge[:, 1:], edge[:, :-1]),
    ):
        differs = (a != b) & (a >= 0) & (b >= 0)
        near |= differs
        far |= differs
    if edge.any():
        exact = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        bins = np.searchsorted(DISTANCES, np.floor(exact + 1e-4), side="right") - 1
    else:
        bins = np.full(label.shape, len(DISTANCES) - 1)
    counts = [
        count_pixels(np.where(bins == i, label, -1), prediction, num_class)
        for i in range(len(DISTANCES))
    ]
    return np.stack(counts, axis=1)


def measures(pixels: np.ndarray) -> np.ndarray:
    """IoU of each class, mIoU and pixel accuracy (… x C+2) of pixels 3 x … x C."""
    per_class = iou(*pixels)
    accuracy = pixels[0].sum(-1) / np.maximum(pixels[1].sum(-1), 1)
    return np.concatenate([per_class, mean_known(per_class)[..., None], accuracy[..., None]], -1)


def bootstrap(a: Counts, b: Counts, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare two runs on the same pictures by a bootstrap.

    Returns:
        `measures` (C+2) of both runs, and the 95 % interval (2 x C+2) of their difference, B - A,
        over draws of pictures with replacement, the same ones for both. NaN where fewer than
        `FEWEST` pictures have a part in it: drawn again and again, few pictures hardly vary.
    """
    n = len(a.names)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), ROUNDS).astype(float)
    both = [np.stack([run.hits, run.labelled, run.predicted]) for run in (a, b)]
    first, second = (measures(draws @ pixels) for pixels in both)
    taking_part = (a.labelled + a.predicted + b.predicted > 0).sum(0)  # pictures of each class
    scored = (a.labelled.sum(1) > 0).sum()
    few = np.append(taking_part, [scored, scored]) < FEWEST
    # A class that is in no drawn picture has no difference there.
    difference = np.where(few, 0, second - first)
    interval = np.nanpercentile(difference, [2.5, 97.5], axis=0)
    interval[:, few] = np.nan
    return measures(both[0].sum(1)), measures(both[1].sum(1)), interval
