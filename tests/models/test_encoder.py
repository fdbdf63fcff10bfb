import pytest
import torch
from torch import nn

from models import ENCODERS, ModelBuilder
from models.encoder import keep_statistics


@pytest.mark.slow
@pytest.mark.parametrize("arch", ENCODERS)
def test_computing_twice_changes_neither_gradients_nor_statistics(arch):
    results = []
    for grad_checkpoint in (False, True):
        torch.manual_seed(0)
        encoder = ModelBuilder.build_encoder(arch, weights="none").train()
        encoder.grad_checkpoint = grad_checkpoint
        features = encoder(torch.rand(2, 3, 33, 40))  # dropout's choice is the same both times
        features.square().mean().backward()
        gradients = {name: value.grad for name, value in encoder.named_parameters()}
        results.append((features, gradients, encoder.state_dict()))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_computing_twice_keeps_the_statistics_of_batchnorm_over_gpus():
    norm = nn.SyncBatchNorm(3)
    before = norm.momentum
    with keep_statistics(nn.Sequential(norm)):  # what its forward pass, on GPUs only, goes by
        assert norm.momentum == 0
        norm.num_batches_tracked.add_(1)
    assert norm.momentum == before and norm.num_batches_tracked == 0


def test_computing_twice_remembers_less():
    encoder = ModelBuilder.build_encoder("resnet34_dilated8", weights="none").train()
    weights = {value.data_ptr() for value in encoder.parameters()}
    remembered = []
    for encoder.grad_checkpoint in (False, True):
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.append(tensor) or tensor, lambda tensor: tensor
        ):
            encoder(torch.rand(2, 3, 96, 96))
        sizes = {tensor.data_ptr(): tensor.nbytes for tensor in kept}
        remembered.append(sum(size for at, size in sizes.items() if at not in weights))
    assert remembered[1] < remembered[0] / 3
