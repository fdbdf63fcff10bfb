"""`training/muon.py`: what a step of Muon is, and which parameters are AdamW's."""

import pytest
import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from training.muon import Muon, orthogonalize


def matrix(singular: Tensor, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix of given singular values, and its singular vectors."""
    generator = torch.Generator().manual_seed(0)
    rows = len(singular)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator))[0]
    right = torch.linalg.qr(torch.randn(columns, rows, generator=generator))[0]
    return left * singular @ right.T, left, right


def two_alike(*shapes: tuple[int, ...]) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of these shapes, and the same once more."""
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    first, second = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    return first, second


def random_like(parameters: list[nn.Parameter], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(p.shape, generator=generator) for p in parameters]


def step(optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    optimizer.step()


@pytest.mark.parametrize("tall", [False, True])
@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
def test_singular_values_become_nearly_one_and_vectors_stay(tall, scale):
    values = torch.logspace(0, -1, 24)
    given, left, right = matrix(values * scale, 40)
    found = orthogonalize(given.T).T if tall else orthogonalize(given)
    inner = left.T @ found @ right
    assert (inner.diagonal() - 1).abs().max() < 0.15
    assert (inner - inner.diagonal().diag()).abs().max() < 1e-4


def test_directions_that_a_gradient_has_not_are_not_made_up():
    values = torch.cat([torch.ones(4), torch.zeros(20)])
    given, left, right = matrix(values, 40)
    torch.testing.assert_close(
        orthogonalize(given), left[:, :4] @ right[:, :4].T, atol=0.05, rtol=0
    )
    assert (orthogonalize(torch.zeros(3, 5)) == 0).all()


@pytest.mark.parametrize("tall", [False, True])
def test_a_large_matrix_is_cut_into_equal_blocks(tall):
    given = torch.randn(258, 400, generator=torch.Generator().manual_seed(0))  # 3 times 86 rows
    blocks = torch.cat([orthogonalize(block) for block in given.split(86)])
    found = orthogonalize(given.T).T if tall else orthogonalize(given)
    torch.testing.assert_close(found, blocks, atol=1e-5, rtol=0)
    indivisible = orthogonalize(given[:257])
    assert (torch.linalg.svdvals(indivisible) - 1).abs().max() < 0.15


def test_it_is_what_timm_has_but_for_rounding():
    """timm computes in bfloat16."""
    ours, theirs = two_alike((8, 4, 3, 3), (6, 12, 1, 1), (5, 9))
    start = [p.detach().clone() for p in ours]
    settings = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.99)}
    reference = timm.optim.Muon(
        theirs, **settings, momentum=0.8, nesterov=True, ns_coefficients="quintic"
    )
    optimizer = Muon(ours, **settings, fused=True)
    for seed in range(4):
        gradients = random_like(ours, seed)
        step(optimizer, gradients)
        step(reference, gradients)
    for own, other, initial in zip(ours, theirs, start, strict=True):
        moved = (other - initial).abs().max()
        assert (own - other).abs().max() < 0.02 * moved


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (40, 4, 3, 3), (12, 6, 1, 1)])
def test_the_memory_format_of_weights_does_not_matter(shape):
    first, second = two_alike(shape)
    second = [
        nn.Parameter(p.detach().contiguous(memory_format=torch.channels_last)) for p in second
    ]
    optimizers = [Muon(ps, lr=0.1, weight_decay=0.5, fused=True) for ps in (first, second)]
    for seed in range(3):
        for optimizer in optimizers:
            step(optimizer, random_like(first, seed))
    torch.testing.assert_close(second, first, atol=1e-5, rtol=0)
    assert second[0].is_contiguous(memory_format=torch.channels_last)


def test_depthwise_convolutions_norms_and_biases_are_adamws():
    network = nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.BatchNorm2d(6))
    ours, theirs = two_alike(*(p.shape for p in network.parameters()))
    settings = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.8, 0.999), "fused": True}
    optimizer, reference = Muon(ours, **settings), AdamW(theirs, **settings)
    for seed in range(3):
        step(optimizer, random_like(ours, seed))
        step(reference, random_like(ours, seed))
    assert [*map(torch.equal, ours, theirs)] == [True] * 4


def test_a_step_that_is_skipped_leaves_no_trace():
    """Its gradients are not finite: neither weights nor averages see them."""
    skipping, other = two_alike((4, 3, 3, 3), (4,))
    optimizers = [Muon(ps, lr=0.1, weight_decay=0.5, fused=True) for ps in (skipping, other)]
    for optimizer in optimizers:
        step(optimizer, random_like(other, 1))
    optimizers[0].found_inf = torch.ones(())
    step(optimizers[0], [torch.full_like(p, torch.nan) for p in other])
    assert [*map(torch.equal, skipping, other)] == [True] * 2
    optimizers[0].found_inf = torch.zeros(())
    for optimizer in optimizers:
        step(optimizer, random_like(other, 2))
    assert [*map(torch.equal, skipping, other)] == [True] * 2


def test_a_loaded_state_goes_on_as_it_would_have():
    whole, cut = two_alike((4, 3, 3, 3), (4,))
    optimizers = [Muon(ps, lr=0.1, weight_decay=0.5, fused=True) for ps in (whole, cut)]
    for optimizer in optimizers:
        step(optimizer, random_like(whole, 1))
    resumed = Muon(cut, lr=0.2, fused=True)
    resumed.load_state_dict(optimizers[1].state_dict())
    for optimizer in (optimizers[0], resumed):
        step(optimizer, random_like(whole, 2))
    assert [*map(torch.equal, whole, cut)] == [True] * 2
