"""Class tables: names, values and colours of the classes that labels have."""

import re
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

Number = TypeVar("Number", int, np.ndarray)
# Names of what is no class: their pixels are unlabelled.
UNLABELLED_NAMES = {
    "void", "ignore", "ignored", "ignoreregion", "unlabelled", "unlabeled", "unannotated",
    "invalid", "dontcare", "outofroi",
}  # fmt: skip


@dataclass
class ClassRow:
    """A class of a table.

    Attributes:
        name: as it is shown.
        value: in labels of values, if the table tells.
        colours: in labels of colours, 0xRRGGBB; none, one or several.
    """

    name: str
    value: int | None = None
    colours: list[int] = field(default_factory=list)

    @property
    def is_unlabelled(self) -> bool:
        """Whether the name says that this is no class."""
        return plain(self.name) in UNLABELLED_NAMES


@dataclass(frozen=True)
class ClassTable:
    """Classes in the order of their table.

    Attributes:
        path: where the table is, for messages.
        rows: the classes, each name once.
        counts_rows: whether values are called an index: from 1 to N they may be numbers of rows.
        of_source: whether it came with the labels, rather than from elsewhere.
        of_outlines: whether labels are outlines: 0 is what none of them covers.
        is_named: whether labels of outlines tell the names, rather than numbers.
    """

    path: str
    rows: list[ClassRow]
    counts_rows: bool = False
    of_source: bool = True
    of_outlines: bool = False
    is_named: bool = True

    @property
    def has_values(self) -> bool:
        """Whether it tells the value of each class in labels."""
        return all(row.value is not None for row in self.rows) and not self.is_numbered

    @property
    def is_numbered(self) -> bool:
        """Whether its values may be numbers of rows rather than values in labels."""
        numbers = list(range(1, len(self.rows) + 1))
        return self.counts_rows and [row.value for row in self.rows] == numbers

    @property
    def has_colours(self) -> bool:
        """Whether it tells the colour of some class."""
        return any(row.colours for row in self.rows)


def pack(red: Number, green: Number, blue: Number) -> Number:
    """A colour as 0xRRGGBB, or an array of colours."""
    return red << 16 | green << 8 | blue


def channels(code: int) -> list[int]:
    """Red, green and blue of a colour 0xRRGGBB."""
    return [code >> 16, code >> 8 & 255, code & 255]


def plain(text: str) -> str:
    """A word in lower case, without what stands between its parts."""
    return re.sub(r"[\W_]+", "", text.casefold())
