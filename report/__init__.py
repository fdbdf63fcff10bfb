"""The report of an evaluation: one page that opens from the disk, with all that it shows inside.

Text of others (names of classes and files, settings) goes in as JSON and becomes text by script.
"""

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from classes import Classes
from report.analysis import (
    DISTANCES,
    REGION_SIZES,
    Counts,
    by_distance,
    by_region_size,
    iou,
    mean_known,
)
from utils import Scores

TEMPLATE = Path(__file__).with_name("page.html")
THUMB_SIDE = 384  # pixels
EMBEDDED = 64 * 2**20  # characters of pictures in a page, at most


@dataclass
class Collector:
    """What an evaluation keeps of each picture: counts, and of the worst ones something to look at.

    Attributes:
        rows: place in the list -> pixels 3 x C: hits, labelled, predicted.
        thumbs: (mIoU, place) -> picture, label and prediction in base64.
        limit: the worst key that had no room; what is no worse has none, either.
        regions, distances: see `by_region_size` and `by_distance`.
    """

    num_class: int
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    thumbs: dict[tuple[float, int], str] = field(default_factory=dict)
    limit: tuple[float, int] = (np.inf, 0)
    regions: np.ndarray | int = 0
    distances: np.ndarray | int = 0

    def add(self, place: int, confusion: np.ndarray) -> None:
        """Keep the counts of a picture, whose confusion matrix is C x C, a row a label's class."""
        self.rows[place] = np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])

    def show(self, place: int, picture: np.ndarray, label: np.ndarray, found: np.ndarray) -> None:
        """Keep what a page shows of a picture that was added.

        Args:
            place: in the list.
            picture: H x W x 3, uint8.
            label: h x w; what is no class is unlabelled.
            found: h x w, the prediction.
        """
        label = np.where(label < self.num_class, label, -1)
        self.regions = self.regions + by_region_size(label, found)
        self.distances = self.distances + by_distance(label, found, self.num_class)
        key = (picture_miou(self.rows[place]), place)
        if key < self.limit:
            self.thumbs[key] = thumbnails(picture, label, found, self.num_class)
            self.make_room()

    def make_room(self) -> None:
        """Give up the best pictures until the others fit."""
        size = sum(map(len, self.thumbs.values()))
        while size > EMBEDDED:
            self.limit = max(self.thumbs)
            size -= len(self.thumbs.pop(self.limit))

    def counts(self, names: list[str]) -> Counts:
        """The counts of all pictures of the list."""
        pixels = np.stack([self.rows[place] for place in range(len(names))], axis=1)
        return Counts(names, *pixels)


def join(parts: list[Collector]) -> Collector:
    """One collector with what several have, the same as if it had seen all pictures."""
    whole = Collector(parts[0].num_class, limit=min(part.limit for part in parts))
    for part in parts:
        whole.rows |= part.rows
        whole.thumbs |= {key: thumb for key, thumb in part.thumbs.items() if key < whole.limit}
        whole.regions = whole.regions + part.regions
        whole.distances = whole.distances + part.distances
    whole.make_room()
    return whole


def picture_miou(pixels: np.ndarray) -> float:
    """Mean IoU of one picture's pixels 3 x C; 1 where nothing is labelled, so it comes last."""
    return float(np.nan_to_num(mean_known(iou(*pixels)), nan=1.0))


def thumbnails(picture: np.ndarray, label: np.ndarray, found: np.ndarray, num_class: int) -> str:
    """JPEG of the picture, PNGs of label and prediction (class + 1), in base64, by spaces."""
    height, width = label.shape
    scale = min(1, THUMB_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    files = [jpeg]
    for labels in (label, found):
        values = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST) + 1
        values = values.astype(np.uint16)
        if num_class > 255:  # blue stays 0, green is the high byte, red the low one
            values = np.dstack([np.zeros_like(values), values >> 8, values & 255])
        files.append(cv2.imencode(".png", values.astype(np.uint8))[1])
    return " ".join(base64.b64encode(file.tobytes()).decode() for file in files)


def build_page(
    whole: Collector,
    names: list[str],
    confusion: np.ndarray,
    scores: Scores,
    classes: Classes,
    settings: dict,
) -> bytes:
    """The page.

    Args:
        whole: what was kept of all pictures.
        names: of the pictures.
        confusion: C x C, a row a class of the label.
        scores: of all pictures.
        classes: names and colours.
        settings: of the evaluation, among them the `command` that was typed.
    """
    pixels = np.stack([whole.rows[place] for place in range(len(names))]).sum(0)
    hits, labelled, predicted = pixels
    present = np.flatnonzero(labelled + predicted)
    part = confusion[np.ix_(present, present)]
    cells = [[int(i), int(j), int(part[i, j])] for i, j in np.argwhere(part)]
    share = labelled / max(labelled.sum(), 1)
    rows = [
        {
            "index": int(c) + 1,
            "name": classes.names[c],
            "iou": ratio(hits[c], labelled[c] + predicted[c] - hits[c]),
            "accuracy": ratio(hits[c], labelled[c]),
            "precision": ratio(hits[c], predicted[c]),
            "share": float(share[c]),
        }
        for c in present
    ]
    regions, region_pixels, region_hits, overlap = whole.regions
    near = whole.distances
    by_pixels = near.sum(-1)
    shown = sorted(whole.thumbs)
    data = {
        "summary": {
            "Pixel accuracy": scores.pixel_accuracy,
            "Mean accuracy": scores.mean_accuracy,
            "Mean IoU": scores.mean_iou,
            "Frequency-weighted IoU": scores.frequency_weighted_iou,
            "(mIoU + accuracy) / 2": scores.overall,
        },
        "classes": rows,
        "palette": classes.palette.tolist(),
        "names": list(classes.names),
        "cells": cells,
        "regions": [
            [label, int(n), ratio(h, p), ratio(o, n)]
            for label, n, p, h, o in zip(
                bins(REGION_SIZES), regions, region_pixels, region_hits, overlap, strict=True
            )
        ],
        "distances": [
            [label, int(by_pixels[1, i]), ratio(by_pixels[0, i], by_pixels[1, i]), known(m)]
            for i, (label, m) in enumerate(
                zip(bins(DISTANCES), mean_known(iou(*near)), strict=True)
            )
        ],
        "pictures": [
            {
                "name": names[place],
                "miou": miou,
                "classes": np.flatnonzero(whole.rows[place][1:].sum(0)).tolist(),
            }
            for miou, place in shown
        ],
        "total": len(names),
        "settings": {key: str(value) for key, value in settings.items()},
    }
    embedded = "".join(
        f'<script type="text/plain" id="p{i}">{whole.thumbs[key]}</script>\n'
        for i, key in enumerate(shown)
    )
    # Within a script element only "<" could end it; in JSON it may be written as a code.
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    head, middle, tail = TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join([head, content, middle, embedded, tail]).encode()


def bins(starts: tuple[int, ...]) -> list[str]:
    """What the bins are called: `0–1`, `2–3`, … `16+`."""
    ends = [f"–{end - 1:,}" for end in starts[1:]] + ["+"]
    return [f"{start:,}{end}" for start, end in zip(starts, ends, strict=True)]


def ratio(part: float, whole: float) -> float | None:
    """A fraction, or None where it would be of nothing."""
    return known(part / whole) if whole else None


def known(value: float) -> float | None:
    """Six digits, as sums over several processes may differ in the last; None for NaN."""
    return None if np.isnan(value) else round(float(value), 6)
