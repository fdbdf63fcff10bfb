"""The training loss: cross-entropy at the labels' size, computed a band of rows at a time.

To train with another loss, change `CrossEntropy`, which train.py gives to `SegmentationModel`.
`sum_over_pixels` computes whatever is a function of sums over pixels, such as Dice, and needs no
more memory: docs/training.md has an example.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .interpolation import Extent, full_precision, resample_adjoint
from .upsample import Upsampling, gpu_kernels

LEAST_HARD = 16  # one in so many pixels is hard, however well all of them are predicted
LANES = 16 if "AVX512" in torch.backends.cpu.get_cpu_capability() else 8  # of single precision

Terms = Callable[[Tensor, Tensor], Tensor]


class CrossEntropy(nn.Module):
    """The training loss.

    Args:
        weight: num_class, how much a pixel of each class counts; None = alike.
        label_smoothing: the share of a label that is spread over all classes (Szegedy et al.,
            "Rethinking the Inception Architecture", 2016), as `F.cross_entropy` has it.
        ohem_thresh: only pixels whose class has a probability below this count, and in any case a
            sixteenth of a batch's pixels, the hardest (online hard example mining: Shrivastava et
            al., 2016); 0 = all pixels count.
        logit_adjust: the loss is of the logits plus so many times the logarithms of `weight`, none
            of which is 0 then. Otherwise predictions lean towards classes of much weight: their
            probabilities are as if these were more frequent by it. With 1, the weights only steer
            what is learnt first. After Menon et al., "Long-tail learning via logit adjustment",
            2021, where nothing is weighted and logits lean by the classes' frequencies.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        label_smoothing: float = 0.0,
        ohem_thresh: float = 0.0,
        logit_adjust: float = 0.0,
    ):
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.label_smoothing = label_smoothing
        self.ohem_thresh = ohem_thresh
        self.logit_adjust = logit_adjust

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        extent: Extent | None = None,
        count_correct: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss as `upsample_cross_entropy` has it.

        Args:
            logits: B x num_class x h x w, in half precision with `amp`.
            labels: B x H x W, integers: 0…num_class-1, or -1 (255 in uint8) = unlabelled.
            extent: height and width of the pictures in features.
            count_correct: also give the number of pixels that are predicted right.

        Returns:
            A scalar: a mean over the labelled pixels, 0 where there are none. With `count_correct`,
            beside it, that number (int64).
        """
        options = self.weight, self.label_smoothing, self.ohem_thresh, self.logit_adjust
        return upsample_cross_entropy(logits, labels, extent, *options, count_correct)


@overload
def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    extent: Extent | None = ...,
    weight: Tensor | None = ...,
    label_smoothing: float = ...,
    ohem_thresh: float = ...,
    logit_adjust: float = ...,
) -> Tensor: ...


@overload
def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    extent: Extent | None,
    weight: Tensor | None,
    label_smoothing: float,
    ohem_thresh: float,
    logit_adjust: float,
    count_correct: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


def upsample_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    extent: Extent | None = None,
    weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    ohem_thresh: float = 0.0,
    logit_adjust: float = 0.0,
    count_correct: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mean cross-entropy of bilinearly upsampled logits over the pixels that have a label.

    Equals `F.cross_entropy(upsample(logits, labels.shape[-2:], extent), labels, weight, …)`.

    Args:
        logits: B x C x h x w, any floating point; half precision is computed in single.
        labels: B x H x W of an integer type; pixels of -1 (255 in uint8) do not count.
        extent: the pictures' height and width in features; None = (h, w).
        weight: C, weights of the classes.
        label_smoothing, ohem_thresh, logit_adjust: as `CrossEntropy` has them.
        count_correct: also count the pixels whose label has a larger logit than any other class.

    Returns:
        The scalar loss; 0, with zero gradient, where no pixel has a label of any weight. With
        `count_correct`, beside it, the number of correct pixels (int64).
    """
    options = Options(weight, label_smoothing, ohem_thresh, logit_adjust, count_correct)
    with full_precision(logits.device):
        loss, correct = UpsampleCrossEntropy.apply(logits, labels, extent, options)
    return (loss, correct) if count_correct else loss


class Options(NamedTuple):
    """What `upsample_cross_entropy` is to compute, under its arguments' names."""

    weight: Tensor | None
    label_smoothing: float
    ohem_thresh: float
    logit_adjust: float
    count_correct: bool

    def adjusted(self, logits: Tensor) -> Tensor:
        """The logits B x C x h x w that the loss is of."""
        adjustment = self.adjustment()
        return logits if adjustment is None else logits + adjustment[:, None, None]

    def adjustment(self) -> Tensor | None:
        """What is added to the logits of each class, C; None = nothing."""
        if self.weight is None or not self.logit_adjust:
            return None
        return self.weight.log() * self.logit_adjust


class Sums(NamedTuple):
    """Sums over the pixels of a batch.

    Attributes:
        loss: of the pixels' losses by their weights.
        weight: of these weights.
        correct: the number of pixels that are predicted right (int64).
        gradient: of `loss`, B x C x h x w; None where none is needed.
    """

    loss: Tensor
    weight: Tensor
    correct: Tensor
    gradient: Tensor | None


class UpsampleCrossEntropy(torch.autograd.Function):
    """The loss together with its gradient, because each band exists only once."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        logits: Tensor,
        labels: Tensor,
        extent: Extent | None,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        compute = fused_sums if gpu_kernels(logits) else banded_sums
        sums = compute(logits.detach(), labels, extent, options, ctx.needs_input_grad[0])
        weight = sums.weight.where(sums.weight > 0, torch.inf)
        if sums.gradient is not None:
            ctx.save_for_backward(sums.gradient / weight)
        ctx.dtype = logits.dtype
        ctx.mark_non_differentiable(sums.correct)
        return sums.loss / weight, sums.correct

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad_loss: Tensor, _: None
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        # Rounded last: a gradient scaler lifts it to the range of half precision first.
        return (gradient * grad_loss).to(ctx.dtype), None, None, None


def banded_sums(
    logits: Tensor,
    labels: Tensor,
    extent: Extent | None,
    options: Options,
    with_gradient: bool,
) -> Sums:
    """The sums, a band of rows at a time; the gradient together with the loss of each."""
    weight, label_smoothing, ohem_thresh, _, count_correct = options
    adjustment = options.adjustment()
    upsampling = Upsampling(options.adjusted(logits), labels.shape[-2:], extent)
    loss = torch.zeros((), dtype=upsampling.dtype, device=logits.device)
    total_weight = torch.zeros_like(loss)
    correct = torch.zeros((), dtype=torch.int64, device=logits.device)
    gradient = loss.new_zeros(upsampling.source.shape)  # B x h x w x C
    spread = smoothing_weights(logits, options).to(loss.dtype)
    band, log_p = upsampling.new_band(), upsampling.new_band()
    hard = None
    if ohem_thresh:
        hard = hard_pixels(label_log_p(upsampling, labels, weight), ohem_thresh)
    for b, top, bottom in upsampling.bands():
        target, labelled = split_labels(labels[b, top:bottom])
        counts = labelled.to(loss.dtype)
        if hard is not None:
            counts *= hard[b, top:bottom].unsqueeze(-1)
        pixel_weight = counts if weight is None else counts * weight.to(loss.dtype)[target]
        total_weight += pixel_weight.sum()
        if label_smoothing:
            pixel_weight = pixel_weight * (1 - label_smoothing)

        part = log_p[: bottom - top]  # rows x W x C
        scores = upsampling.up(b, top, bottom, out=band)
        log_softmax(scores, out=part)
        loss -= (part.gather(-1, target) * pixel_weight).sum()
        if label_smoothing:
            loss -= (part @ spread * counts[..., 0]).sum()
        if count_correct:
            if adjustment is not None:  # predictions are without it
                scores -= adjustment
            of_label = scores.gather(-1, target)
            scores.scatter_(-1, target, -torch.inf)  # so that the label is not its own rival
            correct += ((of_label > scores.amax(-1, keepdim=True)) & labelled).sum()
        if with_gradient:
            # d loss / d logits = (softmax - one-hot) · weight, and the same of all classes
            slope = pixel_weight
            if label_smoothing:
                slope = pixel_weight + counts * spread.sum()
            band_gradient = part.exp_().mul_(slope)
            band_gradient.scatter_add_(-1, target, -pixel_weight)
            if label_smoothing:
                band_gradient.addcmul_(counts, spread, value=-1)
            upsampling.add_down(band_gradient, b, top, bottom, gradient)
    return Sums(
        loss, total_weight, correct, gradient.permute(0, 3, 1, 2) if with_gradient else None
    )


def fused_sums(
    logits: Tensor,
    labels: Tensor,
    extent: Extent | None,
    options: Options,
    with_gradient: bool,
) -> Sums:
    """The sums from a GPU's kernels, which keep a few numbers of each pixel."""
    from . import fused  # which needs Triton

    weight, label_smoothing, ohem_thresh, *_ = options
    labels = labels.contiguous()
    plain, logits = logits, options.adjusted(logits)
    upsampling = fused.FusedUpsampling(logits, labels.shape[-2:], extent)
    log_sum, log_p, is_correct = upsampling.statistics(labels, unlabelled_value(labels))
    if logits is not plain:  # of which the predictions are
        predicting = fused.FusedUpsampling(plain, labels.shape[-2:], extent)
        *_, is_correct = predicting.statistics(labels, unlabelled_value(labels))
    target, labelled = (x.squeeze(-1) for x in split_labels(labels))
    log_p = log_p.where(labelled, 0)
    counts = labelled.float()
    pixel_weight = counts if weight is None else counts * weight.float()[target]
    if ohem_thresh:
        hard = hard_pixels(log_p.where(pixel_weight > 0, torch.inf), ohem_thresh)
        counts, pixel_weight = counts * hard, pixel_weight * hard
    total_weight = pixel_weight.sum()
    pixel_weight = pixel_weight * (1 - label_smoothing)
    loss = -(log_p * pixel_weight).sum()
    slope = pixel_weight
    if label_smoothing:
        # What is linear in a pixel's logits needs no more than the pixels' shares in each vector.
        spread = smoothing_weights(logits, options).float()
        slope = pixel_weight + counts * spread.sum()
        height, width = logits.shape[-2:]
        shares = resample_adjoint(counts[:, None], (height, width), extent or (height, width))
        shares = shares * spread[:, None, None]  # B x C x h x w
        loss += (log_sum * counts).sum() * spread.sum() - (shares * logits).sum()
    gradient = None
    if with_gradient:
        gradient = upsampling.gradient(labels, log_sum, slope, pixel_weight)
        if label_smoothing:
            gradient -= shares
    return Sums(loss, total_weight, (is_correct & labelled).sum(), gradient)


def smoothing_weights(logits: Tensor, options: Options) -> Tensor:
    """How much each class, C, counts in the part of a label that is spread over all."""
    num_class = logits.shape[1]
    weight = logits.new_ones(num_class) if options.weight is None else options.weight
    return weight * (options.label_smoothing / num_class)


def log_softmax(logits: Tensor, out: Tensor) -> Tensor:
    """`torch.log_softmax` of logits … x C over the classes.

    That goes class by class where these do not fill a vector of the CPU. Then its definition, step
    by step, is faster.
    """
    if logits.shape[-1] < LANES:
        return torch.sub(logits, logits.logsumexp(-1, keepdim=True), out=out)
    return torch.log_softmax(logits, dim=-1, out=out)


def label_log_p(upsampling: Upsampling, labels: Tensor, weight: Tensor | None) -> Tensor:
    """Logarithms of the labels' probabilities, B x H x W; inf where a pixel does not count."""
    log_p = torch.empty(labels.shape, dtype=upsampling.dtype, device=labels.device)
    band, part = upsampling.new_band(), upsampling.new_band()
    for b, top, bottom in upsampling.bands():
        target, labelled = split_labels(labels[b, top:bottom])
        counts = labelled if weight is None else labelled & (weight[target] > 0)
        rows = part[: bottom - top]
        log_softmax(upsampling.up(b, top, bottom, out=band), out=rows)
        log_p[b, top:bottom] = rows.gather(-1, target).where(counts, torch.inf).squeeze(-1)
    return log_p


def hard_pixels(log_p: Tensor, threshold: float) -> Tensor:
    """Which pixels are hard, B x H x W: those whose class has a probability below a threshold.

    At least one in `LEAST_HARD` of the pixels that count is hard, or a few more where several are
    equally so.

    Args:
        log_p: the logarithm of the probability, inf of pixels that do not count.
        threshold: the probability.
    """
    limit = log_p.new_full((1,), math.log(threshold))
    if most := log_p.numel() // LEAST_HARD:
        # How many are asked for stays on the device: a GPU is not waited for.
        least = (log_p < torch.inf).sum() // LEAST_HARD
        hardest = log_p.flatten().topk(most, largest=False)[0]
        last = hardest.gather(0, (least - 1).clamp(min=0)[None])
        limit = limit.maximum(last.where(least > 0, -torch.inf))
    return ~(log_p > limit)  # what is not a number is not hidden


def split_labels(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The classes of pixels, 0 where there is none, and which pixels have one; both … x 1."""
    target = labels.unsqueeze(-1).long()
    labelled = target != unlabelled_value(labels)
    return target.where(labelled, 0), labelled


def unlabelled_value(labels: Tensor) -> int:
    """The value of pixels that have no label."""
    return 255 if labels.dtype == torch.uint8 else -1


def sum_over_pixels(logits: Tensor, labels: Tensor, extent: Extent | None, terms: Terms) -> Tensor:
    """The sum of terms of upsampled logits and labels over all labelled pixels.

    Every band is computed twice, once more for the gradient.

    Args:
        logits: B x C x h x w, any floating point; half precision is computed in single.
        labels: B x H x W of an integer type; pixels of -1 (255 in uint8) do not count.
        extent: the pictures' height and width in features; None = (h, w).
        terms: from logits N x C and classes N of some pixels to the sum of their terms, a tensor of
            the same shape for any N. Its operations are torch's.

    Returns:
        A tensor of the shape of `terms`, through which gradients flow to the logits.
    """
    with full_precision(logits.device):
        return SumOverPixels.apply(logits, labels, extent, terms)


class SumOverPixels(torch.autograd.Function):
    """The sum, and its gradient from bands that are computed anew."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, logits: Tensor, labels: Tensor, extent: Extent | None, terms: Terms
    ) -> Tensor:
        ctx.save_for_backward(logits, labels)
        ctx.extent, ctx.terms = extent, terms
        upsampling = Upsampling(logits, labels.shape[-2:], extent)
        band = upsampling.new_band()
        parts = []
        for b, top, bottom in upsampling.bands():
            target, labelled = split_labels(labels[b, top:bottom])
            pixels = upsampling.up(b, top, bottom, out=band)
            parts.append(terms(pixels[labelled[..., 0]], target[labelled]))
        return torch.stack(parts).sum(0)

    @staticmethod
    @once_differentiable
    def backward(  # noqa: D102
        ctx: Any, grad_sum: Tensor
    ) -> tuple[Tensor, None, None, None]:
        logits, labels = ctx.saved_tensors
        upsampling = Upsampling(logits, labels.shape[-2:], ctx.extent)
        gradient = upsampling.source.new_zeros(upsampling.source.shape, dtype=upsampling.dtype)
        band = upsampling.new_band()
        for b, top, bottom in upsampling.bands():
            target, labelled = split_labels(labels[b, top:bottom])
            pixels = upsampling.up(b, top, bottom, out=band).requires_grad_()
            with torch.enable_grad(), full_precision(logits.device):
                part = ctx.terms(pixels[labelled[..., 0]], target[labelled])
            (of_band,) = torch.autograd.grad(part, pixels, grad_sum)
            upsampling.add_down(of_band, b, top, bottom, gradient)
        return gradient.permute(0, 3, 1, 2).to(logits.dtype), None, None, None
