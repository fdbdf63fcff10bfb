"""Write a prepared data set: links to pictures, labels of class indices, lists and classes.

A source is never changed. A label that is fit as it is becomes a link, too.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from common.classes import Classes, class_table
from common.data_file import DATA_FILE, UNFINISHED
from common.files import link_or_copy, png, text, write_atomically
from common.images import PNG_PALETTE, PNG_SIGNATURE
from common.loader import make_loader
from preparation.meaning import Meaning, palette
from preparation.survey import Pair, turn
from utils import UserError

SPLITS = ("train", "val", "test")
IMAGES, LABELS, CLASSES = "images", "annotations", "classes.csv"
CHART, SHEET = "classes.png", "sheet.png"
OWN = (IMAGES, LABELS, CLASSES, CHART, SHEET, *(f"{split}.txt" for split in SPLITS))


@dataclass(frozen=True)
class Part:
    """The pairs of one source, by their names in the data set, and what their labels mean."""

    pairs: Sequence[Pair]
    meaning: Meaning


def begin(folder: Path) -> None:
    """Make the folder of a data set, or empty one whose preparation did not come to its end.

    Raises:
        UserError: it holds something else.
    """
    try:
        if (folder / UNFINISHED).exists():
            for name in OWN:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif folder.exists() and any(folder.iterdir()):
            raise UserError(f"--data {folder} is not empty: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / UNFINISHED).touch()
    except OSError as error:
        raise UserError(f"--data {folder}: {error.strerror}: {error.filename}") from error


def convert(folder: Path, parts: Sequence[Part], workers: int) -> dict[str, Any]:
    """Write pictures, labels, lists and classes.

    Returns:
        What `data.json` is to hold: see `load_data`.

    Raises:
        UserError: something cannot be written.
    """
    offset = label_offset(parts)
    for part in parts:
        dataset = PairWriter(folder, part, offset)
        loader = make_loader(dataset, workers, batch_size=None)
        for _ in tqdm(loader, unit=" pictures", leave=False, disable=None):
            pass
    pairs = [pair for part in parts for pair in part.pairs]
    lists = {}
    for split in SPLITS:
        if names := [pair.name for pair in pairs if pair.split == split]:
            lists[split] = f"{split}.txt"
            write_atomically(folder / lists[split], text("".join(f"{name}\n" for name in names)))
    rows = parts[0].meaning.rows
    colours = np.vstack([np.zeros((1, 3), np.uint8), palette(rows)])
    classes = Classes([row.name for row in rows], colours)
    write_atomically(folder / CLASSES, text(class_table(classes)))
    return {
        "num_class": len(rows),
        "label_offset": offset,
        "list_class": CLASSES,
        "root_img": IMAGES,
        "root_seg": LABELS,
        "lists": lists,
    }


def finish(folder: Path, content: dict[str, Any]) -> None:
    """Write `data.json`, with which a data set is whole."""
    if hasattr(os, "sync"):
        os.sync()  # thousands of files at once
    write_atomically(folder / DATA_FILE, text(json.dumps(content, indent=2) + "\n"))
    (folder / UNFINISHED).unlink(missing_ok=True)


def label_offset(parts: Sequence[Part]) -> int:
    """The value of the first class: that of the sources' labels if one fits all, otherwise 1."""
    offsets = {part.meaning.offset_of_values() for part in parts}
    offset = offsets.pop()
    return 1 if offsets or offset is None else offset


class PairWriter(Dataset):
    """Reading item i writes a picture and its label into a data set."""

    def __init__(self, folder: Path, part: Part, offset: int):
        self.folder = folder
        self.pairs = part.pairs
        self.stored = part.meaning.stored
        self.by_colour = part.meaning.by_colour
        self.keep = part.meaning.offset_of_values() == offset
        codes, values = part.meaning.codes()
        self.codes = codes
        # Classes count from 1 where labels are written, and 0 is unlabelled.
        self.values = values.astype(np.uint8 if len(part.meaning.rows) < 256 else np.uint16)
        if offset == 0:
            unlabelled = np.iinfo(self.values.dtype).max
            self.values = np.where(values, values - 1, unlabelled).astype(self.values.dtype)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> int:
        pair = self.pairs[index]
        picture = self.folder / IMAGES / pair.name
        link(pair.picture, picture)
        label = self.folder / LABELS / f"{os.path.splitext(pair.name)[0]}.png"
        turned = index in self.stored
        if self.keep and not turned and not pair.label.is_drawn and is_plain_png(pair.label.path):
            link(pair.label.path, label)
            return index
        image = pair.label.read()
        plane = image.colours if self.by_colour else image.values
        assert plane is not None
        places = np.searchsorted(self.codes, plane)
        values = self.values[places]
        if turned:
            values = turn(values, pair.picture)
        label.parent.mkdir(parents=True, exist_ok=True)
        with label.open("wb") as file:  # `finish` makes all of them safe
            png(Image.fromarray(values))(file)
        return index


def is_plain_png(path: str) -> bool:
    """Whether a file is a PNG of a single channel, or with a palette."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header.startswith(PNG_SIGNATURE) and header[25] in (0, PNG_PALETTE)


def link(source: str, path: Path) -> None:
    """Make a file another name of a source's: a symbolic link, or a hard link or copy without."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = os.path.abspath(source)
    try:
        os.symlink(source, path)
    except (OSError, NotImplementedError):  # Windows allows it to few
        link_or_copy(Path(source), path)


def unique_names(names: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Names for pictures that a list can hold, none twice, nor with a label of another's name."""
    taken = set()
    for name in names:
        clean = "".join(c if c.isprintable() else "_" for c in f"{prefix}{name}")
        clean = "/".join(part.strip() or "_" for part in clean.split("/"))
        stem, ending = os.path.splitext(clean)
        candidate, number = stem, 1
        while candidate in taken:
            number += 1
            candidate = f"{stem}_{number}"
        taken.add(candidate)
        yield f"{candidate}{ending}"
