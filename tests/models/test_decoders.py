import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ModelBuilder, SegmentationModel
from models.decoders import (
    Decoder,
    PooledBatchNorm2d,
    PSPBilinear,
    PyramidConv3x3,
    UPerNet,
    covered,
)
from models.hrnet import brought
from models.upsample import resample


def test_one_picture_trains_the_pyramid_without_losing_its_features():
    """Batch statistics of a single value would make the 1x1 pool's output constant."""
    torch.manual_seed(0)
    decoder = PSPBilinear(3, (16,)).train()
    pool = decoder.psp[0]
    outputs = [pool(torch.rand(1, 16, 6, 6) + i) for i in range(2)]
    assert not torch.allclose(*outputs)
    norm = pool[2]
    assert norm.num_batches_tracked == 0 and (norm.running_mean == 0).all()
    decoder.logits([torch.rand(1, 16, 6, 6)]).sum().backward()
    assert pool[1].weight.grad.abs().sum() > 0


def test_larger_batches_are_normalised_as_ever():
    torch.manual_seed(0)
    ours, plain = PooledBatchNorm2d(4).train(), torch.nn.BatchNorm2d(4).train()
    for shape in [(2, 4, 1, 1), (1, 4, 1, 2)]:
        x = torch.randn(shape)
        torch.testing.assert_close(ours(x), plain(x))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


@pytest.mark.slow
def test_the_pyramid_is_as_if_the_pools_were_upsampled_and_stacked():
    torch.manual_seed(0)
    decoder = PSPBilinear(3, (16,)).double().train()
    decoder.conv_last[3].p = 0.0  # no dropout, so that both see the same
    features = torch.rand(2, 16, 9, 7, dtype=torch.float64, requires_grad=True)
    pools = [
        F.interpolate(pool(features), (9, 7), mode="bilinear", align_corners=False)
        for pool in decoder.psp
    ]
    conv, *rest = decoder.conv_last
    stack = torch.cat([features, *pools], dim=1)
    expected = nn.Sequential(*rest)(F.conv2d(stack, conv.weight, padding=1))
    logits = decoder.logits([features])
    torch.testing.assert_close(logits, expected)
    weights = [features, *decoder.parameters()]
    gradients, expected_gradients = (
        torch.autograd.grad((out**2).sum(), weights) for out in (logits, expected)
    )
    torch.testing.assert_close(gradients, expected_gradients)


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
    out = conv((fine, coarse, extents))
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


def test_maps_that_end_beyond_the_picture_are_merged_where_they_belong():
    """UPerNet of a picture and of its left part agree where neither sees its right end."""
    torch.manual_seed(0)
    decoder: Decoder = UPerNet(3, (2, 2, 2, 2), dim=8).eval()
    decoder.ppm_last_conv[0].weight.data[:, 2:] = 0  # means see everything
    whole = torch.rand(1, 2, 32, 128)
    results = []
    for pixels in (128, 109):
        maps = [
            F.avg_pool2d(whole[..., : -(-pixels // stride) * stride], stride)
            for stride in (4, 8, 16, 32)
        ]
        extents = [(32 / stride, pixels / stride) for stride in (4, 8, 16, 32)]
        results.append(decoder(maps, (32, pixels), extents))
    torch.testing.assert_close(results[0][..., :24], results[1][..., :24])
    stretched = decoder(maps, (32, 109))
    assert (results[0][..., :24] - stretched[..., :24]).abs().max() > 1e-3


def test_one_picture_trains_all_branches_of_a_pyramid():
    decoder = UPerNet(3, (4, 8), dim=8).train()
    decoder.logits([torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)]).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in decoder.parameters())


@pytest.mark.parametrize("arch", ["c1_deepsup", "ppm_deepsup"])
def test_the_auxiliary_loss_is_for_training_alone_and_counts_by_its_scale(arch):
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("mobilenetv2dilated", weights="none")
    decoder = ModelBuilder.build_decoder(arch, encoder.channels, num_class=5)
    images = torch.randint(0, 256, (2, 3, 33, 50), dtype=torch.uint8)
    labels = torch.randint(0, 5, (2, 33, 50))
    model = SegmentationModel(encoder, decoder, deepsup_scale=0.3).eval()
    plain = model(images, labels)
    decoder.training = True  # its parts, dropout and BatchNorm, stay as they are
    loss, correct = model(images, labels, count_correct=True)
    maps, extents = model.maps(images), encoder.extents(images)
    auxiliary = model.loss(decoder.auxiliary_logits(maps), labels, extents[-2])
    torch.testing.assert_close(loss, plain + 0.3 * auxiliary)
    assert len(maps) == 2 and correct.dtype == torch.int64
