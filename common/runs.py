"""A run on disk, `CKPT/ID`: its name, its settings, and where its weights are."""

import difflib
import json
import os
from pathlib import Path

from common.files import read_together, saved_names
from utils import UserError

MAX_ID_BYTES = 200  # leaves room for the names of results
PARTS = ("encoder", "decoder")  # a network's two files of weights


def run_folder(ckpt: str | Path, run_id: str) -> Path:
    """The folder of a run.

    Raises:
        UserError: the id is not a plain name.
    """
    plain = run_id.isprintable() and run_id not in (".", "..") and Path(run_id).name == run_id
    if not plain or not 0 < len(run_id.encode()) <= MAX_ID_BYTES or run_id.startswith("-"):
        raise UserError(f"--id {run_id!r:.80} must be a plain and short name, without slashes")
    return Path(ckpt) / run_id


def new_run(ckpt: str | Path, run_id: str) -> Path:
    """The folder for a new run; the first save makes it.

    Raises:
        UserError: it holds a run already.
    """
    folder = run_folder(ckpt, run_id)
    if is_run(folder):
        raise UserError(f"--id {run_id}: {folder} holds a run; choose another --id or remove it")
    return folder


def existing_run(ckpt: str | Path, run_id: str, flag: str = "--id") -> Path:
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


def is_run(folder: Path) -> bool:
    """Whether a folder holds the weights of a run."""
    return bool(saved_names(folder, "encoder_*.pth"))


def find_run(ckpt: str | Path, run_id: str, suffix: str) -> dict:
    """The settings of a run (empty if none were recorded) whose weights with a suffix exist.

    Raises:
        UserError: there is no such run, or none with this suffix.
    """
    folder = existing_run(ckpt, run_id)
    for part in PARTS:
        if f"{part}{suffix}" not in saved_names(folder, f"{part}*"):
            encoders, decoders = (
                {name.removeprefix(part) for name in saved_names(folder, f"{part}_*.pth")}
                for part in PARTS
            )
            complete = ", ".join(sorted(encoders & decoders)) or "none"
            missing = folder / f"{part}{suffix}"
            raise UserError(f"--suffix {suffix}: there is no {missing}; complete pairs: {complete}")
    return read_config(folder)


def read_config(folder: Path) -> dict:
    """The settings of a run, from its `config.json`; empty without that file.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    return read_together(folder, ["config.json"], parse_config)


def parse_config(path: Path) -> dict:
    """The settings in a file, as `read_config` has them."""
    if not os.path.isfile(path):
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
        return config
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and give the flags") from error
