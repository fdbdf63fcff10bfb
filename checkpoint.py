"""The run's folder `CKPT/ID`: settings, weights and history, written whole or not at all."""

import csv
import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from utils import UserError

MAX_ID_BYTES = 200  # file systems allow 255, which results' names need the rest of
HISTORY_COLUMNS = (
    "epoch",
    "seconds",  # of training, without the validation
    "train_loss",
    "val_loss",
    "pixel_accuracy",
    "mean_iou",
)


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


def find_run(ckpt: str, run_id: str, suffix: str) -> tuple[dict, Path, Path]:
    """Settings (empty where none were recorded), encoder's and decoder's weights of a run.

    Raises:
        UserError: there is no such run, or none with this suffix.
    """
    folder = run_folder(ckpt, run_id)
    if not is_run(folder):
        runs = [path.name for path in Path(ckpt).glob("*") if is_run(path)]
        nearest = ", ".join(difflib.get_close_matches(run_id, runs, n=3, cutoff=0))
        hint = f"the nearest: {nearest}" if runs else "train one with train.py"
        raise UserError(f"--id {run_id}: there is no such run in {ckpt}; {hint}")
    weights = [folder / f"{part}{suffix}" for part in ("encoder", "decoder")]
    for path in weights:
        if not path.is_file():
            encoders, decoders = (
                {path.name.removeprefix(part) for path in folder.glob(f"{part}_*.pth")}
                for part in ("encoder", "decoder")
            )
            whole = ", ".join(sorted(encoders & decoders)) or "none"
            raise UserError(f"--suffix {suffix}: there is no {path}; complete pairs: {whole}")
    return read_config(folder / "config.json"), *weights


def read_config(path: Path) -> dict:
    """The settings in a file; none where there is no file."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
        return config
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove it and give the flags") from error


def check_writable(flag: str, folder: Path) -> None:
    """See, without making it, that a folder can be made and written to.

    Raises:
        UserError: it cannot.
    """
    parent = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: {parent} is no folder that may be written to")


def is_run(folder: Path) -> bool:
    """Whether a folder holds the weights of a run."""
    return any(folder.glob("encoder_*.pth"))


def save_config(folder: Path, config: dict) -> None:
    """Write a run's settings."""
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    write_whole(folder / "config.json", lambda path: path.write_text(text, encoding="utf-8"))


def save_weights(folder: Path, suffix: str, encoder: nn.Module, decoder: nn.Module) -> None:
    """Write `encoder{suffix}` and `decoder{suffix}`."""
    for name, module in (("encoder", encoder), ("decoder", decoder)):
        state = module.state_dict()
        write_whole(folder / f"{name}{suffix}", lambda path, state=state: torch.save(state, path))


def save_history(folder: Path, history: Sequence[dict[str, float]]) -> None:
    """Write `history.csv`, a row an epoch; what an epoch lacks stays empty."""

    def write(path: Path) -> None:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, HISTORY_COLUMNS)
            writer.writeheader()
            writer.writerows(history)

    write_whole(folder / "history.csv", write)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in its place in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
