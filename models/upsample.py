"""The bilinear head: from low-resolution logits to the loss, the labels and the probabilities.

Decoders give logits at 1/8 or 1/16 of the picture; only the functions of this module bring them to
full resolution (bilinear, `align_corners=False`).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample_cross_entropy(logits: Tensor, labels: Tensor, ignore_index: int = -1) -> Tensor:
    """Mean cross-entropy of upsampled logits over the pixels that have a label.

    Args:
        logits: B x C x h x w.
        labels: B x H x W of an integer type; pixels equal to `ignore_index`, as that type holds it
            (-1 is 255 in uint8), do not count.

    Returns:
        The scalar loss; 0, with zero gradient, where no pixel has a label.
    """
    if labels.dtype == torch.uint8:
        ignore_index %= 256
    losses = F.cross_entropy(
        upsample(logits, labels.shape[-2:]),
        labels.long(),
        ignore_index=ignore_index,
        reduction="sum",
    )
    return losses / (labels != ignore_index).sum().clamp(min=1)


def upsample_argmax(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels B x H x W, `size` = (H, W), of logits B x C x h x w."""
    return upsample(logits, size).argmax(dim=1)


def average_upsampled_probabilities(logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Mean probabilities B x C x H x W of logits B x C x h x w, whose h and w may differ."""
    return sum(upsample(z, size).softmax(dim=1) for z in logits) / len(logits)


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits B x C x H x W, `size` = (H, W), in at least single precision."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)
