"""The optimiser, its learning rates, and what is frozen.

The learning rates begin at `--lr_encoder` and `--lr_decoder`. Before each step,
`Trainer.train_one_epoch` sets them to `poly_decay` of these.
"""

import argparse
import copy
import logging
from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from models import SegmentationModel
from models.segmentation import PROBE, random_pictures
from models.weights import has_initial_weights
from utils import abbreviate

logger = logging.getLogger("training")


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


def find_frozen(
    network: SegmentationModel, args: argparse.Namespace, source: str
) -> list[nn.Module]:
    """The modules that the settings keep as they are, for `freeze`.

    Args:
        network: encoder and decoder.
        args: the settings.
        source: where the encoder's initial weights are from.
    """
    encoder = [] if args.lr_encoder else [network.encoder]
    norms = trained_batchnorm(network, args, source) if args.fix_bn else []
    return [*encoder, *norms]


def freeze_unused(network: SegmentationModel) -> None:
    """Take the parameters out of training that have no part in the loss, whatever they are for.

    DistributedDataParallel would wait for their gradients. A model of timm's may have some: those
    of HRNet's finer branches after the last map, say, where the decoder looks at no other.
    """
    images = random_pictures(PROBE).to(network.mean.device).expand(2, -1, -1, -1)
    labels = torch.zeros(images.shape[:1] + images.shape[2:], dtype=torch.int64).to(images.device)
    names = [name for name, p in network.named_parameters() if p.requires_grad]
    probed = copy.deepcopy(network).train()
    parameters = dict(probed.named_parameters())
    loss = probed(images, labels)
    inputs = [parameters[name] for name in names]
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    unused = [name for name, g in zip(names, gradients, strict=True) if g is None]
    for name in unused:
        network.get_parameter(name).requires_grad_(False)
    if unused:
        logger.info("Without a part in the loss: %s", abbreviate(unused))


def trained_batchnorm(
    network: SegmentationModel, args: argparse.Namespace, source: str
) -> list[nn.Module]:
    """The BatchNorm modules that begin with trained weights, for `freeze`.

    The others are told: their statistics are random, and freezing them would spoil the features.

    Args:
        network: encoder and decoder.
        args: the settings.
        source: where the encoder's initial weights are from.
    """
    trained: list[nn.Module] = []
    fresh: list[str] = []
    for name, module in network.named_modules():
        part, _, own_name = name.partition(".")
        if not isinstance(module, _BatchNorm):
            continue
        if part == "encoder":
            is_trained = has_initial_weights(own_name, args.arch_encoder, source)
        else:
            is_trained = bool(args.weights_decoder)
        if is_trained:
            trained.append(module)
        else:
            fresh.append(name)
    if fresh:
        logger.info("BatchNorm without initial weights learns: %s", abbreviate(fresh))
    return trained


def freeze(modules: Iterable[nn.Module]) -> None:
    """Keep modules as they are: their weights, and BatchNorm's statistics.

    Without gradients, nothing of a frozen encoder is remembered for the backward pass, and neither
    momentum nor weight decay moves its weights.
    """
    for module in modules:
        module.eval()
        module.requires_grad_(False)
