"""Depthwise convolutions keep their outputs, and their gradients become faster and more exact."""

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import ModelBuilder, SegmentationModel
from models.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, speed_up_gradients

ROUNDING = 2.0**-8  # of bfloat16


def outcome(network: nn.Module, x: Tensor, amp: torch.dtype | None) -> list[Tensor]:
    """The output of a step with random gradients, and the gradients."""
    x.grad = None
    network.zero_grad()
    with torch.autocast("cpu", dtype=amp, enabled=amp is not None):
        y = network(x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype))
    return [y.detach(), x.grad, *(parameter.grad for parameter in network.parameters())]


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    ("kind", "fast", "options"),
    [
        (nn.Conv2d, DepthwiseConv2d, {"padding": 2}),
        (nn.Conv2d, DepthwiseConv2d, {"padding": 1, "stride": 2, "dilation": 2, "bias": False}),
        (Conv2dSame, DepthwiseConv2dSame, {"stride": 1}),
        (Conv2dSame, DepthwiseConv2dSame, {"stride": 2}),
        (Conv2dSame, DepthwiseConv2dSame, {"stride": (2, 1), "dilation": 2}),
    ],
)
@pytest.mark.parametrize("amp", [None, torch.bfloat16])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_outputs_stay_and_gradients_are_exact(kind, fast, options, kernel_size, amp, multiplier):
    torch.manual_seed(0)
    plain = nn.Sequential(kind(8, 8 * multiplier, kernel_size, groups=8, **options))
    network = copy.deepcopy(plain)
    speed_up_gradients(network)
    assert type(network[0]) is fast
    assert network.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(2, 8, 17, 20).bfloat16().float().requires_grad_()
    exact, expected, found = (
        outcome(net, x, half) for net, half in ((plain, None), (plain, amp), (network, amp))
    )
    assert torch.equal(found[0], expected[0]) and found[0].dtype == expected[0].dtype
    for value, true in zip(found[1:], exact[1:], strict=True):
        assert value.dtype == torch.float32
        assert (value - true).norm() <= ROUNDING * true.norm()


def test_double_precision_stays():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, groups=8)).double()
    network = copy.deepcopy(plain)
    speed_up_gradients(network)
    x = torch.randn(2, 8, 17, 20, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(outcome(network, x, None), outcome(plain, x, None))


class Gradients(TorchDispatchMode):
    """A context that notes the types of depthwise convolutions' gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default and args[9] > 1:
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("arch_encoder", "grad_checkpoint"),
    [
        ("mobilenetv2dilated", False),
        ("mobilenetv2dilated", True),
        ("timm:tf_efficientnet_lite0", False),
        ("timm:convnext_atto", False),
    ],
)
def test_all_depthwise_gradients_of_a_network_are_in_single_precision(
    arch_encoder, grad_checkpoint
):
    encoder = ModelBuilder.build_encoder(arch_encoder, weights="none")
    encoder.grad_checkpoint = grad_checkpoint
    decoder = ModelBuilder.build_decoder("c1_bilinear", encoder.channels, 5)
    model = SegmentationModel(encoder, decoder, torch.bfloat16)
    speed_up_gradients(model)
    images = torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)
    loss = model(images, torch.randint(5, (2, 64, 64)))
    with Gradients() as gradients:
        loss.backward()
    depthwise = [conv for conv in model.modules() if isinstance(conv, DepthwiseConv2d)]
    assert gradients.types == [torch.float32] * len(depthwise) != []


def test_other_convolutions_stay():
    convolutions = [
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(8, 8, 3, groups=4),
        nn.Conv2d(8, 8, 3, groups=8, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, groups=8, padding="same"),
    ]
    speed_up_gradients(nn.ModuleList(convolutions))
    assert {type(conv) for conv in convolutions} == {nn.Conv2d}
