"""Maps of several sizes, merged without being upsampled first."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .interpolation import Extent, full_precision, interpolation, kept, kept_interpolation
from .winograd import conv3x3


class CoarseMap(NamedTuple):
    """A map, and the interpolation of its rows and columns to those of a finer one.

    Attributes:
        features: B x C x h x w.
        rows: H x h.
        columns: W x w.
    """

    features: Tensor
    rows: Tensor
    columns: Tensor

    @classmethod
    def at(
        cls,
        x: Tensor,
        size: Sequence[int],
        extent: Extent | None = None,
        tile: tuple[slice, slice] | None = None,
    ) -> "CoarseMap":
        """Of a map B x C x h x w, whatever a tile of the finer one needs.

        Args:
            x: the map.
            size: the finer one's height and width.
            extent: this size in features of the map; None = (h, w).
            tile: rows and columns of the finer one; None = all.
        """
        h, w = x.shape[-2:]
        extent = extent or (h, w)
        sides = ((h, size[0], extent[0]), (w, size[1], extent[1]))
        if not tile:
            return cls(x, *(kept_interpolation(*side, x.dtype, x.device) for side in sides))
        matrices = [interpolation(*side)[part] for side, part in zip(sides, tile, strict=True)]
        rows, columns = (used(matrix) for matrix in matrices)
        matrices = [matrices[0][:, rows], matrices[1][:, columns]]
        return cls(x[..., rows, columns], *(matrix.to(x) for matrix in matrices))

    def resampled(self) -> Tensor:
        """The map at the finer one's size, B x C x H x W."""
        return self.rows @ self.features @ self.columns.T


Stack = tuple[Tensor, list[CoarseMap]]  # a map, and coarser ones to be put beside it


class PyramidConv3x3(nn.Conv2d):
    """A 3x3 convolution, padded by 1, of a map and coarser ones, upsampled to its size and stacked.

    Neither the upsampled maps nor the stack are made. Interpolation and convolution are linear:
    the nine taps are computed at the few positions of a coarse map first, and two matrix products
    spread them over the rows and columns of the fine one.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: bool = False):
        super().__init__(in_dim, out_dim, kernel_size=3, padding=1, bias=bias)

    def forward(self, stack: Stack) -> Tensor:  # type: ignore[override]
        """B x out_dim x H x W of a map B x C x H x W and coarser ones."""
        fine, coarse = stack
        dims = [fine.shape[1], *(level.features.shape[1] for level in coarse)]
        weight, *weights = self.weight.split(dims, dim=1)
        spread_rows, spread_columns = [], []
        for (x, rows, columns), taps in zip(coarse, weights, strict=True):
            # Taps D x C x 3 x 3 as a convolution of single positions to 9·D channels.
            taps = taps.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]
            responses = F.conv2d(x, taps).unflatten(1, (3, 3, -1))  # B x 3 x 3 x D x h x w
            responses = responses.permute(0, 1, 4, 2, 5, 3).flatten(1, 2)  # B x 3·h x 3 x w x D
            spread = for_taps(rows) @ responses.flatten(2)  # B x H x 3·w·D
            spread_rows.append(spread.unflatten(2, (3 * x.shape[-1], -1)))  # B x H x 3·w x D
            spread_columns.append(for_taps(columns))  # W x 3·w
        # One product sums all maps' columns.
        out = torch.cat(spread_columns, dim=1) @ torch.cat(spread_rows, dim=2)  # B x H x W x D
        return conv3x3(fine, weight, self.bias) + out.permute(0, 3, 1, 2)


def region_means(x: Tensor, scales: Sequence[int]) -> list[Tensor]:
    """Means of a map over regions: for each scale s, B x C x s x s, as of adaptive pooling.

    They are products with constant matrices: two to three times as fast as torch's adaptive pooling
    with its gradient on a CPU, deterministic on a GPU, and of any size in an exported network.

    Args:
        x: B x C x h x w, at least single precision is computed.
        scales: numbers of regions along each side.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    number = sum(scales)
    sides = [kept(number * n, dtype, x.device, regions, n, tuple(scales)) for n in x.shape[-2:]]
    with full_precision(x.device):
        y = x.to(dtype).permute(0, 2, 3, 1)  # B x h x w x C, as it lies in memory
        y = (sides[0] @ y.flatten(2)).unflatten(2, y.shape[2:])  # B x all s x w x C
        rows, columns = y.split(list(scales), dim=1), sides[1].split(list(scales))
        means = [(c @ r).permute(0, 3, 1, 2) for r, c in zip(rows, columns, strict=True)]
    return [mean.to(x.dtype) for mean in means]


def regions(n: int, scales: tuple[int, ...]) -> Tensor:
    """The mean over each region of n values, for each scale, as a matrix, all s x n."""
    index = torch.arange(n)
    matrices = []
    for scale in scales:
        region = torch.arange(scale)[:, None]
        # Regions of torch's adaptive pooling share the value at a border that is no whole number.
        first, end = region * n // scale, -((-(region + 1) * n) // scale)
        inside = ((index >= first) & (index < end)).double()
        matrices.append(inside / inside.sum(1, keepdim=True))
    return torch.cat(matrices)


def used(matrix: Tensor) -> slice:
    """The columns of a banded matrix that are not zero, and any between them."""
    columns = matrix.any(dim=0).nonzero()
    return slice(int(columns[0]), int(columns[-1]) + 1)


def for_taps(matrix: Tensor) -> Tensor:
    """An interpolation, n_out x n_in, for each of three taps of a convolution that is padded by 1.

    Returns:
        n_out x 3·n_in.
    """
    padded = F.pad(matrix, (0, 0, 1, 1))
    # len() would be a constant of an exported network.
    return torch.cat([padded[tap : tap + matrix.shape[0]] for tap in range(3)], dim=1)


def covered(extent: Extent, size: Sequence[int], fine: Extent) -> Extent:
    """The height and width, in features of a map, of all features of a finer one.

    Args:
        extent: of the pictures in features of the map.
        size: number of features of the finer map, (h, w), which may reach beyond the pictures.
        fine: of the pictures in these.
    """
    return extent[0] * size[0] / fine[0], extent[1] * size[1] / fine[1]
