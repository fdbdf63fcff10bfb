"""YOLO's outlines: a text for each picture, a line for each outline."""

import re
from collections.abc import Sequence
from dataclasses import replace

from preparation import matching
from preparation.files import SourceFiles, size_of, split_of
from preparation.labels import Outlines
from preparation.matching import Found, FoundPair
from preparation.outlines import enumerated
from preparation.table_files import parse_table, read_yaml_names
from utils import UserError, abbreviate

YOLO_LINE = re.compile(r"\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}")


def read_yolo(files: SourceFiles) -> Found | None:
    """Pairs of YOLO's outlines: a text for each picture, a line for each outline.

    Raises:
        UserError: the lines are boxes, or the names of the classes are missing.
    """
    pictures: dict[str, str] = {}  # by their text
    lines: dict[str, list[list[str]]] = {}
    for name in files.with_ending(".txt"):
        picture = picture_of_text(files, name)
        if picture is not None and is_yolo(text := files.text(name)):
            pictures[name] = picture
            lines[name] = [line.split() for line in text.splitlines() if line.strip()]
    outlined = [numbers for some in lines.values() for numbers in some]
    if not outlined:
        return None
    if any(len(numbers) == 5 for numbers in outlined):
        if matching.match(files).pairs:
            return None  # boxes beside masks
        raise UserError(
            f"{files.root} has YOLO's boxes rather than outlines: segmentation needs those"
        )
    names = yolo_classes(files)
    is_named = bool(names)
    without = sorted({*files.images} - {*pictures.values()})
    found = Found(f"YOLO's outlines, {len(pictures):,} files")
    if without:
        found.left_out["pictures without a text of outlines"] = without
    if not names:
        highest = max(class_of(numbers) for numbers in outlined)
        names = {i: f"class {i + 1}" for i in range(highest + 1)}
        found.remarks.append("no data.yaml or classes.txt: classes have numbers for names")
    values, table = enumerated([*names.values()], "the names of its classes")
    found.table = replace(table, is_named=is_named)
    splits = yolo_splits(files)
    for name, picture in pictures.items():
        outlines = []
        height, width = size_of(files.root / picture)
        for numbers in lines[name]:
            index = class_of(numbers)
            if index not in names:
                raise UserError(f"{files.root / name} has class {index}, which has no name")
            points = [float(x) * (width, height)[i % 2] for i, x in enumerate(numbers[1:])]
            outlines.append((values[names[index]], tuple(points)))
        label = Outlines(str(files.root / name), (height, width), tuple(outlines))
        split = next((s for folder, s in splits.items() if f"/{folder}/" in f"/{picture}"), "")
        found.pairs.append(FoundPair(picture, label, split or split_of(picture)))
    return found


def class_of(numbers: Sequence[str]) -> int:
    """The class of an outline, from the cells of its line."""
    return int(float(numbers[0]))


def picture_of_text(files: SourceFiles, name: str) -> str | None:
    """The picture of a text: beside it, or in `images` where the text is in `labels`."""
    stem = name.removesuffix(".txt")
    parts = stem.split("/")
    at = max((i for i, part in enumerate(parts[:-1]) if part == "labels"), default=None)
    if at is not None:
        stem = "/".join([*parts[:at], "images", *parts[at + 1 :]])
    return files.image_with_stem(stem)


def is_yolo(text: str) -> bool:
    """Whether a text has a line of an index and points for each outline; it may be empty."""
    for line in text.splitlines():
        if line.strip() and not YOLO_LINE.fullmatch(line.strip()):
            return False
        if line.strip() and len(line.split()) % 2 == 0:
            return False
    return True


def yolo_classes(files: SourceFiles) -> dict[int, str]:
    """The names of YOLO's classes by their number, if there is a file of them.

    Raises:
        UserError: the file is damaged, the package that reads it is missing, or files differ.
    """
    tables = {}
    for name in (*files.with_ending(".yaml"), *files.with_ending(".yml")):
        if re.search(r"^(train|val|path)\s*:", files.text(name), re.MULTILINE):
            tables[name] = read_yaml_names(files.root / name)
    if len({tuple(names.items()) for names in tables.values()}) > 1:
        raise UserError(f"{files.root}: {abbreviate([*tables])} name different classes: keep one")
    if tables:
        return next(iter(tables.values()))
    if listed := files.first_named("classes.txt", "obj.names"):
        table = parse_table(files.text(listed), str(files.root / listed))
        return {index: row.name for index, row in enumerate(table.rows)}
    return {}


def yolo_splits(files: SourceFiles) -> dict[str, str]:
    """The splits of folders of pictures, as YOLO's data.yaml tells them."""
    lines = [
        line.split(":", 1)
        for name in (*files.with_ending(".yaml"), *files.with_ending(".yml"))
        for line in files.text(name).splitlines()
        if re.match(r"(train|val|test)\s*:", line)
    ]
    folders = ((key.strip(), value.partition("#")[0].strip(" '\"")) for key, value in lines)
    return {
        re.sub(r"^(\.*/)+", "", folder).strip("/"): split for split, folder in folders if folder
    }
