"""Checks before the first step: mistakes that would otherwise end a training later."""

import argparse
import logging
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from common.distributed import World, is_launched
from common.files import check_writable
from common.metrics import is_labelled
from common.runs import is_run, new_run, run_folder
from models.builder import check_decoder, check_encoder
from utils import UserError

logger = logging.getLogger("training")


def should_resume(args: argparse.Namespace, world: World) -> bool:
    """Whether to go on with a run that was saved.

    Raises:
        UserError: some processes see it, and others do not.
    """
    with world.fail_together():
        folder = run_folder(args.ckpt, args.id)
        resuming = bool(args.resume) and is_run(folder)
    seen = world.all_gather(resuming)
    with world.fail_together():
        if resuming and not all(seen):
            raise UserError(
                f"--resume: there is {folder} for some processes and not for others; all machines "
                "have to see one --ckpt folder"
            )
    return resuming


def check_settings(args: argparse.Namespace, world: World, resuming: bool) -> None:
    """Check that the settings suit each other, this machine and its disk.

    Raises:
        UserError: they do not.
        ModelError: there is no such encoder or decoder.
    """
    with world.fail_together():
        check_encoder(args.arch_encoder)
        check_decoder(args.arch_decoder)
        if args.parallel == "dp" and is_launched():
            raise UserError("--parallel dp is for a single process; leave it out")
        if args.scale_min > args.scale_max:
            raise UserError(
                f"--scale_min {args.scale_min:g} is more than --scale_max {args.scale_max:g}"
            )
        if args.num_class == 1:
            raise UserError("--num_class 1: a single class leaves nothing to tell apart; give 2")
        if not is_launched():
            check_gpus(args.num_gpus, args.device)
        if args.fix_bn and args.weights_encoder == "none":
            raise UserError("--fix_bn 1: BatchNorm of --weights_encoder none has yet to learn")
        if not resuming:
            new_run(args.ckpt, args.id)
        check_writable("--vis", Path(args.vis) / args.id)
        if args.compile:
            check_compiler(args, world.device)


def check_warmup(args: argparse.Namespace, world: World, steps: int) -> None:
    """Check that the learning rates get to their height in a training of so many steps.

    Raises:
        UserError: they do not.
    """
    with world.fail_together():
        if args.warmup_iters >= steps:
            raise UserError(
                f"--warmup_iters {args.warmup_iters}: the training has {steps} steps; give less"
            )


def check_validation(args: argparse.Namespace, world: World, loader: DataLoader) -> None:
    """Read the validation crops: a broken file should show now rather than after an epoch.

    Raises:
        UserError: a file cannot be read, or no crop has a labelled pixel.
    """
    found: set[int] = set()
    with world.fail_together():
        for _, labels, _ in loader:
            found.update(labels[is_labelled(labels, args.num_class)].unique().tolist())
    present = sorted(set().union(*world.all_gather(found)))
    with world.fail_together():
        if not present:
            raise UserError(f"{args.list_val}: no label has a labelled pixel in its crop")
    if len(present) == 1:
        logger.warning(
            "WARNING: all labelled pixels of the validation crops are of class %d: scores of them "
            "say nothing. Check --label_offset (%d) and the labels; prepare.py looks at them all",
            present[0] + 1,
            args.label_offset,
        )


def check_gpus(num_gpus: int, device: str) -> None:
    """Check that there are as many GPUs as asked for, without using one.

    Args:
        num_gpus: how many.
        device: the value of `--device`.

    Raises:
        UserError: there are not.
    """
    gpus = torch.cuda.device_count()
    usable = max(1, gpus) if device in ("auto", "cuda", "cuda:0") else 1
    if num_gpus > usable:
        raise UserError(f"--num_gpus {num_gpus}: this machine has {gpus} GPUs; use {usable}")


def check_compiler(args: argparse.Namespace, device: torch.device) -> None:
    """Check that --compile can work, on something small.

    Raises:
        UserError: it cannot.
    """
    if args.num_gpus > 1 or args.grad_checkpoint:
        raise UserError("--compile 1 goes with --num_gpus 1 and --grad_checkpoint 0 only")
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"--compile 1: torch cannot compile here ({reason}); leave it out"
        ) from error
