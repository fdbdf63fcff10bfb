"""Layers that several networks are made of."""

import torch.nn.functional as F
from torch import Tensor, nn

from .winograd import Conv3x3


def conv_bn_relu(in_dim: int, out_dim: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """A convolution of 1x1 or 3x3 that keeps the size, the stride apart, BatchNorm and ReLU."""
    conv = (
        Conv3x3(in_dim, out_dim, stride)
        if kernel_size == 3
        else nn.Conv2d(in_dim, out_dim, kernel_size, stride, bias=False)
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_dim), nn.ReLU(inplace=True))


class PooledBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also trains where a batch holds a single value per channel.

    Such a value, as in the 1x1 pool of a batch of one picture, has a variance of zero, and batch
    statistics would erase it. The running statistics normalise it instead, as they do at inference;
    they do not change.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B x C x h x w, normalised."""
        if self.training and x.numel() == self.num_features:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)


class Activated(nn.Module):
    """Before a BatchNorm among the bases: what timm's `BatchNormAct2d` does after it."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """B x C x h x w, normalised and activated."""
        return self.act(self.drop(super().forward(x)))  # type: ignore[misc]


class PooledBatchNormAct2d(Activated, PooledBatchNorm2d):
    """timm's `BatchNormAct2d`, which trains there, too."""


KINDS = {"BatchNorm2d": PooledBatchNorm2d, "BatchNormAct2d": PooledBatchNormAct2d}


def accept_single_values(network: nn.Module) -> None:
    """Let all BatchNorm of a network train where a batch holds a single value per channel."""
    for module in network.modules():
        if kind := KINDS.get(type(module).__name__):
            module.__class__ = kind
