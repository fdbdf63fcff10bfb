"""The bilinear head against what it replaces: loss with gradient, labels, averaged probabilities.

    python -m benchmarks.head

Two pictures of 384 x 384 pixels and 150 classes, from logits at 1/8; then time and memory as
pixels or classes double four times; then five scales of a photograph of 24 megapixels.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.classic import classic_loss
from benchmarks.common import Contender, Row, arguments, compare, peak_memory, report
from models.upsample import (
    average_upsampled_probabilities,
    upsample_argmax,
    upsample_cross_entropy,
)

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)


def interpolated_loss(logits: Tensor, labels: Tensor) -> Tensor:
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.cross_entropy(upsampled, labels, ignore_index=-1)


def interpolated_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits, size, mode="bilinear", align_corners=False).argmax(dim=1)


LOSSES = {
    "log-softmax + nll_loss of interpolate": classic_loss,
    "cross_entropy of interpolate": interpolated_loss,
    "upsample_cross_entropy": upsample_cross_entropy,
}
ARGMAXES = {
    "argmax of interpolate": interpolated_argmax,
    "upsample_argmax": upsample_argmax,
}


def random_input(classes: int, height: int, width: int, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Logits at 1/8 of height x width, channels last as a network gives them, and labels."""
    torch.manual_seed(0)
    logits = torch.randn(batch, classes, height // 8, width // 8)
    labels = torch.randint(-1, classes, (batch, height, width))
    return logits.contiguous(memory_format=torch.channels_last), labels


def train(loss: str, logits: Tensor, labels: Tensor) -> None:
    """Loss and gradient."""
    LOSSES[loss](logits.detach().requires_grad_(), labels).backward()


def predict(argmax: str, logits: Tensor, labels: Tensor) -> None:
    """Labels of the labels' size."""
    ARGMAXES[argmax](logits, labels.shape[-2:])


def measure(contenders: dict[str, Contender], rounds: int) -> list[Row]:
    """Time and extra memory of each."""
    rows = compare(contenders, rounds)
    return [row | {"extra MB": peak_memory(contenders[row["contender"]])} for row in rows]


def growth(rounds: int) -> list[Row]:
    """Loss and gradient as pixels, and then classes, double four times."""
    sizes = [(384, 384), (384, 768), (768, 768), (768, 1536), (1536, 1536)]
    cases = [(150, *size) for size in sizes] + [(150 * 2**i, 384, 384) for i in range(1, 5)]
    rows = []
    for classes, height, width in cases:
        contender = partial(train, "upsample_cross_entropy", *random_input(classes, height, width))
        (row,) = measure({f"{height} x {width}, {classes} classes": contender}, rounds)
        values = classes * height * width
        rows.append(
            {
                "pixels and classes": row["contender"],
                "ms": row["median ms"],
                "ns per pixel and class": 1e6 * row["median ms"] / values,
                "extra MB": row["extra MB"],
                "MB of the logits at full size": values * 4 / 2**20,
            }
        )
    return rows


def average(logits: list[Tensor], size: tuple[int, int]) -> None:
    """Labels of a picture from several scales."""
    average_upsampled_probabilities(logits, size)


def main() -> None:
    args = arguments(__doc__.splitlines()[0])
    case = random_input(150, 384, 384, batch=2)
    photograph = (4000, 6000)
    scaled = [random_input(150, *(round(n * s) for n in photograph))[0] for s in SCALES]
    tables = {
        "Loss and gradient, 2 x 150 x 48 x 48 to 384 x 384": measure(
            {name: partial(train, name, *case) for name in LOSSES}, args.rounds
        ),
        "Labels, 2 x 150 x 48 x 48 to 384 x 384": measure(
            {name: partial(predict, name, *case) for name in ARGMAXES}, args.rounds
        ),
        "Growth of loss and gradient": growth(max(1, args.rounds // 3)),
        "Five scales of a photograph, averaged": measure(
            {"4000 x 6000, 150 classes": partial(average, scaled, photograph)}, 1
        ),
    }
    report(tables, args.json)


if __name__ == "__main__":
    main()
