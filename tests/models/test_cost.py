import pytest
import torch

from models import ModelBuilder
from models.cost import giga_macs, training_bytes


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


@pytest.mark.parametrize("decoder_arch", ["c1", "c1_deepsup"])
def test_memory_of_training_is_that_of_the_tensors_that_autograd_keeps(decoder_arch):
    """Of a MobileNetV2, against the same network with real tensors."""
    encoder = ModelBuilder.build_encoder("mobilenetv2dilated", weights="none")
    decoder = ModelBuilder.build_decoder(decoder_arch, encoder.channels, 5)
    weights = {p.data_ptr() for part in (encoder, decoder) for p in part.state_dict().values()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = encoder.maps(torch.rand(1, 3, 64, 64))
        decoder.logits(maps), decoder.auxiliary_logits(maps)
    real = sum(tensor.nbytes for pointer, tensor in kept.items() if pointer not in weights)
    assert training_bytes(encoder, decoder, 64, torch.float32) == pytest.approx(real, rel=0.02)
