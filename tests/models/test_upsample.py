"""The banded head against what it stands for: `F.interpolate`, then softmax, loss or argmax."""

from collections.abc import Iterator
from math import ceil, floor, log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import upsample as head
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample, upsample_argmax

# (h, w), (H, W): by 8 and by odd ratios, by less than 1, by nothing, from and to a single pixel.
SIZES = [
    ((6, 9), (48, 72)),
    ((4, 6), (13, 17)),
    ((9, 7), (5, 4)),
    ((5, 5), (5, 5)),
    ((1, 1), (7, 3)),
    ((3, 2), (1, 1)),
]


@pytest.fixture(autouse=True)
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several bands a picture, whose height does not divide the picture's."""
    monkeypatch.setattr(head, "CPU_BAND_BYTES", 5 * 17 * 8 * 3)


def expected_loss(logits: Tensor, labels: Tensor, **kwargs) -> Tensor:
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels.long(), ignore_index=-1, **kwargs)


@pytest.fixture(params=[False, True], ids=["any order", "deterministic"])
def sums(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to add gradients up."""
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("sums")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_loss_and_gradient_are_those_of_the_upsampled_logits(small, large, weighted):
    torch.manual_seed(0)
    exact = torch.randn(2, 5, *small, dtype=torch.float64, requires_grad=True)
    single = exact.detach().float().requires_grad_()
    labels = torch.randint(-1, 5, (2, *large))
    labels[0, 0, 0] = 2
    weight = torch.rand(5, dtype=torch.float64) if weighted else None
    expected = expected_loss(exact, labels, weight=weight)
    expected.backward()
    loss = upsample_cross_entropy(single, labels, weight=weight)
    loss.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    error = (single.grad.double() - exact.grad).abs().max()
    assert error < 1e-5 * exact.grad.abs().max()


def test_gradcheck_passes_in_double():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 3, (2, 7, 9))
    weight = torch.rand(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z: upsample_cross_entropy(z, labels, weight=weight), logits
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_of_any_integer_type_hold_minus_one_as_unlabelled(dtype):
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 6), torch.randint(-1, 5, (2, 13, 17))
    assert (labels == -1).any()
    loss = upsample_cross_entropy(logits, labels.to(dtype))
    torch.testing.assert_close(loss, expected_loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_computed_in_single(dtype):
    torch.manual_seed(0)
    logits = torch.randn(2, 5, 4, 6).to(dtype).requires_grad_()
    labels = torch.randint(-1, 5, (2, 13, 17))
    loss = upsample_cross_entropy(logits, labels)
    torch.testing.assert_close(loss, expected_loss(logits.detach().float(), labels))
    loss.backward()
    assert logits.grad.dtype == dtype and logits.grad.abs().sum() > 0


def test_gradients_too_small_for_half_precision_are_those_of_a_scaled_loss():
    """As a gradient scaler asks for: 2^16 is more than float16 can hold, which is no matter."""
    torch.manual_seed(0)
    half = torch.randn(2, 5, 4, 6).half()
    half[:, 0] = -12  # a class of little probability, and so of little gradient
    single = half.float().requires_grad_()
    half.requires_grad_()
    labels, scale = torch.randint(1, 5, (2, 32, 48)), 2.0**16
    (scale * upsample_cross_entropy(half, labels)).backward()
    (scale * expected_loss(single, labels)).backward()
    assert ((single.grad / scale).half() == 0).any()
    torch.testing.assert_close(half.grad, single.grad.half())


def test_autocast_does_not_round_the_loss():
    torch.manual_seed(0)
    logits, labels = 10 * torch.randn(1, 5, 4, 6), torch.randint(0, 5, (1, 32, 48))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = upsample_cross_entropy(logits, labels)
    torch.testing.assert_close(loss, expected_loss(logits, labels))


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_extreme_logits_neither_overflow_nor_vanish(scale):
    torch.manual_seed(0)
    logits = (scale * torch.randn(1, 5, 4, 6)).requires_grad_()
    labels = torch.randint(0, 5, (1, 13, 17))
    loss = upsample_cross_entropy(logits, labels)
    loss.backward()
    torch.testing.assert_close(loss, expected_loss(logits.detach(), labels))
    assert logits.grad.isfinite().all()


def test_labels_that_are_all_missing_give_zero_and_no_nan():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = upsample_cross_entropy(logits, torch.full((1, 8, 8), 255, dtype=torch.uint8))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()


def test_memory_formats_do_not_matter():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 6), torch.randint(-1, 5, (2, 13, 17))
    gradients = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        z = logits.clone(memory_format=memory_format).requires_grad_()
        upsample_cross_entropy(z, labels).backward()
        gradients.append(z.grad)
    torch.testing.assert_close(*gradients)


def test_gradients_flow_on_through_checkpointing_and_are_scaled():
    torch.manual_seed(0)
    x, labels = torch.randn(1, 5, 4, 6, requires_grad=True), torch.randint(0, 5, (1, 13, 17))
    (gradient,) = torch.autograd.grad(upsample_cross_entropy(x * 2, labels), x)
    loss = torch.utils.checkpoint.checkpoint(
        lambda z: upsample_cross_entropy(z * 2, labels), x, use_reentrant=False
    )
    (3 * loss).backward()
    torch.testing.assert_close(x.grad, 3 * gradient)


def test_correct_pixels_are_those_whose_label_the_argmax_gives(monkeypatch):
    monkeypatch.setattr("models.upsample.CPU_BAND_BYTES", 4000)
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 4, 6, requires_grad=True), torch.randint(-1, 5, (2, 23, 17))
    loss, correct = upsample_cross_entropy(logits, labels, count_correct=True)
    assert correct == (upsample_argmax(logits, (23, 17)) == labels).sum() > 0
    loss.backward()
    torch.testing.assert_close(loss, upsample_cross_entropy(logits, labels))
    assert logits.grad.abs().sum() > 0


def test_a_tie_is_not_counted_as_right():
    """A network that gives all classes the same logit has learnt nothing."""
    labels = torch.randint(0, 150, (1, 16, 16))
    logits = torch.zeros(1, 150, 2, 2, requires_grad=True)
    loss, correct = upsample_cross_entropy(logits, labels, count_correct=True)
    assert correct == 0 and loss.item() == pytest.approx(log(150))
    loss.backward()
    expected = torch.zeros(1, 150, 2, 2, requires_grad=True)
    expected_loss(expected, labels).backward()
    torch.testing.assert_close(logits.grad, expected.grad)


def test_backward_a_second_time_or_for_a_second_order_is_a_clear_error():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = upsample_cross_entropy(logits, torch.zeros(1, 8, 8, dtype=torch.uint8))
    loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        loss.backward()
    loss = upsample_cross_entropy(logits, torch.zeros(1, 8, 8, dtype=torch.uint8))
    (gradient,) = torch.autograd.grad(loss.square(), logits, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_labels_and_probabilities_are_those_of_the_upsampled_logits(small, large):
    torch.manual_seed(0)
    logits = [torch.randn(2, 5, *small), torch.randn(2, 5, 4, 3)]
    upsampled = [F.interpolate(z, large, mode="bilinear") for z in logits]
    assert (upsample_argmax(logits[0], large) == upsampled[0].argmax(1)).all()
    mean = (upsampled[0].softmax(1) + upsampled[1].softmax(1)) / 2
    labels, probability = average_upsampled_probabilities(logits, large, [None] * len(logits))
    assert (labels == mean.argmax(1)).all()
    torch.testing.assert_close(probability, mean.amax(1))


def test_logits_of_mirrored_pictures_are_mirrored_back():
    """Features are counted from the other side, whatever part of the last one is a picture's."""
    torch.manual_seed(0)
    logits = [torch.randn(2, 5, 4, 6) for _ in range(2)]
    extent, size = (3.5, 5.25), (28, 42)
    whole = [upsample(z, size, extent) for z in logits]
    mean = (whole[0].softmax(1) + whole[1].flip(-1).softmax(1)) / 2
    labels, probability = average_upsampled_probabilities(
        logits, size, [extent, extent], [False, True]
    )
    torch.testing.assert_close(probability, mean.amax(1))
    assert (labels == mean.argmax(1)).float().mean() > 0.999


def cropped(logits: Tensor, stride: int, height: int, width: int) -> Tensor:
    """Logits, upsampled by `stride`, of which a picture of height x width covers a part.

    Beyond the last logit, its value goes on.
    """
    logits = F.pad(logits, (0, 1, 0, 1), mode="replicate")
    full = F.interpolate(logits, scale_factor=stride, mode="bilinear")
    return full[..., :height, :width]


# More features than whole strides as ResNets give them, and fewer as VGG; multiples of the stride.
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("height", [31, 33, 40, 48])
@pytest.mark.parametrize("features", [ceil, floor])
def test_a_feature_covers_a_stride_whatever_the_size_of_the_picture(stride, height, features):
    torch.manual_seed(0)
    width = height + 5
    extent = (height / stride, width / stride)
    logits = torch.randn(2, 5, *map(features, extent), dtype=torch.float64, requires_grad=True)
    labels = torch.randint(-1, 5, (2, height, width))
    whole = cropped(logits, stride, height, width)
    torch.testing.assert_close(upsample(logits, (height, width), extent), whole)
    assert (upsample_argmax(logits, (height, width), extent) == whole.argmax(1)).all()
    _, probability = average_upsampled_probabilities([logits], (height, width), [extent])
    torch.testing.assert_close(probability, whole.softmax(1).amax(1).detach())
    loss = upsample_cross_entropy(logits, labels, extent)
    expected = F.cross_entropy(whole, labels, ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x, logits)[0] for x in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_a_gradient_of_as_many_columns_as_there_are_logits_is_right_too():
    """Where the kernel of torch would take each column for itself."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    labels, extent = torch.randint(0, 3, (1, 6, 6)), (5.25, 5.25)
    assert torch.autograd.gradcheck(lambda z: upsample_cross_entropy(z, labels, extent), logits)


@pytest.mark.parametrize(("classes", "dtype"), [(255, torch.uint8), (256, torch.int16)])
def test_labels_take_the_smallest_type_that_fits(classes, dtype):
    logits = torch.zeros(1, classes, 1, 1)
    logits[:, -1] = 1
    labels = upsample_argmax(logits, (2, 2))
    assert labels.dtype == dtype and (labels == classes - 1).all()
