"""The classes of outlines, which have names or numbers of their own, and their values in labels."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from preparation.tables import ClassRow, ClassTable, plain
from utils import UserError, abbreviate

BACKGROUND = "background"  # the class of what no outline covers


def enumerated(names: Sequence[str], path: str) -> tuple[dict[str, int], ClassTable]:
    """Values by class, 1…N, and their table: what no outline covers is the background, 0.

    Raises:
        UserError: a name is there twice.
    """
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{path}: {twice[0]} is the name of two classes")
    own = [name for name in names if plain(name) == BACKGROUND]
    others = [name for name in names if name not in own]
    rows = [ClassRow(name, value) for value, name in enumerate([*(own or [BACKGROUND]), *others])]
    table = ClassTable(path, rows, of_outlines=True)
    return {row.name: row.value or 0 for row in rows}, table


def with_values_of(own: ClassTable, given: ClassTable) -> ClassTable:
    """A table that was given for outlines, with the values that their classes have.

    Args:
        own: the classes that the outlines name or number.
        given: the classes that are wanted; values in it, or else the order of its rows, count where
            outlines have numbers for names.

    Raises:
        UserError: outlines are of a class that it lacks.
    """
    places, spare = count(), count(len(own.rows))
    rows = []
    for row in given.rows:
        value: int | None = 0
        if plain(row.name) != BACKGROUND:
            place = next(places)
            if own.is_named:
                value = value_of_name(own, row.name)
            else:
                number = row.value if given.has_values and row.value is not None else place
                value = number + 1 if number + 1 < len(own.rows) else None
            value = next(spare) if value is None else value
        rows.append(replace(row, value=value))
    values = [row.value for row in rows]
    lacking = [row.name for row in own.rows if row.value and row.value not in values]
    if lacking:
        raise UserError(
            f"the class table {given.path} lacks classes of the labels ({len(lacking)}): "
            f"{abbreviate(lacking)}; add them"
        )
    return replace(given, rows=rows, counts_rows=False, of_outlines=True)


def value_of_name(table: ClassTable, name: str) -> int | None:
    """The value of the class of a name, or of the only one that is called alike."""
    same = [row for row in table.rows if row.name == name]
    alike = same or [row for row in table.rows if plain(row.name) == plain(name)]
    return alike[0].value if len(alike) == 1 else None
