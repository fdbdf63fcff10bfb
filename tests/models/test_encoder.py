import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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


class Refusal(TorchDispatchMode):
    """A context in which nothing may be computed."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        raise AssertionError(func)


def test_keeping_statistics_takes_no_computation():
    """On a GPU, each would be launched for each BatchNorm, once more for each block."""
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    with Refusal(), keep_statistics(encoder):
        pass


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
