"""The display of a training: a bar or lines, a log with times, panels, and curves.

A `Monitor` is told of every step and every epoch, and decides what it shows, and where.
"""

import argparse
import io
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from common.classes import Classes
from common.devices import peak_memory
from common.distributed import World
from common.files import png, write_atomically
from common.metrics import Scores
from training.checkpoint import Progress
from utils import LogFile, UserError, redirect_log, result_names
from visualize.curves import history_figures
from visualize.panels import comparison

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger("training")
steps_logger = logging.getLogger(__name__)  # for a line now and then


class AboveBar(io.TextIOBase):
    """A stream to the terminal that leaves the bar in its last line."""

    def write(self, text: str) -> int:
        """Print above the bar."""
        tqdm.write(text, file=sys.stdout, end="")
        return len(text)

    def flush(self) -> None:
        """Show what was printed."""
        sys.stdout.flush()


class Monitor:
    """Shows a training and keeps a log of it; only the main process shows and writes.

    Nothing is written before the first step is done: a training that cannot start leaves nothing.

    Args:
        folder: of the run: for `train.log`, the curves, and TensorBoard's files in `tensorboard`.
        args: the settings `num_epoch`, `disp_iter` (steps between lines), `tensorboard`, and, for
            the folder of the panels, `vis` and `id`.
        world: the processes.

    Raises:
        UserError: TensorBoard's package is not installed.
    """

    def __init__(self, folder: Path, args: argparse.Namespace, world: World):
        self.folder = folder
        self.panels = Path(args.vis) / args.id
        self.is_main = world.is_main
        self.num_epoch = args.num_epoch
        self.disp_iter = args.disp_iter
        self.device = world.device
        self.board_class = summary_writer() if args.tensorboard and world.is_main else None
        self.board: SummaryWriter | None = None
        self.bar = world.is_main and sys.stderr.isatty()
        steps_logger.setLevel(logging.DEBUG)
        if self.bar:
            redirect_log(AboveBar())
        self.since, self.pictures = time.time(), 0  # trained on since then
        self.early: MemoryHandler | None = None
        if world.is_main:
            self.early = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
            logging.getLogger().addHandler(self.early)

    def open_log(self, early: MemoryHandler) -> None:
        """Open the log: write down what was logged early, and from now on all that is.

        Raises:
            UserError: it cannot be written.
        """
        path = self.folder / "train.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = LogFile(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        early.setTarget(file)
        early.flush()
        logging.getLogger().removeHandler(early)
        logging.getLogger().addHandler(file)
        self.early = None
        if self.board_class:
            self.board = self.board_class(self.folder / "tensorboard")

    @contextmanager
    def epoch(
        self, progress: Progress, step_size: int, read_results: Callable[[], None]
    ) -> Iterator[Callable[..., None]]:
        """Show an epoch, or what is left of it; yields the function to call after each step.

        Args:
            progress: of the training; the steps move it on.
            step_size: pictures of a step.
            read_results: brings the loss and hits of `progress` up to date.
        """
        steps, done = math.ceil(progress.total / step_size), progress.pictures // step_size
        begin, waited, count, seen = time.time(), 0.0, 0, progress.pictures
        with tqdm(
            desc=f"Epoch {progress.epoch}/{self.num_epoch}",
            total=steps,
            initial=done,
            disable=not self.bar,
            dynamic_ncols=True,
            leave=False,
            bar_format="{desc} {percentage:3.0f}%|{bar:10}| [{elapsed}<{remaining}{postfix}]",
        ) as bar:

            def show_step(seconds: float, rates: Mapping[str, float]) -> None:
                """A step is done; its pictures took some seconds to come."""
                nonlocal waited, count, seen
                if self.early:
                    self.open_log(self.early)
                waited, count = waited + seconds, count + 1
                self.pictures += progress.pictures - seen
                seen = progress.pictures
                bar.set_postfix_str(self.postfix(progress, waited / (time.time() - begin), rates))
                bar.update()
                iteration = done + count - 1
                if iteration % self.disp_iter == 0:
                    read_results()
                    times = (time.time() - begin) / count, waited / count
                    self.line(progress, f"[{iteration}/{steps}]", times, rates)

            yield show_step

    def line(
        self,
        progress: Progress,
        iteration: str,
        times: tuple[float, float],
        rates: Mapping[str, float],
    ) -> None:
        """Log a step in a line, and in TensorBoard's curves.

        Args:
            progress: of the training.
            iteration: of the epoch, in brackets.
            times: mean seconds of a step, and those spent waiting for pictures.
            rates: learning rates by name.
        """
        steps_logger.log(
            logging.DEBUG if self.bar else logging.INFO,  # the bar shows it all
            "Epoch: [%d]%s, Time: %.2f, Data: %.2f, %s, Accuracy: %.2f%%, Loss: %s",
            progress.epoch,
            iteration,
            times[0],
            times[1],
            ", ".join(f"{name}: {rate:.6f}" for name, rate in rates.items()),
            100 * progress.accuracy,
            loss_text(progress),
        )
        curves = {}
        if progress.scored:
            curves = {"loss/training": progress.mean_loss, "accuracy/training": progress.accuracy}
        curves |= {f"rate/{name}": rate for name, rate in rates.items()}
        self.add_to_board(curves, progress)

    def postfix(self, progress: Progress, waiting: float, rates: Mapping[str, float]) -> str:
        """The text behind the bar."""
        speed = self.pictures / (time.time() - self.since)  # with validations and saves
        left = self.num_epoch * progress.total - progress.seen
        return (
            f"loss {loss_text(progress)}, accuracy {progress.accuracy:.1%}, "
            f"lr {'/'.join(f'{rate:.1g}' for rate in rates.values())}, {speed:.1f} pictures/s, "
            f"data {waiting:.0%}, {peak_memory(self.device):.1f} GB, "
            f"all done in {timedelta(seconds=round(left / speed))}"
        )

    def show_scores(self, loss: float, scores: Scores, progress: Progress) -> None:
        """Show what a validation found."""
        logger.info(
            "Epoch: [%d], validation: Loss: %.4f, Accuracy: %.2f%%, mIoU: %.2f%%",
            progress.epoch,
            loss,
            100 * scores.pixel_accuracy,
            100 * scores.mean_iou,
        )
        curves = {
            "loss/validation": loss,
            "accuracy/validation": scores.pixel_accuracy,
            "accuracy/mean IoU": scores.mean_iou,
        }
        self.add_to_board(curves, progress)

    def show_panels(self, shown: Sequence[tuple], classes: Classes, progress: Progress) -> None:
        """Draw validation pictures.

        Args:
            shown: of each its name, the picture 3 x H x W, its label and the prediction, H x W.
            classes: names and colours.
            progress: of the training.
        """
        if not self.is_main:
            return
        results = result_names([name for name, *_ in shown])
        for name, image, label, prediction in shown:
            picture = image.permute(1, 2, 0).numpy()
            panel = comparison(picture, label.numpy(), prediction.numpy(), classes)
            path = self.panels / f"{results[name]}_epoch_{progress.epoch:03d}.png"
            write_atomically(path, png(panel))
            if self.board:
                array = np.asarray(panel)
                self.board.add_image(results[name], array, progress.seen, dataformats="HWC")

    def show_incidents(self, progress: Progress) -> None:
        """Tell how many pictures of an epoch were replaced and how many steps were skipped."""
        if progress.replaced or progress.skipped:
            logger.info(
                "Epoch: [%d], unreadable pictures that were replaced: %d, "
                "steps that the gradient scaler skipped: %d",
                progress.epoch,
                progress.replaced,
                progress.skipped,
            )

    def draw_history(self, progress: Progress) -> None:
        """Draw the curves of the epochs so far."""
        if self.is_main:
            for name, figure in history_figures(progress.history).items():
                write_atomically(self.folder / name, figure.savefig)

    def add_to_board(self, values: Mapping[str, float], progress: Progress) -> None:
        """Points of TensorBoard's curves, at the number of pictures seen."""
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, progress.seen)
            self.board.flush()


def loss_text(progress: Progress) -> str:
    """The mean loss of an epoch so far; none without a labelled pixel and a finite loss of it."""
    return f"{progress.mean_loss:.4f}" if progress.scored else "none so far"


def summary_writer() -> "type[SummaryWriter]":
    """TensorBoard's writer.

    Raises:
        UserError: its package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard 1: `pip install tensorboard` first") from error
    return SummaryWriter
