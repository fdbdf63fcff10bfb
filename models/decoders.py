"""Decoders: maps of features to low-resolution logits, and these bilinearly to log-probabilities.

`c1` classifies every position by itself, `psp` and `ppm` also see means over regions of the
picture. With `deepsup`, the last map but one is classified as well, for the loss only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from .interpolation import Extent
from .layers import conv_bn_relu
from .pyramid import CoarseMap, PyramidConv3x3, Stack, region_means
from .upsample import upsample

POOLS = (1, 2, 3, 6)  # regions along each side, of pyramid pooling


class Decoder(nn.Module, ABC):
    """A decoder: its `logits`, upsampled bilinearly to `segSize`.

    Args:
        segSize: default output size in pixels, a side or (height, width).
        use_softmax: give probabilities rather than log-probabilities.

    Attributes:
        position: which of the encoder's maps has the positions of the logits.
    """

    position: int = -1

    def __init__(self, segSize: int | tuple[int, int] = 384, use_softmax: bool = False):
        super().__init__()
        self.segSize = segSize
        self.use_softmax = use_softmax

    @property
    def num_maps(self) -> int:
        """Number of maps that it looks at, the encoder's last ones."""
        return 1

    @abstractmethod
    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """Low-resolution logits.

        Args:
            maps: B x channels[i] x h_i x w_i; at least the last `num_maps` of the encoder's.
            extents: the pictures' height and width in features of each map, as `Encoder.extents`
                has them; None = (h_i, w_i).

        Returns:
            B x num_class x h x w, at the positions of `maps[position]`.
        """

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> Tensor | None:
        """Logits of the last map but one, at its positions, for an auxiliary loss; None = none."""
        return None

    def forward(
        self,
        maps: Tensor | Sequence[Tensor],
        segSize: int | tuple[int, int] | None = None,
        extents: Sequence[Extent] | None = None,
    ) -> Tensor:
        """Log-probabilities (or probabilities) of features.

        Args:
            maps: a tensor, the last map, or those of `logits`.
            segSize: output size in pixels, a side or (height, width); None = the default.
            extents: those of `logits`; None is right for multiples of the encoder's strides.

        Returns:
            B x num_class x segSize.
        """
        size = self.segSize if segSize is None else segSize
        height, width = (size, size) if isinstance(size, int) else size
        maps = [maps] if isinstance(maps, Tensor) else maps
        extent = extents[self.position] if extents else None
        logits = upsample(self.logits(maps, extents), (height, width), extent)
        return logits.softmax(dim=1) if self.use_softmax else logits.log_softmax(dim=1)


class PyramidDecoder(Decoder):
    """A decoder that merges the last maps, four at most; its logits are at the finest of these."""

    def __init__(self, channels: Sequence[int], **head):
        super().__init__(**head)
        self.channels = channels[-4:]
        self.position = -len(self.channels)

    @property
    def num_maps(self) -> int:
        """All, but four at most."""
        return -self.position

    def merged(
        self, maps: Sequence[Tensor], extents: Sequence[Extent] | None
    ) -> tuple[Sequence[Tensor], Sequence[Extent]]:
        """The maps that are merged, and the pictures' extents in each; those of `logits`."""
        maps = maps[-self.num_maps :]
        extents = extents or [(x.shape[-2], x.shape[-1]) for x in maps]
        return maps, extents[-self.num_maps :]


class C1Bilinear(Decoder):
    """One 1x1 convolution: the smallest decoder there is."""

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        self.conv_last = nn.Conv2d(channels[-1], num_class, kernel_size=1, bias=False)

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, of the last map."""
        return self.conv_last(maps[-1])


class C1(Decoder):
    """A 3x3 convolution to a quarter of the channels, and a 1x1 convolution."""

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        dim = channels[-1] // 4
        self.cbr = conv_bn_relu(channels[-1], dim, kernel_size=3)
        self.conv_last = nn.Conv2d(dim, num_class, kernel_size=1)

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, of the last map."""
        return self.conv_last(self.cbr(maps[-1]))


class PSPBilinear(Decoder):
    """Pyramid pooling: the last map beside its means over 1, 2 x 2, 3 x 3 and 6 x 6 regions.

    Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.2.
    """

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        self.psp = pyramid_pools(channels[-1])
        self.conv_last = pyramid_classifier(channels[-1], num_class, nn.Dropout(0.1))

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, of the last map."""
        return self.conv_last(pyramid_stack(maps[-1], self.psp))


class PPM(Decoder):
    """`PSPBilinear` under the names of later files of weights; channels are dropped as a whole."""

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        self.ppm = pyramid_pools(channels[-1])
        self.conv_last = pyramid_classifier(channels[-1], num_class, nn.Dropout2d(0.1))

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, of the last map."""
        return self.conv_last(pyramid_stack(maps[-1], self.ppm))


class DeepSupervision(Decoder):
    """With another decoder: a classifier of the last map but one, for an auxiliary loss.

    Zhao et al., "Pyramid Scene Parsing Network", 2017, section 3.3.
    """

    auxiliary_dropout: float = 0.0

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(num_class, channels, **head)  # type: ignore[arg-type]
        dim = channels[-1] // 4
        self.cbr_deepsup = conv_bn_relu(channels[-2], dim, kernel_size=3)
        self.dropout_deepsup = nn.Dropout2d(self.auxiliary_dropout)
        self.conv_last_deepsup = nn.Conv2d(dim, num_class, kernel_size=1)

    @property
    def num_maps(self) -> int:
        """Two in training, and one else."""
        return 2 if self.training else 1

    def auxiliary_logits(self, maps: Sequence[Tensor]) -> Tensor:
        """B x num_class x h x w, of the last map but one."""
        return self.conv_last_deepsup(self.dropout_deepsup(self.cbr_deepsup(maps[-2])))


class C1DeepSup(DeepSupervision, C1):
    """`C1`, with an auxiliary loss."""


class PPMDeepSup(DeepSupervision, PPM):
    """`PPM`, with an auxiliary loss."""

    auxiliary_dropout = 0.1


def pyramid_pools(in_dim: int) -> nn.ModuleList:
    """The means over regions, and their 512 features each."""
    return nn.ModuleList(
        nn.Sequential(nn.AdaptiveAvgPool2d(scale), *conv_bn_relu(in_dim, 512, 1)) for scale in POOLS
    )


def pyramid_stack(x: Tensor, pools: nn.ModuleList) -> Stack:
    """A map and its `pyramid_pools`, whose means are computed together."""
    features = zip(pools, region_means(x, POOLS), strict=True)
    return x, [CoarseMap.at(pool[1:](mean), x.shape[-2:]) for pool, mean in features]  # type: ignore


def pyramid_classifier(in_dim: int, num_class: int, dropout: nn.Module) -> nn.Sequential:
    """Logits of a `pyramid_stack`."""
    return nn.Sequential(
        PyramidConv3x3(in_dim + len(POOLS) * 512, 512),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
        dropout,
        nn.Conv2d(512, num_class, kernel_size=1),
    )
