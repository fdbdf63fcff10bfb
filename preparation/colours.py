"""What the colours of labels mean: the classes of a table's colours, or each its own class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from preparation.meaning import Answers, Meaning
from preparation.soft_values import INSIDE
from preparation.survey import MOST_CODES, Tally
from preparation.tables import ClassRow, ClassTable, channels
from utils import abbreviate

MOST_GUESSED = 256  # classes that labels may suggest without a table
NEAR = 48  # distance of colours that may be the same


def decide_colours(
    meaning: Meaning, found: dict[int, Tally], table: ClassTable | None, answers: Answers
) -> None:
    """The class of each colour: a table's, or each colour its own."""
    meaning.by_colour = True
    if answers.ignore:
        meaning.questions.append("--ignore is for values, and the labels are in colours")
    if len(found) > MOST_CODES:
        meaning.questions.append("the labels have more than 65,536 colours: these are pictures")
    owners = table_colours(meaning, found, table, answers)
    if meaning.questions:
        return
    if 0 in found and answers.background == "unlabelled" and owners.get(0, -1) >= 0:
        index = owners[0]
        del meaning.rows[index]
        owners = {code: i - (i > index) for code, i in owners.items()} | {0: -1}
    elif 0 in found and 0 not in owners and answers.background == "class":
        meaning.rows.insert(0, ClassRow("background", colours=[0]))
        owners = {code: index + (index >= 0) for code, index in owners.items()} | {0: 0}
    if 0 in found and owners.setdefault(0, -1) < 0:
        meaning.remarks.append("black is the colour of no class: unlabelled")
    meaning.classes = {code: owners[code] for code in found if code in owners}
    use_nearest(meaning, found, owners, answers)


def use_nearest(
    meaning: Meaning, found: dict[int, Tally], owners: dict[int, int], answers: Answers
) -> None:
    """Offer the nearest class for colours that are near one, and ask about others."""
    unknown = [code for code in found if code not in owners]
    if not unknown:
        return
    known = [*owners]
    tree = cKDTree([channels(code) for code in known])
    distances, places = tree.query([channels(code) for code in unknown])
    far = [code for code, distance in zip(unknown, distances, strict=True) if distance > NEAR]
    if far:
        far.sort(key=lambda code: -found[code].pixels)
        meaning.questions.append(
            f"colours that no class has ({len(far):,}): {describe(found, far)}; add them to the "
            "table, or make black what is unlabelled"
        )
        return
    pixels, every = (sum(found[code].pixels for code in codes) for codes in (unknown, found))
    meaning.offer(
        f"{len(unknown):,} colours are near a class's, as along smoothed edges, and have "
        f"{pixels / every:.2%} of the pixels: {describe(found, unknown)}",
        "each becomes the nearest class",
        answers.yes,
    )
    nearest = {code: owners[known[i]] for code, i in zip(unknown, places.tolist(), strict=True)}
    meaning.classes |= nearest


def table_colours(
    meaning: Meaning, found: dict[int, Tally], table: ClassTable | None, answers: Answers
) -> dict[int, int]:
    """The class of each colour in a table, or of each that is found; -1 = unlabelled."""
    if table is not None and table.has_colours:
        meaning.take_classes(table, answers, table.rows)
        names: dict[int, str] = {}
        for name, code in [(row.name, code) for row in table.rows for code in row.colours]:
            if names.setdefault(code, name) != name:  # as in ADE20K's own table
                meaning.questions.append(
                    f"{table.path}: {names[code]} and {name} have the same colour: change it"
                )
        owners = {code: -1 for row in table.rows if row.is_unlabelled for code in row.colours}
        return owners | {code: i for i, row in enumerate(meaning.rows) for code in row.colours}
    main = [code for code in sorted(found) if found[code].inside >= INSIDE * found[code].pixels]
    main.sort(key=lambda code: -found[code].pixels)
    shown = f"the labels are in {len(main)} colours: {describe(found, main)}"
    if table is not None:
        meaning.questions.append(
            f"{shown}; {table.path} does not tell the classes' colours: give a table with the "
            "columns name,r,g,b by --list_class"
        )
    elif len(main) > MOST_GUESSED or not main:
        meaning.questions.append(
            f"the labels are in {len(found):,} colours: are these labels? Give a table of their "
            "classes, with the columns name,r,g,b, by --list_class"
        )
    else:
        meaning.offer(
            f"{shown}; a table with the columns name,r,g,b, by --list_class, names them",
            "each colour becomes a class, called by its code",
            answers.yes,
        )
    background = [] if answers.background == "class" else [0]
    meaning.rows = [
        ClassRow(f"#{code:06x}", colours=[code]) for code in sorted(main) if code not in background
    ]
    if answers.num_class not in (None, len(meaning.rows)):
        meaning.questions.append(f"--num_class {answers.num_class}, but {shown}")
    return {row.colours[0]: index for index, row in enumerate(meaning.rows)}


def describe(found: dict[int, Tally], codes: Sequence[int]) -> str:
    """Colours with their pixels, for messages."""
    return abbreviate(
        [
            f"#{code:06x} {tuple(channels(code))} {found[code].pixels:,} pixels in "
            f"{found[code].labels:,} labels like {Path(found[code].example).name}"
            for code in codes[:6]
        ]
    )


def is_grey(code: int) -> bool:
    """Whether a colour is a grey."""
    return len({*channels(code)}) == 1


def agree(palette_colours: dict[int, Tally], table: ClassTable) -> bool:
    """Whether labels' palettes have a table's colours, black and one more apart, in any order."""
    known = {code for row in table.rows for code in row.colours}
    found = np.array([code in known for code in palette_colours if code])
    return bool(found.any() and 2 * found.sum() > len(found))
