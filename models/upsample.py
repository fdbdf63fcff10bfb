"""The bilinear head: from low-resolution logits to the loss, the labels and the probabilities.

Decoders give logits at 1/8 or 1/16 of the picture. At full resolution they would need more memory
than the network: 150 classes of 384 x 384 pixels are 88 MB a picture, and a softmax and two
gradients make it four times that. Here that tensor never exists. Bands of its rows are computed one
at a time. Each is small enough to stay in the cache, becomes its part of the loss and the gradient,
or labels, and is overwritten by the next.

On a GPU, the kernels of `models.fused` compute the same without bands.
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from .interpolation import Extent, full_precision, kept_interpolation, resample, taps

# Chosen for 2 x 150 x 48 x 48 logits at 384 x 384 on two cores, with second-level caches of 1 MB
# each and a third level of 32 MB: loss and gradient take 55 ms with bands of 4 MB, 56 with 2, 64
# with 1 and 72 with 8. Slower, at 4 MB: new memory for each band, 100 ms (page faults); rows by
# gathering rather than by a product, 68; bands in bfloat16, 63 to 74 (exponentials are computed in
# single precision anyway). No faster: one thread for each picture rather than both for each band,
# and a compiled band.
CPU_BAND_BYTES = 2**22
GPU_BAND_BYTES = 2**26  # a GPU wants few and large kernels
TRITON = find_spec("triton") is not None  # it comes with torch for GPUs on Linux


def upsample_argmax(logits: Tensor, size: Sequence[int], extent: Extent | None = None) -> Tensor:
    """The classes with the largest upsampled logit.

    Args:
        logits: B x C x h x w.
        size: (H, W).
        extent: the pictures' height and width in features; None = (h, w).

    Returns:
        Labels B x H x W, in the smallest type that fits.
    """
    labels = new_labels(logits, size)
    if kernels := gpu_kernels(logits):
        kernels.FusedUpsampling(logits, size, extent).argmax(out=labels)
        return labels
    upsampling = Upsampling(logits, size, extent)
    band = upsampling.new_band()
    for b, top, bottom in upsampling.bands():
        part = upsampling.up(b, top, bottom, out=band, classes_last=False)
        _, labels[b, top:bottom] = max_class(part)
    return labels


def average_upsampled_probabilities(
    logits: Sequence[Tensor],
    size: Sequence[int],
    extents: Sequence[Extent | None],
    mirrored: Sequence[bool] | None = None,
) -> tuple[Tensor, Tensor]:
    """The classes with the largest mean probability, and that probability.

    Args:
        logits: several B x C x h x w, whose h and w may differ.
        size: (H, W).
        extents: for each of them, the pictures' height and width in features; None = (h, w).
        mirrored: for each of them, whether the pictures were mirrored; None = none was.

    Returns:
        Labels B x H x W, in the smallest type that fits, and probabilities B x H x W.
    """
    mirrored = mirrored or [False] * len(logits)
    kernels = gpu_kernels(logits[0])
    upsamplings = [
        (kernels.FusedUpsampling if kernels else Upsampling)(z, size, extent, is_mirrored)
        for z, extent, is_mirrored in zip(logits, extents, mirrored, strict=True)
    ]
    labels = new_labels(logits[0], size)
    winning = torch.empty_like(labels, dtype=at_least_single(logits[0].dtype))
    if kernels:
        kernels.average(upsamplings, labels, winning)
        return labels, winning
    first = upsamplings[0]
    band, probabilities, total = first.new_band(), first.new_band(), first.new_band()
    for b, top, bottom in first.bands():
        part, sum_ = probabilities[: bottom - top], total[: bottom - top].zero_()  # rows x W x C
        for upsampling in upsamplings:
            torch.softmax(upsampling.up(b, top, bottom, out=band), dim=-1, out=part)
            sum_ += part
        winning[b, top:bottom], labels[b, top:bottom] = max_class(sum_.transpose(1, 2))
    return labels, winning.div_(len(upsamplings))


def upsample(logits: Tensor, size: Sequence[int], extent: Extent | None = None) -> Tensor:
    """The whole of the logits B x C x H x W, in at least single precision.

    Args:
        logits: B x C x h x w.
        size: (H, W).
        extent: the pictures' height and width in features; None = (h, w).
    """
    return resample(logits.to(at_least_single(logits.dtype)), size, extent)


class Upsampling:
    """Bilinear upsampling from h x w to H x W, a band of output rows at a time, and its adjoint.

    `extent` is the pictures' height and width in features; None = (h, w). Where the pictures were
    mirrored, the output is mirrored back (which has no adjoint here).

    Columns are interpolated first. One product with a small matrix combines their rows. The classes
    of a pixel lie side by side, as softmax wants them.

    Attributes:
        source: B x h x w x C, a view of the logits.
        dtype: type of the computation.
        band_rows: height of all bands, the last of a picture excepted.
    """

    def __init__(
        self,
        logits: Tensor,
        size: Sequence[int],
        extent: Extent | None = None,
        mirrored: bool = False,
    ):
        self.dtype = at_least_single(logits.dtype)
        self.source = logits.detach().permute(0, 2, 3, 1)
        self.height, self.width = size
        h, w = self.source.shape[1:3]
        height, width = (h, w) if extent is None else extent
        self.source_width = width
        upper, lower, _ = taps(h, self.height, height)
        left, right, beside = taps(w, self.width, width)
        if mirrored:
            left, right, beside = left.flip(0), right.flip(0), beside.flip(0)
        self.upper, self.lower = upper.tolist(), lower.tolist()
        self.rows = kept_interpolation(h, self.height, height, self.dtype, logits.device)
        self.left, self.right = left.to(logits.device), right.to(logits.device)
        self.beside = beside[:, None].to(logits.device, self.dtype)  # W x 1
        budget = CPU_BAND_BYTES if logits.device.type == "cpu" else GPU_BAND_BYTES
        row_bytes = self.width * logits.shape[1] * self.dtype.itemsize
        self.band_rows = min(self.height, max(1, budget // row_bytes))

    def bands(self) -> Iterator[tuple[int, int, int]]:
        """(picture, first row, row after the last) of each band of the output."""
        for b in range(len(self.source)):
            for top in range(0, self.height, self.band_rows):
                yield b, top, min(top + self.band_rows, self.height)

    def new_band(self) -> Tensor:
        """Memory for a band, band_rows x W x C, to be reused.

        New memory for each band takes the system as much time as the computation.
        """
        return self.source.new_empty(
            (self.band_rows, self.width, self.source.shape[3]), dtype=self.dtype
        )

    def up(self, b: int, top: int, bottom: int, out: Tensor, classes_last: bool = True) -> Tensor:
        """Rows top…bottom of the upsampled picture b: rows x W x C, or else rows x C x W.

        They are written to `out`, a `new_band`.
        """
        source = self.source[b, self.upper[top] : self.lower[bottom - 1] + 1]
        source = source.to(self.dtype).contiguous()  # k x w x C
        left, right = source.index_select(1, self.left), source.index_select(1, self.right)
        wide = left.lerp_(right, self.beside)  # k x W x C
        if not classes_last:
            wide = wide.transpose(1, 2)
        band = out[: bottom - top].flatten(1)
        with full_precision(self.source.device):
            torch.mm(self.matrix(top, bottom), wide.flatten(1), out=band)
        return band.view(-1, *wide.shape[1:])

    def add_down(self, band: Tensor, b: int, top: int, bottom: int, out: Tensor) -> None:
        """Add the source's gradient to `out`, B x h x w x C, given that of `up`, rows x W x C."""
        first, last = self.upper[top], self.lower[bottom - 1]
        k, w, classes = last - first + 1, *out.shape[2:]
        with full_precision(self.source.device):
            wide = self.matrix(top, bottom).T @ band.flatten(1)  # k x W·C
            wide = wide.view(k, self.width, classes)
            if torch.are_deterministic_algorithms_enabled() or self.source_width != w:
                columns = kept_interpolation(
                    w, self.width, self.source_width, self.dtype, out.device
                )
                narrow = columns.T @ wide  # k x w x C
            else:  # as fast or faster on a CPU, but a GPU sums in any order, and it has no extent
                wide = wide.permute(2, 0, 1)[None]  # 1 x C x k x W
                narrow = torch.ops.aten.upsample_bilinear2d_backward(
                    wide, [k, self.width], [1, classes, k, w], align_corners=False
                )[0].permute(1, 2, 0)
        out[b, first : last + 1] += narrow

    def matrix(self, top: int, bottom: int) -> Tensor:
        """The weights, rows x k, of the k source rows of a band."""
        return self.rows[top:bottom, self.upper[top] : self.lower[bottom - 1] + 1]


def gpu_kernels(logits: Tensor) -> ModuleType | None:
    """`models.fused`, where it computes such logits; None where that is for the bands."""
    if not TRITON or logits.device.type != "cuda" or logits.dtype == torch.float64:
        return None
    from . import fused  # which needs Triton

    return fused


def new_labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Memory for labels B x H x W, in the smallest type that fits the number of classes."""
    batch, num_class = logits.shape[:2]
    dtype = torch.uint8 if num_class <= 255 else torch.int16 if num_class < 2**15 else torch.int32
    return torch.empty((batch, *size), dtype=dtype, device=logits.device)


def max_class(band: Tensor) -> tuple[Tensor, Tensor]:
    """The largest value of each pixel of a band rows x C x W, and the first class that has it."""
    if band.device.type != "cpu":
        return band.max(dim=1)
    # On a CPU, `max` compares a pixel's classes one by one. Pooling over them, with pixels in the
    # place of channels, compares a vector of pixels at a time: twelve times as fast.
    pixels = band.unsqueeze(2).permute(0, 3, 1, 2)  # rows x W x C x 1
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    values, classes = F.max_pool2d(pixels, (band.shape[1], 1), return_indices=True)
    return values[..., 0, 0], classes[..., 0, 0]


def at_least_single(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: double for double, single for all others."""
    return torch.promote_types(dtype, torch.float32)
