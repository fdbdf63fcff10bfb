"""HRNetV2-W48 as an encoder (Wang et al., "Deep High-Resolution Representation Learning", 2019).

Branches at several strides run side by side and exchange their features. All upsampling is
bilinear, and exact where a side is no multiple of 32.
"""

from functools import partial

import torch
from torch import Tensor, nn

from .encoder import Block, Encoder
from .interpolation import resample
from .layers import conv_bn_relu
from .resnet import BasicBlock, Bottleneck, layer
from .winograd import Conv3x3

WIDTHS = (48, 96, 192, 384)  # of the branches, at strides 4, 8, 16 and 32
MODULES = {2: 1, 3: 4, 4: 3}  # in each stage, by its number of branches
DEPTH = 4  # blocks of a branch in a module


class HRModule(nn.Module):
    """Four residual blocks in each branch; then each branch gets the sum of all.

    Args:
        branches: number of branches.
    """

    def __init__(self, branches: int):
        super().__init__()
        self.branches = nn.ModuleList(
            layer(BasicBlock, dim, dim, DEPTH, stride=1) for dim in WIDTHS[:branches]
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(exchange(source, target) for source in range(branches))
            for target in range(branches)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps B x WIDTHS[i] x h_i x w_i of such maps."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for target, exchanges in enumerate(self.fuse_layers):
            assert isinstance(exchanges, nn.ModuleList)
            parts = [
                brought(exchange(x), maps[target], source - target)
                for source, (exchange, x) in enumerate(zip(exchanges, maps, strict=True))
            ]
            fused.append(self.relu(sum(parts[1:], parts[0])))
        return fused


class HRNetV2(Encoder):
    """HRNetV2-W48: the branches of its last stage, brought to the first one's size and stacked."""

    channels = (sum(WIDTHS),)
    strides = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = Conv3x3(3, 64, stride=2)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = Conv3x3(64, 64, stride=2)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = layer(Bottleneck, 64, 64, 4, stride=1)
        self.transition1 = nn.ModuleList(
            [
                conv_bn_relu(256, WIDTHS[0], 3, stride=1),
                nn.Sequential(conv_bn_relu(256, WIDTHS[1], 3, stride=2)),
            ]
        )
        self.transition2 = transition(3)
        self.transition3 = transition(4)
        self.stage2, self.stage3, self.stage4 = (
            nn.Sequential(*(HRModule(branches) for _ in range(depth)))
            for branches, depth in MODULES.items()
        )

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def coarsest_stride(self) -> int:
        """The stride of the last branch."""
        return 4 * 2 ** (len(WIDTHS) - 1)

    def stages(self) -> list[list[Block]]:
        """The stem, and the stages with the beginnings of new branches between them."""
        return [
            [self.stem, *self.layer1, self.first_branches, *self.stage2]
            + [
                partial(grown, self.transition2),
                *self.stage3,
                partial(grown, self.transition3),
                *self.stage4,
                self.stacked,
            ]
        ]

    def stem(self, x: Tensor) -> Tensor:
        """B x 64 x H/4 x W/4 of pictures B x 3 x H x W."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))

    def first_branches(self, x: Tensor) -> list[Tensor]:
        """The first two branches of B x 256 x H/4 x W/4."""
        return [begin(x) for begin in self.transition1]

    def stacked(self, maps: list[Tensor]) -> Tensor:
        """B x 720 x H/4 x W/4."""
        return torch.cat([brought(x, maps[0], i) for i, x in enumerate(maps)], dim=1)


def exchange(source: int, target: int) -> nn.Module:
    """What a branch gives to another: 3x3 with stride 2 to coarser ones, 1x1 to finer ones."""
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            nn.Conv2d(WIDTHS[source], WIDTHS[target], kernel_size=1, bias=False),
            nn.BatchNorm2d(WIDTHS[target]),
        )
    dim = WIDTHS[source]
    steps = [conv_bn_relu(dim, dim, 3, stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv_bn_relu(dim, WIDTHS[target], 3, stride=2)[:-1])


def transition(branches: int) -> nn.ModuleList:
    """The beginning of the last of several branches; the others go on as they are."""
    begin = nn.Sequential(conv_bn_relu(WIDTHS[branches - 2], WIDTHS[branches - 1], 3, stride=2))
    return nn.ModuleList([*(nn.Identity() for _ in range(branches - 1)), begin])


def grown(begin: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """The branches and one more, which begins at the coarsest; see `transition`."""
    return [*maps, begin[-1](maps[-1])]


def brought(x: Tensor, target: Tensor, levels: int) -> Tensor:
    """A branch at the size of one that is some levels finer, each of twice its features.

    Args:
        x: B x C x h x w.
        target: B x C' x H x W.
        levels: 0 or fewer = it has that size already.
    """
    if levels <= 0:
        return x
    height, width = target.shape[-2:]
    return resample(x, (height, width), (height / 2**levels, width / 2**levels))
