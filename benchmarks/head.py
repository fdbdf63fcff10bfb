"""The bilinear head against what it replaces: loss with gradient, labels, averaged probabilities.

    python -m benchmarks.head

The first tables are about two pictures of 384 x 384 pixels and 150 classes, from logits at 1/8. The
next one has time and memory as pixels or classes double four times, the last one five scales of a
photograph of 24 megapixels.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.classic import classic_loss, upsampled
from benchmarks.common import Job, Row, Tables, compare, main, measure
from inference import SCALES
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax
from utils import keep_freed_memory

PHOTOGRAPH = (4000, 6000)


def interpolated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The loss that `upsample_cross_entropy` computes, from logits at full size."""
    full_size = upsampled(logits, labels.shape[-2:])
    return nn.functional.cross_entropy(full_size, labels, ignore_index=-1)


def interpolated_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """The labels that `upsample_argmax` computes, from logits at full size."""
    return upsampled(logits, size).argmax(dim=1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "`interpolate`, `log_softmax`, `nll_loss`": classic_loss,
    "`interpolate`, `cross_entropy`": interpolated_loss,
    "`upsample_cross_entropy`": upsample_cross_entropy,
}
ARGMAXES = {
    "`interpolate`, `argmax`": interpolated_argmax,
    "`upsample_argmax`": upsample_argmax,
}


def random_logits(classes: int, height: int, width: int, batch: int = 1) -> Tensor:
    """Logits at 1/8 of height x width, channels last as a network gives them."""
    logits = torch.randn(batch, classes, round(height / 8), round(width / 8))
    return logits.contiguous(memory_format=torch.channels_last)


def training(loss: str, classes: int, height: int, width: int, batch: int = 1) -> Job:
    """The loss `LOSSES[loss]` and its gradient."""
    if LOSSES[loss] is upsample_cross_entropy:
        keep_freed_memory()  # as the scripts do
    logits = random_logits(classes, height, width, batch).requires_grad_()
    labels = torch.randint(-1, classes, (batch, height, width))

    def job() -> None:
        logits.grad = None
        LOSSES[loss](logits, labels).backward()

    return job


def prediction(argmax: str) -> Job:
    """The labels of two pictures by `ARGMAXES[argmax]`."""
    return partial(ARGMAXES[argmax], random_logits(150, 384, 384, batch=2), (384, 384))


def growth() -> list[Row]:
    """Time and memory of loss and gradient as pixels, and then classes, double four times."""
    sizes = [(384, 384), (384, 768), (768, 768), (768, 1536), (1536, 1536)]
    cases = [(150, *size) for size in sizes] + [(150 * 2**i, 384, 384) for i in range(1, 5)]
    rows: list[Row] = []
    for classes, height, width in cases:
        milliseconds, megabytes = measure(
            training("`upsample_cross_entropy`", classes, height, width)
        )
        values = classes * height * width
        rows.append(
            {
                "pixels and classes": f"{height} x {width}, {classes} classes",
                "ms": milliseconds,
                "ns per pixel and class": 1e6 * milliseconds / values,
                "extra MB": megabytes,
                "MB of the logits at full size": values * 4 / 2**20,
            }
        )
    return rows


def photograph() -> list[Row]:
    """Time and memory of a photograph's labels from several scales."""
    logits = [random_logits(150, *(round(n * s) for n in PHOTOGRAPH)) for s in SCALES]
    milliseconds, megabytes = measure(
        partial(average_upsampled_probabilities, logits, PHOTOGRAPH, [None] * len(logits))
    )
    size = "4000 x 6000, 150 classes"
    return [{"pixels and classes": size, "ms": milliseconds, "extra MB": megabytes}]


def tables(args: argparse.Namespace) -> Tables:
    """Comparisons of losses and of labels, growth, and a photograph."""
    rounds = 3 * args.rounds  # turns are short
    return {
        "Loss and gradient, 2 x 150 x 48 x 48 to 384 x 384": compare(
            {name: partial(training, name, 150, 384, 384, batch=2) for name in LOSSES}, rounds
        ),
        "Labels, 2 x 150 x 48 x 48 to 384 x 384": compare(
            {name: partial(prediction, name) for name in ARGMAXES}, rounds
        ),
        "Growth of loss and gradient": growth(),
        "Labels of a photograph from five scales": photograph(),
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
