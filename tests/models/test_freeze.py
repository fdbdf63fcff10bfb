"""`models/freeze.py`: BatchNorm becomes part of a convolution only where that changes nothing."""

import pytest
import torch
from torch import Tensor, nn

from models import SegmentationModel
from models.decoders import C1Bilinear
from models.encoder import Encoder
from models.freeze import fold_batchnorm

from .conftest import fill


class NormAndActivation(nn.BatchNorm2d):
    """A norm that does more than its base, as those of timm do."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class Standardised(nn.Conv2d):
    """A convolution whose weights are not used as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


class Small(Encoder):
    """Two convolutions and their norms, registered side by side, called in some order."""

    channels, strides = (6,), (1,)

    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d, order=("conv", "norm")):
        super().__init__()
        self.conv = conv(3, 6, 3, padding=1)
        self.norm = norm(6 if order[0] == "conv" else 3)
        self.order = order

    def stages(self):
        return [[self.run]]

    def run(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = {"conv": self.conv, "norm": self.norm, "relu": torch.relu}[name](x)
        return x


def model(**kinds) -> SegmentationModel:
    return SegmentationModel(fill(Small(**kinds)), fill(C1Bilinear(5, (6,)))).eval()


@pytest.mark.parametrize(
    ("kinds", "folded"),
    [
        ({}, True),
        ({"norm": NormAndActivation}, False),
        ({"conv": Standardised}, False),
        ({"order": ("norm", "conv")}, False),
        ({"order": ("conv", "relu", "norm")}, False),
        ({"order": ("conv", "norm", "norm")}, False),
    ],
)
def test_only_a_plain_norm_right_after_a_plain_convolution_is_folded(kinds, folded, caplog):
    network = model(**kinds)
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    expected = network(images)
    frozen = network.freeze()
    assert frozen is network and not caplog.messages
    assert isinstance(frozen.encoder.norm, nn.Identity) == folded
    torch.testing.assert_close(frozen(images), expected, rtol=1e-4, atol=1e-4)


def test_an_output_that_is_changed_in_place_before_its_norm_is_not_folded():
    class InPlace(Small):
        def run(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x.relu_()
            return self.norm(x)

    network = fill(InPlace())
    fold_batchnorm(network, lambda: network(torch.rand(1, 3, 8, 8)))
    assert isinstance(network.norm, nn.BatchNorm2d)


def test_a_norm_whose_convolution_is_used_elsewhere_as_well_leaves_the_network_as_it_is(caplog):
    class Forked(Small):
        def run(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.norm(x) + x

    network = SegmentationModel(fill(Forked()), fill(C1Bilinear(5, (6,)))).eval()
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    expected = network(images)
    frozen = network.freeze()
    assert "it is used as it is" in caplog.text
    torch.testing.assert_close(frozen(images), expected)
    assert isinstance(frozen.encoder.norm, nn.BatchNorm2d)


def test_weights_that_do_not_bear_rounding_are_not_rounded(caplog):
    class Difference(Small):
        """It depends on two weights that half precision does not tell apart."""

        def run(self, x: Tensor) -> Tensor:
            return x.repeat(1, 2, 1, 1) * (
                self.conv.weight[1, 0, 0, 0] - self.conv.weight[0, 0, 0, 0]
            )

    encoder = fill(Difference())
    encoder.conv.weight.data[:2, 0, 0, 0] = torch.tensor([100.0, 100.1])
    network = SegmentationModel(encoder, fill(C1Bilinear(5, (6,))), torch.bfloat16).eval()
    images = torch.randint(0, 256, (2, 3, 16, 24), dtype=torch.uint8)
    expected = network(images)
    torch.testing.assert_close(network.freeze()(images), expected)
    assert "it is used as it is" in caplog.text
