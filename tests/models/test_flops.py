import pytest
import torch

from models import ModelBuilder
from models.flops import giga_macs


@pytest.mark.slow
def test_multiplications_are_counted():
    """Of VGG-16, as a sum over its convolutions: kernel, channels in and out, and positions."""
    encoder = ModelBuilder.build_encoder("vgg16_dilated8", weights="none")
    decoder = ModelBuilder.build_decoder("c1_bilinear", encoder.fc_dim, 150)
    layers = [(9 * 3 * 64 + 9 * 64 * 64, 64**2), (9 * 64 * 128 + 9 * 128 * 128, 32**2)]
    layers += [(9 * 128 * 256 + 2 * 9 * 256 * 256, 16**2)]
    layers += [(9 * 256 * 512 + 5 * 9 * 512 * 512, 8**2)]
    layers += [(49 * 512 * 4096 + 4096 * 4096 + 4096 * 150, 8**2)]
    expected = sum(weights * positions for weights, positions in layers) / 1e9
    assert giga_macs(encoder, decoder, 64) == pytest.approx(expected)
    assert next(encoder.parameters()).device == torch.device("cpu")
