"""`models/winograd.py`: the same convolution, whichever way it is computed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import winograd
from models.winograd import Conv3x3, conv3x3, is_faster


def rounding(expected: Tensor) -> dict[str, float]:
    """What single precision may make of a result, by its largest value."""
    return {"rtol": 0, "atol": 3e-5 * expected.abs().max().item()}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("batch", "height", "width", "in_dim", "out_dim", "dilation"),
    [
        (2, 32, 32, 128, 128, 1),
        (1, 33, 47, 128, 160, 1),  # tiles that the picture does not fill
        (3, 29, 31, 64, 128, 2),
        (2, 32, 48, 128, 64, 4),
        (1, 37, 61, 130, 129, 4),
    ],
)
def test_values_and_gradients_are_those_of_the_direct_convolution(
    batch: int,
    height: int,
    width: int,
    in_dim: int,
    out_dim: int,
    dilation: int,
    memory_format: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = winograd.LIMITS._replace(positions=1, padding=10)
    monkeypatch.setattr(winograd, "LIMITS", limits)
    torch.manual_seed(0)
    x = torch.randn(batch, in_dim, height, width).contiguous(memory_format=memory_format)
    weight, bias = torch.randn(out_dim, in_dim, 3, 3), torch.randn(out_dim)
    grad = torch.randn(batch, out_dim, height, width)
    assert is_faster(x, weight, dilation, limits)

    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    ours = conv3x3(*inputs, dilation)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    theirs = F.conv2d(*exact, padding=dilation, dilation=dilation)
    torch.testing.assert_close(ours.double(), theirs, **rounding(theirs))
    ours.backward(grad)
    theirs.backward(grad.double())
    for mine, other in zip(inputs, exact, strict=True):
        torch.testing.assert_close(mine.grad.double(), other.grad, **rounding(other.grad))


@pytest.mark.parametrize("chunk_bytes", [1, 2**19, 2**30])
def test_the_size_of_chunks_does_not_change_the_result(
    chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(3, 128, 30, 34), torch.randn(128, 128, 3, 3)
    expected = winograd.convolve(x, weight, 2), winograd.correlate(x, x, 2)
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk_bytes)
    found = winograd.convolve(x, weight, 2), winograd.correlate(x, x, 2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda x: x.double(), id="double"),
        pytest.param(lambda x: x.bfloat16(), id="half"),
        pytest.param(lambda x: x[:, :, :16, :16], id="few positions"),
        pytest.param(lambda x: x[:, :, :33, :65], id="much padding"),
        pytest.param(lambda x: x.to("meta"), id="another device"),
    ],
)
def test_what_minimal_filtering_is_not_for_is_left_to_pytorch(
    change: Callable[[Tensor], Tensor],
) -> None:
    x, weight = torch.zeros(1, 128, 64, 80), torch.zeros(128, 128, 3, 3)
    assert is_faster(x, weight, 4, winograd.LIMITS)
    assert not is_faster(change(x), weight.to(change(x)), 4, winograd.LIMITS)


@pytest.mark.slow
def test_autocast_computes_in_half_precision() -> None:
    convolution, x = Conv3x3(128, 128), torch.zeros(1, 128, 64, 64)
    assert convolution(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert convolution(x).dtype == torch.bfloat16


def test_a_strided_convolution_is_pytorchs() -> None:
    torch.manual_seed(0)
    convolution, x = Conv3x3(128, 128, stride=2), torch.randn(1, 128, 64, 64)
    expected = nn.Conv2d.forward(convolution, x)
    assert torch.equal(convolution(x), expected)


@pytest.mark.parametrize(("height", "width", "dilation"), [(23, 30, 1), (64, 61, 2), (24, 32, 4)])
def test_a_frozen_convolution_keeps_its_transformed_weight(height, width, dilation) -> None:
    torch.manual_seed(0)
    convolution = Conv3x3(256, 256, dilation=dilation, bias=True).requires_grad_(False)
    x = torch.randn(2, 256, height, width).contiguous(memory_format=torch.channels_last)
    convolution.is_frozen = True
    for _ in range(2):
        expected = nn.Conv2d.forward(convolution, x)
        torch.testing.assert_close(convolution(x), expected, **rounding(expected))
        assert convolution.kernel is not None
    convolution.load_state_dict(Conv3x3(256, 256, dilation=dilation, bias=True).state_dict())
    expected = nn.Conv2d.forward(convolution, x)  # of another weight
    torch.testing.assert_close(convolution(x), expected, **rounding(expected))
    assert convolution.state_dict().keys() == {"weight", "bias"}


def test_a_frozen_convolution_of_few_channels_is_pytorchs() -> None:
    convolution, x = Conv3x3(128, 256), torch.randn(1, 128, 64, 64)
    convolution.is_frozen = True
    assert torch.equal(convolution(x), nn.Conv2d.forward(convolution, x))
    assert convolution.kernel is None


def test_frozen_parameters_get_no_gradient_and_pass_it_on() -> None:
    convolution, x = Conv3x3(128, 128), torch.randn(1, 128, 64, 64, requires_grad=True)
    convolution.requires_grad_(False)
    convolution(x).sum().backward()
    assert convolution.weight.grad is None
    assert x.grad.abs().sum() > 0
