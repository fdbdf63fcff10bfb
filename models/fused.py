"""The bilinear head on a GPU: Triton kernels that compute what other modules do in bands.

Full-size logits never exist: they are interpolated where they are used, and of each pixel only a
few numbers are kept. Nothing is added atomically, so that the same input gives the same bits.

- Over pixels (`pixel_statistics`, `pixel_labels`, `pixel_probabilities`): the pixels of a row lie
  across the lanes of a program and classes follow one another, so that the online softmax (Milakov
  and Gimelshein, 2018) needs no exchange between lanes.
- Over cells (`cell_gradients`): a cell is the pixels between the same four logits vectors. Classes
  lie across the lanes and pixels follow one another. Four accumulators are the cell's parts of its
  corners' gradients. `gather_cells` adds up the parts of each vector, in one order.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

import torch
import triton
import triton.language as tl
from torch import Tensor

from .interpolation import Extent, taps

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Of a block of pixels: 32 lanes a warp, and each has all its classes.
PIXELS, CLASSES, PIXEL_WARPS = 64, 16, 2
GRADIENT_CLASSES, GRADIENT_WARPS = 64, 2  # of a block of classes
PARTIAL_BYTES = 2**28  # of the cells' parts of the gradient that exist at a time


class FusedUpsampling:
    """Bilinear upsampling of logits, of which the kernels compute what is wanted.

    The arguments are those of `upsample.Upsampling`; logits are of single or half precision.
    """

    def __init__(
        self,
        logits: Tensor,
        size: Sequence[int],
        extent: Extent | None = None,
        mirrored: bool = False,
    ):
        self.logits = logits.detach()
        self.size = tuple(size)
        h, w = logits.shape[-2:]
        height, width = extent or (h, w)
        self.rows = (h, size[0], float(height), logits.device)  # arguments of `placed`
        self.columns = (w, size[1], float(width), logits.device)
        self.row_taps, self.column_taps = placed(*self.rows), placed(*self.columns)
        if mirrored:
            first, second, along = self.column_taps
            self.column_taps = first.flip(0), second.flip(0), along.flip(0)

    def grid(self) -> tuple[int, int, int]:
        """Programs of a kernel over pixels: blocks of a row, rows and pictures."""
        height, width = self.size
        return triton.cdiv(width, PIXELS), height, len(self.logits)

    def source(self) -> tuple:
        """The arguments that kernels over pixels begin with, the widths of the rows included."""
        return (
            self.logits,
            *self.logits.stride(),
            self.logits.shape[1],
            *self.row_taps,
            *self.column_taps,
            self.size[1],
        )

    def statistics(self, labels: Tensor, unlabelled: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a loss is made of, at each pixel.

        Args:
            labels: B x H x W of an integer type, contiguous.
            unlabelled: the value of pixels without a label.

        Returns:
            B x H x W each: logarithms of the sum of the logits' exponentials and of the label's
            probability (-inf where there is no label), and whether its logit is the only largest.
        """
        log_sum = self.logits.new_empty(labels.shape, dtype=torch.float32)
        log_p = torch.empty_like(log_sum)
        correct = torch.empty_like(log_sum, dtype=torch.bool)
        pixel_statistics[self.grid()](
            *self.source(),
            labels,
            unlabelled,
            log_sum,
            log_p,
            correct,
            PIXELS,
            CLASSES,
            num_warps=PIXEL_WARPS,
        )
        return log_sum, log_p, correct

    def gradient(
        self, labels: Tensor, log_sum: Tensor, softmax_weight: Tensor, label_weight: Tensor
    ) -> Tensor:
        """The logits' gradient of a loss, of which a pixel's is softmax · a - one-hot · b.

        Args:
            labels: as `statistics` has them.
            log_sum: the first of `statistics`.
            softmax_weight, label_weight: B x H x W, a and b, contiguous; 0 where there is no label.

        Returns:
            B x C x h x w in single precision.
        """
        batch, num_class, h, w = self.logits.shape
        out = self.logits.new_empty((batch, h, w, num_class), dtype=torch.float32)
        at_once = min(batch, max(1, PARTIAL_BYTES // (4 * h * w * num_class * 4)))
        parts = out.new_empty((at_once, h, w, 4, num_class))
        blocks = triton.cdiv(num_class, GRADIENT_CLASSES)
        maps = labels, log_sum, softmax_weight, label_weight
        for first in range(0, batch, at_once):
            some = slice(first, first + at_once)
            count = len(out[some])
            cell_gradients[w, h, count * blocks](
                self.logits[some],
                *self.logits.stride(),
                num_class,
                h,
                w,
                *self.size,
                cell_starts(*self.rows),
                self.row_taps[2],
                cell_starts(*self.columns),
                self.column_taps[2],
                *(x[some] for x in maps),
                parts,
                GRADIENT_CLASSES,
                num_warps=GRADIENT_WARPS,
            )
            gather_cells[w, h, count](
                parts, out[some], num_class, h, w, triton.next_power_of_2(num_class)
            )
        return out.permute(0, 3, 1, 2)

    def argmax(self, out: Tensor) -> None:
        """Write the classes with the largest logit to labels B x H x W."""
        pixel_labels[self.grid()](
            *self.source(),
            out,
            PIXELS,
            CLASSES,
            num_warps=PIXEL_WARPS,
        )


def average(upsamplings: Sequence[FusedUpsampling], labels: Tensor, winning: Tensor) -> None:
    """Write the classes with the largest mean probability, and that probability: both B x H x W."""
    logits = [upsampling.logits for upsampling in upsamplings]
    shapes = tuple(tuple(z.shape) for z in logits)
    row_taps = zip(*(upsampling.row_taps for upsampling in upsamplings), strict=True)
    column_taps = zip(*(upsampling.column_taps for upsampling in upsamplings), strict=True)
    pixel_probabilities[upsamplings[0].grid()](
        torch.cat([z.permute(0, 2, 3, 1).reshape(-1) for z in logits]),
        map_table(shapes, labels.device),
        len(logits),
        logits[0].shape[1],
        *(torch.stack(tap) for tap in chain(row_taps, column_taps)),
        *upsamplings[0].size,
        labels,
        winning,
        PIXELS,
        CLASSES,
        triton.next_power_of_2(len(logits)),
        num_warps=PIXEL_WARPS,
    )


@lru_cache(maxsize=1024)  # a copy to a GPU waits for all that this is at
def placed(
    n_in: int, n_out: int, extent: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The `taps` on a GPU, int32 and single precision."""
    with torch.inference_mode(False):
        first, second, along = taps(n_in, n_out, extent)
        return first.int().to(device), second.int().to(device), along.float().to(device)


@lru_cache(maxsize=32)
def cell_starts(n_in: int, n_out: int, extent: float, device: torch.device) -> Tensor:
    """The first output of each cell, n_in + 1 of int32; arguments of `taps`."""
    with torch.inference_mode(False):
        first = taps(n_in, n_out, extent)[0]
        return torch.searchsorted(first, torch.arange(n_in + 1)).int().to(device)


@lru_cache(maxsize=1024)
def map_table(shapes: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """Starts, heights and widths of maps B x C x h x w that follow one another, n x 3 of int64."""
    numbers = [math.prod(shape) for shape in shapes]
    table = [[sum(numbers[:i]), *shape[-2:]] for i, shape in enumerate(shapes)]
    with torch.inference_mode(False):
        return torch.tensor(table).to(device)


@triton.jit
def place(uppers, lowers, alongs_y, y, lefts, rights, alongs_x, x, inside):
    """Between which rows and columns of logits the pixels x of a row y lie, and how far along."""
    return (
        tl.load(uppers + y),
        tl.load(lowers + y),
        tl.load(alongs_y + y),
        tl.load(lefts + x, mask=inside, other=0),
        tl.load(rights + x, mask=inside, other=0),
        tl.load(alongs_x + x, mask=inside, other=0.0),
    )


@triton.jit
def interpolated(logits, at, c, num_class, stride_c, stride_y, stride_x):
    """Logits of a picture at a `place`, of the classes c: c x pixels; -inf beyond `num_class`."""
    upper, lower, along_y, x0, x1, along_x = at
    known = (c < num_class)[:, None]
    top = logits + upper * stride_y + c[:, None] * stride_c
    bottom = logits + lower * stride_y + c[:, None] * stride_c
    left, right = (x0 * stride_x)[None, :], (x1 * stride_x)[None, :]
    z00 = tl.load(top + left, mask=known, other=0.0).to(tl.float32)
    z01 = tl.load(top + right, mask=known, other=0.0).to(tl.float32)
    z10 = tl.load(bottom + left, mask=known, other=0.0).to(tl.float32)
    z11 = tl.load(bottom + right, mask=known, other=0.0).to(tl.float32)
    z0 = z00 * (1 - along_y) + z10 * along_y
    z1 = z01 * (1 - along_y) + z11 * along_y
    return tl.where(known, z0 + (z1 - z0) * along_x[None, :], float("-inf"))


@triton.jit
def accumulate(largest, total, z):
    """Online softmax: the largest logit and the sum of exponentials beside it, of more classes."""
    new = tl.maximum(largest, tl.max(z, 0))
    total = total * tl.exp2((largest - new) * LOG2E)
    return new, total + tl.sum(tl.exp2((z - new[None, :]) * LOG2E), 0)


@triton.jit
def better(best, label, values, start):
    """The largest value so far and the first class that has it, of more classes from `start` on.

    What is not a number counts as infinite, so that it shows.
    """
    values = tl.where(values == values, values, float("inf"))
    value, c = tl.max(values, 0, return_indices=True)
    return tl.maximum(best, value), tl.where(value > best, c + start, label)


@triton.jit
def pixel_statistics(
    logits, stride_b, stride_c, stride_y, stride_x, num_class,
    uppers, lowers, alongs_y, lefts, rights, alongs_x, width,
    labels, unlabelled, log_sums, log_ps, corrects,
    pixels: tl.constexpr, classes: tl.constexpr,
):  # fmt: skip
    """`FusedUpsampling.statistics`: a program for each picture, row and block of pixels."""
    y, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    x = tl.program_id(0) * pixels + tl.arange(0, pixels)
    inside = x < width
    pixel = (b * tl.num_programs(1) + y) * width + x
    at = place(uppers, lowers, alongs_y, y, lefts, rights, alongs_x, x, inside)
    logits += b * stride_b
    label = tl.load(labels + pixel, mask=inside, other=unlabelled).to(tl.int32)
    label = tl.where(label == unlabelled, -1, label)

    own = tl.full((pixels,), float("-inf"), tl.float32)
    rival = tl.full((pixels,), float("-inf"), tl.float32)
    largest = tl.full((pixels,), float("-inf"), tl.float32)
    total = tl.zeros((pixels,), tl.float32)
    for start in range(0, num_class, classes):
        c = start + tl.arange(0, classes)
        z = interpolated(logits, at, c, num_class, stride_c, stride_y, stride_x)
        largest, total = accumulate(largest, total, z)
        is_own = c[:, None] == label[None, :]
        own = tl.maximum(own, tl.max(tl.where(is_own, z, float("-inf")), 0))
        rival = tl.maximum(rival, tl.max(tl.where(is_own, float("-inf"), z), 0))
    log_sum = largest + tl.log2(total) * LN2
    tl.store(log_sums + pixel, log_sum, mask=inside)
    tl.store(log_ps + pixel, own - log_sum, mask=inside)
    tl.store(corrects + pixel, own > rival, mask=inside)


@triton.jit
def cell_gradients(
    logits, stride_b, stride_c, stride_y, stride_x, num_class, h, w, height, width,
    row_starts, alongs_y, column_starts, alongs_x,
    labels, log_sums, softmax_weights, label_weights, parts,
    classes: tl.constexpr,
):  # fmt: skip
    """A cell's parts of the gradients of its corners: upper left and right, lower left and right.

    A program for each cell and block of classes; `parts` is B x h x w x 4 x num_class.
    """
    x, y = tl.program_id(0), tl.program_id(1)
    blocks = tl.cdiv(num_class, classes)
    b, block = (tl.program_id(2) // blocks).to(tl.int64), tl.program_id(2) % blocks
    c = block * classes + tl.arange(0, classes)
    known = c < num_class
    top = logits + b * stride_b + y * stride_y + c * stride_c
    bottom = logits + b * stride_b + tl.minimum(y + 1, h - 1) * stride_y + c * stride_c
    left, right = x * stride_x, tl.minimum(x + 1, w - 1) * stride_x
    z00 = tl.load(top + left, mask=known, other=0.0).to(tl.float32)
    z01 = tl.load(top + right, mask=known, other=0.0).to(tl.float32)
    z10 = tl.load(bottom + left, mask=known, other=0.0).to(tl.float32)
    z11 = tl.load(bottom + right, mask=known, other=0.0).to(tl.float32)
    g00 = tl.zeros((classes,), tl.float32)
    g01 = tl.zeros((classes,), tl.float32)
    g10 = tl.zeros((classes,), tl.float32)
    g11 = tl.zeros((classes,), tl.float32)
    first, end = tl.load(column_starts + x), tl.load(column_starts + x + 1)
    for row in range(tl.load(row_starts + y), tl.load(row_starts + y + 1)):
        along_y = tl.load(alongs_y + row)
        z0 = z00 * (1 - along_y) + z10 * along_y
        z1 = z01 * (1 - along_y) + z11 * along_y
        g0 = tl.zeros((classes,), tl.float32)
        g1 = tl.zeros((classes,), tl.float32)
        for column in range(first, end):
            along_x = tl.load(alongs_x + column)
            at = (b * height + row) * width + column
            z = z0 + (z1 - z0) * along_x
            g = tl.exp2((z - tl.load(log_sums + at)) * LOG2E) * tl.load(softmax_weights + at)
            is_label = c == tl.load(labels + at).to(tl.int32)
            g -= tl.where(is_label, tl.load(label_weights + at), 0.0)
            g0 += g * (1 - along_x)
            g1 += g * along_x
        g00 += g0 * (1 - along_y)
        g01 += g1 * (1 - along_y)
        g10 += g0 * along_y
        g11 += g1 * along_y
    part = parts + ((b * h + y) * w + x) * 4 * num_class + c
    tl.store(part, g00, mask=known)
    tl.store(part + num_class, g01, mask=known)
    tl.store(part + 2 * num_class, g10, mask=known)
    tl.store(part + 3 * num_class, g11, mask=known)


@triton.jit
def gather_cells(parts, gradients, num_class, h, w, classes: tl.constexpr):
    """The gradient B x h x w x num_class: each vector is a corner of up to four cells.

    A border's cells have no pixels between their corners and what would lie beyond.
    """
    x, y, b = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    c = tl.arange(0, classes)
    known = c < num_class
    cell = (b * h + y) * w + x
    here = parts + cell * 4 * num_class + c
    left, above = 4 * num_class, w * 4 * num_class
    g = tl.load(here, mask=known, other=0.0)
    g += tl.load(here - left + num_class, mask=known & (x > 0), other=0.0)
    g += tl.load(here - above + 2 * num_class, mask=known & (y > 0), other=0.0)
    g += tl.load(here - above - left + 3 * num_class, mask=known & (x > 0) & (y > 0), other=0.0)
    tl.store(gradients + cell * num_class + c, g, mask=known)


@triton.jit
def pixel_labels(
    logits, stride_b, stride_c, stride_y, stride_x, num_class,
    uppers, lowers, alongs_y, lefts, rights, alongs_x, width,
    labels,
    pixels: tl.constexpr, classes: tl.constexpr,
):  # fmt: skip
    """`FusedUpsampling.argmax`: a program for each picture, row and block of pixels."""
    y, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    x = tl.program_id(0) * pixels + tl.arange(0, pixels)
    inside = x < width
    at = place(uppers, lowers, alongs_y, y, lefts, rights, alongs_x, x, inside)
    logits += b * stride_b

    best = tl.full((pixels,), float("-inf"), tl.float32)
    label = tl.zeros((pixels,), tl.int32)
    for start in range(0, num_class, classes):
        c = start + tl.arange(0, classes)
        z = interpolated(logits, at, c, num_class, stride_c, stride_y, stride_x)
        best, label = better(best, label, z, start)
    tl.store(labels + (b * tl.num_programs(1) + y) * width + x, label, mask=inside)


@triton.jit
def pixel_probabilities(
    logits, table, num_maps, num_class,
    uppers, lowers, alongs_y, lefts, rights, alongs_x, height, width,
    labels, winning,
    pixels: tl.constexpr, classes: tl.constexpr, map_slots: tl.constexpr,
):  # fmt: skip
    """`average`: a program for each picture, row and block of pixels.

    The maps B x h x w x num_class follow one another in `logits`; `table` has their starts, heights
    and widths.
    """
    y, b = tl.program_id(1), tl.program_id(2).to(tl.int64)
    x = tl.program_id(0) * pixels + tl.arange(0, pixels)
    inside = x < width
    slots = tl.arange(0, map_slots)

    log_sums = tl.zeros((map_slots, pixels), tl.float32)
    for i in range(num_maps):
        h, w = tl.load(table + 3 * i + 1), tl.load(table + 3 * i + 2)
        z_i = logits + tl.load(table + 3 * i) + b * h * w * num_class
        row, column = i * height + y, i * width + x
        at = place(uppers, lowers, alongs_y, row, lefts, rights, alongs_x, column, inside)
        largest = tl.full((pixels,), float("-inf"), tl.float32)
        total = tl.zeros((pixels,), tl.float32)
        for start in range(0, num_class, classes):
            c = start + tl.arange(0, classes)
            z = interpolated(z_i, at, c, num_class, 1, w * num_class, num_class)
            largest, total = accumulate(largest, total, z)
        log_sum = largest + tl.log2(total) * LN2
        log_sums = tl.where(slots[:, None] == i, log_sum[None, :], log_sums)

    best = tl.full((pixels,), float("-inf"), tl.float32)
    label = tl.zeros((pixels,), tl.int32)
    for start in range(0, num_class, classes):
        c = start + tl.arange(0, classes)
        sums = tl.zeros((classes, pixels), tl.float32)
        for i in range(num_maps):
            h, w = tl.load(table + 3 * i + 1), tl.load(table + 3 * i + 2)
            z_i = logits + tl.load(table + 3 * i) + b * h * w * num_class
            row, column = i * height + y, i * width + x
            at = place(uppers, lowers, alongs_y, row, lefts, rights, alongs_x, column, inside)
            z = interpolated(z_i, at, c, num_class, 1, w * num_class, num_class)
            log_sum = tl.sum(tl.where(slots[:, None] == i, log_sums, 0.0), 0)
            sums += tl.exp2((z - log_sum[None, :]) * LOG2E)
        best, label = better(best, label, sums, start)
    best = tl.where(best == float("inf"), float("nan"), best)
    at = (b * height + y) * width + x
    tl.store(labels + at, label, mask=inside)
    tl.store(winning + at, best / num_maps, mask=inside)
