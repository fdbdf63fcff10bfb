"""`training/optimizer.py`: what is trained, and what is not."""

import copy

import pytest
import torch
from torch import nn

from models import ModelBuilder, SegmentationModel
from training.optimizer import freeze_unused, lr_factor, make_optimizer
from training.options import make_parser

from ..conftest import flags


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


@pytest.mark.parametrize(
    ("settings", "progress", "steps", "factor"),
    [
        ({}, 0.5, 7, 0.5**0.9),
        ({"lr_pow": 2}, 0.5, 7, 0.25),
        ({"lr_schedule": "cosine"}, 0, 0, 1),
        ({"lr_schedule": "cosine"}, 1 / 3, 7, 0.75),
        ({"lr_schedule": "cosine"}, 1, 7, 0),
        ({"warmup_iters": 3, "lr_pow": 0}, 0, 0, 0.25),
        ({"warmup_iters": 3, "lr_pow": 0}, 0.1, 2, 0.75),
        ({"warmup_iters": 3, "lr_pow": 1}, 0.2, 3, 0.8),
    ],
)
def test_learning_rates_rise_and_then_fall(settings, progress, steps, factor):
    args = make_parser("").parse_args(flags(**settings))
    assert lr_factor(args, progress, steps) == pytest.approx(factor)


@pytest.mark.parametrize("optim", ["SGD", "Adam", "AdamW", "Muon"])
def test_batchnorm_and_biases_may_have_a_decay_of_their_own(optim):
    args = make_parser("").parse_args(
        flags(optim=optim, lr_encoder=3, lr_decoder=2, weight_decay=0.5, norm_weight_decay=0)
    )
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decoder = nn.Conv2d(4, 5, 1, bias=False)
    optimizer = make_optimizer(args, encoder, decoder)
    found = {
        parameter: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    conv, norm = encoder
    assert found == {
        conv.weight: (3, 0.5),
        conv.bias: (3, 0),
        norm.weight: (3, 0),
        norm.bias: (3, 0),
        decoder.weight: (2, 0.5),
    }
