"""The optimiser, its learning rates, and frozen BatchNorm.

The learning rates begin at `--lr_encoder` and `--lr_decoder`. Before each step,
`Trainer.train_one_epoch` sets them to `poly_decay` of these.
"""

import argparse

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer


def make_optimizer(
    args: argparse.Namespace, encoder: nn.Module, decoder: nn.Module, fused: bool = True
) -> Optimizer:
    """The optimiser, with one learning rate for the encoder and one for the decoder.

    `fused` updates all parameters in one go; without it torch has the choice. A gradient scaler
    wants it off: when the scaler skips the first step, fused SGD would go on from a momentum that
    was never set.
    """
    groups = [
        {"params": network.parameters(), "lr": lr, "initial_lr": lr}
        for network, lr in ((encoder, args.lr_encoder), (decoder, args.lr_decoder))
    ]
    shared = {"weight_decay": args.weight_decay, "fused": fused or None}
    if args.optim == "SGD":
        return torch.optim.SGD(groups, momentum=args.beta1, **shared)
    return getattr(torch.optim, args.optim)(groups, betas=(args.beta1, 0.999), **shared)


def poly_decay(progress: float, power: float) -> float:
    """The factor of the initial learning rates after a fraction of the training, 0…1."""
    return (1 - progress) ** power


def adjust_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates to a fraction of their initial values."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rates of encoder and decoder, by their names in logs."""
    lr_encoder, lr_decoder = (group["lr"] for group in optimizer.param_groups)
    return {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder}


def freeze_batchnorm(model: nn.Module) -> None:
    """Keep BatchNorm's statistics, scale and shift as they are."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.requires_grad_(False)
