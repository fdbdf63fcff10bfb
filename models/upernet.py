"""UPerNet: a decoder that merges maps of several strides."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .decoders import POOLS, PyramidDecoder
from .interpolation import Extent, is_exporting, resample
from .layers import conv_bn_relu
from .pyramid import CoarseMap, PyramidConv3x3, covered, region_means
from .windows import empty, spans

TILE = 128  # positions of the finest level, on a side, computed at a time


class UPerNet(PyramidDecoder):
    """A feature pyramid of up to four maps, whose top is a pyramid pooling; logits at the finest.

    Xiao et al., "Unified Perceptual Parsing for Scene Understanding", 2018, section 3.2.

    Args:
        dim: channels of the pyramid.
    """

    def __init__(self, num_class: int, channels: Sequence[int], dim: int = 512, **head):
        super().__init__(channels, **head)
        channels = self.channels
        self.ppm_conv = nn.ModuleList(conv_bn_relu(channels[-1], 512, 1) for _ in POOLS)
        self.ppm_last_conv = conv_bn_relu(channels[-1] + len(POOLS) * 512, dim, kernel_size=3)
        self.fpn_in = nn.ModuleList(conv_bn_relu(c, dim, 1) for c in channels[:-1])
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

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, at the positions of the finest map."""
        maps, extents = self.merged(maps, extents)
        sizes = [x.shape[-2:] for x in maps]
        x = self.pooled(maps[-1])  # B x dim x h_3 x w_3
        pyramid = [x]  # from coarse to fine
        for i in range(len(maps) - 2, 0, -1):
            extent = covered(extents[i + 1], sizes[i], extents[i])
            x = self.fpn_in[i](maps[i]) + resample(x, sizes[i], extent)
            pyramid.append(self.fpn_out[i](x))
        reached = [covered(extent, sizes[0], extents[0]) for extent in reversed(extents[1:])]
        # The finest level takes most of the memory. That of large pictures comes in tiles; in
        # training, BatchNorm has to see all of it.
        if self.training or is_exporting():
            return self.finest(maps[0], x, pyramid, reached)
        logits: Tensor | None = None
        for top, bottom in spans(sizes[0][0], TILE, 1):
            for left, right in spans(sizes[0][1], TILE, 1):
                tile = slice(top, bottom), slice(left, right)
                part = self.tile(maps[0], x, pyramid, reached, tile)
                logits = empty(part, *sizes[0]) if logits is None else logits
                logits[..., tile[0], tile[1]] = part
        assert logits is not None
        return logits

    def finest(
        self,
        fine: Tensor,
        above: Tensor,
        pyramid: list[Tensor],
        reached: list[Extent],
        part: tuple[slice, slice] | None = None,
    ) -> Tensor:
        """Logits at the positions of the finest map.

        Args:
            fine: the finest map.
            above: the level above it, before its 3x3 convolution.
            pyramid: all levels above it, from coarse to fine.
            reached: for each of these, the height and width of the finest map in its features.
            part: rows and columns of it that are computed, as if there were no others; None = all.

        Returns:
            B x num_class x rows x columns.
        """
        size = fine.shape[-2:]
        levels = [
            CoarseMap.at(level, size, extent, part)
            for level, extent in zip((*pyramid, above), (*reached, reached[-1]), strict=True)
        ]
        if part:
            fine = fine[..., part[0], part[1]]
        x = self.fpn_in[0](fine) + levels.pop().resampled()
        return self.conv_last((self.fpn_out[0](x), levels[::-1]))

    def tile(
        self,
        fine: Tensor,
        above: Tensor,
        pyramid: list[Tensor],
        reached: list[Extent],
        tile: tuple[slice, slice],
    ) -> Tensor:
        """The logits that `finest` has in a tile, rows and columns, computed from what it needs."""
        # Two convolutions of 3x3 see two positions more.
        seen = [
            slice(max(0, part.start - 2), min(n, part.stop + 2))
            for part, n in zip(tile, fine.shape[-2:], strict=True)
        ]
        is_all = seen == [slice(0, n) for n in fine.shape[-2:]]
        part = None if is_all else (seen[0], seen[1])
        logits = self.finest(fine, above, pyramid, reached, part)
        rows, columns = (
            slice(own.start - all_.start, own.stop - all_.start)
            for own, all_ in zip(tile, seen, strict=True)
        )
        return logits[..., rows, columns]

    def pooled(self, x: Tensor) -> Tensor:
        """B x dim x h x w, of the last map and its means over regions."""
        size = x.shape[-2:]
        means = []
        pools = region_means(x, POOLS)
        for scale, pool, branch in zip(POOLS, pools, self.ppm_conv, strict=True):
            assert isinstance(branch, nn.Sequential)
            # The convolution, of single positions, comes before the interpolation: both are linear.
            mean = branch[0](pool)
            if scale == 1:  # BatchNorm has to see that it is a single value
                means.append(resample(branch[1:](mean), size))
            else:
                means.append(branch[1:](resample(mean, size)))
        return self.ppm_last_conv(torch.cat([x, *means], dim=1))
