"""What happens in an epoch: a pass over the training pictures, and a validation."""

import argparse
import logging
import math
import shlex
import signal
import sys
import time
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from checkpoint import Progress, Run, write_whole
from classes import Classes
from distributed import Team
from faults import count_skipped, count_unreadable, refuse_loss
from models.upsample import upsample_argmax, upsample_cross_entropy
from monitor import Monitor
from optim import adjust_learning_rates, freeze_batchnorm
from utils import AverageMeter, ConfusionMatrix, Scores, StopRequest, is_labelled, result_names
from visualize import comparison

logger = logging.getLogger(__name__)

NUM_PANELS = 4  # validation pictures that are drawn at every validation


def train_one_epoch(
    model: nn.Module,
    loader: DataLoader,
    run: Run,
    args: argparse.Namespace,
    team: Team,
    stop: StopRequest,
    monitor: Monitor,
) -> None:
    """Train on the pictures of the epoch, or on those that are left of it.

    A step's loss is the mean over the labelled pixels of all its pictures, those of all processes
    and of all batches that are accumulated: as if they were one batch. It is a weighted mean if the
    run has weights of the classes. With `nn.DataParallel`, the means of all GPUs count alike.
    """
    progress, optimizer, scaler, balance = run.progress, run.optimizer, run.scaler, run.balance
    sampler = loader.batch_sampler
    sampler.epoch, sampler.start = progress.epoch, progress.pictures
    model.train()
    if args.fix_bn:
        freeze_batchnorm(model)
    step_size = sampler.batch_size * team.size * args.accumulate  # pictures
    batches, start = iter(loader), time.time()
    with monitor.epoch(progress, step_size) as show_step:
        while progress.pictures < progress.total:
            chunk = list(islice(batches, args.accumulate))
            waited = time.time() - start
            defects = [defect for *_, why in chunk for defect in why if defect]
            labelled = [int(is_labelled(labels, args.num_class).sum()) for _, labels, *_ in chunk]
            weights = [balance.total(labels) for _, labels, *_ in chunk] if balance else labelled
            asked, replaced, pixels, total = team.sum(
                [bool(stop.signal), len(defects), sum(labelled), sum(weights)]
            )
            if replaced:
                count_unreadable(defects, progress, team)
            if asked:
                run.save()
                team.gather("saved")  # as nobody should leave before that
                leave(stop, args)

            done = progress.seen / (args.num_epoch * progress.total)
            adjust_learning_rates(optimizer, (1 - done) ** args.lr_pow)
            torch.manual_seed(dice(args.seed, progress.epoch, progress.pictures, team.rank))
            optimizer.zero_grad()
            loss = torch.zeros((), device=team.device)
            correct = torch.zeros((), dtype=torch.int64, device=team.device)
            for i, (images, labels, *_) in enumerate(chunk):
                images = images.to(team.device, non_blocking=True)
                labels = labels.to(team.device, non_blocking=True)
                last = i == len(chunk) - 1
                with nullcontext() if last or team.size == 1 else model.no_sync():
                    mean, right = model(images, labels, count_correct=True)
                    # Means over a process's own pixels become parts of the mean over all pixels;
                    # then, as gradients are averaged over processes, times their number.
                    part = mean.mean() * (weights[i] * team.size / (total or 1))
                    scaler.scale(part).backward()
                loss += part.detach()
                correct += right.sum()
            mean_loss, all_correct = team.sum([loss.item() / team.size, correct.item()])
            if math.isfinite(mean_loss):
                pictures = min(step_size, progress.total - progress.pictures)
                progress.loss += mean_loss * pictures
                progress.scored += pictures
                progress.correct += round(all_correct)
                progress.labelled += round(pixels)
            elif not scaler.is_enabled():
                names = [name for _, _, names, _ in chunk for name in names]
                refuse_loss(mean_loss, [] if loss.isfinite() else names, progress, team)
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            count_skipped(scaler.get_scale() < scale, progress)

            progress.pictures = min(progress.pictures + step_size, progress.total)
            progress.seconds += time.time() - start
            start = time.time()
            lr_encoder, lr_decoder = (group["lr"] for group in optimizer.param_groups)
            show_step(waited, {"lr_encoder": lr_encoder, "lr_decoder": lr_decoder})
            if time.monotonic() - run.saved > 60 * args.ckpt_minutes:
                run.save()


@torch.inference_mode()
def validate(
    model: nn.Module,
    loader: DataLoader,
    progress: Progress,
    classes: Classes,
    args: argparse.Namespace,
    team: Team,
    stop: StopRequest,
    monitor: Monitor,
) -> tuple[float, Scores]:
    """Mean loss and scores on the validation crops; draws panels of the first few.

    The loss is the mean over all labelled pixels alike, whatever batches, processes and the
    classes' weights are, so that runs compare.
    """
    model.eval()
    losses, shown = AverageMeter(), []
    confusion = ConfusionMatrix(len(classes.names), team.device)
    for images, labels, names in loader:
        if stop.signal:
            leave(stop, args)
        pixels = int(is_labelled(labels, len(classes.names)).sum())
        images, labels = images.to(team.device), labels.to(team.device)
        logits = model(images)
        predictions = upsample_argmax(logits, labels.shape[-2:])
        losses.update(upsample_cross_entropy(logits, labels), pixels)
        confusion.update(predictions, labels)
        if len(shown) < NUM_PANELS:
            shown += zip(names, images.cpu(), labels.cpu(), predictions.cpu(), strict=True)
    if team.rank == 0:
        results = result_names([name for name, *_ in shown])
        for name, image, *maps in shown[:NUM_PANELS]:
            picture = image.permute(1, 2, 0).numpy()
            figure = comparison(picture, *(labels.numpy() for labels in maps), classes)
            path = Path(args.vis) / args.id / f"{results[name]}_epoch_{progress.epoch:03d}.png"
            write_whole(path, partial(figure.save, format="PNG"))
            monitor.panel(results[name], figure, progress)
    team.add_up(confusion.counts)
    loss, count = team.sum([float(losses.sum), losses.count])
    return loss / count, confusion.scores()


def leave(stop: StopRequest, args: argparse.Namespace) -> NoReturn:
    """End the process as it was asked to; everything has been saved."""
    number = stop.signal or signal.SIGTERM  # another process of the team was asked
    logger.info("Stopped by %s after a save. To go on:", signal.Signals(number).name)
    logger.info(shlex.join(["python", "train.py", "--resume", args.id, "--ckpt", args.ckpt]))
    sys.exit(128 + number)


def dice(*position: int) -> int:
    """A random seed that depends on the position in a training alone."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])
