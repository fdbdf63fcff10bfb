"""Two evaluated runs side by side, and whether they differ by more than chance of pictures."""

import json
import os
from functools import partial
from pathlib import Path

import numpy as np

from common.files import read_together
from common.runs import run_folder
from report.analysis import FEWEST, ROUNDS, Counts, bootstrap, iou, mean_known, read_counts
from utils import UserError

CHANGED = 10  # pictures to tell
SETTINGS = (
    "suffix",
    "protocol",
    "imgSize",
    "segSize",
    "scales",
    "flip",
    "amp",
)  # of an evaluation, that move its scores


def read_run(result: Path, run: str) -> tuple[Counts, list[str], dict]:
    """Counts of an evaluated run, the names of its classes, and the settings of the evaluation.

    Raises:
        UserError: it has not been evaluated, or its files are damaged.
    """
    folder = run_folder(str(result), run)
    return read_together(folder, ["scores.json", "pictures.npz"], partial(parse_run, run))


def parse_run(run: str, scores: Path, pictures: Path) -> tuple[Counts, list[str], dict]:
    """The same of the two files of an evaluation."""
    if not (os.path.isfile(scores) and os.path.isfile(pictures)):
        raise UserError(f"{scores.parent} has no evaluation: python eval.py --id {run}")
    try:
        content = json.loads(scores.read_bytes())
        classes = [str(row["name"]) for row in content["classes"]]
        given = {"protocol": "own", "flip": 0, **content["settings"]}  # all that there was at first
        settings = {key: given[key] for key in ("list_val", *SETTINGS)}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{scores} is damaged ({error}); again: python eval.py --id {run}"
        ) from error
    counts = read_counts(pictures)
    if counts.hits.shape[1] != len(classes):
        raise UserError(f"{pictures} and scores.json differ; again: python eval.py --id {run}")
    return counts, classes, settings


def compare(result: Path, first: str, second: str) -> dict:
    """The differences from the first to the second run, for a JSON file.

    Raises:
        UserError: they are not of the same pictures and classes.
    """
    a, classes, settings = read_run(result, first)
    b, others, other_settings = read_run(result, second)
    listed = settings["list_val"]
    again = f"evaluate both on one list: python eval.py --id {second} --list_val {listed}"
    if classes != others:
        raise UserError(f"{first} and {second} have different classes; {again}")
    if a.names != b.names:
        raise UserError(f"{first} and {second} have different pictures; {again}")
    if (a.labelled != b.labelled).any():
        raise UserError(
            f"{first} and {second} were scored against different labels, or at different sizes: "
            f"{again}, and --root_seg, --label_offset and --segSize alike"
        )
    *sides, interval = bootstrap(a, b)
    names = [*classes, "mean IoU", "pixel accuracy"]
    rows = [
        {"name": name, "a": x, "b": y, "difference": y - x, "low": low, "high": high}
        for name, x, y, low, high in zip(
            names, *map(np.ndarray.tolist, [*sides, *interval]), strict=True
        )
    ]
    for row in rows:
        row.update({key: None for key, value in row.items() if value != value})
    before, after = (mean_known(iou(run.hits, run.labelled, run.predicted)) for run in (a, b))
    change = np.nan_to_num(after - before)
    order = np.argsort(-np.abs(change), kind="stable")[:CHANGED]
    return {
        "runs": [first, second],
        "settings": {
            key: [settings[key], other_settings[key]]
            for key in SETTINGS
            if settings[key] != other_settings[key]
        },
        "pictures": len(a.names),
        "rounds": ROUNDS,
        "classes": rows[:-2],
        "means": rows[-2:],
        "changed": [
            {"name": a.names[i], "a": float(before[i]), "b": float(after[i])}
            for i in order
            if change[i]
        ],
    }


def table(found: dict) -> list[str]:
    """The lines to print of a comparison, without classes that do not occur."""
    lines = [f"{'IoU':>24}        A        B     B - A  95 % interval"]
    for row in found["classes"] + found["means"]:
        if row["difference"] is not None:
            interval = f"in fewer than {FEWEST} pictures"
            if row["low"] is not None:
                sure = "" if row["low"] <= 0 <= row["high"] else "  *"
                interval = f"{row['low']:+.2%} … {row['high']:+.2%}{sure}"
            lines.append(
                f"{row['name']:>24}  {row['a']:7.2%}  {row['b']:7.2%}  {row['difference']:+8.2%}"
                f"  {interval}"
            )
    lines.append("* the interval, from a bootstrap over the pictures, leaves out 0")
    for key, (before, after) in found["settings"].items():
        lines.append(f"WARNING: A was evaluated with --{key} {before}, B with --{key} {after}")
    if found["changed"]:
        lines.append("Pictures that changed most, by their mean IoU:")
    lines += [f"  {row['a']:7.2%} → {row['b']:7.2%}  {row['name']}" for row in found["changed"]]
    return lines
