"""`training/optimizer.py`: what is trained, and what is not."""

import copy

import torch
from torch import nn

from models import ModelBuilder, SegmentationModel
from training.optimizer import freeze_unused


def test_parameters_without_a_part_in_the_loss_are_not_trained() -> None:
    """DistributedDataParallel would wait for their gradients for ever."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("mobilenetv2dilated", weights="none")
    encoder.spare = nn.Linear(2, 2)
    decoder = ModelBuilder.build_decoder("c1_deepsup", encoder.channels, num_class=5)
    network = SegmentationModel(encoder, decoder)
    before = copy.deepcopy(network.state_dict())
    freeze_unused(network)
    still = [name for name, p in network.named_parameters() if not p.requires_grad]
    assert still == ["encoder.spare.weight", "encoder.spare.bias"]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
