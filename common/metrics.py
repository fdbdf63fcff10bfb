"""Metrics: the confusion matrix, the scores that follow from it, and running means."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from utils import UserError


class AverageMeter:
    """The mean of numbers, or of scalar tensors, which stay on their device until `average`."""

    def __init__(self) -> None:
        self.sum: float | Tensor = 0.0
        self.count = 0

    def update(self, value: float | Tensor, n: int = 1) -> None:
        """Count a value `n` times."""
        self.sum = self.sum + value * n
        self.count += n

    @property
    def average(self) -> float:
        """The mean so far; 0 before the first value."""
        return float(self.sum) / max(self.count, 1)


def is_labelled(labels: Tensor, num_class: int) -> Tensor:
    """Where labels hold one of the classes 0…num_class-1 (bool, of their shape)."""
    return (labels >= 0) & (labels < num_class)


def class_pixels(labels: Tensor, num_class: int) -> Tensor:
    """How many pixels of each class labels of any shape have (num_class, int64)."""
    # Selecting the labelled ones takes eight times as long as counting the others aside.
    labels = labels.where(is_labelled(labels, num_class), num_class)
    return torch.bincount(labels.flatten(), minlength=num_class + 1)[:num_class]


def count_on_gpu(values: Tensor, minlength: int) -> Tensor:
    """`torch.bincount` of integers below `minlength`: without asking the GPU for the largest."""
    bins = torch.zeros(minlength, dtype=torch.int64, device=values.device)
    return bins.scatter_add_(0, values.long(), bins.new_ones(()).expand_as(values))


class ConfusionMatrix:
    """How many pixels of each class (row) were predicted as each class (column)."""

    def __init__(self, num_class: int, device: torch.device | str = "cpu"):
        self.num_class = num_class
        self.counts = torch.zeros(num_class, num_class, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count pixels; those whose label is none of 0…num_class-1 are left out.

        Args:
            predictions: integers of any shape, 0…num_class-1.
            labels: integers of the same shape; both on the matrix's device.
        """
        n = self.num_class
        rows = labels.int()
        rows = rows.where(is_labelled(rows, n), n)  # row n counts what is left out
        pairs = rows.mul_(n).add_(predictions).flatten()
        count = torch.bincount if pairs.is_cpu else count_on_gpu
        self.counts += count(pairs, minlength=(n + 1) * n)[: n * n].view(n, n)

    def scores(self) -> "Scores":
        """The scores of all pixels so far.

        Raises:
            UserError: no pixel had a label.
        """
        counts = self.counts.cpu().double().numpy()
        if counts.sum() == 0:
            raise UserError("no pixel of the labels belongs to a class: there is nothing to score")
        hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore"):  # 0/0 = nan marks what cannot be scored
            iou = hits / (labelled + predicted - hits)
            accuracy = hits / labelled
        return Scores(iou, accuracy, labelled / labelled.sum(), float(hits.sum() / labelled.sum()))


@dataclass(frozen=True)
class Scores:
    """Scores as fractions. A class without a score has nan, and no mean counts it but one.

    Attributes:
        iou: num_class, intersection over union; nan where no label and no prediction has the class.
        accuracy: num_class, share of the class's pixels that were found; nan where no label has it.
        share: num_class, share of all labelled pixels.
        pixel_accuracy: share of all labelled pixels that were predicted right.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    pixel_accuracy: float

    @property
    def mean_iou(self) -> float:
        """The mean of the classes' IoU."""
        return float(np.nanmean(self.iou))

    @property
    def mean_iou_of_all(self) -> float:
        """The mean over all classes, as the later reference takes it: absent ones count as 0."""
        return float(np.nan_to_num(self.iou).mean())

    @property
    def mean_accuracy(self) -> float:
        """The mean of the classes' accuracy."""
        return float(np.nanmean(self.accuracy))

    @property
    def frequency_weighted_iou(self) -> float:
        """The mean of the classes' IoU, weighted by their shares of the pixels."""
        return float(np.nansum(self.share * self.iou))

    @property
    def overall(self) -> float:
        """The ranking of ADE20K's benchmark: the mean of mean IoU and pixel accuracy."""
        return (self.mean_iou + self.pixel_accuracy) / 2

    @property
    def absent(self) -> int:
        """Number of classes in neither label nor prediction."""
        return int(np.isnan(self.iou).sum())
