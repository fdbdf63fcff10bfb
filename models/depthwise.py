"""Depthwise convolutions whose gradients are computed in single precision, on CPUs.

PyTorch's library for CPUs has no fast gradients of them in half precision: those of 5x5 kernels, or
at a stride of 2, take several times as long as in single precision. Outputs stay in half precision.
`python -m benchmarks.depthwise` tells what that is worth.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

HALF = (torch.bfloat16, torch.float16)


class Geometry(NamedTuple):
    """Rows and columns of a convolution, under the names of `F.conv2d`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with a group for each channel, and fast gradients in half precision."""

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        if x.dtype not in HALF or not torch.is_grad_enabled():
            return super().forward(x)
        assert not isinstance(self.padding, str)
        geometry = Geometry(self.stride, self.padding, self.dilation)
        return DepthwiseConvolution.apply(x, self.weight, self.bias, geometry)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """The same of timm's `Conv2dSame`, which pads as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        """B x C x ceil(H / stride) x ceil(W / stride) of B x C x H x W."""
        from timm.layers import pad_same  # an optional package, of which this layer was

        kernel_size, stride, dilation = map(list, (self.kernel_size, self.stride, self.dilation))
        return super().forward(pad_same(x, kernel_size, stride, dilation))


class DepthwiseConvolution(torch.autograd.Function):
    """The convolution as it is, and its gradients in single precision."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = geometry
        bias = None if bias is None else bias.to(x.dtype)
        stride, padding, dilation = geometry
        return F.conv2d(x, weight.to(x.dtype), bias, stride, padding, dilation, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad.float(),
            x.float(),
            weight.float(),
            weight.shape[:1],
            *ctx.geometry,
            False,
            (0, 0),
            x.shape[1],
            ctx.needs_input_grad[:3],
        )
        return None if of_x is None else of_x.to(x.dtype), of_weight, of_bias, None


def speed_up_gradients(network: nn.Module) -> None:
    """Let all depthwise convolutions of a network, on a CPU, have fast gradients."""
    for module in network.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.groups == module.in_channels > 1
            and module.padding_mode == "zeros"
            and not isinstance(module.padding, str)
        ):
            if type(module) is nn.Conv2d:
                module.__class__ = DepthwiseConv2d
            elif type(module).__name__ == "Conv2dSame":
                module.__class__ = DepthwiseConv2dSame
