"""A run on disk, `CKPT/ID`: its name, its settings, and where its weights are."""

import csv
import difflib
import json
import math
import os
from pathlib import Path

from common.files import read_together, saved_file, saved_names
from common.hub import fetch_run
from common.names import HUB_FOLDERS
from common.published import PUBLISHED, make_run
from models.weights import BGR, SAFETENSORS
from utils import MAX_STEM_BYTES, UserError

PARTS = ("encoder", "decoder")  # a network's two files of weights
ENDINGS = (".pth", SAFETENSORS)
CLASSES = "classes.csv"  # a run's own table: the one that it was trained with may move, or change


def run_folder(ckpt: str | Path, run_id: str) -> Path:
    """The folder of a run.

    Raises:
        UserError: the id is not a plain name.
    """
    plain = run_id.isprintable() and run_id not in (".", "..") and Path(run_id).name == run_id
    if not plain or not 0 < len(run_id.encode()) <= MAX_STEM_BYTES or run_id.startswith("-"):
        raise UserError(
            f"--id {run_id!r:.80} must be a plain and short name without slashes, or the folder of "
            "a run, with its config.json"
        )
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
        known = [*runs(ckpt), *(PUBLISHED if run_id.startswith("ade20k-") else ())]
        nearest = ", ".join(difflib.get_close_matches(run_id, known, n=3, cutoff=0))
        hint = f"the nearest: {nearest}" if known else "train one with train.py"
        if run_id.startswith("baseline-"):
            hint += f"; {BGR}"
        raise UserError(f"{flag} {run_id}: there is no such run in {ckpt}; {hint}")
    return folder


def runs(ckpt: str | Path) -> list[str]:
    """The names of the runs there are, sorted; hidden folders are unfinished downloads."""
    folders = (path for path in Path(ckpt).glob("[!.]*") if is_run(path))
    return sorted(folder.name for folder in folders)


def is_run(folder: Path) -> bool:
    """Whether a folder holds the weights of a run."""
    return bool(suffixes(folder, "encoder"))


def suffixes(folder: Path, part: str) -> set[str]:
    """What follows the part's name in the files of its weights, such as "_best.pth"."""
    names = saved_names(folder, f"{part}_*")
    return {name.removeprefix(part) for name in names if name.endswith(ENDINGS)}


def find_run(ckpt: str | Path, run_id: str, suffix: str) -> dict:
    """The settings of a run (empty if none were recorded) whose weights with a suffix exist.

    A published network, or one that others share, is downloaded if it is not there.

    Raises:
        UserError: there is no such run, or none with this suffix.
        ModelError: a published network cannot be had.
    """
    if not is_run(run_folder(ckpt, run_id)):
        if run_id in PUBLISHED:
            make_run(PUBLISHED[run_id], run_folder(ckpt, run_id))
        elif run_id.startswith(HUB_FOLDERS):
            fetch_run(run_id, run_folder(ckpt, run_id))
    folder = existing_run(ckpt, run_id)
    for name in weights_files(folder, suffix):
        if name not in saved_names(folder, "*coder_*"):
            encoders, decoders = (suffixes(folder, part) for part in PARTS)
            complete = ", ".join(sorted(encoders & decoders)) or "none"
            raise UserError(
                f"--suffix {suffix}: there is no {folder / name}; complete pairs: {complete}"
            )
    table = saved_file(folder, CLASSES)
    own = {"list_class": str(table)} if table.exists() else {}
    return read_config(folder) | own


def weights_files(folder: Path, suffix: str) -> list[str]:
    """The names of a run's two files of weights; _best.pth is _best.safetensors in a shared run."""
    if suffix not in suffixes(folder, "encoder"):
        other = suffix.removesuffix(".pth") + SAFETENSORS
        suffix = other if other in suffixes(folder, "encoder") else suffix
    return [f"{part}{suffix}" for part in PARTS]


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


def describe_runs(ckpt: str | Path) -> str:
    """The published networks with their scores, and one's own runs, as lines to print."""
    lines = [
        "Published networks, downloaded when they are first asked for. The scores are those that",
        "the reference publishes, on ADE20K at one scale and at five. They were not measured here.",
        f"{'id':40}  mean IoU, %    pixel accuracy, %",
    ]
    for name, network in PUBLISHED.items():
        (iou, accuracy), (iou5, accuracy5) = network.one_scale, network.five_scales
        lines.append(f"{name:40}  {iou:.2f}  {iou5:.2f}   {accuracy:.2f}  {accuracy5:.2f}")
    own = [name for name in runs(ckpt) if name not in PUBLISHED]
    if not own:
        return "\n".join([*lines, f"No run of one's own in {ckpt}"])
    lines.append(f"Runs in {ckpt}, with the best mean IoU, %, of their validations")
    for name in own:
        best = best_score(Path(ckpt) / name)
        lines.append(f"{name:40}  {'-' if best is None else f'{100 * best:.2f}'}")
    return "\n".join(lines)


def best_score(folder: Path) -> float | None:
    """The highest mean IoU in a run's history; None without a score that can be read."""
    try:
        with saved_file(folder, "history.csv").open(newline="", encoding="utf-8") as file:
            scores = [float(row["mean_iou"]) for row in csv.DictReader(file) if row["mean_iou"]]
    except (OSError, ValueError, KeyError, csv.Error):
        return None
    return max((score for score in scores if math.isfinite(score)), default=None)
