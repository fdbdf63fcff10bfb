import pytest
import torch
from torch.nn import functional as F

from models.upsample import (
    average_upsampled_probabilities,
    upsample_argmax,
    upsample_cross_entropy,
)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_loss_is_the_mean_over_labelled_pixels(dtype):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 6, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 5, (2, 13, 17))
    expected = F.cross_entropy(
        F.interpolate(logits, (13, 17), mode="bilinear"), labels, ignore_index=-1
    )
    loss = upsample_cross_entropy(logits, labels.to(dtype))
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_labels_that_are_all_missing_give_zero_and_no_nan():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = upsample_cross_entropy(logits, torch.full((1, 8, 8), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_labels_and_probabilities_are_those_of_the_upsampled_logits():
    torch.manual_seed(0)
    small, large = torch.randn(2, 5, 4, 6), torch.randn(2, 5, 9, 11)
    upsampled = [F.interpolate(z, (20, 30), mode="bilinear") for z in (small, large)]
    assert (upsample_argmax(small, (20, 30)) == upsampled[0].argmax(1)).all()
    mean = (upsampled[0].softmax(1) + upsampled[1].softmax(1)) / 2
    torch.testing.assert_close(average_upsampled_probabilities([small, large], (20, 30)), mean)


def test_half_precision_logits_are_upsampled_in_single_precision():
    logits = torch.randn(1, 3, 4, 4).bfloat16()
    labels = torch.zeros(1, 9, 9, dtype=torch.uint8)
    torch.testing.assert_close(
        upsample_cross_entropy(logits, labels), upsample_cross_entropy(logits.float(), labels)
    )
