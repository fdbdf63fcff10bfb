"""BatchNorm over the batches of all processes, on CPUs and CUDA's GPUs.

`nn.SyncBatchNorm` is for GPUs alone, waits for the GPU in every layer, as a process might have an
empty batch, and forgets the activation that timm's BatchNorm includes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import Activated
from .weights import ModelError


class SyncBatchNorm(_BatchNorm):
    """BatchNorm whose statistics are those of the batches of all processes."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""

    def forward(self, x: Tensor) -> Tensor:
        """B x C x …, normalised; in training every process has to call it, and B may differ."""
        if not self.training:
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return Normalise.apply(x, self.weight, self.bias, self)


class SyncBatchNormAct(Activated, SyncBatchNorm):
    """timm's `BatchNormAct2d`, with such statistics."""


class Normalise(torch.autograd.Function):
    """Normalises by the mean and variance of all processes' batches (Ioffe and Szegedy, 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: _BatchNorm) -> Tensor:
        """B x C x …; the running statistics of `norm` move by its momentum."""
        dim = x.shape[1]
        # The operator moves statistics that nobody needs: only its results are of use.
        scratch = weight.new_zeros(2, dim)
        own_mean, own_var = (
            own.double() for own in torch.batch_norm_update_stats(x, scratch[0], scratch[1], 0.0)
        )
        # Squares, less the square of the mean, lose no digit that counts in double precision.
        sums = torch.cat([own_mean, own_var + own_mean.square(), own_mean.new_ones(1)])
        sums *= x.numel() // dim
        dist.all_reduce(sums)
        total = sums[-1]
        mean, squares = (sums[:-1] / total).split(dim)
        var = (squares - mean.square()).to(weight.dtype)
        mean, total = mean.to(weight.dtype), total.to(weight.dtype)
        running_mean, running_var, momentum = norm.running_mean, norm.running_var, norm.momentum
        assert running_mean is not None and running_var is not None and momentum is not None
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (total / (total - 1)), momentum)
        ctx.eps = norm.eps
        ctx.save_for_backward(x, weight, mean, var, total)
        return F.batch_norm(x, mean, var, weight, bias, eps=norm.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, of weight and bias by this process's batch alone, and none of the rest."""
        x, weight, mean, var, total = ctx.saved_tensors
        invstd = (var + ctx.eps).rsqrt()
        # As if the statistics were constants; a GPU takes them from the second pair. Then what they
        # change, with the memory format of x.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, mean, invstd, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        slope, offset = sums * (-weight * invstd / total)
        of_x = F.batch_norm(x, mean, var, slope, offset, eps=ctx.eps).add_(of_x)
        return of_x, of_weight, of_bias, None


KINDS = {
    "BatchNorm1d": SyncBatchNorm,
    "BatchNorm2d": SyncBatchNorm,
    "PooledBatchNorm2d": SyncBatchNorm,  # a single value in each process is several in all
    "BatchNormAct2d": SyncBatchNormAct,
    "PooledBatchNormAct2d": SyncBatchNormAct,
}


def synchronise(network: nn.Module) -> None:
    """Let all BatchNorm of a network take its statistics from the batches of all processes.

    Raises:
        ModelError: it has some of a kind that is not known.
    """
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm):
            kind = type(module).__name__
            if kind not in KINDS:
                raise ModelError(
                    f"{name} is a {kind}, which cannot be synchronised between processes; "
                    "--sync_bn 0 does without"
                )
            module.__class__ = KINDS[kind]
