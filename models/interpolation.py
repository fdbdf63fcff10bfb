"""Bilinear interpolation from maps of features to pictures whose sides are no multiples of strides.

A feature covers `stride` pixels. Where a side of n pixels is no multiple of that, the last feature
reaches beyond the picture (or, of VGG, ends within it): the picture's extent is n / stride, not the
number of features. Output i of N lies at (i + ½) · (n / stride) / N - ½ of them.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Extent = tuple[float, float]

MAX_KEPT = 2**18  # elements of a matrix: of 1,024 pixels at a stride of 4


def resample(x: Tensor, size: Sequence[int], extent: Extent | None = None) -> Tensor:
    """A map B x C x h x w at another size, B x C x H x W, in its own precision.

    Args:
        x: the map.
        size: (H, W).
        extent: the height and width of the H x W outputs in its features; None = (h, w).
    """
    h, w = x.shape[-2:]
    # An exported network is for all sizes, and an extent is another number for some of them.
    if extent is None or (tuple(extent) == (h, w) and not is_exporting()):
        return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
    rows = kept_interpolation(h, size[0], extent[0], x.dtype, x.device)
    columns = kept_interpolation(w, size[1], extent[1], x.dtype, x.device)
    with full_precision(x.device):
        return rows @ x @ columns.T


def resample_adjoint(x: Tensor, size: Sequence[int], extent: Extent) -> Tensor:
    """The adjoint of `resample`: from a gradient B x C x H x W to that of the map, B x C x h x w.

    Args:
        x: the gradient.
        size: (h, w).
        extent: the height and width of the H x W outputs in the map's features.
    """
    height, width = x.shape[-2:]
    rows = kept_interpolation(size[0], height, extent[0], x.dtype, x.device)
    columns = kept_interpolation(size[1], width, extent[1], x.dtype, x.device)
    return rows.T @ x @ columns


def interpolation(n_in: int, n_out: int, extent: float) -> Tensor:
    """Linear interpolation of `n_in` values to `n_out` as a matrix, n_out x n_in."""
    position = positions(n_in, n_out, extent)[:, None]
    return (1 - (position - torch.arange(n_in, dtype=torch.float64)).abs()).clamp(min=0)


def is_exporting() -> bool:
    """Whether the network is being exported; torch 2.6 cannot tell that from being compiled."""
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def full_precision(device: torch.device) -> AbstractContextManager:
    """A context without autocast, which would round to half precision; "meta" knows none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def kept_interpolation(
    n_in: int, n_out: int, extent: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """The `interpolation`, `kept`: a GPU would wait for each copy of it."""
    return kept(n_in * n_out, dtype, device, interpolation, n_in, n_out, extent)


def kept(
    elements: int,
    dtype: torch.dtype,
    device: torch.device,
    make: Callable[..., Tensor],
    *args: Any,
) -> Tensor:
    """A constant matrix that a function makes on a CPU; a small one is made only once.

    The compiler is not asked for its size, which would be a condition of the traced graph.
    """
    if torch.compiler.is_compiling() or elements > MAX_KEPT:
        return make(*args).to(dtype).to(device)
    return remember(make, args, dtype, device)


@lru_cache(maxsize=32)
def remember(
    make: Callable[..., Tensor], args: tuple, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """What `kept` gives."""
    with torch.inference_mode(False):
        return make(*args).to(dtype).to(device)


def taps(n_in: int, n_out: int, extent: float) -> tuple[Tensor, Tensor, Tensor]:
    """The two inputs between which each output of an interpolation lies, and how far along."""
    position = positions(n_in, n_out, extent)
    first = position.long()
    return first, (first + 1).clamp(max=n_in - 1), position - first


def positions(n_in: int, n_out: int, extent: float) -> Tensor:
    """Where the outputs of an interpolation lie among its inputs, n_out of double precision.

    The outputs divide the first `extent` inputs evenly; each input is 1 wide.
    """
    position = (torch.arange(n_out, dtype=torch.float64) + 0.5) * extent / n_out - 0.5
    return position.clamp(0, n_in - 1)
