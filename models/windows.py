"""Features of a picture that is too large to be encoded at once, from overlapping windows.

Only the encoder goes window by window. The decoder gets all features together: pyramid pooling sees
the whole picture, and there is no seam.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """How a picture is cut into windows.

    Attributes:
        side: pixels of a window's side, or a little more.
        overlap: pixels that a window sees beyond its own side, or a little more. Features equal
            those of whole pictures as far as they depend on no pixel farther away.
        grid: windows begin at multiples of it; a multiple of all strides, those within the encoder
            included.
    """

    side: int
    overlap: int
    grid: int


def encode_in_windows(
    encode: Callable[[Tensor], Sequence[Tensor]],
    images: Tensor,
    strides: Sequence[int],
    windows: Windows,
) -> list[Tensor]:
    """The maps that `encode` gives for pictures, computed from one window at a time.

    Args:
        encode: pictures B x 3 x H x W to maps B x C_i x H/strides[i] x W/strides[i].
        images: B x 3 x H x W.
        strides: pixels between the features of each map.
        windows: how the pictures are cut.

    Returns:
        The maps.
    """
    side, overlap, grid = windows
    overlap = -(-overlap // grid) * grid
    bands: list[list[Tensor]] = []
    for top, bottom in spans(images.shape[-2], side, grid):
        parts: list[list[Tensor]] = []
        for left, right in spans(images.shape[-1], side, grid):
            y, x = max(0, top - overlap), max(0, left - overlap)
            maps = encode(images[..., y : bottom + overlap, x : right + overlap])
            parts.append(
                [
                    features[
                        ...,
                        (top - y) // stride : -(-(bottom - y) // stride),
                        (left - x) // stride : -(-(right - x) // stride),
                    ]
                    for features, stride in zip(maps, strides, strict=True)
                ]
            )
        bands.append([torch.cat(columns, dim=-1) for columns in zip(*parts, strict=True)])
    return [torch.cat(rows, dim=-2) for rows in zip(*bands, strict=True)]


def spans(length: int, side: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the fewest pieces of `length` within about `side`, of about equal size.

    They start at multiples of `stride`, so that the features of all lie on one grid.
    """
    pieces = -(-length // side)
    step = -(-length // (pieces * stride)) * stride
    for start in range(0, length, step):
        yield start, min(start + step, length)
