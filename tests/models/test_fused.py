"""A GPU's kernels against double precision, on a CPU in Triton's interpreter."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="the kernels need Triton")

from models import fused, loss, upsample
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax

from ..conftest import ROOT

pytestmark = pytest.mark.slow  # the interpreter is


def release(version: str) -> tuple[int, ...]:
    """Major and minor number, which do not compare as texts."""
    return tuple(int(number) for number in version.split(".")[:2])


@pytest.fixture(autouse=True)
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU computes as a GPU would; cells of several pictures follow one another."""
    if release(fused.triton.__version__) < (3, 7) and release(np.__version__) >= (2, 4):
        pytest.skip("Triton's interpreter needs 3.7 with NumPy 2.4")
    monkeypatch.setattr(fused, "PARTIAL_BYTES", 1)
    for module in (loss, upsample):
        monkeypatch.setattr(
            module, "gpu_kernels", lambda z: None if z.dtype == torch.float64 else fused
        )


def case(shape: tuple[int, ...], size: tuple[int, int], dtype: torch.dtype = torch.float32):
    """Logits B x C x h x w and labels B x H x W, a third of them none."""
    torch.manual_seed(0)
    logits = (3 * torch.randn(shape)).to(dtype)
    labels = torch.randint(shape[1], (shape[0], *size))
    return logits, labels.where(torch.rand(labels.shape) > 0.3, -1)


def loss_and_gradient(logits: Tensor, labels: Tensor, *args: Any) -> tuple[Tensor, ...]:
    leaf = logits.detach().clone().requires_grad_()
    value, correct = upsample_cross_entropy(leaf, labels, *args, count_correct=True)
    value.backward()
    return value.detach(), correct, leaf.grad


def check_loss(logits: Tensor, labels: Tensor, extent: Any = None, weight: Any = None, *options):
    """The same of the same numbers as the bands compute in double precision."""
    exact_weight = None if weight is None else weight.double()
    found = loss_and_gradient(logits, labels, extent, weight, *options)
    exact = loss_and_gradient(logits.double(), labels, extent, exact_weight, *options)
    assert found[0].double().item() == pytest.approx(exact[0].item(), rel=2e-6)
    assert found[1] == exact[1]
    assert found[2].dtype == logits.dtype
    rounding = 2 * torch.finfo(logits.dtype).eps + 2e-6
    assert (found[2] - exact[2]).abs().max() <= rounding * exact[2].abs().max()


# Upsampled by 8, by odd ratios and by 16; made smaller; one logits vector; one row.
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 5, 2, 3), (16, 24)),
        ((2, 7, 4, 5), (13, 19)),
        ((1, 70, 2, 1), (32, 16)),
        ((1, 11, 6, 7), (5, 4)),
        ((1, 2, 1, 1), (8, 8)),
        ((1, 3, 1, 9), (4, 70)),
    ],
)
def test_loss_and_gradient(shape, size):
    check_loss(*case(shape, size))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    check_loss(*case((1, 20, 3, 3), (12, 12), dtype))


@pytest.mark.parametrize("extent", [(2.6, 3.2), (3, 4), (3.25, 4.5)])
def test_extents(extent):
    """Pictures that end within the last feature, and that go on beyond it."""
    check_loss(*case((1, 5, 3, 4), (13, 16)), extent)


@pytest.mark.parametrize("options", [(0.0, 0.0), (0.1, 0.0), (0.0, 0.3), (0.1, 0.3), (0.1, 0.3, 2)])
def test_label_smoothing_hard_pixels_and_adjusted_logits_with_weights(options):
    weight = torch.tensor([0.5, 2, 0 if len(options) < 3 else 0.1, 1, 3])
    check_loss(*case((2, 5, 3, 4), (9, 13)), (2.6, 3.2), weight, *options)


def test_both_memory_formats_and_all_types_of_labels():
    logits, labels = case((2, 5, 2, 3), (5, 6))
    expected = loss_and_gradient(logits, labels)
    others = (labels.to(torch.uint8), labels.int(), labels.transpose(1, 2).contiguous().mT)
    for some in others:
        for memory_format in (torch.contiguous_format, torch.channels_last):
            found = loss_and_gradient(logits.contiguous(memory_format=memory_format), some)
            assert all(map(torch.equal, found, expected))


def test_unlabelled_pixels_of_uint8_are_no_class():
    logits, labels = case((1, 260, 1, 2), (3, 4))
    labels = labels.where(labels < 255, -1)
    expected = loss_and_gradient(logits, labels)
    assert all(map(torch.equal, loss_and_gradient(logits, labels.to(torch.uint8)), expected))


def test_without_labels_loss_and_gradient_are_zero():
    logits, labels = case((1, 5, 2, 2), (8, 8))
    value, correct, gradient = loss_and_gradient(logits, torch.full_like(labels, -1))
    assert value == 0 and correct == 0 and not gradient.any()


def test_what_is_not_finite_shows():
    logits, labels = case((1, 5, 2, 2), (8, 8))
    logits[0, 3, 0, 0] = torch.nan
    assert loss_and_gradient(logits, labels)[0].isnan()
    _, probability = average_upsampled_probabilities([logits], (8, 8), [None])
    assert probability[0, 0, 0].isnan()


@pytest.mark.parametrize(("classes", "size"), [(5, (5, 70)), (40, (5, 9)), (300, (1, 6))])
def test_labels_and_probabilities(classes, size):
    """Where two classes differ by rounding alone, either may win."""
    torch.manual_seed(0)
    logits = [torch.randn(1, classes, *small) for small in ((3, 4), (2, 3), (1, 1))]
    extents, mirrored = [(2.6, 3.5), None, None], [False, True, False]
    labels = upsample_argmax(logits[0], size, extents[0])
    exact = upsample_argmax(logits[0].double(), size, extents[0])
    assert labels.dtype == exact.dtype and (labels == exact).float().mean() > 0.99
    labels, probability = average_upsampled_probabilities(logits, size, extents, mirrored)
    exact, exact_probability = average_upsampled_probabilities(
        [z.double() for z in logits], size, extents, mirrored
    )
    assert labels.dtype == exact.dtype and (labels == exact).float().mean() > 0.99
    torch.testing.assert_close(probability.double(), exact_probability)


def test_of_equal_classes_the_first_wins():
    logits = torch.zeros(1, 40, 2, 2)
    logits[:, [17, 35]] = 1
    assert (upsample_argmax(logits, (4, 4)) == 17).all()
    labels, _ = average_upsampled_probabilities([logits, logits], (4, 4), [None, None])
    assert (labels == 17).all()


def test_kernels_compile_for_gpus_without_one_and_spill_no_registers():
    """In a process of its own: the interpreter's kernels cannot be compiled."""
    command = [sys.executable, "-m", "benchmarks.kernels", "--json"]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    printed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=True).stdout
    tables = json.loads(printed)
    rows = tables["Kernels, compiled"]
    assert len(rows) == 2 * 3 * 5 and not any(row["spilled bytes"] for row in rows)
    launches = tables["Launches of the head on a GPU"]
    for bands, kernels in zip(launches[::2], launches[1::2], strict=True):
        assert kernels["launches"] < bands["launches"] / 8 and kernels["copies"] == 0
