"""MobileNetV2 as a dilated encoder (Sandler et al., 2018)."""

from torch import Tensor, nn

from .encoder import Block, Encoder

# Of each group of blocks: expansion, channels, number of blocks, stride of the first.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MAPS_AFTER = (2, 4, 7, 14, 17)  # blocks
OUTPUT_STRIDE = 8


class InvertedResidual(nn.Module):
    """1x1 up, 3x3 of single channels, 1x1 down; a shortcut where the size stays.

    Args:
        in_dim: channels of the input.
        dim: channels of the output.
        expansion: the factor of `in_dim` by which the block is wider inside; 1 leaves out 1x1 up.
        stride: of the 3x3 convolution.
        dilation: of the 3x3 convolution.
    """

    def __init__(self, in_dim: int, dim: int, expansion: int, stride: int, dilation: int):
        super().__init__()
        inner = in_dim * expansion
        widen = [nn.Conv2d(in_dim, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6(True)]
        self.conv = nn.Sequential(
            *(widen if expansion > 1 else []),
            nn.Conv2d(inner, inner, 3, stride, dilation, dilation, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
        )
        self.has_shortcut = stride == 1 and in_dim == dim

    def forward(self, x: Tensor) -> Tensor:
        """B x dim x h x w of B x in_dim x H x W."""
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(Encoder):
    """MobileNetV2 without its last convolution and classifier, at an output stride of 8.

    A stride beyond that becomes a dilation; the convolution that loses it gets half of it, as its
    input still has the spacing of the blocks before.
    """

    channels = (24, 32, 64, 160, 320)
    strides = (4, 8, 8, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Sequential(
                nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(32),
                nn.ReLU6(inplace=True),
            )
        )
        in_dim, total_stride, dilation = 32, 2, 1
        for expansion, dim, depth, group_stride in GROUPS:
            for i in range(depth):
                stride = group_stride if i == 0 else 1
                own_dilation = dilation
                if total_stride * stride > OUTPUT_STRIDE:
                    dilation, stride = dilation * stride, 1
                total_stride *= stride
                self.features.append(InvertedResidual(in_dim, dim, expansion, stride, own_dilation))
                in_dim = dim

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def stages(self) -> list[list[Block]]:
        """The blocks up to each map."""
        starts = (0, *(last + 1 for last in MAPS_AFTER[:-1]))
        return [
            list(self.features[start : last + 1])
            for start, last in zip(starts, MAPS_AFTER, strict=True)
        ]
