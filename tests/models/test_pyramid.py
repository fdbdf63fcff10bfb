from copy import deepcopy
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from models.hrnet import brought
from models.interpolation import kept_interpolation, resample
from models.layers import PooledBatchNorm2d, accept_single_values
from models.pyramid import CoarseMap, PyramidConv3x3, covered, region_means


def test_larger_batches_are_normalised_as_ever():
    torch.manual_seed(0)
    ours, plain = PooledBatchNorm2d(4).train(), torch.nn.BatchNorm2d(4).train()
    for shape in [(2, 4, 1, 1), (1, 4, 1, 2)]:
        x = torch.randn(shape)
        torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_every_batchnorm_of_a_network_trains_on_a_single_value_as_it_infers():
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_efficientnet", num_classes=0, global_pool="").train()
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match="more than 1 value"):
        network(x)
    kept, norm = deepcopy(network.state_dict()), network.bn2
    accept_single_values(network)
    seen = []
    norm.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    network(x)
    value, output = seen
    assert value.shape[-2:] == (1, 1)
    torch.testing.assert_close(output, norm.eval()(value))
    assert network.state_dict().keys() == kept.keys()
    torch.testing.assert_close(norm.running_mean, kept["bn2.running_mean"])
    assert not torch.equal(network.bn1.running_mean, kept["bn1.running_mean"])


@pytest.mark.parametrize("extents", [None, [(4.5, 3.3), (2.25, 1.65)]])
def test_a_convolution_of_a_pyramid_is_as_if_its_maps_were_upsampled_and_stacked(extents):
    torch.manual_seed(0)
    conv = PyramidConv3x3(4 + 3 + 2, 5, bias=True).double()
    maps = [torch.rand(2, c, h, w).double() for c, h, w in ((4, 9, 7), (3, 5, 4), (2, 3, 2))]
    maps = [x.requires_grad_() for x in maps]
    fine, *coarse = maps
    resampled = [
        resample(x, (9, 7), extent) for x, extent in zip(coarse, extents or [None] * 2, strict=True)
    ]
    expected = F.conv2d(torch.cat([fine, *resampled], dim=1), conv.weight, conv.bias, padding=1)
    pairs = zip(coarse, extents or [None] * 2, strict=True)
    out = conv((fine, [CoarseMap.at(x, (9, 7), extent) for x, extent in pairs]))
    torch.testing.assert_close(out, expected)
    weights = [*maps, *conv.parameters()]
    gradients, expected_gradients = (
        torch.autograd.grad((x**2).sum(), weights) for x in (out, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


def positions(pixels: int, stride: int) -> torch.Tensor:
    """Where the features of a row of pixels have their centres, in pixels."""
    return torch.arange(-(-pixels // stride)) * stride + (stride - 1) / 2


@pytest.mark.parametrize("pixels", [96, 97, 100, 109, 127])
def test_a_coarse_map_is_upsampled_to_where_the_features_of_a_finer_one_lie(pixels):
    """A map of positions, upsampled, holds the positions of the finer map, but for the ends."""
    fine = positions(pixels, 4)
    for levels in (1, 2, 3):
        stride = 4 * 2**levels
        coarse = positions(pixels, stride).expand(1, 1, 2, -1)
        extent = covered((2, pixels / stride), (2, len(fine)), (2, pixels / 4))
        target = torch.zeros(1, 1, 2 * 2**levels, len(fine))
        inner = slice(stride // 8, -(stride // 4))
        for upsampled in (
            resample(coarse, (2, len(fine)), extent),
            brought(coarse, target, levels),
        ):
            torch.testing.assert_close(upsampled[0, 0, 0, inner], fine[inner])


@pytest.mark.parametrize("size", [(5, 7), (6, 12), (48, 13)])
def test_means_over_regions_are_those_of_adaptive_pooling(size):
    torch.manual_seed(0)
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    means = region_means(x, (1, 2, 3, 6))
    expected = [F.adaptive_avg_pool2d(x, scale) for scale in (1, 2, 3, 6)]
    torch.testing.assert_close(means, expected)
    weights = [torch.randn_like(mean) for mean in means]
    torch.testing.assert_close(
        *(torch.autograd.grad(some, x, weights) for some in (means, expected))
    )


def test_means_of_half_precision_are_computed_in_single():
    """65,536 values of 3 would overflow half precision when they are added."""
    x = torch.full((1, 1, 256, 256), 3.0, dtype=torch.float16)
    (mean,) = region_means(x, (1,))
    assert mean.dtype == torch.float16 and mean.item() == 3


def test_large_matrices_are_not_kept_and_small_ones_are_made_once():
    """Many large pictures of many sizes would fill the memory."""
    cpu = torch.device("cpu")
    make = partial(kept_interpolation, dtype=torch.float32, device=cpu)
    assert make(8, 64, 8.0) is make(8, 64, 8.0)
    assert make(512, 4096, 512.0) is not make(512, 4096, 512.0)
    with torch.inference_mode():
        made = make(9, 65, 8.5)
    assert not made.is_inference()  # training may use it next
