"""Which pictures are for training, validation and tests: by a source's own lists, or folders.

What the source does not tell is drawn at random, and said. Pictures of a test split are never
trained on.
"""

import csv
import json
import os
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.images import FORMATS
from preparation.files import SourceFiles, split_of
from preparation.labels import LabelFile
from preparation.matching import Found, FoundPair
from utils import UserError, abbreviate

LIST_ENDINGS = (".txt", ".lst", ".csv", ".odgt")
VAL_FRACTION = 0.2
LEAST_FOUND = 0.5  # share of the lines of a list that name pictures of the source


def use_lists(files: SourceFiles, found: Found) -> None:
    """Give pairs the splits of the lists in their source, if it has such; others are left out.

    A list that names labels, too, tells which label a picture has.
    """
    lists = read_lists(files, found)
    if not lists:
        return
    told: dict[str, tuple[str, str | None]] = {}
    for split in ("train", "val", "test"):  # a picture of two lists belongs to the later one
        for name, rows in lists.items():
            if split_of(name, with_stem=True) == split:
                told |= {picture: (split, label) for picture, label in rows}
    pairs = {pair.picture: pair for pair in found.pairs}
    for picture, (_, label) in told.items():
        if label is not None:
            pairs[picture] = FoundPair(picture, LabelFile(str(files.root / label)))
    found.left_out.pop("labels without a picture", None)
    if unlisted := sorted({*pairs} - {*told}):
        found.left_out["pictures that no list names"] = unlisted
    absent = sorted({*told} - {*pairs})
    if absent:
        found.left_out["listed pictures without a label"] = absent
        found.left_out.pop("pictures without a label", None)
    splits = {picture: split for picture, (split, _) in told.items() if picture in pairs}
    found.pairs = [replace(pairs[picture], split=split) for picture, split in splits.items()]
    found.remarks.append(f"splits by the lists {abbreviate([*lists])}")


def read_lists(files: SourceFiles, found: Found) -> dict[str, list[tuple[str, str | None]]]:
    """The lists of the folder whose lists fit best: rows of picture and label, or None.

    A list is a text whose name tells a split and whose lines name pictures of the source. Of
    several folders with lists, as VOC has for each task, the one counts that names most pairs and
    least else.
    """
    paired = {pair.picture for pair in found.pairs}
    by_folder: dict[str, dict[str, list[tuple[str, str | None]]]] = defaultdict(dict)
    fitting: Counter[str] = Counter()
    for name in files.names:
        if not name.lower().endswith(LIST_ENDINGS) or not split_of(Path(name).name + "/"):
            continue
        if not split_of(Path(name).stem + "/") or re.search("trainval", name, re.IGNORECASE):
            continue
        rows, missed = read_list(files, name, found)
        if len(rows) < LEAST_FOUND * (len(rows) + len(missed)):
            if any(cell.lower().endswith(FORMATS) for cell in missed):
                raise UserError(
                    f"{files.root / name} names pictures that are not there, such as {missed[0]}: "
                    "mend it, or take it out of the source"
                )
            continue
        folder = os.path.dirname(name)
        by_folder[folder][name] = rows
        named = [picture in paired or label is not None for picture, label in rows]
        fitting[folder] += 2 * sum(named) - len(named) - len(missed)
    if not by_folder:
        return {}
    return by_folder[max(by_folder, key=lambda folder: (fitting[folder], folder))]


def read_list(
    files: SourceFiles, name: str, found: Found
) -> tuple[list[tuple[str, str | None]], list[str]]:
    """The pictures, and labels or None, that a list names; and the lines that name none."""
    rows, missed = [], []
    pictures = [pair.picture for pair in found.pairs]
    stems = {os.path.splitext(os.path.basename(picture))[0]: picture for picture in pictures}
    for line in split_lines(files.text(name)):
        cells = line if len(line) < 2 else [*line, " ".join(line)]
        images = [image for cell in cells if (image := find_listed(files, name, cell, stems))]
        if not images:
            missed.append(" ".join(line))
            continue
        rows.append((images[0], images[1] if len(images) > 1 and images[1] != images[0] else None))
    return rows, missed


def split_lines(text: str) -> list[list[str]]:
    """The cells of each line that is not empty; of JSON lines, the paths in them."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    cells = []
    for line in lines:
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            cells.append([v for k, v in record.items() if k.startswith("fpath")])
        else:
            cells.append(next(csv.reader([line])) if "," in line else line.split())
    return cells


def find_listed(files: SourceFiles, list_name: str, cell: str, stems: dict[str, str]) -> str | None:
    """The image that a cell names: a path, absolute or relative to anything, or a bare stem."""
    cell = cell.strip()
    if not cell:
        return None
    if os.path.isabs(cell) and os.path.exists(cell):
        relative = os.path.relpath(os.path.realpath(cell), os.path.realpath(files.root))
        cell = relative.replace(os.sep, "/")
    return files.find(cell, near=list_name) or stems.get(cell.rpartition("/")[2])


def complete(found: Found, val_fraction: float | None, seed: int) -> None:
    """Give every pair a split: what the source does not tell is drawn by the seed, and said.

    With a fraction, pictures for validation are drawn from all but those for tests. Without, they
    are drawn only if the source names none: `VAL_FRACTION` of those for training.
    """
    pairs = found.pairs
    splits = {pair.split for pair in pairs}
    drawn_from = {"", "train", "val"} if val_fraction is not None else {"", "train"}
    if val_fraction is None and "val" in splits and ({"", "train"} & splits):
        found.pairs = [replace(pair, split=pair.split or "train") for pair in pairs]
        if "" in splits:
            others = [pair.picture for pair in pairs if not pair.split]
            text = f"pictures of no split, for training ({len(others)}): {abbreviate(others)}"
            found.remarks.append(text)
        return
    if not {"", "train"} & splits and val_fraction is None:
        drawn_from = {"val"}  # a source of one split
    places = [place for place, pair in enumerate(pairs) if pair.split in drawn_from]
    if len(places) < 2:
        return
    fraction = VAL_FRACTION if val_fraction is None else val_fraction
    chosen = draw(places, fraction, seed)
    for place in places:
        pairs[place] = replace(pairs[place], split="val" if place in chosen else "train")
    found.remarks.append(
        f"{len(chosen):,} of {len(places):,} pictures were drawn for validation (--seed {seed})"
    )


def draw(places: Sequence[int], fraction: float, seed: int) -> set[int]:
    """A share of places, at least one and not all; the same for the same seed."""
    count = min(max(1, round(fraction * len(places))), len(places) - 1)
    return set(random.Random(seed).sample(places, count))
