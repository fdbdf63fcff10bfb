"""The options of the banded loss, and sums over pixels, against the same at full size."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import loss as losses
from models import upsample as head
from models.loss import CrossEntropy, log_softmax, sum_over_pixels, upsample_cross_entropy
from models.upsample import upsample

from ..conftest import ROOT

EXTENT = (3.6, 5.3)


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several bands a picture, whose height does not divide the picture's."""
    monkeypatch.setattr(head, "CPU_BAND_BYTES", 5 * 17 * 8 * 3)


@pytest.fixture
def logits() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)


@pytest.fixture
def labels() -> Tensor:
    torch.manual_seed(1)
    return torch.randint(-1, 5, (2, 13, 17))


def full_size(logits: Tensor, labels: Tensor) -> Tensor:
    return upsample(logits, labels.shape[-2:], EXTENT)


def assert_same_with_gradients(found: Tensor, expected: Tensor, logits: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_is_that_of_torch(logits, labels, smoothing, weighted):
    weight = torch.tensor([0, 0.5, 1, 2, 3], dtype=torch.float64) if weighted else None
    found = CrossEntropy(weight, label_smoothing=smoothing)(logits, labels, EXTENT)
    options = {"ignore_index": -1, "weight": weight, "label_smoothing": smoothing}
    expected = F.cross_entropy(full_size(logits, labels), labels, **options)
    assert_same_with_gradients(found, expected, logits)


def test_smoothed_labels_that_are_all_missing_or_of_no_weight_give_zero(logits, labels):
    weight = torch.tensor([0.0, 1, 1, 1, 1])
    for nothing in (torch.full_like(labels, -1), torch.zeros_like(labels)):
        loss = upsample_cross_entropy(logits, nothing, None, weight, label_smoothing=0.1)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss == 0 and (gradient == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
def test_hard_pixels_are_those_below_the_threshold_or_the_hardest_sixteenth(
    logits, labels, threshold, smoothing, weighted
):
    weight = torch.tensor([0, 0.5, 1, 2, 3], dtype=torch.float64) if weighted else None
    loss = CrossEntropy(weight, smoothing, threshold)
    found = loss(logits, labels, EXTENT)
    whole = full_size(logits, labels)
    of_label = whole.softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0].detach()
    counts = labels != -1 if weight is None else (labels != -1) & (weight[labels] > 0)
    hardest = of_label[counts].sort().values[counts.sum() // losses.LEAST_HARD - 1]
    hard = counts & (of_label <= max(hardest, threshold))
    assert (hard.sum() == counts.sum() // losses.LEAST_HARD) == (threshold == 0.01)
    expected = F.cross_entropy(
        whole, labels.where(hard, -1), weight, ignore_index=-1, label_smoothing=smoothing
    )
    assert_same_with_gradients(found, expected, logits)


def test_pixels_are_counted_as_right_whether_they_are_hard_or_not(logits, labels):
    _, correct = CrossEntropy(ohem_thresh=0.1)(logits, labels, count_correct=True)
    assert correct == CrossEntropy()(logits, labels, count_correct=True)[1] > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_adjusted_logits_is_that_of_torch(logits, labels, smoothing):
    weight = torch.tensor([0.1, 0.5, 1, 2, 30], dtype=torch.float64)
    loss = CrossEntropy(weight, smoothing, logit_adjust=0.75)
    adjusted = full_size(logits, labels) + 0.75 * weight.log()[:, None, None]
    options = {"ignore_index": -1, "weight": weight, "label_smoothing": smoothing}
    expected = F.cross_entropy(adjusted, labels, **options)
    found, correct = loss(logits, labels, EXTENT, count_correct=True)
    assert found == loss(logits, labels, EXTENT)
    assert_same_with_gradients(found, expected, logits)
    predicted, leaning = (z.argmax(1) for z in (full_size(logits, labels), adjusted))
    assert correct == (predicted == labels).sum() != (leaning == labels).sum()


def test_adjusted_wholly_the_best_logits_are_the_classes_frequencies_whatever_the_weights():
    labels = torch.tensor([0] * 12 + [1] * 3 + [2]).view(1, 4, 4)
    frequency = torch.tensor([12, 3, 1], dtype=torch.float64) / 16
    logits = frequency.log().view(1, 3, 1, 1).expand(1, 3, 4, 4).clone().requires_grad_()
    weight = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)
    for share, is_best in ((1.0, True), (0.5, False)):
        loss = CrossEntropy(weight, logit_adjust=share)(logits, labels)
        slope = torch.autograd.grad(loss, logits)[0].sum((0, 2, 3))
        assert torch.allclose(slope, torch.zeros(3).double(), atol=1e-12) == is_best


def test_logits_that_are_not_finite_are_not_hidden_among_easy_pixels(logits, labels):
    logits = logits.detach().clone()
    logits[0, 0, 0, 0] = torch.nan
    assert not CrossEntropy(ohem_thresh=0.7)(logits, labels).isfinite()


def test_no_labels_are_no_hard_pixels(logits, labels):
    assert CrossEntropy(ohem_thresh=0.7)(logits, torch.full_like(labels, -1)) == 0


def test_sums_over_pixels_and_their_gradients_are_those_at_full_size(logits, labels):
    def terms(z: Tensor, target: Tensor) -> Tensor:
        return (z.softmax(-1).square() * F.one_hot(target, 5)).sum(0)

    def loss_of(sums: Tensor) -> Tensor:
        return (sums / (1 + sums.sum())).square().sum()

    found = sum_over_pixels(logits, labels, EXTENT, terms)
    labelled = labels != -1
    pixels = full_size(logits, labels).permute(0, 2, 3, 1)[labelled]
    expected = terms(pixels, labels[labelled])
    torch.testing.assert_close(found, expected)
    assert_same_with_gradients(loss_of(found), loss_of(expected), logits)
    assert torch.autograd.gradcheck(
        lambda z: sum_over_pixels(z, labels, EXTENT, terms), logits.detach().requires_grad_()
    )


def test_the_example_of_the_documents_is_the_dice_loss(logits, labels):
    text = Path(ROOT, "docs/training.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    found, correct = namespace["WithDice"]()(logits, labels, EXTENT, count_correct=True)
    plain, right = CrossEntropy()(logits, labels, EXTENT, count_correct=True)
    labelled = labels != -1
    p = full_size(logits, labels).softmax(1).permute(0, 2, 3, 1)[labelled]
    one_hot = F.one_hot(labels[labelled], 5)
    dice = 2 * (p * one_hot).sum(0) / (p + one_hot).sum(0)
    assert correct == right
    assert_same_with_gradients(found, plain + 1 - dice.mean(), logits)


@pytest.mark.parametrize("num_class", [2, 7, 8, 15, 16, 150])
def test_log_softmax_of_few_and_many_classes_is_that_of_torch(num_class):
    logits = torch.randn(3, 4, num_class, generator=torch.Generator().manual_seed(0))
    logits[0] *= 1e4  # whose exponentials overflow
    found = log_softmax(logits, out=torch.empty_like(logits))
    torch.testing.assert_close(found, logits.log_softmax(-1))
