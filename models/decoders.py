"""Decoders: maps of features to low-resolution logits, and these bilinearly to log-probabilities.

`c1` classifies every position by itself, `psp` and `ppm` also see means over regions of the
picture, and `upernet` merges all maps. With `deepsup`, the last map but one is classified as well,
for the loss only.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pyramid import CoarseMap, PooledBatchNorm2d, PyramidConv3x3, Stack, covered
from .upsample import Extent, resample, upsample
from .windows import spans
from .winograd import Conv3x3

POOLS = (1, 2, 3, 6)  # regions along each side, of pyramid pooling
TILE = 128  # positions of the finest level of a pyramid, on a side, computed at a time


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

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(num_class, channels, **head)  # type: ignore[arg-type]
        dim = channels[-1] // 4
        self.cbr_deepsup = conv_bn_relu(channels[-2], dim, kernel_size=3)
        self.dropout_deepsup = nn.Dropout2d(self.auxiliary_dropout)
        self.conv_last_deepsup = nn.Conv2d(dim, num_class, kernel_size=1)

    auxiliary_dropout: float = 0.0

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


class UPerNet(Decoder):
    """A feature pyramid of up to four maps, whose top is a pyramid pooling; logits at the finest.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018, section 3.2.

    Args:
        dim: channels of the pyramid.
    """

    def __init__(self, num_class: int, channels: Sequence[int], dim: int = 512, **head):
        super().__init__(**head)
        channels = channels[-4:]
        self.position = -len(channels)
        self.ppm_conv = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[-1], 512, kernel_size=1, bias=False),
                PooledBatchNorm2d(512),
                nn.ReLU(inplace=True),
            )
            for _ in POOLS
        )
        self.ppm_last_conv = conv_bn_relu(channels[-1] + len(POOLS) * 512, dim, kernel_size=3)
        self.fpn_in = nn.ModuleList(conv_bn_relu(c, dim) for c in channels[:-1])
        self.fpn_out = nn.ModuleList(
            nn.Sequential(conv_bn_relu(dim, dim, kernel_size=3)) for _ in channels[:-1]
        )
        self.conv_last = nn.Sequential(
            nn.Sequential(
                PyramidConv3x3(len(channels) * dim, dim),
                nn.BatchNorm2d(dim),
                nn.ReLU(inplace=True),
            ),
            nn.Conv2d(dim, num_class, kernel_size=1),
        )

    @property
    def num_maps(self) -> int:
        """All, but four at most."""
        return -self.position

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, at the positions of the finest map."""
        maps = maps[-self.num_maps :]
        sizes = [x.shape[-2:] for x in maps]
        extents = (extents or [(x.shape[-2], x.shape[-1]) for x in maps])[-self.num_maps :]
        x = self.pooled(maps[-1])  # B x dim x h_3 x w_3
        pyramid = [x]  # from coarse to fine
        for i in range(len(maps) - 2, 0, -1):
            extent = covered(extents[i + 1], sizes[i], extents[i])
            x = self.fpn_in[i](maps[i]) + resample(x, sizes[i], extent)
            pyramid.append(self.fpn_out[i](x))
        reached = [covered(extent, sizes[0], extents[0]) for extent in reversed(extents[1:])]
        # The finest level takes most of the memory. That of large pictures comes in tiles; in
        # training, BatchNorm has to see all of it.
        height, width = sizes[0]
        side = max(height, width) if self.training else TILE
        bands = [
            torch.cat(
                [
                    self.finest(maps[0], x, pyramid, reached, (slice(*rows), slice(*columns)))
                    for columns in spans(width, side, 1)
                ],
                dim=-1,
            )
            for rows in spans(height, side, 1)
        ]
        return torch.cat(bands, dim=-2)

    def finest(
        self,
        fine: Tensor,
        above: Tensor,
        pyramid: list[Tensor],
        reached: list[Extent],
        tile: tuple[slice, slice],
    ) -> Tensor:
        """Logits of a tile.

        Args:
            fine: the finest map.
            above: the level above it, before its 3x3 convolution.
            pyramid: all levels above it, from coarse to fine.
            reached: for each of these, the height and width of the finest map in its features.
            tile: rows and columns of it.

        Returns:
            B x num_class x rows x columns.
        """
        size = fine.shape[-2:]
        # Two convolutions of 3x3 see two positions more.
        seen = [
            slice(max(0, part.start - 2), min(n, part.stop + 2))
            for part, n in zip(tile, size, strict=True)
        ]
        part = None if seen == [slice(0, n) for n in size] else (seen[0], seen[1])
        levels = [
            CoarseMap.at(level, size, extent, part)
            for level, extent in zip((*pyramid, above), (*reached, reached[-1]), strict=True)
        ]
        x = self.fpn_in[0](fine[..., seen[0], seen[1]]) + levels.pop().resampled()
        logits = self.conv_last((self.fpn_out[0](x), levels[::-1]))
        rows, columns = (
            slice(own.start - all_.start, own.stop - all_.start)
            for own, all_ in zip(tile, seen, strict=True)
        )
        return logits[..., rows, columns]

    def pooled(self, x: Tensor) -> Tensor:
        """B x dim x h x w, of the last map and its means over regions."""
        size = x.shape[-2:]
        means = []
        for scale, branch in zip(POOLS, self.ppm_conv, strict=True):
            assert isinstance(branch, nn.Sequential)
            # The convolution, of single positions, comes before the interpolation: both are linear.
            mean = branch[0](F.adaptive_avg_pool2d(x, scale))
            if scale == 1:  # BatchNorm has to see that it is a single value
                means.append(resample(branch[1:](mean), size))
            else:
                means.append(branch[1:](resample(mean, size)))
        return self.ppm_last_conv(torch.cat([x, *means], dim=1))


def pyramid_pools(in_dim: int) -> nn.ModuleList:
    """The means over regions, and their 512 features each."""
    return nn.ModuleList(
        nn.Sequential(
            nn.AdaptiveAvgPool2d(scale),
            nn.Conv2d(in_dim, 512, kernel_size=1, bias=False),
            PooledBatchNorm2d(512),
            nn.ReLU(inplace=True),
        )
        for scale in POOLS
    )


def pyramid_stack(x: Tensor, pools: Iterable[nn.Module]) -> Stack:
    """A map and its `pyramid_pools`."""
    return x, [CoarseMap.at(pool(x), x.shape[-2:]) for pool in pools]


def pyramid_classifier(in_dim: int, num_class: int, dropout: nn.Module) -> nn.Sequential:
    """Logits of a `pyramid_stack`."""
    return nn.Sequential(
        PyramidConv3x3(in_dim + len(POOLS) * 512, 512),
        nn.BatchNorm2d(512),
        nn.ReLU(inplace=True),
        dropout,
        nn.Conv2d(512, num_class, kernel_size=1),
    )


def conv_bn_relu(in_dim: int, out_dim: int, kernel_size: int = 1) -> nn.Sequential:
    """A convolution that keeps the size, BatchNorm and ReLU."""
    conv = (
        Conv3x3(in_dim, out_dim)
        if kernel_size == 3
        else nn.Conv2d(in_dim, out_dim, kernel_size, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_dim), nn.ReLU(inplace=True))
