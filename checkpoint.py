"""The run's folder `CKPT/ID`: settings, weights, progress and history, saved together, or not."""

import csv
import difflib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from models.weights import load_file, read_tensors
from utils import UserError

if TYPE_CHECKING:
    from balance import Balance

Content = Callable[[BinaryIO], object]  # writes what a file is to hold

MAX_NAME_BYTES = 255  # what file systems allow
MAX_ID_BYTES = 200  # results' names need the rest
SAVED = ".saved"  # where the files of the last save are until all have moved to their places
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

    Crops, order and dropout are drawn from the seed and the position, so that no random state need
    be kept.
    """

    epoch: int = 1
    pictures: int = 0  # that the epoch has trained on so far
    total: int = 0  # pictures of an epoch
    loss: float = 0.0  # sum over the pictures that had a finite one
    scored: int = 0  # their number
    correct: int = 0  # pixels that were predicted right
    labelled: int = 0  # of so many
    seconds: float = 0.0
    skipped: int = 0  # steps of the epoch that the gradient scaler left out
    skipped_in_a_row: int = 0
    replaced: int = 0  # pictures of the epoch that could not be read
    unreadable: list[str] = field(default_factory=list)  # why, once each, of all epochs
    best: float = -1.0  # mean IoU
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Pictures of all epochs so far."""
        return (self.epoch - 1) * self.total + self.pictures

    @property
    def mean_loss(self) -> float:
        """Of the epoch so far."""
        return self.loss / max(self.scored, 1)

    @property
    def accuracy(self) -> float:
        """Share of the epoch's labelled pixels so far that were predicted right."""
        return self.correct / max(self.labelled, 1)

    def next_epoch(self) -> None:
        """Start counting anew."""
        self.epoch += 1
        self.pictures = self.scored = self.correct = self.labelled = 0
        self.skipped = self.replaced = 0
        self.loss = self.seconds = 0.0


@dataclass
class Run:
    """A training, and the folder that it is saved in if this process is the one to write."""

    folder: Path
    config: dict
    encoder: nn.Module
    decoder: nn.Module
    optimizer: Optimizer
    scaler: GradScaler
    progress: Progress
    writes: bool = True
    balance: "Balance | None" = None  # weights of the classes
    saved: float = field(default_factory=time.monotonic)  # when that was, in seconds

    def save(self, *suffixes: str) -> None:
        """Save as `latest`, and the weights under further suffixes, too; all of it or nothing.

        Raises:
            UserError: it cannot be saved; what had been saved stays.
        """
        self.saved = time.monotonic()
        if not self.writes:
            return
        training = {
            "progress": asdict(self.progress),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        files: dict[str, Content | str] = {
            "config.json": text(json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"),
            "history.csv": text(history_table(self.progress.history)),
            "encoder_latest.pth": tensors(self.encoder.state_dict()),
            "decoder_latest.pth": tensors(self.decoder.state_dict()),
            "training_latest.pth": tensors(training),
        }
        if self.balance:
            files["class_weight.csv"] = text(self.balance.table())
        for suffix in suffixes:
            for part in ("encoder", "decoder"):
                files[f"{part}{suffix}"] = f"{part}_latest.pth"
        save_together(self.folder, files)

    def load(self) -> None:
        """Go back to where it was saved.

        Raises:
            UserError, ModelError: what is in the folder is damaged, or of another network.
        """
        for part, module in (("encoder", self.encoder), ("decoder", self.decoder)):
            load_file(module, "the network", run_file(self.folder, f"{part}_latest.pth"))
        path = run_file(self.folder, "training_latest.pth")
        training = read_tensors(path)
        try:
            self.optimizer.load_state_dict(training["optimizer"])
            if training["scaler"]:  # it was in use: what --amp auto is, depends on the GPU
                self.scaler.load_state_dict(training["scaler"])
            self.progress = Progress(**training["progress"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{path} is of another training: {error}") from error


def run_folder(ckpt: str, run_id: str) -> Path:
    """The folder of a run.

    Raises:
        UserError: the id is not a plain name.
    """
    plain = run_id.isprintable() and run_id not in (".", "..") and Path(run_id).name == run_id
    if not plain or not 0 < len(run_id.encode()) <= MAX_ID_BYTES or run_id.startswith("-"):
        raise UserError(f"--id {run_id!r:.80} must be a plain and short name, without slashes")
    return Path(ckpt) / run_id


def new_run(ckpt: str, run_id: str) -> Path:
    """The folder for a new run, which comes into being when something is written to it.

    Raises:
        UserError: it holds a run already.
    """
    folder = run_folder(ckpt, run_id)
    if is_run(folder):
        raise UserError(f"--id {run_id}: {folder} holds a run; choose another --id or remove it")
    return folder


def existing_run(ckpt: str, run_id: str, flag: str = "--id") -> Path:
    """The folder of a run that was saved.

    Raises:
        UserError: there is no such run.
    """
    folder = run_folder(ckpt, run_id)
    if not is_run(folder):
        runs = [path.name for path in Path(ckpt).glob("*") if is_run(path)]
        nearest = ", ".join(difflib.get_close_matches(run_id, runs, n=3, cutoff=0))
        hint = f"the nearest: {nearest}" if runs else "train one with train.py"
        raise UserError(f"{flag} {run_id}: there is no such run in {ckpt}; {hint}")
    return folder


def find_run(ckpt: str, run_id: str, suffix: str) -> tuple[dict, Path, Path]:
    """Settings (empty where none were recorded), encoder's and decoder's weights of a run.

    Raises:
        UserError: there is no such run, or none with this suffix.
    """
    folder = existing_run(ckpt, run_id)
    weights = [run_file(folder, f"{part}{suffix}") for part in ("encoder", "decoder")]
    for path in weights:
        if not os.path.isfile(path):
            names = [
                path.name for where in (folder, folder / SAVED) for path in where.glob("*.pth")
            ]
            encoders, decoders = (
                {name.removeprefix(part) for name in names if name.startswith(f"{part}_")}
                for part in ("encoder", "decoder")
            )
            whole = ", ".join(sorted(encoders & decoders)) or "none"
            raise UserError(f"--suffix {suffix}: there is no {path}; complete pairs: {whole}")
    return read_config(run_file(folder, "config.json")), *weights


def read_config(path: Path) -> dict:
    """The settings in a file; none where there is no file.

    Raises:
        UserError: it cannot be read, or holds something else.
    """
    if not os.path.isfile(path):
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and give the flags") from error


def check_writable(flag: str, folder: Path) -> None:
    """See, without making it, that a folder can be made and written to.

    Raises:
        UserError: it cannot.
    """
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in folder.parts):
        raise UserError(f"{flag} {folder}: a folder's name has at most {MAX_NAME_BYTES} bytes")
    parents = folder, *folder.absolute().parents
    parent = next(path for path in parents if os.path.exists(path))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: {parent} is no folder that may be written to")


def is_run(folder: Path) -> bool:
    """Whether a folder holds the weights of a run."""
    return any(any(where.glob("encoder_*.pth")) for where in (folder, folder / SAVED))


def save_together(folder: Path, files: dict[str, Content | str]) -> None:
    """Write files of a run that belong together: after a crash at any instant, whoever asks
    `run_file` finds all of them new or all of them as before.

    They are written into a folder aside first. Its renaming to `SAVED` is the instant that counts;
    from there the files move to their places, now or, if that was cut short, before the next save.

    Args:
        folder: of the run.
        files: what each file is to hold, by its name; a string names an earlier one of the same.

    Raises:
        UserError: the disk is full, say; what had been saved stays.
    """
    partial = folder / f"{SAVED}.partial"
    try:
        settle(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, str):
                duplicate(partial / content, partial / name)
            else:
                write_through(partial / name, content)
        sync_folder(partial)
        os.rename(partial, folder / SAVED)
        sync_folder(folder)
        settle(folder)
    except (OSError, RuntimeError) as error:  # torch.save makes the latter of the system's errors
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot save to {folder}: {reason}; what was saved before stays as it was"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def settle(folder: Path) -> None:
    """Move the files of the last save to their places, where they are not there already."""
    saved = folder / SAVED
    if saved.is_dir():
        for path in saved.iterdir():
            os.replace(path, folder / path.name)
        sync_folder(folder)
        saved.rmdir()


def run_file(folder: Path, name: str) -> Path:
    """Where a file of a run is: in its place, or still aside if a crash cut the last save short."""
    saved = folder / SAVED / name
    return saved if os.path.exists(saved) else folder / name


def tensors(state: dict) -> Content:
    """A file's content: a dict of tensors and plain values, as `torch.save` writes it."""
    return lambda file: torch.save(state, file)


def text(content: str) -> Content:
    """A file's content: text."""
    return lambda file: file.write(content.encode())


def history_table(history: Sequence[dict[str, float]]) -> str:
    """The text of `history.csv`, a row an epoch; what an epoch lacks stays empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, HISTORY_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return table.getvalue()


def write_whole(path: Path, content: Content) -> None:
    """Write one file so that there is the whole of it or, after a crash, what had been before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_through(partial, content)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def write_through(path: Path, content: Content) -> None:
    """Write a file to the disk itself, not only to the system's memory."""
    with path.open("wb") as file:
        content(file)
        file.flush()
        os.fsync(file.fileno())


def duplicate(source: Path, path: Path) -> None:
    """Give a file a second name, or a copy where the file system knows no second names."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; a system that cannot open folders does so itself."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
