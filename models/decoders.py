"""Decoders: maps of features to low-resolution logits, and these bilinearly to log-probabilities.

`c1` classifies every position by itself, `psp` and `ppm` also see means over regions of the
picture, and `upernet` merges all maps. With `deepsup`, the last map but one is classified as well,
for the loss only.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .upsample import Extent, interpolation, resample, upsample
from .winograd import Conv3x3, conv3x3

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
        return self.conv_last((maps[-1], [pool(maps[-1]) for pool in self.psp], None))


class PPM(Decoder):
    """`PSPBilinear` under the names of later files of weights; channels are dropped as a whole."""

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        self.ppm = pyramid_pools(channels[-1])
        self.conv_last = pyramid_classifier(channels[-1], num_class, nn.Dropout2d(0.1))

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, of the last map."""
        return self.conv_last((maps[-1], [pool(maps[-1]) for pool in self.ppm], None))


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
        for i in reversed(range(len(maps) - 1)):
            extent = covered(extents[i + 1], sizes[i], extents[i])
            x = self.fpn_in[i](maps[i]) + resample(x, sizes[i], extent)
            pyramid.append(self.fpn_out[i](x))
        *coarse, finest = pyramid
        of_coarse = [covered(extent, sizes[0], extents[0]) for extent in reversed(extents[1:])]
        return self.conv_last((finest, coarse[::-1], of_coarse[::-1]))

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


def pyramid_classifier(in_dim: int, num_class: int, dropout: nn.Module) -> nn.Sequential:
    """Logits of a map and its `pyramid_pools`."""
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


def covered(extent: Extent, size: Sequence[int], fine: Extent) -> Extent:
    """The height and width, in features of a map, of all features of a finer one.

    Args:
        extent: of the pictures in features of the map.
        size: number of features of the finer map, (h, w), which may reach beyond the pictures.
        fine: of the pictures in these.
    """
    return extent[0] * size[0] / fine[0], extent[1] * size[1] / fine[1]


class PyramidConv3x3(nn.Conv2d):
    """A 3x3 convolution, padded by 1, of a map and coarser ones, upsampled to its size and stacked.

    Neither the upsampled maps nor the stack are made. Interpolation and convolution are linear:
    the nine taps are computed at the few positions of a coarse map first, and two matrix products
    spread them over the rows and columns of the fine one.
    """

    def __init__(self, in_dim: int, out_dim: int, bias: bool = False):
        super().__init__(in_dim, out_dim, kernel_size=3, padding=1, bias=bias)

    def forward(self, stack: tuple[Tensor, list[Tensor], list[Extent] | None]) -> Tensor:  # type: ignore[override]
        """B x out_dim x H x W.

        Args:
            stack: the fine map, B x C x H x W; the coarse ones, B x C_i x h_i x w_i; and for each
                of these the fine map's height and width in its features, None = (h_i, w_i).
        """
        fine, coarse, extents = stack
        dims = [x.shape[1] for x in (fine, *coarse)]
        weight, *weights = self.weight.split(dims, dim=1)
        x = conv3x3(fine, weight, self.bias)
        size = x.shape[-2:]
        spread_rows, spread_columns = [], []
        for i, (y, taps) in enumerate(zip(coarse, weights, strict=True)):
            h, w = y.shape[-2:]
            extent = extents[i] if extents else (h, w)
            # Taps D x C x 3 x 3 as a convolution of single positions to 9·D channels.
            taps = taps.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]
            responses = F.conv2d(y, taps).unflatten(1, (3, 3, -1))  # B x 3 x 3 x D x h x w
            rows = shifted(h, size[0], extent[0]).to(responses)  # H x 3·h
            responses = responses.permute(0, 1, 4, 5, 2, 3).flatten(1, 2)  # B x 3·h x w x 3 x D
            spread_rows.append((rows @ responses.flatten(2)).view(len(y), size[0], 3 * w, -1))
            columns = shifted(w, size[1], extent[1]).to(responses)  # W x w·3
            spread_columns.append(columns.unflatten(1, (3, w)).transpose(1, 2).flatten(1))
        # All maps' columns are summed in one product.
        out = torch.cat(spread_columns, dim=1) @ torch.cat(spread_rows, dim=2)  # B x H x W x D
        return x + out.permute(0, 3, 1, 2)


def shifted(n_in: int, n_out: int, extent: float) -> Tensor:
    """Interpolation matrices, side by side, for the three taps of a convolution padded by 1.

    Returns:
        n_out x 3·n_in.
    """
    matrix = F.pad(interpolation(n_in, n_out, extent), (0, 0, 1, 1))
    return torch.cat([matrix[tap : tap + n_out] for tap in range(3)], dim=1)


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
