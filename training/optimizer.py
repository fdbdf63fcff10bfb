"""The optimiser, its learning rates, and what is frozen.

Before each step, `Trainer.train_one_epoch` sets the learning rates to `--lr_encoder` and
`--lr_decoder` times `lr_factor`.
"""

import argparse
import copy
import logging
import math
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from models import SegmentationModel
from models.initial_weights import has_initial_weights
from models.segmentation import PROBE, random_pictures
from training.muon import Muon
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
        {"params": parameters, "lr": lr, "initial_lr": lr, "weight_decay": weight_decay}
        for network, lr in ((encoder, args.lr_encoder), (decoder, args.lr_decoder))
        for parameters, weight_decay in split_by_decay(network, args)
    ]
    if args.optim == "SGD":
        return torch.optim.SGD(groups, momentum=args.beta1, fused=fused or None)
    kind = Muon if args.optim == "Muon" else getattr(torch.optim, args.optim)
    return kind(groups, betas=(args.beta1, 0.999), fused=fused or None)


def split_by_decay(
    network: nn.Module, args: argparse.Namespace
) -> Iterator[tuple[list[nn.Parameter], float]]:
    """Parameters that share a weight decay: all, or those of BatchNorm and biases apart."""
    parameters = [*network.parameters()]
    if args.norm_weight_decay is None:
        yield parameters, args.weight_decay
        return
    vectors = [p for p in parameters if p.ndim <= 1]
    if vectors:
        yield vectors, args.norm_weight_decay
    yield [p for p in parameters if p.ndim > 1], args.weight_decay


def lr_factor(args: argparse.Namespace, progress: float, steps: int) -> float:
    """The factor of the initial learning rates in the next step.

    Args:
        args: the settings.
        progress: the fraction of the training that is done, 0…1.
        steps: the number of steps that are done.
    """
    rise = min(1.0, (steps + 1) / (args.warmup_iters + 1))
    if args.lr_schedule == "cosine":
        return rise * (1 + math.cos(math.pi * progress)) / 2
    return rise * (1 - progress) ** args.lr_pow


def adjust_learning_rates(optimizer: Optimizer, factor: float) -> None:
    """Set the learning rates to a fraction of their initial values."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The current learning rates of encoder and decoder, by their names in logs."""
    encoder, *_, decoder = optimizer.param_groups
    return {"lr_encoder": encoder["lr"], "lr_decoder": decoder["lr"]}


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
