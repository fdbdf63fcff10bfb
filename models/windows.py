"""Features of a picture that is too large to be encoded at once, from overlapping windows.

Only the encoder goes window by window. The decoder gets all features together: pyramid pooling sees
the whole picture, and there is no seam.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def encode_in_windows(
    encode: Callable[[Tensor], Tensor], images: Tensor, stride: int, side: int, overlap: int
) -> Tensor:
    """The features that `encode` gives for pictures, computed from one window at a time.

    Args:
        encode: pictures B x 3 x H x W to features B x C x H/stride x W/stride.
        images: B x 3 x H x W.
        stride: pixels between features.
        side: pixels of a window's side at most; a multiple of `stride`.
        overlap: pixels that a window sees beyond its own side; a multiple of `stride`. Features
            equal those of whole pictures as far as they depend on no pixel farther away.

    Returns:
        Features B x C x H/stride x W/stride.
    """
    bands = []
    for top, bottom in spans(images.shape[-2], side, stride):
        parts = []
        for left, right in spans(images.shape[-1], side, stride):
            y, x = max(0, top - overlap), max(0, left - overlap)
            features = encode(images[..., y : bottom + overlap, x : right + overlap])
            rows = slice((top - y) // stride, -(-(bottom - y) // stride))
            columns = slice((left - x) // stride, -(-(right - x) // stride))
            parts.append(features[..., rows, columns])
        bands.append(torch.cat(parts, dim=-1))
    return torch.cat(bands, dim=-2)


def spans(length: int, side: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the fewest pieces of `length` within `side`, of about equal size.

    They start at multiples of `stride`, so that the features of all lie on one grid.
    """
    pieces = -(-length // side)
    step = -(-length // (pieces * stride)) * stride
    for start in range(0, length, step):
        yield start, min(start + step, length)
