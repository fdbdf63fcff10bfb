import numpy as np
import pytest
import torch

from common.metrics import AverageMeter, ConfusionMatrix, count_on_gpu
from utils import UserError


def test_average_meter_weighs_numbers_and_tensors_by_their_count():
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(torch.tensor(5.0), 1)
    assert meter.average == 2
    assert AverageMeter().average == 0


def test_scores_are_those_of_the_definitions():
    """Against sums over sets of pixels, class by class."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(-1, 4, (2, 9, 11)), rng.integers(0, 4, (2, 9, 11))
    confusion = ConfusionMatrix(6)
    for label, prediction in zip(labels, predictions, strict=True):
        confusion.update(torch.as_tensor(prediction), torch.as_tensor(label))
    scores = confusion.scores()
    predictions = predictions[labels >= 0]
    labels = labels[labels >= 0]
    for k in range(4):
        is_label, is_prediction = labels == k, predictions == k
        assert scores.iou[k] == (is_label & is_prediction).sum() / (is_label | is_prediction).sum()
        assert scores.accuracy[k] == (is_label & is_prediction).sum() / is_label.sum()
        assert scores.share[k] == is_label.mean()
    assert scores.pixel_accuracy == (labels == predictions).mean()
    assert scores.mean_iou == pytest.approx(scores.iou[:4].mean())
    assert scores.mean_accuracy == pytest.approx(scores.accuracy[:4].mean())
    assert scores.frequency_weighted_iou == pytest.approx((scores.share * scores.iou)[:4].sum())
    assert scores.overall == pytest.approx((scores.mean_iou + scores.pixel_accuracy) / 2)
    assert scores.absent == 2


def test_a_class_that_is_only_predicted_counts_as_missed_but_has_no_accuracy():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    scores = confusion.scores()
    assert scores.iou[:2].tolist() == [0.5, 0] and np.isnan(scores.iou[2])
    assert scores.mean_iou == 0.25 and scores.mean_accuracy == 0.5 and scores.absent == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_unlabelled_pixels_do_not_count(dtype):
    unlabelled = 255 if dtype == torch.uint8 else -1
    confusion = ConfusionMatrix(255)
    confusion.update(torch.tensor([254, 3]), torch.tensor([254, unlabelled], dtype=dtype))
    assert confusion.counts.sum() == 1 and confusion.counts[254, 254] == 1


def test_counts_are_exact_however_many():
    confusion = ConfusionMatrix(2)
    confusion.counts[1, 1] = 10**12
    confusion.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
    assert confusion.counts.tolist() == [[0, 0], [1, 10**12 + 1]]
    assert confusion.scores().iou[1] == (10**12 + 1) / (10**12 + 2)


def test_nothing_labelled_is_an_error_and_no_nan():
    with pytest.raises(UserError, match="nothing to score"):
        ConfusionMatrix(3).scores()


@pytest.mark.parametrize("num_class", [5, 150])
def test_scores_are_the_references_where_classes_are_absent_too(num_class):
    reference = pytest.importorskip(
        "mit_semseg.utils", reason="mit-semseg, the reference, is not installed"
    )
    rng = np.random.default_rng(0)
    confusion, sums = ConfusionMatrix(num_class), np.zeros((2, num_class))
    correct = labelled = 0.0
    for _ in range(3):
        label, prediction = rng.integers(-1, 4, (8, 9)), rng.integers(0, 3, (8, 9))
        confusion.update(torch.as_tensor(prediction), torch.as_tensor(label))
        sums += reference.intersectionAndUnion(prediction, label, num_class)
        accuracy, pixels = reference.accuracy(prediction, label)
        correct, labelled = correct + accuracy * pixels, labelled + pixels
    scores = confusion.scores()
    assert scores.mean_iou_of_all == pytest.approx((sums[0] / (sums[1] + 1e-10)).mean())
    assert scores.pixel_accuracy == pytest.approx(correct / labelled)
    assert scores.absent == num_class - 4 and scores.mean_iou_of_all < scores.mean_iou


def test_a_gpus_way_to_count_is_bincount():
    values = torch.randint(7, (50,), dtype=torch.int32)
    counts = count_on_gpu(values, minlength=9)
    assert counts.dtype == torch.int64 and torch.equal(counts, torch.bincount(values, minlength=9))
