import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import ModelBuilder, SegmentationModel
from models.decoders import Decoder, PSPBilinear
from models.layers import accept_single_values
from models.upernet import UPerNet


def test_one_picture_trains_the_pyramid_without_losing_its_features():
    """Batch statistics of a single value would make the 1x1 pool's output constant."""
    torch.manual_seed(0)
    decoder = ModelBuilder.build_decoder("psp_bilinear", 16, num_class=3).train()
    pool = decoder.psp[0]
    outputs = [pool(torch.rand(1, 16, 6, 6) + i) for i in range(2)]
    assert not torch.allclose(*outputs)
    norm = pool[2]
    assert norm.num_batches_tracked == 0 and (norm.running_mean == 0).all()
    decoder.logits([torch.rand(1, 16, 6, 6)]).sum().backward()
    assert pool[1].weight.grad.abs().sum() > 0


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


def test_the_finest_level_of_a_large_picture_comes_in_tiles(monkeypatch):
    torch.manual_seed(0)
    decoder = UPerNet(3, (4, 4, 8, 8), dim=8).eval()
    sizes = ((4, 25, 18), (4, 13, 9), (8, 7, 5), (8, 4, 3))
    maps = [torch.rand(2, *size) for size in sizes]
    extents = [(98 / stride, 70 / stride) for stride in (4, 8, 16, 32)]
    whole = decoder.logits(maps, extents)
    monkeypatch.setattr("models.upernet.TILE", 9)
    seen = []
    decoder.fpn_out[0].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(decoder.logits(maps, extents), whole)
    assert len(seen) == 3 * 2


def test_one_picture_trains_all_branches_of_a_pyramid():
    decoder = UPerNet(3, (4, 8), dim=8).train()
    accept_single_values(decoder)
    decoder.logits([torch.rand(1, 4, 8, 8), torch.rand(1, 8, 4, 4)]).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in decoder.parameters())


@pytest.mark.parametrize("arch", ["fpn", "upernet_lite", "ppm"])
def test_a_single_picture_of_a_single_feature_trains_what_the_builder_builds(arch):
    encoder = ModelBuilder.build_encoder("resnet18", weights="none").train()
    decoder = ModelBuilder.build_decoder(arch, encoder.channels, num_class=3).train()
    maps = encoder.maps(torch.rand(1, 3, 32, 32))
    assert maps[-1].shape[-2:] == (1, 1)
    decoder.logits(maps).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [*encoder.parameters(), *decoder.parameters()])


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


def test_fpn_adds_each_level_to_the_next_finer_one():
    torch.manual_seed(0)
    decoder = ModelBuilder.build_decoder("fpn", (6, 8, 10), num_class=5).eval()
    maps = [torch.randn(2, c, h, 2 * h) for c, h in ((6, 12), (8, 6), (10, 3))]
    x = decoder.mean(maps[2].mean((2, 3), keepdim=True)) + decoder.lateral[2](maps[2])
    for i in (1, 0):
        x = F.interpolate(decoder.smooth[i + 1](x), scale_factor=2, mode="bilinear")
        x = x + decoder.lateral[i](maps[i])
    expected = decoder.conv_last(decoder.smooth[0](x))
    torch.testing.assert_close(decoder.logits(maps), expected)
    assert decoder.position == -3 and expected.shape == (2, 5, 12, 24)


def test_fpn_places_features_by_their_strides_whatever_the_picture_size():
    """Of a picture 40 pixels wide, the coarsest features reach beyond it."""
    torch.manual_seed(0)
    decoder = ModelBuilder.build_decoder("fpn", (6, 8), num_class=5).eval()
    fine, coarse = torch.randn(1, 6, 16, 10), torch.randn(1, 8, 2, 2)
    extents = [(16, 10), (2, 1.25)]
    with torch.no_grad():
        decoder.lateral[0][1].weight.zero_()  # only the coarse map is seen
        decoder.lateral[0][1].bias.zero_()
        x = decoder.smooth[1](decoder.lateral[1](coarse) + decoder.mean(coarse.mean((2, 3), True)))
        wide = F.interpolate(x, scale_factor=8, mode="bilinear")[..., :10]
        expected = decoder.conv_last(decoder.smooth[0](wide))
        torch.testing.assert_close(decoder.logits([fine, coarse], extents), expected)
