"""A light feature pyramid: a decoder that adds finer maps to coarser ones."""

from collections.abc import Sequence

from torch import Tensor, nn

from .decoders import PyramidDecoder
from .interpolation import Extent, resample
from .layers import conv_bn_relu
from .pyramid import covered


class FPN(PyramidDecoder):
    """A pyramid of up to four maps; logits at the finest.

    Lin et al., "Feature Pyramid Networks for Object Detection", 2017. Each map becomes `dim`
    channels. From coarse to fine, a level is convolved, upsampled and added to the next. Here the
    finest level alone is classified, and the coarsest also has the mean over the picture (Liu et
    al., "ParseNet", 2015). Kirillov et al., "Panoptic Feature Pyramid Networks", 2019, upsample all
    levels to the finest, at several times the cost.

    Args:
        dim: channels of the pyramid.
    """

    def __init__(self, num_class: int, channels: Sequence[int], dim: int = 96, **head):
        super().__init__(channels, **head)
        channels = self.channels
        self.mean = conv_bn_relu(channels[-1], dim, kernel_size=1)
        self.lateral = nn.ModuleList(conv_bn_relu(c, dim, kernel_size=1) for c in channels)
        self.smooth = nn.ModuleList(conv_bn_relu(dim, dim, kernel_size=3) for _ in channels)
        self.conv_last = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(dim, num_class, kernel_size=1))

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x h x w, at the positions of the finest map."""
        maps, extents = self.merged(maps, extents)
        sizes = [x.shape[-2:] for x in maps]
        x = self.lateral[-1](maps[-1]) + self.mean(maps[-1].mean((2, 3), keepdim=True))
        for i in range(len(maps) - 1, 0, -1):
            x = resample(
                self.smooth[i](x), sizes[i - 1], covered(extents[i], sizes[i - 1], extents[i - 1])
            )
            x = self.lateral[i - 1](maps[i - 1]) + x
        return self.conv_last(self.smooth[0](x))
