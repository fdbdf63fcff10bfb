"""The report of an evaluation: one page that opens from the disk, with all that it shows inside.

Text of others (names of classes and files, settings) goes in as JSON and becomes text by script.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from common.classes import Classes
from common.metrics import Scores
from report.analysis import DISTANCES, REGION_SIZES, iou, mean_known
from report.collector import Collector

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a list of pictures.

    Attributes:
        names: of the pictures.
        collected: what was kept of each of them.
        confusion: C x C, a row a class of the label.
        scores: of all pictures.
        classes: names and colours.
        settings: among them the `command` that was typed.
    """

    names: list[str]
    collected: Collector
    confusion: np.ndarray
    scores: Scores
    classes: Classes
    settings: dict

    @cached_property
    def pixels(self) -> np.ndarray:
        """Pixels 3 x C of all pictures: hits, labelled, predicted."""
        rows = self.collected.rows
        return np.stack([rows[place] for place in range(len(self.names))]).sum(0)

    @property
    def present(self) -> np.ndarray:
        """The classes that occur in a label or a prediction."""
        _, labelled, predicted = self.pixels
        return np.flatnonzero(labelled + predicted)


def build_page(evaluation: Evaluation) -> bytes:
    """The page, in HTML."""
    thumbs = evaluation.collected.thumbs
    shown = sorted(thumbs)
    data = {
        "summary": summary(evaluation.scores),
        "classes": class_rows(evaluation),
        "palette": evaluation.classes.palette.tolist(),
        "names": list(evaluation.classes.names),
        "cells": confusion_cells(evaluation),
        "regions": region_rows(evaluation.collected),
        "distances": distance_rows(evaluation.collected),
        "pictures": [picture_row(evaluation, miou, place) for miou, place in shown],
        "total": len(evaluation.names),
        "settings": {key: str(value) for key, value in evaluation.settings.items()},
    }
    embedded = "".join(
        f'<script type="text/plain" id="p{i}">{thumbs[key]}</script>\n'
        for i, key in enumerate(shown)
    )
    # Only "<" could end a script element; JSON may write it as a code.
    content = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    head, middle, tail = TEMPLATE.read_text(encoding="utf-8").split("@@")
    return "".join([head, content, middle, embedded, tail]).encode()


def summary(scores: Scores) -> dict[str, float]:
    """The scores of the whole evaluation, by title."""
    return {
        "Pixel accuracy": scores.pixel_accuracy,
        "Mean accuracy": scores.mean_accuracy,
        "Mean IoU": scores.mean_iou,
        "Frequency-weighted IoU": scores.frequency_weighted_iou,
        "(mIoU + accuracy) / 2": scores.overall,
    }


def class_rows(evaluation: Evaluation) -> list[dict]:
    """Name and scores of each class that occurs."""
    hits, labelled, predicted = evaluation.pixels
    share = labelled / max(labelled.sum(), 1)
    return [
        {
            "index": int(c) + 1,
            "name": evaluation.classes.names[c],
            "iou": ratio(hits[c], labelled[c] + predicted[c] - hits[c]),
            "accuracy": ratio(hits[c], labelled[c]),
            "precision": ratio(hits[c], predicted[c]),
            "share": float(share[c]),
        }
        for c in evaluation.present
    ]


def confusion_cells(evaluation: Evaluation) -> list[list[int]]:
    """(row, column, pixels) of the confusion matrix of the classes that occur, without zeros."""
    present = evaluation.present
    part = evaluation.confusion[np.ix_(present, present)]
    return [[int(i), int(j), int(part[i, j])] for i, j in np.argwhere(part)]


def region_rows(collected: Collector) -> list[list]:
    """By the size of the label's regions: bin, regions, accuracy of pixels, mean IoU of regions."""
    regions, pixels, hits, overlap = collected.regions
    columns = zip(bins(REGION_SIZES), regions, pixels, hits, overlap, strict=True)
    return [[label, int(n), ratio(h, p), ratio(o, n)] for label, n, p, h, o in columns]


def distance_rows(collected: Collector) -> list[list]:
    """By the distance from a boundary: bin, pixels, accuracy, mean IoU."""
    hits, labelled, _ = collected.distances.sum(-1)
    scores = mean_known(iou(*collected.distances))
    columns = zip(bins(DISTANCES), labelled, hits, scores, strict=True)
    return [[label, int(n), ratio(h, n), json_number(score)] for label, n, h, score in columns]


def picture_row(evaluation: Evaluation, miou: float, place: int) -> dict:
    """Name, mean IoU and classes of a picture, by its place in the list."""
    occurs = evaluation.collected.rows[place][1:].sum(0)
    return {
        "name": evaluation.names[place],
        "miou": miou,
        "classes": np.flatnonzero(occurs).tolist(),
    }


def bins(starts: tuple[int, ...]) -> list[str]:
    """The names of bins: `0–1`, `2–3`, … `16+`."""
    ends = [f"–{end - 1:,}" for end in starts[1:]] + ["+"]
    return [f"{start:,}{end}" for start, end in zip(starts, ends, strict=True)]


def ratio(part: float, whole: float) -> float | None:
    """A fraction for JSON; None where the whole is 0."""
    return json_number(part / whole) if whole else None


def json_number(value: float) -> float | None:
    """Six digits, as sums over several processes may differ in the last; None for NaN."""
    return None if np.isnan(value) else round(float(value), 6)
