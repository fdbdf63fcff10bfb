"""BatchNorm over the batches of all processes, on any device.

`nn.SyncBatchNorm` is for GPUs alone, waits for the GPU in every layer, as a process might have an
empty batch, and forgets the activation that timm's BatchNorm includes.
"""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .weights import ModelError


class SyncBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the batches of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        """B x C x h x w, normalised; every process has to call it, B may differ."""
        if not self.training:
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return Normalise.apply(x, self.weight, self.bias, self)


class SyncBatchNormAct(SyncBatchNorm):
    """timm's `BatchNormAct2d`, with such statistics."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """B x C x h x w, normalised and activated."""
        return self.act(self.drop(super().forward(x)))


class Normalise(torch.autograd.Function):
    """Normalises by the mean and variance of all processes' batches (Ioffe and Szegedy, 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        """B x C x h x w; the running statistics of `norm` move by its momentum."""
        dim = x.shape[1]
        # A row of each process, so that one sum gathers them, whatever the backend is. With 0 as
        # its momentum, this operator only computes mean and variance.
        rows = weight.new_zeros(dist.get_world_size(), 2 * dim + 1)
        own = torch.batch_norm_update_stats(x, norm.running_mean, norm.running_var, 0.0)
        torch.cat([*own, weight.new_full((1,), x.numel() // dim)], out=rows[dist.get_rank()])
        dist.all_reduce(rows)
        means, variances, counts = rows.split([dim, dim, 1], dim=1)
        total = counts.sum()
        share = counts / total
        mean = (share * means).sum(0)
        var = (share * (variances + (means - mean).square())).sum(0)
        running_mean, running_var, momentum = norm.running_mean, norm.running_var, norm.momentum
        assert running_mean is not None and running_var is not None and momentum is not None
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (total / (total - 1)), momentum)
        ctx.eps = norm.eps
        ctx.save_for_backward(x, weight, mean, var, total)
        return F.batch_norm(x, mean, var, weight, bias, eps=norm.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of the input, of weight and bias by this process's batch alone, and none of the rest."""
        x, weight, mean, var, total = ctx.saved_tensors
        # As if the statistics were constants; then what they change.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        slope, offset = sums * (weight * (var + ctx.eps).rsqrt() / total)
        of_x -= F.batch_norm(x, mean, var, slope, offset, eps=ctx.eps)
        return of_x, of_weight, of_bias, None


KINDS = {
    "BatchNorm2d": SyncBatchNorm,
    "PooledBatchNorm2d": SyncBatchNorm,  # the pools of several processes hold several values
    "BatchNormAct2d": SyncBatchNormAct,
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
                    f"--sync_bn 1: {name} is a {kind}, which is not known; --sync_bn 0 does without"
                )
            module.__class__ = KINDS[kind]
