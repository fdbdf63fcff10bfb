"""Class tables in the forms that labelling tools write: names, values and colours of the classes.

A table is text with a class a row: comma, semicolon, tab or blanks between columns, in any order,
with or without a header. Colours are three columns, or one such as `128,0,0` or `#800000`. CVAT's
`labelmap.txt` and the `names` of YOLO's `data.yaml` are tables, too.
"""

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from common.classes import ADE20K_CLASSES, LONGEST_NAME, ROOT
from common.images import MAX_VALUE
from preparation.tables import ClassRow, ClassTable, pack, plain
from utils import UserError

MOST_ROWS = MAX_VALUE + 1
# Columns by what headers call them, in lower case without blanks and underscores.
HEADERS = {
    "value": ("value", "pixelvalue", "id", "classid", "labelid", "index", "idx", "trainid"),
    "name": ("name", "classname", "labelname"),
    "either": ("class", "category", "label", "classes"),  # a value or a name, by what is below
    "r": ("r", "red"),
    "g": ("g", "green"),
    "b": ("b", "blue"),
    "colour": ("color", "colour", "rgb", "hex", "colorrgb"),
}
# Lines such as `3: car`, `3. car` and `car = 3`.
NUMBERED_LINES = (
    re.compile(r"(?P<value>\d+)\s*[:=.)]\s*(?P<name>\D.*)"),
    re.compile(r"(?P<name>.*\S)\s*=\s*(?P<value>\d+)"),
)
HEX = re.compile(r"#?([0-9a-fA-F]{6})")
TRIPLE = re.compile(r"[(\[]?\s*(\d+)\s*[,; ]\s*(\d+)\s*[,; ]\s*(\d+)\s*[)\]]?")


def read_table(path: str | Path) -> ClassTable:
    """A class table.

    Raises:
        UserError: the file is no such table; the row and column that are wrong are named.
    """
    if str(path).lower().endswith((".yaml", ".yml")):
        rows = [ClassRow(name, value) for value, name in read_yaml_names(Path(path)).items()]
        return ClassTable(str(path), rows)
    file = ROOT / path if path == ADE20K_CLASSES else Path(path)
    try:
        content = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"the class table {path}: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"the class table {path} is no text in UTF-8") from error
    return parse_table(content, str(path))


def parse_table(content: str, path: str) -> ClassTable:
    """The class table in a text; `path` is where it came from.

    Raises:
        UserError: as `read_table`.
    """
    lines = [line.strip() for line in content.splitlines()]
    lines = [line for line in lines if line and not re.match(r"#(?![0-9a-fA-F]{6}\b)", line)]
    if not lines:
        raise UserError(f"the class table {path} is empty")
    if len(lines) > MOST_ROWS:
        raise UserError(f"the class table {path} has {len(lines):,} rows; labels have 16 bits")
    if all(re.fullmatch(r"[^:]+:(\d+,\d+,\d+)?:[^:]*:[^:]*", line) for line in lines):  # CVAT
        cells = [line.split(":")[:2] for line in lines]
        return merged(path, enumerate(({"name": n, "colour": c} for n, c in cells), 1))
    if lines[0] == "__ignore__":  # labelme's, which counts it as -1
        lines = lines[1:]
    for pattern in NUMBERED_LINES:
        found = [pattern.fullmatch(line) for line in lines]
        if all(found):
            return merged(path, enumerate((match.groupdict() for match in found if match), 1))
    cells = split_cells(lines)
    kinds = [column_of(cell) for cell in cells[0]]
    is_header = {"name", "either"} & {*kinds} and not any(
        is_number(cells[0], i) for i in range(len(kinds))
    )
    if is_header:
        names, first = header_columns(kinds, cells, path), 2
        words = [plain(cell) for cell, name in zip(cells[0], names, strict=True) if name == "value"]
        counts_rows = words[:1] in (["index"], ["idx"])
        cells = cells[1:]
    else:
        names, first, counts_rows = guess_columns(cells, path), 1, True
    rows = ({name: cell for name, cell in zip(names, row, strict=False) if name} for row in cells)
    return replace(merged(path, enumerate(rows, first)), counts_rows=counts_rows)


def header_columns(kinds: Sequence[str], cells: Sequence[Sequence[str]], path: str) -> list[str]:
    """What the columns of a table are, by the kinds that its header tells, and the rows below.

    Raises:
        UserError: two columns may be the same, or an unknown one may be the values.
    """
    names = []
    for i, kind in enumerate(kinds):
        is_value = all(is_number(row, i) for row in cells[1:])
        if kind == "either":
            kind = "value" if is_value else "name"
        elif not kind and is_value and not {"value", "r", "colour"} & {*kinds}:
            raise UserError(
                f"the class table {path}: is the column {cells[0][i]!r} the value in labels? Call "
                "it value, or take it out"
            )
        names.append(kind)
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        called = [cell for cell, name in zip(cells[0], names, strict=True) if name == twice[0]]
        raise UserError(
            f"the class table {path}: which column is the {twice[0]}, {' or '.join(called)}? Take "
            "the others out"
        )
    return names


def split_cells(lines: Sequence[str]) -> list[list[str]]:
    """The cells of each line; columns are divided by what divides all lines alike."""
    for delimiter in (";", "\t", ","):
        if all(delimiter in line for line in lines):
            # A comma may divide columns, or the channels of a colour beside a tab or semicolon.
            return [
                [cell.strip() for cell in row]
                for row in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
            ]
    # Blanks divide numbers from a name, which may have blanks and numbers itself: as many words
    # are numbers as in all rows.
    words = [line.split() for line in lines]
    first = min(len(list(takewhile(is_code, row))) for row in words)
    last = min(len(list(takewhile(is_code, row[first:][::-1]))) for row in words)
    cells = []
    for row in words:
        middle = row[first : len(row) - last]
        cells.append(
            [*row[:first], *([" ".join(middle)] if middle else []), *row[len(row) - last :]]
        )
    return (
        [[cell.rstrip(",") for cell in row] for row in cells]
        if first + last
        else [[line] for line in lines]
    )


def is_code(word: str) -> bool:
    """Whether a word is a whole number, or a colour such as #ff8000."""
    return re.fullmatch(r"(\d+|#[0-9a-fA-F]{6}),?", word) is not None


def column_of(cell: str) -> str:
    """What a header's cell names: a key of `HEADERS`, or ""."""
    word = plain(cell)
    return next((name for name, words in HEADERS.items() if word in words), "")


def is_number(row: Sequence[str], column: int) -> bool:
    """Whether a row has a whole number in a column."""
    return column < len(row) and row[column].lstrip("-").isdigit()


def guess_columns(cells: Sequence[Sequence[str]], path: str) -> list[str]:
    """What the columns of a table without header are: one is text, three are a colour.

    Raises:
        UserError: that cannot be told.
    """
    width = max(map(len, cells))
    numbers = [i for i in range(width) if all(is_number(row, i) for row in cells)]
    colours = [
        i
        for i in range(width)
        if i not in numbers and all(len(row) > i and parse_colour(row[i]) for row in cells)
    ]
    texts = [i for i in range(width) if i not in numbers and i not in colours]
    if len(texts) > 1 or len(numbers) not in (0, 1, 3, 4) or len(colours) > 1:
        raise UserError(
            f"the class table {path} has columns that cannot be told apart; give them a header, "
            "such as value,name,r,g,b"
        )
    names = [""] * width
    for i in texts:
        names[i] = "name"
    for i in colours:
        names[i] = "colour"
    if len(numbers) % 2:  # 1: a value; 3: a colour
        wanted = ["value"] if len(numbers) == 1 else ["r", "g", "b"]
    else:  # the value stands first, or last
        wanted = ["value", "r", "g", "b"] if numbers[:1] == [0] else ["r", "g", "b", "value"]
    for i, name in zip(numbers, wanted, strict=False):
        names[i] = name
    return names


def merged(path: str, rows: Iterable[tuple[int, dict[str, str]]]) -> ClassTable:
    """The table of rows by their number in the file; rows of one name are one class.

    Raises:
        UserError: a row is wrong, or two classes cannot be told apart.
    """
    classes: dict[str, ClassRow] = {}
    values: dict[int, str] = {}
    for number, cells in rows:
        where = f"the class table {path}, row {number}"
        row = parse_row(cells, where)
        known = classes.setdefault(row.name, row)
        if known is not row:
            if row.value is None and not row.colours:
                raise UserError(f"{where}: {row.name} is there twice")
            if row.value is not None and row.value != known.value:
                raise UserError(f"{where}: {row.name} has the values {known.value} and {row.value}")
            known.colours += row.colours
        if row.value is not None and values.setdefault(row.value, row.name) != row.name:
            raise UserError(f"{where}: {values[row.value]} has the value {row.value}, too")
    return ClassTable(path, list(classes.values()))


def parse_row(cells: dict[str, str], where: str) -> ClassRow:
    """The class of one row, given its cells by column; `where` begins the message of an error.

    Raises:
        UserError: a cell is missing or wrong.
    """
    value = None
    if "value" in cells:
        value = whole(cells["value"], f"{where}: the value", MAX_VALUE)
    name = cells.get("name", "" if value is None else f"class {value}").strip()
    if not name or not name.isprintable() or len(name) > LONGEST_NAME:
        raise UserError(f"{where}: {name!r:.80} is no plain and short name")
    colours = []
    if channels := [c for c in "rgb" if c in cells]:
        if len(channels) < 3:
            raise UserError(f"{where}: a colour has the columns r, g and b, here {channels}")
        r, g, b = (whole(cells[c], f"{where}: {c}", 255) for c in "rgb")
        colours = [pack(r, g, b)]
    elif cells.get("colour"):
        colour = parse_colour(cells["colour"])
        if colour is None:
            raise UserError(f"{where}: {cells['colour']!r:.40} is no colour, such as #ff8000")
        colours = [colour]
    return ClassRow(name, value, colours)


def read_yaml_names(path: Path) -> dict[int, str]:
    """The names in a YAML file such as YOLO's data.yaml, by the values of their classes.

    Raises:
        UserError: there are none, or the package that reads it is missing.
    """
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise UserError(f"{path} needs the package PyYAML: pip install PyYAML") from error
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
        named = names.items() if isinstance(names, dict) else enumerate(names)
        return {int(value): str(name) for value, name in named}
    except OSError as error:
        raise UserError(f"the class table {path}: {error.strerror}") from error
    except (yaml.YAMLError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(f"{path} has no `names` of classes: {error!r}") from error


def whole(text: str, what: str, highest: int) -> int:
    """A whole number of 0…highest.

    Raises:
        UserError: the text is none.
    """
    if not re.fullmatch(r"\d{1,9}", text):
        raise UserError(f"{what} is {text!r:.40}, which is no whole number")
    if int(text) > highest:
        raise UserError(f"{what} is {text}; the highest is {highest}")
    return int(text)


def parse_colour(text: str) -> int | None:
    """The colour 0xRRGGBB that a cell such as #800000 or 128,0,0 names; None if it is none."""
    if found := HEX.fullmatch(text.strip()):
        return int(found[1], 16)
    found = TRIPLE.fullmatch(text.strip())
    if found is None or max(map(int, found.groups())) > 255:
        return None
    return pack(*map(int, found.groups()))
