"""How far a training has come, and its checkpoint: settings, weights and state, saved together."""

import csv
import io
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.amp import GradScaler
from torch.optim import Optimizer

from common.classes import Classes, class_table
from common.files import Content, saved_file, tensors, text, write_together
from common.runs import CLASSES, PARTS
from models import SegmentationModel
from models.weights import load_file, read_tensors
from training.average import Average
from training.class_weights import ClassWeights
from utils import UserError

HISTORY_COLUMNS = (
    "epoch",
    "seconds",  # of training, without the validation
    "train_loss",
    "train_accuracy",  # of pixels
    "val_loss",
    "pixel_accuracy",
    "mean_iou",
    "lr_encoder",  # at the end of the epoch
    "lr_decoder",
)


@dataclass
class Progress:
    """How far a training has come.

    Crops, order and dropout are drawn from the seed and this position; no random state is kept.
    """

    epoch: int = 1
    pictures: int = 0  # of the epoch, trained on so far
    total: int = 0  # pictures of an epoch
    loss: float = 0.0  # sum over the labelled pixels, by their weights, of steps with a finite loss
    scored: float = 0.0  # sum of these weights: what the loss is a mean over
    correct: int = 0  # pixels that were predicted right in the same steps
    labelled: int = 0  # pixels with a label in them
    seconds: float = 0.0
    skipped: int = 0  # steps of the epoch that the gradient scaler skipped
    skipped_in_a_row: int = 0
    replaced: int = 0  # pictures of the epoch that could not be read
    forgiven: int = 0  # of these, the ones before the training was resumed
    unreadable: list[str] = field(default_factory=list)  # why, once each, of all epochs
    best: float = -1.0  # mean IoU
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Pictures of all epochs so far."""
        return (self.epoch - 1) * self.total + self.pictures

    def steps(self, size: int) -> int:
        """Steps of all epochs so far; each is of `size` pictures, or of an epoch's last ones."""
        of_epoch = math.ceil(self.total / size)
        return (self.epoch - 1) * of_epoch + math.ceil(self.pictures / size)

    @property
    def mean_loss(self) -> float:
        """The mean loss of the epoch so far; nan before the first finite one."""
        return self.loss / self.scored if self.scored else math.nan

    @property
    def accuracy(self) -> float:
        """The share of the epoch's labelled pixels so far that were predicted right."""
        return self.correct / max(self.labelled, 1)

    def next_epoch(self) -> None:
        """Begin an epoch: its counts start at 0."""
        self.epoch += 1
        self.pictures = self.correct = self.labelled = 0
        self.skipped = self.replaced = self.forgiven = 0
        self.loss = self.scored = self.seconds = 0.0


@dataclass
class Checkpoint:
    """What a training saves, and the folder of its run; only the main process writes.

    `training_latest.pth` holds what resuming needs besides the weights: progress, optimiser and
    gradient scaler. Where weights are averaged, the average is what is saved as the run's weights,
    and these are in that file.
    """

    folder: Path
    config: dict
    model: SegmentationModel
    optimizer: Optimizer
    scaler: GradScaler
    progress: Progress
    classes: Classes | None = None
    class_weights: ClassWeights | None = None
    average: Average | None = None
    is_main: bool = True
    last_save: float = field(default_factory=time.monotonic)  # in seconds

    @property
    def scored(self) -> SegmentationModel:
        """The network whose weights are scored, and saved as the run's."""
        return self.average.network if self.average else self.model

    def save(self, *suffixes: str) -> None:
        """Save as `latest`, and the weights under further suffixes, too; all of it or nothing.

        Raises:
            UserError: it cannot be saved, or some weights are not finite; the earlier save stays.
        """
        self.last_save = time.monotonic()
        if not self.is_main:
            return
        self.check_finite()
        training: dict[str, Any] = {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        if self.average:
            training["weights"] = self.model.state_dict()
            training["averaged_steps"] = self.average.steps
        files: dict[str, Content | str] = {
            "config.json": text(json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"),
            "history.csv": text(history_table(self.progress.history)),
            "encoder_latest.pth": tensors(self.scored.encoder.state_dict()),
            "decoder_latest.pth": tensors(self.scored.decoder.state_dict()),
            "training_latest.pth": tensors(training),
        }
        if self.classes:
            files[CLASSES] = text(class_table(self.classes))
        if self.class_weights:
            files["class_weight.csv"] = text(self.class_weights.table())
        for suffix in suffixes:
            for part in PARTS:
                files[f"{part}{suffix}"] = f"{part}_latest.pth"
        write_together(self.folder, files)

    def check_finite(self) -> None:
        """Check weights and BatchNorm's statistics: a dead network must not replace a living one.

        Raises:
            UserError: some are not finite.
        """
        for network in {self.model, self.scored}:
            for name, value in network.state_dict().items():
                if not value.isfinite().all():
                    raise UserError(
                        f"{name} of the network is not finite in epoch "
                        f"{self.progress.epoch}: lower --lr_encoder and --lr_decoder; what was "
                        f"saved in {self.folder} stays"
                    )

    def load(self) -> None:
        """Go back to the last save.

        Raises:
            UserError, ModelError: the folder's files are damaged, or of another network.
        """
        for part in PARTS:
            module = getattr(self.scored, part)
            load_file(module, "the network", saved_file(self.folder, f"{part}_latest.pth"))
        path = saved_file(self.folder, "training_latest.pth")
        training: Any = read_tensors(path)
        try:
            self.optimizer.load_state_dict(training["optimizer"])
            if training["scaler"]:  # in use then; what --amp auto means depends on the GPU
                self.scaler.load_state_dict(training["scaler"])
            if self.average:
                self.model.load_state_dict(training["weights"])
                self.average.steps = training["averaged_steps"]
            self.progress = Progress(**training["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is of another training: {error}") from error


def history_table(history: Sequence[dict[str, float]]) -> str:
    """The text of `history.csv`, a row an epoch; missing values stay empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return table.getvalue()
