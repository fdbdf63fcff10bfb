"""3x3 convolutions with a quarter of the multiplications, where that is faster: on CPUs.

Winograd's minimal filtering F(4x4, 3x3), as Lavin and Gray describe it in "Fast Algorithms for
Convolutional Neural Networks", 2016, section 4. Tiles of 6 x 6 inputs and the kernel are
transformed linearly and multiplied element by element; over all tiles and channels that makes 36
matrix products. Another transform gives 4 x 4 outputs. cuDNN chooses such algorithms by itself;
PyTorch's library for CPUs does not, in single precision. A dilated convolution is an ordinary one
on every `dilation`-th row and column: only the inputs of a tile are others.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .interpolation import is_exporting

# The transforms along one axis; both axes take their Kronecker product. Their constants lose some
# precision: errors are 1e-5 of the largest output, those of a direct convolution 1e-6.
INPUT_TRANSFORM = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
KERNEL_TRANSFORM = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
OUTPUT_TRANSFORM = torch.tensor(
    [
        [1.0, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)


class Limits(NamedTuple):
    """Where minimal filtering is faster: least channels and positions, most padding of these."""

    channels: int
    positions: int
    padding: float


# Measured on two cores with AVX2 and a third-level cache of 32 MB: with fewer channels, fewer
# positions, or more padding, the transforms take longer than they save. The gradient of the weights
# gains earlier than the others: its direct computation is the slowest.
MIN_CHANNELS = 128
LIMITS = Limits(64, 1024, 1.4)  # of the gradient
FROZEN_LIMITS = Limits(256, 128, 1.5)  # where the kernel is transformed once
CHUNK_BYTES = 2**24  # of the transformed tiles; half or twice as much is a tenth slower


class Conv3x3(nn.Conv2d):
    """`nn.Conv2d` of size 3, whose padding keeps the size, the stride apart: see `conv3x3`.

    Attributes:
        is_frozen: whether the weight does not change any more; its transform is kept then, which
            takes four times the weight's memory.
    """

    is_frozen = False
    kernel: tuple[int, Tensor] | None = None  # the weight's version, and its transform

    def __init__(self, in_dim: int, out_dim: int, stride: int = 1, dilation: int = 1, bias=False):
        super().__init__(in_dim, out_dim, 3, stride, padding=dilation, dilation=dilation, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """B x out_dim x H/stride x W/stride of B x in_dim x H x W."""
        dilation = self.dilation[0]
        if self.stride == (1, 1) and not self.is_frozen:
            return conv3x3(x, self.weight, self.bias, dilation)
        if self.stride != (1, 1) or not is_faster(x, self.weight, dilation, FROZEN_LIMITS):
            return super().forward(x)
        if self.kernel is None or self.kernel[0] != self.weight._version:
            self.kernel = self.weight._version, transform_kernel(self.weight)
        out = convolve_tiles(x, self.kernel[1], dilation)
        return out if self.bias is None else out.add_(self.bias.view(-1, 1, 1))


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """A convolution that keeps the size, computed in the faster of two ways.

    Args:
        x: B x C x H x W.
        weight: D x C x 3 x 3.
        bias: D.

    Returns:
        B x D x H x W.
    """
    if not is_faster(x, weight, dilation, LIMITS):
        return F.conv2d(x, weight, bias, padding=dilation, dilation=dilation)
    out = WinogradConvolution.apply(x, weight, dilation)
    return out if bias is None else out + bias.view(-1, 1, 1)


def is_faster(x: Tensor, weight: Tensor, dilation: int, limits: Limits) -> bool:
    """Whether minimal filtering may be faster for this convolution of x, or for its gradients."""
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or is_exporting():
        return False
    batch, _, height, width = x.shape
    positions, step = batch * height * width, 4 * dilation
    padded = batch * (height + -height % step) * (width + -width % step)
    return (
        x.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= limits.channels
        and positions >= limits.positions
        and padded <= limits.padding * positions
    )


class WinogradConvolution(torch.autograd.Function):
    """The convolution without bias and its two gradients, which are convolutions as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, dilation: int) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return convolve(x, weight, dilation)

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = convolve(grad, weight.flip(2, 3).transpose(0, 1), ctx.dilation)
        if ctx.needs_input_grad[1]:
            grad_weight = correlate(x, grad, ctx.dilation)
        return grad_x, grad_weight, None


def convolve(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """B x D x H x W of x, B x C x H x W, and weight, D x C x 3 x 3."""
    if min(weight.shape[:2]) < MIN_CHANNELS:
        return F.conv2d(x, weight, padding=dilation, dilation=dilation)
    return convolve_tiles(x, transform_kernel(weight), dilation)


def transform_kernel(weight: Tensor) -> Tensor:
    """The transform 36 x D x C of a weight D x C x 3 x 3."""
    return transform(KERNEL_TRANSFORM, weight.permute(2, 3, 0, 1))


def convolve_tiles(x: Tensor, kernel: Tensor, dilation: int) -> Tensor:
    """B x D x H x W of x, B x C x H x W, and a transformed kernel, 36 x D x C."""
    dim, channels = kernel.shape[1:]
    height, width = x.shape[-2:]
    inputs = tiles(x, 6, dilation)
    batch, rows, _, columns = inputs.shape[2:6]
    out = x.new_empty(batch, rows * 4 * dilation, columns * 4 * dilation, dim)
    outputs = tile_view(out, 4, dilation)

    for chunk in chunks(inputs, max(dim, channels)):
        source = transform(INPUT_TRANSFORM, inputs[chunk])  # 36 x tiles x C
        products = source @ kernel.transpose(1, 2)  # 36 x tiles x D
        target = outputs[chunk]
        target.copy_(transform(OUTPUT_TRANSFORM, products.view(6, 6, -1, dim)).view(target.shape))
    return out[:, :height, :width].permute(0, 3, 1, 2)


def correlate(x: Tensor, grad: Tensor, dilation: int) -> Tensor:
    """The gradient D x C x 3 x 3 of the weight, from the output's, B x D x H x W, and the input."""
    channels, dim = x.shape[1], grad.shape[1]
    inputs, outputs = tiles(x, 6, dilation), tiles(grad, 4, dilation)
    kernel = x.new_zeros(36, dim, channels)
    for chunk in chunks(inputs, max(dim, channels)):
        source = transform(INPUT_TRANSFORM, inputs[chunk])  # 36 x tiles x C
        target = transform(OUTPUT_TRANSFORM.T, outputs[chunk])  # 36 x tiles x D
        kernel.baddbmm_(target.transpose(1, 2), source)
    taps = transform(KERNEL_TRANSFORM.T, kernel.view(6, 6, dim, channels))
    return taps.view(3, 3, dim, channels).permute(2, 3, 0, 1)


def tiles(x: Tensor, side: int, dilation: int) -> Tensor:
    """The tiles of x, B x C x H x W, padded by zeros to whole ones: see `tile_view`.

    Tiles of side 6 overlap by 2, and start one before the picture.
    """
    halo = dilation * (side - 4) // 2
    height, width = x.shape[-2:]
    step = 4 * dilation
    below, right = halo - height % -step, halo - width % -step
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, halo, right, halo, below))
    return tile_view(x.contiguous(), side, dilation)


def tile_view(x: Tensor, side: int, dilation: int) -> Tensor:
    """The tiles of x, contiguous B x H x W x C, without a copy.

    Returns:
        side x side x B x rows x dilation x columns x dilation x C: the first two are within a tile,
        whose elements are `dilation` apart; successive tiles are 4 elements apart.
    """
    batch, height, width, channels = x.shape
    overlap = dilation * (side - 4)
    rows, columns = (height - overlap) // (4 * dilation), (width - overlap) // (4 * dilation)
    image, row, column, _ = x.stride()
    within_tile = dilation * row, dilation * column
    between_tiles = 4 * dilation * row, row, 4 * dilation * column, column
    return x.as_strided(
        (side, side, batch, rows, dilation, columns, dilation, channels),
        (*within_tile, image, *between_tiles, 1),
    )


def chunks(inputs: Tensor, channels: int) -> Iterator[tuple[slice, ...]]:
    """Indices that take a `tile_view` apart into pieces of `CHUNK_BYTES` when transformed."""
    batch, rows, dilation, columns = inputs.shape[2:6]
    row_bytes = 36 * dilation * columns * dilation * channels * inputs.itemsize
    rows_at_once = max(1, CHUNK_BYTES // row_bytes)
    images_at_once = max(1, rows_at_once // rows)
    whole = slice(None)
    for image in range(0, batch, images_at_once):
        for row in range(0, rows, rows_at_once):
            yield (
                whole,
                whole,
                slice(image, image + images_at_once),
                slice(row, row + rows_at_once),
            )


def transform(matrix: Tensor, x: Tensor) -> Tensor:
    """Transform x, k x k x … x C, along its first two axes by a matrix m x k: m·m x … x C."""
    m, k = matrix.shape
    once = matrix @ x.reshape(k, -1)  # m x k·…·C
    return (matrix @ once.view(m, k, -1)).view(m * m, -1, x.shape[-1])
