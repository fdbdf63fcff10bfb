"""The run's folder `CKPT/ID`: settings and weights, each file written whole or not at all."""

import csv
import difflib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from utils import UserError

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
    if not run_id or run_id in (".", "..") or Path(run_id).name != run_id:
        raise UserError(f"--id {run_id!r} must be a plain name, without slashes")
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
    if not all(path.is_file() for path in weights):
        known = sorted(path.name.removeprefix("encoder") for path in folder.glob("encoder_*.pth"))
        raise UserError(f"--suffix {suffix}: {folder} has none; it has {', '.join(known)}")
    config = folder / "config.json"
    try:
        settings = json.loads(config.read_text()) if config.is_file() else {}
    except ValueError as error:
        raise UserError(f"{config} is damaged ({error}); without it, give the flags") from error
    return settings, *weights


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
