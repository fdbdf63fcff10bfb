"""The moving average of the weights."""

import copy

import torch

from models import ModelBuilder, SegmentationModel
from training.average import Average


def test_the_average_follows_the_weights_and_statistics_by_its_decay() -> None:
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    decoder = ModelBuilder.build_decoder("c1_bilinear", encoder.channels, num_class=3)
    network = SegmentationModel(encoder, decoder).train()
    average = Average(network, decay=0.15)
    expected = copy.deepcopy(network.state_dict())
    for decay in (1 / 10, 0.15, 0.15):  # of the second step, 2 / 11 would be more
        network(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8))  # moves the statistics
        with torch.no_grad():
            for value in network.parameters():
                value += torch.randn_like(value)
        average.update(network)
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
            else:
                expected[name] = value.clone()
    torch.testing.assert_close(average.network.state_dict(), expected)
    assert average.steps == 3 and not average.network.training
    assert not any(value.requires_grad for value in average.network.parameters())
