"""Which pictures are for training, validation and tests: by a source's own lists, or folders.

What the source does not tell is drawn at random, and said. Pictures of a test split are never
trained on.
"""

import csv
import json
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.images import FORMATS
from preparation.files import SourceFiles, split_in, split_of
from preparation.labels import LabelFile
from preparation.matching import LABEL_WORDS, PICTURE_WORDS, Found, FoundPair
from preparation.tables import plain
from utils import UserError, abbreviate

LIST_ENDINGS = (".txt", ".lst", ".csv", ".odgt", ".json")
VAL_FRACTION = 0.2
LEAST_FOUND = 0.5  # share of the lines of a list that name pictures of the source
WHOLE = re.compile("trainval", re.IGNORECASE)  # a list of both
# Columns of a CSV by what its header calls them.
SPLIT_COLUMNS = {"split", "subset", "set", "partition", "usage"}
PICTURE_COLUMNS = PICTURE_WORDS | {"picture", "photo", "file", "filename", "imagepath", "path"}
LABEL_COLUMNS = LABEL_WORDS | {"maskpath", "labelpath", "segm"}

Row = tuple[str, str | None]  # a picture, and its label if a list names it


@dataclass
class SplitList:
    """A list of a source.

    Attributes:
        name: of the file.
        split: "train", "val" or "test".
        rows: the pictures, and their labels where it names these.
        missed: lines that name no picture.
    """

    name: str
    split: str
    rows: list[Row] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def use_lists(files: SourceFiles, found: Found) -> None:
    """Give pairs the splits of the lists in their source, if it has such; others are left out.

    A list that names labels, too, tells which label a picture has.

    Raises:
        UserError: a list names pictures that are not there, or lists contradict each other.
    """
    lists = read_lists(files, found)
    if not lists:
        return
    told: dict[str, tuple[str, str | None]] = {}
    for split in ("train", "val", "test"):  # a picture of two lists belongs to the later one
        for part in lists:
            if part.split == split:
                told |= {picture: (split, label) for picture, label in part.rows}
    pairs = {pair.picture: pair for pair in found.pairs}
    for picture, (_, label) in told.items():
        if label is not None:
            pairs[picture] = FoundPair(picture, LabelFile(str(files.root / label)))
    found.left_out.pop("labels without a picture", None)
    if unlisted := sorted({*pairs} - {*told}):
        found.left_out["pictures that no list names"] = unlisted
    if absent := sorted({*told} - {*pairs}):
        found.left_out["listed pictures without a label"] = absent
        found.left_out.pop("pictures without a label", None)
    if missed := [f"{part.name}: {line}" for part in lists for line in part.missed]:
        found.left_out["lines of lists that name no picture"] = missed
    splits = {picture: split for picture, (split, _) in told.items() if picture in pairs}
    found.pairs = [replace(pairs[picture], split=split) for picture, split in splits.items()]
    named = dict.fromkeys(part.name for part in lists)
    found.remarks.append(f"splits by the lists {abbreviate([*named])}")


def read_lists(files: SourceFiles, found: Found) -> list[SplitList]:
    """The lists of the folder whose lists fit best.

    A list is a text whose name, or whose content, tells splits, and whose lines name pictures of
    the source. Of several folders with lists, as VOC has for each task, the one counts that names
    most pairs and least else.

    Raises:
        UserError: as `use_lists`.
    """
    paired = {pair.picture for pair in found.pairs}
    finder = Finder(files, [pair.picture for pair in found.pairs])
    by_folder: dict[str, list[SplitList]] = defaultdict(list)
    for name in files.names:
        if name.lower().endswith(LIST_ENDINGS):
            for part in splits_in(files, name, finder):
                if is_used(files, part):
                    folder = os.path.dirname(name)
                    # The folder of the folders train, val and test, if these tell the split.
                    by_folder[folder if split_word(name) else os.path.dirname(folder)].append(part)
    fitting = {}
    for folder, parts in by_folder.items():
        # All but tests, if there is no list for training alone.
        whole = [part for part in parts if WHOLE.search(part.name)]
        others = [part for part in parts if part not in whole]
        if any(part.split == "train" for part in others):
            by_folder[folder] = others
        rows = [row for part in by_folder[folder] for row in part.rows]
        named = sum(picture in paired or label is not None for picture, label in rows)
        fitting[folder] = 2 * named - len(rows) - sum(len(p.missed) for p in by_folder[folder])
    best = [folder for folder, points in fitting.items() if points == max(fitting.values())]
    if len(best) > 1:
        raise UserError(
            f"{files.root} has lists in several folders, {abbreviate(best)}, which fit alike: take "
            "all but one out"
        )
    return by_folder[best[0]] if best else []


def is_used(files: SourceFiles, part: SplitList) -> bool:
    """Whether a text is a list of the source's pictures.

    Raises:
        UserError: it names pictures, but hardly one of them is there.
    """
    if len(part.rows) >= LEAST_FOUND * (len(part.rows) + len(part.missed)):
        return bool(part.rows)
    if any(line.lower().endswith(FORMATS) for line in part.missed):
        raise UserError(
            f"{files.root / part.name} names pictures that are not there, such as "
            f"{part.missed[0]}: mend it, or take it out of the source"
        )
    return False


class Finder:
    """Finds the pictures that a list means, by a path, a bare stem, or a folder.

    Args:
        files: of the source.
        pictures: those that have a label.
    """

    def __init__(self, files: SourceFiles, pictures: Sequence[str]):
        self.files = files
        self.stems: dict[str, list[str]] = defaultdict(list)
        self.folders: dict[str, list[str]] = defaultdict(list)
        for picture in pictures:
            self.stems[os.path.splitext(os.path.basename(picture))[0]].append(picture)
            self.folders[os.path.basename(os.path.dirname(picture))].append(picture)

    def find(self, cell: str, list_name: str) -> str | None:
        """The image that a cell names."""
        cell = cell.strip()
        if not cell:
            return None
        if os.path.isabs(cell) and os.path.exists(cell):
            relative = os.path.relpath(os.path.realpath(cell), os.path.realpath(self.files.root))
            cell = relative.replace(os.sep, "/")
        if image := self.files.find(cell, near=list_name):
            return image
        candidates = self.stems.get(cell.rpartition("/")[2], [])
        if len(candidates) > 1:
            end = f"/{cell}"
            candidates = [c for c in candidates if f"/{os.path.splitext(c)[0]}".endswith(end)]
        return candidates[0] if len(candidates) == 1 else None

    def in_folder(self, cell: str) -> list[str]:
        """The pictures in a folder, such as those of a video, that a cell names."""
        pictures = self.folders.get(cell.strip().strip("/").rpartition("/")[2], [])
        end = f"/{cell.strip().strip('/')}"
        return [picture for picture in pictures if f"/{os.path.dirname(picture)}".endswith(end)]


def splits_in(files: SourceFiles, name: str, finder: Finder) -> list[SplitList]:
    """The lists in a text: one, if its name tells a split, or several, if its content does."""
    if name.lower().endswith(".json"):
        document = files.load_json(name)
        if not isinstance(document, dict) or not all(
            isinstance(v, list) for v in document.values()
        ):
            return []
        parts = [(split_in(key), lines) for key, lines in document.items()]
        if not all(split and all(isinstance(x, str) for x in lines) for split, lines in parts):
            return []
        return [read_rows(name, split, [[x] for x in lines], finder) for split, lines in parts]
    split = "train" if WHOLE.search(name) else split_of(name, with_stem=True)
    is_csv = name.lower().endswith(".csv")
    if not (is_csv or split_word(name) or Path(name).stem == "list"):
        return []
    lines = list(split_lines(files.text(name)))
    header = [plain(cell) for cell in lines[0]] if is_csv and lines else []
    if pictures := [i for i, word in enumerate(header) if word in PICTURE_COLUMNS]:
        labels = [i for i, word in enumerate(header) if word in LABEL_COLUMNS]
        columns = [*pictures[:1], *labels[:1]]
        rows = [line for line in lines[1:] if len(line) == len(header)]
        at = next((i for i, word in enumerate(header) if word in SPLIT_COLUMNS), None)
        if at is not None:
            by_split: dict[str, list[list[str]]] = defaultdict(list)
            for row in rows:
                by_split[split_in(row[at])].append([row[i] for i in columns])
            return [read_rows(name, s, some, finder) for s, some in by_split.items() if s]
        lines = [[row[i] for i in columns] for row in rows]
    return [read_rows(name, split, lines, finder)] if split else []


def split_word(name: str) -> bool:
    """Whether the name of a file itself tells a split."""
    return bool(WHOLE.search(name) or split_in(Path(name).stem))


def read_rows(name: str, split: str, lines: Sequence[list[str]], finder: Finder) -> SplitList:
    """A list from the cells of its lines."""
    part = SplitList(name, split)
    for line in lines:
        cells = line if len(line) < 2 else [*line, " ".join(line)]
        images = [image for cell in cells if (image := finder.find(cell, name))]
        if images:
            label = images[1] if len(images) > 1 and images[1] != images[0] else None
            part.rows.append((images[0], label))
        elif pictures := finder.in_folder(cells[0]):
            part.rows += [(picture, None) for picture in pictures]
        else:
            part.missed.append(" ".join(line))
    return part


def split_lines(text: str) -> Iterator[list[str]]:
    """The cells of each line that is not empty; of JSON lines, the paths in them."""
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("{"):
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if paths := [str(v) for key, v in record.items() if key.startswith("fpath")]:
                yield paths
        else:
            yield next(csv.reader([line])) if "," in line else line.split()


def complete(found: Found, val_fraction: float | None, seed: int) -> None:
    """Give every pair a split: what the source does not tell is drawn by the seed, and said.

    With a fraction, pictures for validation are drawn from all but those for tests. Without, they
    are drawn only if the source names none: `VAL_FRACTION` of those for training.

    Raises:
        UserError: all pictures are for tests.
    """
    pairs = found.pairs
    by_name = [split_of(pair.picture, with_stem=True) for pair in pairs]
    if not any(pair.split for pair in pairs) and all(by_name) and len({*by_name}) > 1:
        pairs = [replace(pair, split=split) for pair, split in zip(pairs, by_name, strict=True)]
        found.pairs = pairs
        found.remarks.append("splits by the names of pictures")
    splits = {pair.split for pair in pairs}
    if splits == {"test"}:
        raise UserError(
            f"all {len(pairs):,} pairs are of a test split ({pairs[0].picture}), on which nothing "
            "is trained: give a source with others, or whose folders and lists are called otherwise"
        )
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
        raise UserError(f"{len(places)} pair to train on, and two are the least")
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
