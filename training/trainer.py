"""The training loop: an epoch, its validation, and when to save.

To change the step, change `Trainer.train_one_epoch`; the loss, `models.loss.CrossEntropy`; the
schedule of the learning rates, `training.optimizer.lr_factor`. SIGTERM, SIGUSR1 and Ctrl-C are
noted by `Trainer.stop` and obeyed between two steps, or batches of a validation.
"""

import argparse
import logging
import math
import shlex
import signal
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.utils.data import DataLoader

from common.classes import Classes
from common.distributed import World
from common.files import move_into_place
from common.metrics import AverageMeter, ConfusionMatrix, Scores, is_labelled
from common.runs import read_config, run_folder
from dataset import EpochSampler
from inference import check_finite
from models import SegmentationModel
from models.loss import upsample_cross_entropy
from models.segmentation import random_pictures
from models.upsample import upsample_argmax
from training.average import Average
from training.checkpoint import Checkpoint, Progress
from training.class_weights import ClassWeights
from training.guards import (
    batch_statistics,
    count_skipped,
    count_unreadable,
    refuse_loss,
    refuse_unreadable,
    restore,
)
from training.monitor import Monitor
from training.optimizer import (
    adjust_learning_rates,
    find_frozen,
    freeze,
    freeze_unused,
    learning_rates,
    lr_factor,
    make_optimizer,
)
from utils import StopRequest, UserError

logger = logging.getLogger(__name__)

# The results of so many steps stay unread, by device. A GPU whose latest ones are waited for has
# nothing to do meanwhile.
LAG = {"cuda": 1}
NUM_PANELS = 4  # validation pictures that are drawn at every validation


@dataclass(frozen=True)
class TrainingData:
    """What a training needs of its data.

    Attributes:
        train: loader of a `TrainDataset`.
        sampler: of this loader's batches.
        val: loader of this process's share of a `ValDataset`.
        classes: names and colours.
        class_weights: how much each class counts in the loss; None = alike.
    """

    train: DataLoader
    sampler: EpochSampler
    val: DataLoader
    classes: Classes
    class_weights: ClassWeights | None


class StepSums(NamedTuple):
    """Sums over all processes, of one step.

    Attributes:
        stop: processes that a signal asked to stop.
        replaced: pictures that could not be read and were replaced.
        labelled: pixels with a label.
        weight: of all batches in the loss.
    """

    stop: float
    replaced: float
    labelled: float
    weight: float


class Result(NamedTuple):
    """What a step found, on its way from the device.

    Attributes:
        loss: this process's share of the step's, times the world size; on the CPU.
        correct: pixels that this process predicted right; on the CPU.
        arrived: of a GPU, whose values may be looked at after it.
        sums: of the step.
        position: the number of the epoch's pictures before it.
        names: of this process's pictures.
    """

    loss: Tensor
    correct: Tensor
    arrived: torch.cuda.Event | None
    sums: StepSums
    position: int
    names: list[str]


class Trainer:
    """Trains a network: `fit` goes through the epochs left, with validations and saves between.

    Args:
        args: the settings of train.py.
        network: on the device, with its initial weights.
        data: loaders and classes.
        world: the processes that train together.

    Attributes:
        model: the network as a step calls it: wrapped for several devices, or compiled.
        checkpoint: what is saved; it owns optimiser, gradient scaler and progress.
        frozen: the modules that stay as they are.
        stop: whether a signal asked the training to end.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        network: SegmentationModel,
        data: TrainingData,
        world: World,
    ):
        self.args = args
        self.network = network
        self.model: nn.Module = network
        self.data = data
        self.world = world
        self.frozen: list[nn.Module] = []
        self.stop = StopRequest()
        encoder, decoder = network.encoder, network.decoder
        scaler = GradScaler(world.device.type, enabled=network.amp == torch.float16)
        self.checkpoint = Checkpoint(
            folder=run_folder(args.ckpt, args.id),
            config=vars(args)
            | {
                "fc_dim": encoder.fc_dim,
                "weights_used": encoder.weights_source,
                "pictures": {
                    "list_train": data.train.dataset.digest,  # type: ignore[attr-defined]
                    "list_val": data.val.dataset.digest,  # type: ignore[attr-defined]
                },
            },
            model=network,
            optimizer=make_optimizer(args, encoder, decoder, fused=not scaler.is_enabled()),
            scaler=scaler,
            progress=Progress(total=data.sampler.length),
            classes=data.classes,
            class_weights=data.class_weights,
            average=Average(network, args.ema_decay) if args.ema_decay else None,
            is_main=world.is_main,
        )
        self.monitor = Monitor(self.checkpoint.folder, args, world)
        self.lag = LAG.get(world.device.type, 0)
        self.unread: deque[Result] = deque()

    @property
    def progress(self) -> Progress:
        """How far the training has come."""
        return self.checkpoint.progress

    def resume(self) -> None:
        """Go back to the last save of the run.

        Raises:
            UserError, ModelError: it is damaged, or of another network or list.
        """
        total, folder = self.progress.total, self.checkpoint.folder
        config, begun = self.checkpoint.config, read_config(folder)
        config["weights_used"] = begun.get("weights_used")
        self.checkpoint.load()
        self.progress.forgiven = self.progress.replaced
        before = begun.get("pictures", {})
        changed = [flag for flag, d in config["pictures"].items() if before.get(flag, d) != d]
        if changed or self.progress.total != total:
            flag = changed[0] if changed else "list_train"
            raise UserError(
                f"--{flag} {config[flag]} names other pictures than those that {folder} was begun "
                "with (or --num_val takes fewer): its scores and the new ones would not compare. "
                "Give that list, or begin a new run from its weights"
            )

    def fit(self) -> None:
        """Train to the last epoch."""
        args, progress = self.args, self.progress
        source = self.world.all_gather(self.checkpoint.config["weights_used"])[0]
        if self.world.is_main:
            # All have loaded the last save; a crash may have left some of its files aside.
            move_into_place(self.checkpoint.folder)
        self.frozen = find_frozen(self.network, args, source)
        freeze(self.frozen)
        self.model = self.parallelised()
        with self.stop:
            while progress.epoch <= args.num_epoch:
                epoch, suffixes = progress.epoch, []
                self.train_one_epoch()
                row = {"epoch": epoch, "seconds": progress.seconds}
                if progress.scored:
                    row["train_loss"] = progress.mean_loss
                    row["train_accuracy"] = progress.accuracy
                row |= learning_rates(self.checkpoint.optimizer)
                if epoch % args.ckpt_epoch == 0:
                    suffixes.append(f"_epoch_{epoch}.pth")
                if epoch % args.eval_epoch == 0 or epoch == args.num_epoch:
                    self.checkpoint.save()  # whatever happens to the validation costs no training
                    self.world.broadcast(self.checkpoint.scored)
                    val_loss, scores = self.validate()
                    self.monitor.show_scores(val_loss, scores, progress)
                    row["val_loss"] = val_loss
                    row["pixel_accuracy"] = scores.pixel_accuracy
                    row["mean_iou"] = scores.mean_iou
                    if scores.mean_iou > progress.best:
                        progress.best = scores.mean_iou
                        suffixes.append("_best.pth")
                self.monitor.show_incidents(progress)
                progress.history.append(row)
                progress.next_epoch()
                self.checkpoint.save(*suffixes)
                if "mean_iou" in row:
                    self.monitor.draw_history(progress)

    def train_one_epoch(self) -> None:
        """Train on the pictures of the epoch, or on those that are left of it.

        A step's loss is the mean over the labelled pixels of all its pictures, those of all
        processes and of all accumulated batches: as if they were one batch. With class weights it
        is the weighted mean. With `nn.DataParallel`, the means of all GPUs count alike.
        """
        args, world, progress = self.args, self.world, self.progress
        optimizer, scaler = self.checkpoint.optimizer, self.checkpoint.scaler
        sampler = self.data.sampler
        sampler.epoch, sampler.start = progress.epoch, progress.pictures
        step_size = sampler.batch_size * world.size * args.accumulate  # pictures
        self.model.train()
        freeze(self.frozen)
        batches, start = self.batches(self.data.train), time.time()
        with self.monitor.epoch(progress, step_size, self.read_results) as show_step:
            while progress.pictures < progress.total:
                chunk = list(islice(batches, args.accumulate))
                waited = time.time() - start
                weights, sums = self.weigh(chunk)
                if sums.replaced:
                    count_unreadable(defects_in(chunk), progress, world)
                    if not progress.seen:  # nothing has been trained yet, and nothing is left
                        refuse_unreadable(self.checkpoint, world)
                if sums.stop:
                    self.save_and_exit()

                done = progress.seen / (args.num_epoch * progress.total)
                adjust_learning_rates(optimizer, lr_factor(args, done, progress.steps(step_size)))
                position = progress.epoch, progress.pictures, world.rank
                torch.manual_seed(seed_of(args.seed, *position))  # for dropout
                optimizer.zero_grad()
                statistics = batch_statistics(self.network) if scaler.is_enabled() else []
                loss, correct = self.compute_gradients(chunk, weights, sums.weight)
                self.optimizer_step(loss, statistics)
                self.unread.append(self.result(loss, correct, sums, chunk))
                self.read_results(self.lag)

                progress.pictures += min(step_size, progress.total - progress.pictures)
                progress.seconds += time.time() - start
                start = time.time()
                show_step(waited, learning_rates(optimizer))
                if sums.replaced:
                    self.read_results()
                    refuse_unreadable(self.checkpoint, world)
                if time.monotonic() - self.checkpoint.last_save > 60 * args.ckpt_minutes:
                    self.read_results()
                    self.checkpoint.save()
        self.read_results()

    def compute_gradients(
        self, chunk: list[tuple], weights: list[float], total: float
    ) -> tuple[Tensor, Tensor]:
        """Add up the gradients of a step's batches.

        Args:
            chunk: this process's batches.
            weights: of each of them in the loss.
            total: of the weights of all processes.

        Returns:
            This process's share of the loss, times the world size, and the number of pixels that it
            predicted right; both on the device.
        """
        world = self.world
        loss = torch.zeros((), device=world.device)
        correct = torch.zeros((), dtype=torch.int64, device=world.device)
        for i, (images, labels, *_) in enumerate(chunk):
            images = images.to(world.device, non_blocking=True)
            labels = labels.to(world.device, non_blocking=True)
            last = i == len(chunk) - 1
            with nullcontext() if last else world.no_sync(self.model):
                mean, right = self.model(images, labels, count_correct=True)
                # The batch's share in the mean over all pixels of the step, times the world size:
                # DistributedDataParallel averages gradients over the ranks.
                part = mean.mean() * (weights[i] * world.size / (total or 1))
                self.checkpoint.scaler.scale(part).backward()
            loss += part.detach()
            correct += right.sum()
        return loss, correct

    def optimizer_step(self, loss: Tensor, statistics: list[tuple[Tensor, Tensor]]) -> None:
        """Update the weights, unless the loss is not finite or a gradient overflowed.

        Args:
            loss: of the step, on the device.
            statistics: of BatchNorm before the step, which is undone if the gradient scaler finds
                that a gradient overflowed.
        """
        scaler, optimizer = self.checkpoint.scaler, self.checkpoint.optimizer
        if not scaler.is_enabled():
            # Fused optimisers change nothing where this is 1, and nobody has to wait for it.
            optimizer.found_inf = self.world.all_reduce((~loss.isfinite()).float())  # type: ignore
        scale = scaler.get_scale()
        if self.args.clip_grad:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.args.clip_grad)
        scaler.step(optimizer)
        scaler.update()
        if skipped := scaler.get_scale() < scale:
            restore(statistics)
        elif self.checkpoint.average and self.world.is_main:  # the others get it to score it
            self.checkpoint.average.update(self.network)
        count_skipped(skipped, self.progress)

    def weigh(self, chunk: list[tuple]) -> tuple[list[float], StepSums]:
        """The weight of each of a step's batches in its loss, and sums over all processes.

        A batch's weight is the number of its labelled pixels, or the sum of their class weights.
        """
        weighted = self.data.class_weights
        pixels = [pixels.sum(0) for _, _, pixels, *_ in chunk]  # num_class each
        labelled = [int(of_classes.sum()) for of_classes in pixels]
        weights: list[float] = [*labelled]
        if weighted:
            weights = [weighted.total(of_classes) for of_classes in pixels]
        replaced = len(defects_in(chunk))
        own = StepSums(bool(self.stop.signal), replaced, sum(labelled), sum(weights))
        return weights, StepSums(*self.world.sum(own))

    def result(self, loss: Tensor, correct: Tensor, sums: StepSums, chunk: list[tuple]) -> Result:
        """A step's result, as soon as the device has it; nobody waits for it here."""
        arrived = None
        loss, correct = (value.to("cpu", non_blocking=True) for value in (loss, correct))
        if self.world.device.type == "cuda":
            arrived = torch.cuda.current_stream(self.world.device).record_event()
        names = [name for _, _, _, names, _ in chunk for name in names]
        return Result(loss, correct, arrived, sums, self.progress.pictures, names)

    def read_results(self, leave: int = 0) -> None:
        """Add the results of steps to the epoch's loss and hits, the latest few excepted.

        Raises:
            UserError: a loss is not finite, and no gradient scaler has skipped the step.
        """
        world, progress = self.world, self.progress
        while len(self.unread) > leave:
            loss, correct, arrived, sums, position, names = self.unread.popleft()
            if arrived:
                arrived.synchronize()
            mean_loss, all_correct = world.sum([loss.item() / world.size, correct.item()])
            if math.isfinite(mean_loss):
                progress.loss += mean_loss * sums.weight
                progress.scored += sums.weight
                progress.correct += round(all_correct)
                progress.labelled += round(sums.labelled)
            elif not self.checkpoint.scaler.is_enabled():
                place = f"epoch {progress.epoch} after {position} of its pictures"
                refuse_loss(mean_loss, place, [] if loss.isfinite() else names, world)

    @torch.inference_mode()
    def validate(self) -> tuple[float, Scores]:
        """Mean loss and scores on the validation crops; panels of the first few are drawn.

        The loss is the mean over all labelled pixels alike, whatever batches, processes and class
        weights are, so that runs compare.

        Raises:
            UserError: the network's output is not finite, or a picture cannot be read.
        """
        world, num_class = self.world, len(self.data.classes.names)
        # Not DistributedDataParallel, which would wait for processes that have no picture.
        separate = world.size > 1 or self.checkpoint.average
        model = self.checkpoint.scored if separate else self.model
        model.eval()
        losses = AverageMeter()
        shown: list[tuple] = []
        confusion = ConfusionMatrix(num_class, world.device)
        with world.fail_together():
            for images, labels, names in self.batches(self.data.val):
                pixels = int(is_labelled(labels, num_class).sum())
                images = images.to(world.device, non_blocking=True)
                labels = labels.to(world.device, non_blocking=True)
                logits = model(images)
                check_finite(logits)
                extent = self.network.extent(images)
                predictions = upsample_argmax(logits, labels.shape[-2:], extent)
                losses.update(upsample_cross_entropy(logits, labels, extent), pixels)
                confusion.update(predictions, labels)
                if len(shown) < NUM_PANELS:
                    shown += zip(names, images.cpu(), labels.cpu(), predictions.cpu(), strict=True)
        loss, count, stop = world.sum([float(losses.sum), losses.count, bool(self.stop.signal)])
        if stop:
            self.exit()
        self.monitor.show_panels(shown[:NUM_PANELS], self.data.classes, self.progress)
        confusion.counts = world.all_reduce(confusion.counts.cpu())
        return loss / count, confusion.scores()

    def batches(self, loader: DataLoader) -> Iterator[tuple]:
        """The batches of a loader; a signal to stop ends them, even while one is waited for."""
        batches = iter(loader)
        while (batch := self.stop.wait_for(lambda: next(batches, None), None)) is not None:
            yield batch

    def parallelised(self) -> nn.Module:
        """The network, wrapped for several devices or compiled, as the settings say."""
        args, model = self.args, self.model
        if args.num_gpus > 1 and args.parallel == "dp":
            model = nn.DataParallel(model, device_ids=range(args.num_gpus))
        if self.world.size > 1:
            freeze_unused(self.network)
        model = self.world.wrap(model)
        if args.compile:
            self.compile()
        return model

    def compile(self) -> None:
        """Compile the network, and check that it computes what it did.

        Raises:
            UserError: it does not.
        """
        args, plain = self.args, self.network.plain()
        self.network.compile()
        size = (args.batch_size_per_gpu, 3, args.imgSize, args.imgSize)  # as in validations
        if not self.network.agrees_with(plain, random_pictures(size).to(self.world.device)):
            raise UserError("--compile 1: compiled, the network gives another output; leave it out")

    def save_and_exit(self) -> NoReturn:
        """Save, and end all processes as a signal asked one of them."""
        self.read_results()
        self.checkpoint.save()
        self.world.all_gather("saved")  # nobody leaves before that
        self.exit()

    def exit(self) -> NoReturn:
        """End the process as a signal asked; all training so far has been saved before."""
        number = self.stop.signal or signal.SIGTERM  # another process was asked
        command = ["python", "train.py", "--resume", self.args.id, "--ckpt", self.args.ckpt]
        logger.info("Stopped by %s after a save. To go on:", signal.Signals(number).name)
        logger.info(shlex.join(command))
        sys.exit(128 + number)


def defects_in(chunk: list[tuple]) -> list[str]:
    """Why pictures of some batches could not be read."""
    return [defect for *_, reasons in chunk for defect in reasons if defect]


def seed_of(*position: int) -> int:
    """A random seed that depends on a position in a training alone."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])
