"""The confusion matrix against class-wise histograms and against torchmetrics.

    python -m benchmarks.metrics

Predictions and labels of eight pictures of 512 x 683 pixels and 150 classes.
"""

import argparse
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.common import Job, Tables, compare, main
from common.metrics import ConfusionMatrix
from utils import keep_freed_memory

CLASSES, SHAPE = 150, (8, 512, 683)


def random_maps() -> tuple[Tensor, Tensor]:
    """Mostly right predictions, and labels, 255 = unlabelled, both in patches as in pictures."""
    patches = torch.randint(CLASSES, (SHAPE[0], 1, 16, 22)).float()
    labels = nn.functional.interpolate(patches, SHAPE[1:])[:, 0].to(torch.uint8)
    predictions = labels.where(torch.rand(SHAPE) < 0.7, labels.roll(40, dims=-1))
    return predictions, labels.where(torch.rand(SHAPE) < 0.95, 255)


def histograms() -> Job:
    """The areas of intersection, prediction and label, from histograms of floats."""
    predictions, labels = (maps.long() for maps in random_maps())
    histogram = partial(torch.histc, bins=CLASSES, min=0, max=CLASSES - 1)

    def job() -> None:
        labelled = labels != 255
        found, wanted = predictions[labelled], labels[labelled]
        for areas in (found[found == wanted], found, wanted):
            histogram(areas.float())

    return job


def torchmetrics_matrix() -> Job:
    """The confusion matrix of torchmetrics."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    predictions, labels = (maps.long() for maps in random_maps())
    matrix = MulticlassConfusionMatrix(CLASSES, ignore_index=255, validate_args=False)
    return partial(matrix.update, predictions, labels)


def ours() -> Job:
    """The confusion matrix of `common/metrics.py`."""
    keep_freed_memory()
    predictions, labels = random_maps()
    return partial(ConfusionMatrix(CLASSES).update, predictions, labels)


def tables(args: argparse.Namespace) -> Tables:
    """The comparison; torchmetrics is left out if it is not installed."""
    contenders = {"class-wise histograms of floats": histograms}
    if find_spec("torchmetrics"):
        contenders["torchmetrics, `MulticlassConfusionMatrix`"] = torchmetrics_matrix
    contenders["`ConfusionMatrix` of `common/metrics.py`"] = ours
    return {"Confusion matrix of 8 x 512 x 683 pixels": compare(contenders, args.rounds)}


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
