"""Features of a picture that is too large to be encoded at once, from overlapping windows.

Only the encoder goes window by window. The decoder gets all features together: pyramid pooling sees
the whole picture, and there is no seam.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
    height, width = images.shape[-2:]
    whole: list[Tensor] = []
    for top, bottom in spans(height, side, grid):
        for left, right in spans(width, side, grid):
            y, x = max(0, top - overlap), max(0, left - overlap)
            maps = encode(images[..., y : bottom + overlap, x : right + overlap])
            # To put the windows together in the end would take twice the memory.
            whole = whole or [
                empty(features, -(-height // stride), -(-width // stride))
                for features, stride in zip(maps, strides, strict=True)
            ]
            sizes = []
            for features, stride, target in zip(maps, strides, whole, strict=True):
                part = features[
                    ...,
                    (top - y) // stride : -(-(bottom - y) // stride),
                    (left - x) // stride : -(-(right - x) // stride),
                ]
                rows, columns = top // stride, left // stride
                sizes.append((rows + part.shape[-2], columns + part.shape[-1]))
                target[..., rows : sizes[-1][0], columns : sizes[-1][1]] = part
    # Some encoders round sides down.
    return [x[..., :rows, :columns] for x, (rows, columns) in zip(whole, sizes, strict=True)]


def empty(like: Tensor, height: int, width: int) -> Tensor:
    """A map B x C x height x width, with the channels last in memory, to be filled."""
    return like.new_empty((like.shape[0], height, width, like.shape[1])).permute(0, 3, 1, 2)


def spans(length: int, side: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the fewest pieces of `length` within about `side`, of about equal size.

    They start at multiples of `stride`, so that the features of all lie on one grid.
    """
    pieces = -(-length // side)
    step = -(-length // (pieces * stride)) * stride
    for start in range(0, length, step):
        yield start, min(start + step, length)
