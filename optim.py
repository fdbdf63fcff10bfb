"""Optimiser, learning rates, and what is left out of the learning."""

import argparse

import torch
from torch import nn
from torch.optim import Optimizer


def make_optimizer(
    args: argparse.Namespace, encoder: nn.Module, decoder: nn.Module, fused: bool = True
) -> Optimizer:
    """The optimiser, with a learning rate for the encoder and one for the decoder.

    `fused` updates all parameters in one go; but where a gradient scaler skips the first step,
    fused SGD would go on from a momentum that was never set. Without it, torch has the choice.
    """
    groups = [
        {"params": encoder.parameters(), "initial_lr": args.lr_encoder},
        {"params": decoder.parameters(), "initial_lr": args.lr_decoder},
    ]
    shared = {"weight_decay": args.weight_decay, "fused": fused or None}
    if args.optim == "SGD":
        return torch.optim.SGD(groups, momentum=args.beta1, **shared)
    return getattr(torch.optim, args.optim)(groups, betas=(args.beta1, 0.999), **shared)


def adjust_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the rates to a fraction of what they were initially."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep BatchNorm's statistics and its scale and shift as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
            module.requires_grad_(False)
