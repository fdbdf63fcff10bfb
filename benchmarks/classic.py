"""The classic recipe, written once and plainly: what everybody runs, and the thing to beat.

NCHW in single precision; logits upsampled whole, log-softmax, negative log-likelihood.
"""

import torch.nn.functional as F
from torch import Tensor


def classic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of logits B x C x h x w for labels B x H x W, -1 = unlabelled."""
    upsampled = F.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return F.nll_loss(F.log_softmax(upsampled, dim=1), labels, ignore_index=-1)
