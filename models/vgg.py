"""VGG-16 and VGG-19 as dilated encoders (Simonyan and Zisserman, 2015; DeepLab-LargeFOV, 2015).

The last two poolings are left out. The last block of convolutions is dilated by 2. The first two
fully connected layers are convolutions: `conv6` (7x7, dilated by 4) and `conv7` (1x1).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .encoder import Block, Encoder
from .winograd import Conv3x3


class VGG(Encoder):
    """Convolutional VGG; maps after each pooling, and after the former fully connected layers.

    Args:
        depths: number of 3x3 convolutions in each of the five blocks.
    """

    channels = (64, 128, 256, 4096)
    strides = (2, 4, 8, 8)

    def __init__(self, depths: list[int]):
        super().__init__()
        layers: list[nn.Module] = []
        in_dim = 3
        for i, (dim, depth) in enumerate(zip([64, 128, 256, 512, 512], depths, strict=True)):
            dilation = 2 if i == 4 else 1
            for _ in range(depth):
                layers.append(Conv3x3(in_dim, dim, dilation=dilation, bias=True))
                layers.append(nn.ReLU(inplace=True))
                in_dim = dim
            if i < 3:
                layers.append(nn.MaxPool2d(kernel_size=2))
        self.features = nn.Sequential(*layers)
        self.conv6 = HalvedConv2d(512, 4096, kernel_size=7, padding=12, dilation=4)
        self.conv7 = nn.Conv2d(4096, 4096, kernel_size=1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.5)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def stages(self) -> list[list[Block]]:
        """The convolutions up to each pooling, then the last ones and those that were layers."""
        pools = [i for i, m in enumerate(self.features) if isinstance(m, nn.MaxPool2d)]
        bounds = [0, *(i + 1 for i in pools), len(self.features)]
        *first, last = [self.features[start:end] for start, end in pairwise(bounds)]
        return [[first[0]], [first[1]], [first[2]], [last, self.fully_connected]]

    def fully_connected(self, x: Tensor) -> Tensor:
        """B x 4096 x H/8 x W/8 of B x 512 x H/8 x W/8."""
        x = self.dropout(self.relu(self.conv6(x)))  # B x 4096 x H/8 x W/8
        return self.dropout(self.relu(self.conv7(x)))


class HalvedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a bias that computes one half of its outputs, then the other, on CPUs.

    oneDNN computes the gradient of as many weights as `conv6` has in a plain loop: it takes
    minutes, the gradient of half of them a second.
    """

    def forward(self, x: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if x.device.type != "cpu" or self.bias is None:
            return super().forward(x)
        halves = zip(self.weight.chunk(2), self.bias.chunk(2), strict=True)
        return torch.cat([self._conv_forward(x, *half) for half in halves], dim=1)


def vgg16() -> VGG:
    """VGG-16: thirteen 3x3 convolutions, then `conv6` and `conv7`."""
    return VGG([2, 2, 3, 3, 3])


def vgg19() -> VGG:
    """VGG-19: sixteen 3x3 convolutions, then `conv6` and `conv7`."""
    return VGG([2, 2, 4, 4, 4])
