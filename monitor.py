"""How a training goes: a bar or lines, a log with times, and TensorBoard's curves.

A `Monitor` is told of every step and every epoch; what it shows, and where, is all that it decides.
"""

import copy
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from checkpoint import Progress
from models.decoders import BilinearDecoder
from models.encoder import Encoder
from utils import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter
try:
    import resource
except ImportError:  # Windows
    resource = None

steps_logger = logging.getLogger(__name__)  # for a line now and then


class AboveBar:
    """A stream to the terminal that leaves the bar in its last line."""

    def write(self, text: str) -> None:
        tqdm.write(text, file=sys.stdout, end="")

    def flush(self) -> None:
        sys.stdout.flush()


class Monitor:
    """Shows a training and keeps a log of it.

    Nothing is written before the first step is done, so that what cannot be trained leaves nothing.

    Args:
        folder: of the run; all that is logged goes to `train.log` there, with times.
        num_epoch: epochs of the training.
        disp_iter: steps between lines.
        device: where the network is.
        tensorboard: whether to write what TensorBoard shows, to `tensorboard` in the folder.
        writes: whether this process is the one to write and to show.

    Raises:
        UserError: TensorBoard's package is not installed.
    """

    def __init__(
        self,
        folder: Path,
        num_epoch: int,
        disp_iter: int,
        device: torch.device,
        tensorboard: bool = False,
        writes: bool = True,
    ):
        self.folder = folder
        self.num_epoch = num_epoch
        self.disp_iter = disp_iter
        self.device = device
        self.board_class = summary_writer() if tensorboard and writes else None
        self.board: SummaryWriter | None = None
        self.bar = writes and sys.stderr.isatty()
        steps_logger.setLevel(logging.DEBUG)
        for handler in logging.getLogger().handlers if self.bar else []:
            if getattr(handler, "stream", None) is sys.stdout:
                handler.setStream(AboveBar())
        self.since, self.pictures = time.time(), 0  # seen since then
        self.early = None
        if writes:
            self.early = MemoryHandler(capacity=10_000, flushLevel=logging.CRITICAL + 1)
            logging.getLogger().addHandler(self.early)

    def begin(self) -> None:
        """Write down what was logged so far, and from now on all that is.

        Raises:
            UserError: it cannot be written.
        """
        path = self.folder / "train.log"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        self.early.setTarget(file)
        self.early.flush()
        logging.getLogger().removeHandler(self.early)
        logging.getLogger().addHandler(file)
        self.early = None
        if self.board_class:
            self.board = self.board_class(self.folder / "tensorboard")

    @contextmanager
    def epoch(self, progress: Progress, step_size: int) -> Iterator[Callable[..., None]]:
        """Shows an epoch, or what is left of it; gives what is to be called after each step.

        Args:
            progress: of the training, which the steps move on.
            step_size: pictures of a step.
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

            def step(seconds: float, rates: Mapping[str, float]) -> None:
                """A step was done, after waiting some seconds for its pictures."""
                nonlocal waited, count, seen
                if self.early:
                    self.begin()
                waited, count = waited + seconds, count + 1
                self.pictures += progress.pictures - seen
                seen = progress.pictures
                bar.set_postfix_str(self.postfix(progress, waited / (time.time() - begin), rates))
                bar.update()
                iteration = done + count - 1
                if iteration % self.disp_iter == 0:
                    steps_logger.log(
                        logging.DEBUG if self.bar else logging.INFO,  # the bar shows it all
                        "Epoch: [%d][%d/%d], Time: %.2f, Data: %.2f, %s, Accuracy: %.2f%%, "
                        "Loss: %.4f",
                        *(progress.epoch, iteration, steps),
                        *((time.time() - begin) / count, waited / count),
                        ", ".join(f"{name}: {rate:.6f}" for name, rate in rates.items()),
                        *(100 * progress.accuracy, progress.mean_loss),
                    )
                    self.curves(
                        {
                            "loss/training": progress.mean_loss,
                            "accuracy/training": progress.accuracy,
                        }
                        | {f"rate/{name}": rate for name, rate in rates.items()},
                        progress,
                    )

            yield step

    def postfix(self, progress: Progress, waiting: float, rates: Mapping[str, float]) -> str:
        """What stands behind the bar."""
        speed = self.pictures / (time.time() - self.since)  # with validations and saves
        left = self.num_epoch * progress.total - progress.seen
        return (
            f"loss {progress.mean_loss:.4f}, accuracy {progress.accuracy:.1%}, "
            f"lr {'/'.join(f'{rate:.1g}' for rate in rates.values())}, {speed:.1f} pictures/s, "
            f"data {waiting:.0%}, {peak_memory(self.device):.1f} GB, "
            f"all done in {timedelta(seconds=round(left / speed))}"
        )

    def curves(self, values: Mapping[str, float], progress: Progress) -> None:
        """Points of TensorBoard's curves, at the number of pictures seen."""
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, progress.seen)
            self.board.flush()

    def panel(self, name: str, image: Image.Image, progress: Progress) -> None:
        """A picture for TensorBoard."""
        if self.board:
            self.board.add_image(name, np.asarray(image), progress.seen, dataformats="HWC")


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


def peak_memory(device: torch.device) -> float:
    """GB that this process has had at most: on its GPU, or where it has none, in all."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def describe_device(device: torch.device) -> str:
    """What computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kernels = f", {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else ""
    return f"{device.type.upper()}, {torch.get_num_threads()} threads{kernels}"


def giga_macs(encoder: Encoder, decoder: BilinearDecoder, side: int) -> float:
    """Multiplications and additions, in 10^9 pairs, that a picture of side x side pixels takes."""
    encoder, decoder = (copy.deepcopy(network).to("meta").eval() for network in (encoder, decoder))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.logits(encoder(torch.empty(1, 3, side, side, device="meta")))
    return counter.get_total_flops() / 2e9
