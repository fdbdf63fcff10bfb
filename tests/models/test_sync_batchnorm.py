"""BatchNorm over several processes is that of one process with all of their pictures."""

import copy
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import ModelBuilder, ModelError
from models.sync_batchnorm import synchronise


def layer_and_batch(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A BatchNorm with random weights, pictures, and what is added up of its output."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = (3 * torch.randn(shape) + 200).to(dtype, memory_format=torch.channels_last)
    return nn.Sequential(norm), x, torch.randn(shape)


def outcome(norm: nn.Module, x: Tensor, factor: Tensor) -> dict[str, Tensor]:
    """The output of a step, gradients, and statistics."""
    x.requires_grad_()
    y = norm(x)
    (y.float() * factor).sum().backward()
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **gradients, **dict(norm.named_buffers())}


def step_of_one(rank: int, folder: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A process's part of the step, kept in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    norm, x, factor = layer_and_batch(dtype, shape)
    synchronise(norm)
    half = shape[0] // 2
    share = slice(half, None) if rank else slice(half)
    torch.save(outcome(norm, x[share], factor[share]), folder / f"{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("dtype", "close", "shape"),
    [
        (torch.float32, 1e-4, (5, 6, 7, 8)),
        (torch.bfloat16, 2e-2, (5, 6, 7, 8)),
        (torch.float16, 2e-3, (5, 6, 7, 8)),
        (torch.float32, 1e-3, (2, 6, 1, 1)),  # the pool of one picture in each
    ],
)
def test_two_processes_normalise_as_one(tmp_path, dtype, close, shape):
    torch.multiprocessing.spawn(step_of_one, (tmp_path, dtype, shape), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pth") for rank in range(2))
    norm, x, factor = layer_and_batch(dtype, shape)
    expected = outcome(norm, x, factor)
    for name, value in expected.items():
        if name in ("y", "x"):
            found = torch.cat([first[name], second[name]])
        elif name in ("0.weight", "0.bias"):  # each has the part of its own pictures
            found = first[name] + second[name]
        else:
            assert torch.equal(first[name], second[name])
            found = first[name]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=close, atol=close)


@pytest.fixture
def alone():
    """A process group of this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "arch", [("timm:tf_efficientnet_lite0", "fpn"), ("resnet18dilated", "ppm"), ("hrnetv2", "c1")]
)
@pytest.mark.parametrize("training", [True, False])
def test_nothing_but_the_statistics_changes(alone, arch, training):
    """timm's BatchNorm includes an activation, which `nn.SyncBatchNorm` forgets."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(arch[0], weights="none")
    network = nn.ModuleList([encoder, ModelBuilder.build_decoder(arch[1], encoder.channels, 5)])
    other = copy.deepcopy(network)
    synchronise(other)
    x, logits = torch.rand(2, 3, 64, 64), []
    for encoder, decoder in (network, other):
        encoder.train(training), decoder.train(training)
        torch.manual_seed(0)  # for dropout
        logits.append(decoder.logits(encoder.maps(x)))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=1e-3, atol=1e-3)


def test_computing_twice_keeps_the_statistics(alone):
    results = []
    for grad_checkpoint in (False, True):
        torch.manual_seed(0)
        encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
        synchronise(encoder)
        encoder.grad_checkpoint = grad_checkpoint
        encoder(torch.rand(2, 3, 33, 40)).square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        results.append((gradients, encoder.state_dict()))
    torch.testing.assert_close(*results, rtol=0, atol=0)


class Complete(TorchDispatchMode):
    """A context in which the gradient of BatchNorm gets the statistics that a GPU goes by."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_batch_norm_backward.default:
            assert None not in args[3:7]
        return func(*args, **(kwargs or {}))


def test_a_gpu_is_not_waited_for_and_gets_all_that_it_needs(monkeypatch):
    """A value that the CPU asks for is an error on the device "meta"."""
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    monkeypatch.setattr(torch, "batch_norm_update_stats", lambda *_: (torch.empty(6),) * 2)
    with torch.device("meta"), Complete():
        norm = nn.Sequential(nn.BatchNorm2d(6))
        synchronise(norm)
        result = outcome(norm, torch.empty(5, 6, 7, 8), torch.empty(5, 6, 7, 8))
    assert result["x"].shape == (5, 6, 7, 8)


def test_an_unknown_batchnorm_is_refused():
    class Peculiar(nn.BatchNorm2d):
        pass

    with pytest.raises(ModelError, match="0 is a Peculiar, .* --sync_bn 0"):
        synchronise(nn.Sequential(Peculiar(3)))
