"""ResNets as encoders, dilated or not (He et al., 2016; Yu, Koltun and Funkhouser, 2017).

The stem is three 3x3 convolutions instead of one 7x7. `layer1…layer4` have torchvision's names, so
that its ImageNet weights fit them.
"""

from torch import Tensor, nn

from .encoder import Block, Encoder
from .winograd import Conv3x3


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the first convolution takes the stride."""

    expansion = 1

    def __init__(self, in_dim: int, dim: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        self.conv1 = Conv3x3(in_dim, dim, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = Conv3x3(dim, dim, dilation=dilations[1])
        self.bn2 = nn.BatchNorm2d(dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_dim, dim, stride)

    def forward(self, x: Tensor) -> Tensor:
        """B x dim x h x w of B x in_dim x H x W."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1 down, 3x3, 1x1 up and a shortcut; the 3x3 convolution takes the stride."""

    expansion = 4

    def __init__(self, in_dim: int, dim: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        out_dim = dim * self.expansion
        self.conv1 = nn.Conv2d(in_dim, dim, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = Conv3x3(dim, dim, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, out_dim, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(in_dim, out_dim, stride)

    def forward(self, x: Tensor) -> Tensor:
        """B x 4·dim x h x w of B x in_dim x H x W."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += self.downsample(x)
        return self.relu(out)


# By the number of their layers: the kind of block, and how many of them each layer has.
NETWORKS: dict[int, tuple[type[BasicBlock] | type[Bottleneck], list[int]]] = {
    18: (BasicBlock, [2, 2, 2, 2]),
    34: (BasicBlock, [3, 4, 6, 3]),
    50: (Bottleneck, [3, 4, 6, 3]),
    101: (Bottleneck, [3, 4, 23, 3]),
}


class ResNet(Encoder):
    """A ResNet without its classifier, and a map after each of its four layers.

    Args:
        depth: 18, 34, 50 or 101.
        output_stride: 8 dilates `layer3` (by 2) and `layer4` (by 4) instead of striding, 16 only
            `layer4` (by 2), 32 none.
        stem_dim: channels of the stem: 64, as in the Places365 weights for scene parsing, or 128.
    """

    def __init__(self, depth: int, output_stride: int, stem_dim: int):
        super().__init__()
        block, depths = NETWORKS[depth]
        self.channels = [dim * block.expansion for dim in (64, 128, 256, 512)]
        self.strides = [min(stride, output_stride) for stride in (4, 8, 16, 32)]
        self.conv1 = Conv3x3(3, 64, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = Conv3x3(64, 64)
        self.bn2 = nn.BatchNorm2d(64)
        self.conv3 = Conv3x3(64, stem_dim)
        self.bn3 = nn.BatchNorm2d(stem_dim)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

        dilated3, dilated4 = {8: (2, 4), 16: (1, 2), 32: (1, 1)}[output_stride]
        self.layer1 = layer(block, stem_dim, 64, depths[0], stride=1)  # H/4 x W/4
        self.layer2 = layer(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = layer(block, 128 * block.expansion, 256, depths[2], 2, dilated3)
        self.layer4 = layer(block, 256 * block.expansion, 512, depths[3], 2, dilated4)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            # Residual branches start at zero, so that a deep network starts out as a shallow one
            # (Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1).
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)
            elif isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    def stages(self) -> list[list[Block]]:
        """The residual blocks of each layer, the first after the stem."""
        return [[self.stem, *self.layer1], [*self.layer2], [*self.layer3], [*self.layer4]]

    def stem(self, x: Tensor) -> Tensor:
        """B x stem_dim x H/4 x W/4 of pictures B x 3 x H x W."""
        x = self.relu(self.bn1(self.conv1(x)))  # B x 64 x H/2 x W/2
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.bn3(self.conv3(x)))
        return self.maxpool(x)  # B x stem_dim x H/4 x W/4


def layer(
    block: type[BasicBlock] | type[Bottleneck],
    in_dim: int,
    dim: int,
    depth: int,
    stride: int,
    dilation: int = 1,
) -> nn.Sequential:
    """`depth` blocks; a `dilation` above 1 replaces the stride.

    The convolution that loses its stride has half the others' dilation: its input still has the
    spacing of the layer before.
    """
    first = (dilation // 2, dilation) if dilation > 1 else (1, 1)
    stride = 1 if dilation > 1 else stride
    rest = [block(dim * block.expansion, dim, 1, (dilation, dilation)) for _ in range(depth - 1)]
    return nn.Sequential(block(in_dim, dim, stride, first), *rest)


def shortcut(in_dim: int, out_dim: int, stride: int) -> nn.Module:
    """The identity, or a 1x1 convolution with BatchNorm where the number of channels changes."""
    if in_dim == out_dim:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_dim, out_dim, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(out_dim),
    )
