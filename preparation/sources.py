"""Read a source: recognise its form, its classes and its splits."""

import csv
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.classes import ROOT
from common.data_file import DATA_FILE, data_flags, load_data
from preparation import annotations, matching
from preparation.conversion import unique_names
from preparation.files import SourceFiles, split_in
from preparation.matching import Found
from preparation.outlines import with_values_of
from preparation.splits import complete, use_lists
from preparation.survey import Pair
from preparation.table_files import merged, parse_table, read_table
from preparation.tables import ClassRow, ClassTable
from utils import UserError, abbreviate

# What class tables are called where tools write them.
TABLE_NAMES = (
    "labelmap.txt", "label_map.txt", "class_names.txt", "classes.txt", "_classes.csv",
    "classes.csv", "class_dict.csv", "class_dict_seg.csv", "label_colors.txt", "label_colors.csv",
    "labels.txt", "colors.csv", "objectinfo150.txt", "objectinfo150.csv",
)  # fmt: skip
CITYSCAPES = ROOT / "data/cityscapes_classes.csv"


@dataclass(frozen=True)
class SourceSettings:
    """How to read sources.

    Attributes:
        table: of the classes; None: the source's own.
        label_name: how labels are called, with {stem} for their picture's name; None: look.
        val_fraction: share of the pictures for validation; None: the source's, or a fifth.
        seed: of what is drawn.
    """

    table: ClassTable | None = None
    label_name: str | None = None
    val_fraction: float | None = None
    seed: int = 1234


@dataclass(frozen=True)
class Source:
    """A source that was read.

    Attributes:
        table: of its classes, if there is one.
        pairs: its pictures and labels, all with a split.
        remarks: what it was recognised as, what was left out, what was drawn.
    """

    table: ClassTable | None
    pairs: list[Pair]
    remarks: list[str]

    @property
    def digest(self) -> str:
        """A digest by which one knows the source again: its files, splits and classes."""
        rows = self.table.rows if self.table else []
        digest = hashlib.sha256(repr(rows).encode(errors="backslashreplace"))
        for pair in self.pairs:
            line = f"{pair.name}\t{os.path.basename(pair.label.path)}\t{pair.split}\n"
            digest.update(line.encode(errors="backslashreplace"))
        return digest.hexdigest()[:16]


def read_source(root: Path, settings: SourceSettings, prefix: str = "") -> Source:
    """Read one source; `prefix` begins the names of its pictures.

    Raises:
        UserError: its form is not known, or it is damaged.
    """
    files = SourceFiles(root)
    found = annotations.recognise(files) if settings.label_name is None else None
    found = found or matching.match(files, settings.label_name)
    refuse_second_labels(root, found)
    use_lists(files, found)
    if len(found.pairs) < 2:
        raise UserError(matching.too_few(files, found))
    complete(found, settings.val_fraction, settings.seed)
    table = table_of(files, found, settings)
    left_out = [
        f"{what}, left out ({len(names)}): {abbreviate(names)}"
        for what, names in found.left_out.items()
    ]
    if beside := splits_beside(root):
        found.remarks.append(
            f"beside {root} are {abbreviate(beside)}; the folder above has all splits"
        )
    where = f"; classes: {table.path}" if table else ""
    remarks = [f"{root}: {found.form}: {len(found.pairs):,} pairs{where}"]
    pictures = [pair.picture for pair in found.pairs]
    used = {*pictures}
    if guessed := [f"{a} is {b}" for a, b in files.guessed.items() if b in used]:
        listed = f"({len(guessed)}): {abbreviate(guessed)}"
        found.remarks.append(f"pictures found by the last part of their names {listed}")
    names = unique_names(pictures, prefix)
    pairs = [
        Pair(str(root / pair.picture), pair.label, name, pair.split)
        for pair, name in zip(found.pairs, names, strict=True)
    ]
    return Source(table, pairs, [*remarks, *left_out, *found.remarks])


def refuse_second_labels(root: Path, found: Found) -> None:
    """Refuse a picture that has two labels: what one shows is background in the other.

    Raises:
        UserError: there is one.
    """
    labels: dict[str, str] = {}
    for pair in found.pairs:
        path = pair.label.path
        if other := labels.get(pair.picture):
            what = f"{other} and {path} both label" if other != path else f"{path} labels twice"
            raise UserError(f"{root}: {what} {pair.picture}: take one of them out")
        labels[pair.picture] = path


def splits_beside(root: Path) -> list[str]:
    """The folders of other splits beside one that is called like a split."""
    root = root.resolve()
    if not split_in(root.name):
        return []
    folders = [path for path in root.parent.iterdir() if path != root and path.is_dir()]
    return sorted(path.name for path in folders if split_in(path.name))


def table_of(files: SourceFiles, found: Found, settings: SourceSettings) -> ClassTable | None:
    """The class table that was given, the source's own, or that of its labels' names.

    Raises:
        UserError: it is none, or not one of these labels.
    """
    if settings.table and found.table:
        return with_values_of(found.table, settings.table)
    return (
        settings.table
        or found.table
        or prepared_table(files.root)
        or own_table(files)
        or table_of_names(found)
    )


def own_table(files: SourceFiles) -> ClassTable | None:
    """The class table among a source's files; the one nearest to the top.

    Raises:
        UserError: what is called like one is none, or two differ.
    """
    names = [name for name in files.names if os.path.basename(name).lower() in TABLE_NAMES]
    depth = min((name.count("/") for name in names), default=0)
    try:
        tables = [
            parse_table(files.text(name), str(files.root / name))
            for name in names
            if name.count("/") == depth
        ]
    except UserError as error:
        raise UserError(f"{error}; or name a table by --list_class") from error
    if len({tuple(row.name for row in table.rows) for table in tables}) > 1:
        paths = abbreviate([table.path for table in tables])
        raise UserError(f"class tables that differ: {paths}; name one by --list_class")
    if not tables:
        return None
    return max(tables, key=lambda table: (table.has_colours, table.has_values))


def prepared_table(root: Path) -> ClassTable | None:
    """The classes of a source that is a prepared data set, with their values.

    Raises:
        UserError: its `data.json` is damaged.
    """
    if not (root / DATA_FILE).exists():
        return None
    flags = data_flags(root, content := load_data(root), next(iter(content["lists"])))
    table = read_table(str(flags["list_class"]))
    rows = [replace(row, value=i) for i, row in enumerate(table.rows, content["label_offset"])]
    return replace(table, rows=rows, counts_rows=False)


def table_of_names(found: Found) -> ClassTable | None:
    """Cityscapes' table, where labels are called like Cityscapes'."""
    names = [os.path.basename(pair.label.path) for pair in found.pairs]
    for end, column in (("_labelTrainIds.png", "train_id"), ("_labelIds.png", "id")):
        if names and all(name.endswith(end) for name in names):
            return cityscapes(column)
    return None


def cityscapes(column: str) -> ClassTable:
    """Cityscapes' 19 classes by their values in labels of one kind; other values are unlabelled."""
    with CITYSCAPES.open(newline="", encoding="utf-8") as file:
        records = [record | {"value": record[column]} for record in csv.DictReader(file)]
    rows = merged(str(CITYSCAPES), enumerate(records, 2)).rows
    known = {row.value for row in rows}
    rows += [ClassRow("void", value) for value in range(34) if value not in known]
    return ClassTable("Cityscapes' table", rows)


def prefixes(roots: Sequence[Path]) -> list[str]:
    """What begins the names of pictures, where there are several sources: their folders' names."""
    if len(roots) == 1:
        return [""]
    return [f"{name}/" for name in unique_names([root.resolve().name for root in roots])]
