import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.decoders import PooledBatchNorm2d, PSPBilinear


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
