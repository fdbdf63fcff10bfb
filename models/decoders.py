"""Decoders: features to low-resolution logits, and these bilinearly to log-probabilities.

`C1Bilinear` classifies every position by itself; `PSPBilinear` is the pyramid pooling module of
Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.2.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .upsample import Extent, upsample
from .winograd import conv3x3


class BilinearDecoder(nn.Module, ABC):
    """A decoder: its `logits`, upsampled bilinearly to `segSize`.

    Args:
        segSize: default output size in pixels, a side or (height, width).
        use_softmax: give probabilities rather than log-probabilities.
    """

    def __init__(self, segSize: int | tuple[int, int], use_softmax: bool):
        super().__init__()
        self.segSize = segSize
        self.use_softmax = use_softmax

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """Logits B x num_class x h x w of features B x fc_dim x h x w."""

    def forward(
        self,
        features: Tensor,
        segSize: int | tuple[int, int] | None = None,
        extent: Extent | None = None,
    ) -> Tensor:
        """Log-probabilities (or probabilities) of features.

        Args:
            features: B x fc_dim x h x w.
            segSize: output size in pixels, a side or (height, width); None = the default.
            extent: the pictures' height and width in features, as `Encoder.extent` has them; None =
                (h, w), which is right for multiples of the encoder's stride.

        Returns:
            B x num_class x segSize.
        """
        size = self.segSize if segSize is None else segSize
        height, width = (size, size) if isinstance(size, int) else size
        logits = upsample(self.logits(features), (height, width), extent)  # B x num_class x H x W
        return logits.softmax(dim=1) if self.use_softmax else logits.log_softmax(dim=1)


class C1Bilinear(BilinearDecoder):
    """One 1x1 convolution: the smallest decoder there is."""

    def __init__(self, num_class: int, fc_dim: int, **head):
        super().__init__(**head)
        self.conv_last = nn.Conv2d(fc_dim, num_class, kernel_size=1, bias=False)

    def logits(self, features: Tensor) -> Tensor:
        """Logits B x num_class x h x w of features B x fc_dim x h x w."""
        return self.conv_last(features)  # B x num_class x h x w


class PSPBilinear(BilinearDecoder):
    """Pyramid pooling: the features beside their means over 1, 2 x 2, 3 x 3 and 6 x 6 regions."""

    def __init__(self, num_class: int, fc_dim: int, **head):
        super().__init__(**head)
        self.psp = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(scale),
                nn.Conv2d(fc_dim, 512, kernel_size=1, bias=False),
                PooledBatchNorm2d(512),
                nn.ReLU(inplace=True),
            )
            for scale in (1, 2, 3, 6)
        )
        self.conv_last = nn.Sequential(
            nn.Conv2d(fc_dim + 4 * 512, 512, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(512),
            nn.ReLU(inplace=True),
            nn.Dropout(0.1),
            nn.Conv2d(512, num_class, kernel_size=1),
        )

    def logits(self, features: Tensor) -> Tensor:
        """Logits B x num_class x h x w of features B x fc_dim x h x w."""
        # The first convolution's input, the features beside the upsampled pools, is never made.
        conv, *rest = self.conv_last
        assert isinstance(conv, nn.Conv2d)
        pools = [pool(features) for pool in self.psp]
        weight, weight_pools = conv.weight.split([features.shape[1], 512 * len(pools)], dim=1)
        x = conv3x3(features, weight, conv.bias)  # B x 512 x h x w
        x = x + conv3x3_of_upsampled(pools, weight_pools, x.shape[-2:])
        for module in rest:
            x = module(x)
        return x  # B x num_class x h x w


def conv3x3_of_upsampled(maps: list[Tensor], weight: Tensor, size: Sequence[int]) -> Tensor:
    """A 3x3 convolution, padded by 1, of small maps that are upsampled to one size and stacked.

    Both steps are linear. Therefore the nine taps are computed at the few positions of the small
    maps first, and a matrix product spreads them over the large one: a thirtieth of the arithmetic.

    Args:
        maps: several B x C x h x w.
        weight: D x (C · number of maps) x 3 x 3.
        size: (H, W).

    Returns:
        B x D x H x W.
    """
    responses, spreads = [], []
    for x, part in zip(maps, weight.chunk(len(maps), dim=1), strict=True):
        positions = x[0, 0].numel()
        basis = torch.eye(positions, dtype=x.dtype, device=x.device)
        basis = basis.view(-1, 1, *x.shape[-2:])
        spread = F.unfold(upsample(basis, size), kernel_size=3, padding=1)  # hw x 9 x HW
        spreads.append(spread.flatten(0, 1))
        response = torch.einsum("bcp,dct->bptd", x.flatten(2), part.flatten(2))
        responses.append(response.flatten(1, 2))  # B x hw·9 x D
    response = torch.cat(responses, dim=1)
    out = torch.cat(spreads).T.to(response.dtype) @ response  # B x HW x D
    return out.transpose(1, 2).unflatten(2, size)


class PooledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains where a batch holds a single value per channel.

    The 1x1 pool of a batch of one picture has a variance of zero, and batch statistics would erase
    it. The running statistics normalise it instead, as they do at inference; they do not change.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B x C x h x w, normalised."""
        if self.training and x[:, 0].numel() == 1:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)
