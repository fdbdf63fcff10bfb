"""Decide what the values or colours of labels mean; what cannot be known becomes a question.

A decision is made for all labels together, from what they hold, a class table and flags. What was
decided is said. What only the user can know is asked, and `--yes` accepts what is offered.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from common.classes import distinct_colours
from common.images import MAX_VALUE, unlabelled_value
from preparation.soft_values import INSIDE, has_soft_values, nearest_value, own_values
from preparation.survey import MOST_CODES, Survey, Tally, named
from preparation.tables import ClassRow, ClassTable, plain
from utils import abbreviate

IGNORED = (255, MAX_VALUE)  # values that mean unlabelled by convention
MOST_GUESSED = 256  # classes that labels may suggest without a table
NEAR = 48  # distance of colours that may be the same
INTERPOLATED = (
    "the labels were scaled with interpolation or stored with loss: along edges they hold values "
    "in between, which may be those of other classes; scale labels by the nearest pixel, and "
    "store them as PNG"
)
CLEAR = 1.15  # how much better one way of turning labels has to fit


@dataclass(frozen=True)
class Answers:
    """What the user says about labels.

    Attributes:
        num_class: number of classes; None = as table or labels suggest.
        background: whether value 0, black, or what no outline covers is a "class", "unlabelled",
            or None: as table or labels suggest.
        ignore: more values that are unlabelled.
        exif: whether labels lie as pictures are "stored", or as EXIF has them "turned"; None: look.
        yes: accept what is offered.
    """

    num_class: int | None = None
    background: str | None = None
    ignore: tuple[int, ...] = ()
    exif: str | None = None
    yes: bool = False


@dataclass
class Meaning:
    """What the labels mean.

    Attributes:
        by_colour: whether codes are colours, 0xRRGGBB, rather than values.
        rows: the classes.
        classes: the class of each code that occurs, counted from 0; -1 = unlabelled.
        stored: places of the pairs whose labels have to be turned as EXIF turns their pictures.
        remarks: what was decided, a line each.
        questions: what only the user can know, a line each; if there are any, nothing else counts.
    """

    by_colour: bool = False
    rows: list[ClassRow] = field(default_factory=list)
    classes: dict[int, int] = field(default_factory=dict)
    stored: set[int] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def offset_of_values(self) -> int | None:
        """The `label_offset` with which labels may stay as they are; None: none fits."""
        if self.by_colour:
            return None
        for offset in (1, 0):
            unlabelled = unlabelled_value(len(self.rows), offset)
            if all(
                code == (unlabelled if index < 0 else index + offset)
                for code, index in self.classes.items()
            ):
                return offset
        return None

    def codes(self) -> tuple[np.ndarray, np.ndarray]:
        """The codes, ascending, and the values that stand for them: 0 = unlabelled, 1…N."""
        order = sorted(self.classes)
        return np.array(order), np.array([self.classes[code] + 1 for code in order])


def decide(found: Survey, table: ClassTable | None, answers: Answers) -> Meaning:
    """What labels mean, given what they hold; questions where that cannot be known."""
    meaning = Meaning()
    total = max(found.num_values, found.num_colours)
    in_colours = found.num_values < total
    if in_colours and found.num_colours < total:
        meaning.questions.append(
            "some labels are in colours and some are values in grey: prepare each kind by itself"
        )
        return meaning
    has_table = table is not None and any(row.colours for row in table.rows)
    disagreeing = [index for index, colours in found.palette.items() if len(colours) > 1]
    known = {code for row in table.rows for code in row.colours} if table else set()
    agree = found.num_colours == total and has_table and {*found.colours} <= known | {0}
    if in_colours or agree or disagreeing:
        meaning.by_colour = True
        if disagreeing and not agree:
            meaning.remarks.append(
                f"palettes differ from file to file, as for index {disagreeing[0]}: colours count"
            )
        decide_colours(meaning, found.colours, table, answers)
    else:
        decide_values(meaning, found, table, answers)
    decide_turns(meaning, found, answers)
    return meaning


def decide_colours(
    meaning: Meaning, found: dict[int, Tally], table: ClassTable | None, answers: Answers
) -> None:
    """The class of each colour: a table's, or each colour its own."""
    owners = colour_owners(meaning, found, table, answers)
    if not owners:
        return
    if 0 in found and 0 not in owners and answers.background == "class":
        meaning.rows.insert(0, ClassRow("background", colours=[0]))
        owners = {0: 0, **{code: index + 1 for code, index in owners.items() if index >= 0}}
    elif 0 in found and owners.setdefault(0, -1) < 0:
        meaning.remarks.append("black is the colour of no class: unlabelled")
    unknown = [code for code in found if code not in owners]
    near = {code: nearest_colour(code, [*owners]) for code in unknown}
    close = [code for code in unknown if distance(code, near[code]) <= NEAR]
    far = sorted({*unknown} - {*close}, key=lambda code: -found[code].pixels)
    if far:
        meaning.questions.append(
            f"colours that no class has ({len(far):,}): {describe_colours(found, far)}; add them "
            "to the table, or make black what is unlabelled"
        )
    if close:
        pixels, all_pixels = (sum(found[c].pixels for c in codes) for codes in (close, found))
        text = (
            f"{len(close):,} colours are near a class's, as along smoothed edges, and have "
            f"{pixels / all_pixels:.2%} of the pixels: {describe_colours(found, close)}"
        )
        if answers.yes:
            meaning.remarks.append(f"{text}: each becomes the nearest class")
        else:
            meaning.questions.append(f"{text}; --yes makes each the nearest class")
    meaning.classes = {code: owners[code] for code in found if code in owners}
    meaning.classes |= {code: owners[near[code]] for code in close}


def colour_owners(
    meaning: Meaning, found: dict[int, Tally], table: ClassTable | None, answers: Answers
) -> dict[int, int]:
    """The class of each colour in a table, or of each that is found; -1 = unlabelled."""
    if table is not None and any(row.colours for row in table.rows):
        meaning.rows = [row for row in table.rows if not row.is_unlabelled]
        check_count(meaning, table, answers)
        owners = {code: -1 for row in table.rows if row.is_unlabelled for code in row.colours}
        return owners | {code: i for i, row in enumerate(meaning.rows) for code in row.colours}
    main = [code for code in sorted(found) if found[code].inside >= INSIDE * found[code].pixels]
    if len(main) > MOST_GUESSED or not main:
        meaning.questions.append(
            f"the labels are in {len(found):,} colours: are these labels? Give a table of their "
            "classes: --list_class TABLE with the columns name,r,g,b"
        )
        return {}
    listed = describe_colours(found, sorted(main, key=lambda code: -found[code].pixels))
    if not answers.yes:
        meaning.questions.append(
            f"the labels are in {len(main)} colours: {listed}; name their classes by --list_class "
            "TABLE with the columns name,r,g,b, or make each a class with --yes"
        )
        return {}
    meaning.remarks.append(f"each colour is a class: {listed}")
    background = [] if answers.background == "class" else [0]
    meaning.rows = [ClassRow(hexadecimal(c), colours=[c]) for c in main if c not in background]
    return {row.colours[0]: index for index, row in enumerate(meaning.rows)}


def decide_values(
    meaning: Meaning, found: Survey, table: ClassTable | None, answers: Answers
) -> None:
    """The class of each value: by a table, or as the values suggest."""
    tallies = found.values
    if len(tallies) > MOST_CODES:
        meaning.questions.append("the labels hold more than 65,536 values: these are no classes")
        return
    has_values = table and not table.counted_from_1 and all(r.value is not None for r in table.rows)
    soft: dict[int, int | None] = {}
    if has_soft_values(found):
        given = [row.value for row in table.rows] if table and has_values else []
        own = own_values(tallies, [value for value in given if value is not None])
        soft = {v: nearest_value(v, own) for v in tallies if v not in own} if own else {}
        if not own:
            meaning.questions.append(INTERPOLATED)
            return
        if soft and not accept_soft(meaning, tallies, own, answers):
            return
    values = [v for v in sorted(tallies) if v not in soft and v not in answers.ignore]
    if table is None and answers.num_class is not None:
        rows = [ClassRow(f"class {i}") for i in range(1, answers.num_class + 1)]
        table = ClassTable("--num_class", rows, of_source=False)
    if table is None:
        suggest(meaning, values, answers)
    elif has_values:
        use_values(meaning, tallies, values, table, answers)
    else:
        use_order(meaning, tallies, values, table, answers)
    meaning.classes |= {v: -1 for v in answers.ignore if v in tallies}
    known = dict(meaning.classes)
    for value, near in soft.items():
        meaning.classes[value] = -1 if near is None else known.get(near, -1)
    give_colours(meaning, found)


def accept_soft(
    meaning: Meaning, tallies: dict[int, Tally], own: Sequence[int], answers: Answers
) -> bool:
    """Whether values beside the classes' own may become the nearest class."""
    count = len(tallies) - len(own)
    every = sum(tally.pixels for tally in tallies.values())
    share = 1 - sum(tallies[value].pixels for value in own) / every
    text = (
        f"{count:,} values beside {listed(own)} come of interpolation or lossy storage, and have "
        f"{share:.2%} of the pixels"
    )
    way_out = "the nearest of these" + " or, in between, unlabelled" * (len(own) > 2)
    if answers.yes:
        meaning.remarks.append(f"{text}: each becomes {way_out}")
    else:
        meaning.questions.append(f"{text}; --yes makes each {way_out}")
    return answers.yes


def use_values(
    meaning: Meaning,
    tallies: dict[int, Tally],
    values: Sequence[int],
    table: ClassTable,
    answers: Answers,
) -> None:
    """Classes by a table that tells the value of each."""
    meaning.rows = [row for row in table.rows if not row.is_unlabelled]
    if answers.background == "unlabelled":
        meaning.rows = [row for row in meaning.rows if row.value != 0]
    elif answers.background == "class" and 0 not in [row.value for row in table.rows]:
        meaning.rows.insert(0, ClassRow("background", 0))
    check_count(meaning, table, answers)
    meaning.classes = {row.value: -1 for row in table.rows if row.value is not None}
    meaning.classes |= {row.value: i for i, row in enumerate(meaning.rows) if row.value is not None}
    leave_out(meaning, tallies, values, table.path)


def leave_out(
    meaning: Meaning, tallies: dict[int, Tally], values: Iterable[int], path: str
) -> None:
    """Values of no class: 0, 255 and 65535 are unlabelled, others are questions."""
    unknown = [value for value in values if value not in meaning.classes]
    unlabelled = [value for value in unknown if value in (0, *IGNORED)]
    meaning.classes |= dict.fromkeys(unlabelled, -1)
    if unlabelled:
        meaning.remarks.append(f"unlabelled, as of no class: the values {listed(unlabelled)}")
    if strange := sorted({*unknown} - {*unlabelled}):
        meaning.questions.append(
            f"values of no class in {path}: {abbreviate(named(tallies, strange))}; add them to a "
            f"table, or give --ignore {' '.join(map(str, strange[:5]))} if they are unlabelled"
        )


def use_order(
    meaning: Meaning,
    tallies: dict[int, Tally],
    values: Sequence[int],
    table: ClassTable,
    answers: Answers,
) -> None:
    """Classes by a table that tells their order alone: is the first value 0 or 1?"""
    num = len(table.rows)
    core = [value for value in values if value <= num]
    highest = max(core, default=0)
    zero_is_first = plain(table.rows[0].name) == "background" or table.rows[0].is_unlabelled
    first: int | None
    if answers.background is not None:
        # A class that the table lacks, where its rows have the values from 1.
        first = 0 if answers.background == "class" and highest < num else 1
    elif highest == num:
        # The table of another source may count the rows alone, and the highest value be void.
        first = 1 if (table.counted_from_1 and table.of_source) or 0 not in core else None
    elif 0 not in core:
        first = 1 if table.counted_from_1 else 0 if zero_is_first else None
    elif zero_is_first or any(value in IGNORED and value > num for value in values):
        first = 0
    else:
        first = 0 if len(core) == num and not table.counted_from_1 else None
    if first is None:
        meaning.questions.append(
            f"the labels hold the values {listed(core)}, and {table.path} has {num} classes: is 0 "
            "the first of them (--background class), or unlabelled (--background unlabelled)?"
            + (f" Or is {num} unlabelled (--ignore {num})?" if highest == num else "")
        )
        return
    rows = list(table.rows)
    if first == 1 and answers.background == "class":
        rows, first = [ClassRow("background"), *rows], 0
    meaning.rows = [row for row in rows if not row.is_unlabelled]
    places = {id(row): index for index, row in enumerate(meaning.rows)}
    meaning.classes = {i: places.get(id(row), -1) for i, row in enumerate(rows, first)}
    check_count(meaning, table, answers)
    last = len(rows) - 1 + first
    meaning.remarks.append(f"the values {first} to {last} are {table.path}'s rows in their order")
    leave_out(meaning, tallies, values, table.path)


def suggest(meaning: Meaning, values: Sequence[int], answers: Answers) -> None:
    """Classes as values suggest them, without a table."""
    core = [value for value in values if value not in IGNORED or value - 1 in values]
    if len(core) < 2:  # as in masks of 0 and 255
        core = list(values)
    if len(core) < 2:
        meaning.questions.append(
            f"the labels hold the values {listed(values)} only: there is nothing to tell apart"
        )
        return
    spread = core[-1] - core[0] + 1
    if spread >= 2 * len(core) or len(core) > MOST_GUESSED:
        suggest_in_order(meaning, core, answers)
    elif core[0] > 0:
        number(meaning, range(1, core[-1] + 1), "class {}")
    elif len(core) < len(values) or len(core) == 2 or answers.background == "class":
        number(meaning, range(core[-1] + 1), "class {}")
    elif answers.background == "unlabelled":
        number(meaning, range(1, core[-1] + 1), "class {}")
    else:
        meaning.questions.append(
            f"the labels hold the values {listed(core)}: is 0 a class, such as the background "
            "(--background class), or unlabelled (--background unlabelled)?"
        )
        return
    meaning.classes |= {value: -1 for value in values if value not in meaning.classes}
    if not meaning.questions:
        unlabelled = [value for value in values if meaning.classes[value] < 0]
        text = f"; {listed(unlabelled)} is unlabelled" if unlabelled else ""
        meaning.remarks.append(
            f"no class table: {len(meaning.rows)} classes, as the labels hold {listed(core)}{text}"
        )


def suggest_in_order(meaning: Meaning, core: Sequence[int], answers: Answers) -> None:
    """Classes of values far apart, such as 0 and 255, in their order."""
    if len(core) > MOST_GUESSED:
        meaning.questions.append(
            f"the labels hold {len(core):,} values up to {core[-1]}: are these numbers of objects "
            "rather than classes? Give a table with the columns value,name by --list_class"
        )
        return
    classes = [v for v in core if v or answers.background != "unlabelled"]
    text = f"the labels hold the values {listed(core)}, which are no class indices"
    if answers.yes:
        number(meaning, classes, "value {}")
        meaning.remarks.append(f"{text}: they become classes in their order")
    else:
        meaning.questions.append(
            f"{text}; --yes makes {listed(classes)} classes in this order, unless --ignore or "
            "--background unlabelled takes one out; or give a table with the columns value,name"
        )


def number(meaning: Meaning, values: Iterable[int], name: str) -> None:
    """Make values classes in their order; `name` has a place for the value."""
    values = list(values)
    counted = values if "value" in name else range(1, len(values) + 1)
    meaning.rows = [ClassRow(name.format(n), v) for n, v in zip(counted, values, strict=True)]
    meaning.classes = {value: index for index, value in enumerate(values)}


def check_count(meaning: Meaning, table: ClassTable, answers: Answers) -> None:
    """Ask where the number of classes that was given is not the table's."""
    if answers.num_class not in (None, len(meaning.rows)):
        meaning.questions.append(
            f"--num_class {answers.num_class}, but {table.path} has {len(meaning.rows)} classes: "
            "leave the flag out, or mend the table"
        )


def give_colours(meaning: Meaning, found: Survey) -> None:
    """Give classes the colours that labels' palettes have for them, if these differ."""
    if any(row.colours for row in meaning.rows):
        return
    colours = {
        index: min(found.palette[value])
        for value, index in meaning.classes.items()
        if index >= 0 and value in found.palette
    }
    if len({*colours.values()}) == len(meaning.rows) and 0 not in colours.values():
        for index, row in enumerate(meaning.rows):
            row.colours = [colours[index]]


def decide_turns(meaning: Meaning, found: Survey, answers: Answers) -> None:
    """Which labels lie as their pictures are stored, rather than as EXIF data turns these."""
    if not found.turns:
        return
    sure = {place for place, (stored, turned) in found.turns.items() if not (stored and turned)}
    meaning.stored = {place for place in sure if found.turns[place][0]}
    open_ones = {*found.turns} - sure
    count = f"{len(found.turns):,} pictures are turned by their EXIF data"
    stored, turned = (
        sum(found.turns[place][way] for place in open_ones) / max(len(open_ones), 1)
        for way in (0, 1)
    )
    way = answers.exif
    if way is None and len({place in meaning.stored for place in sure}) == 1:
        way = "stored" if meaning.stored else "turned"
    if way is None and max(stored, turned) > CLEAR * min(stored, turned):
        way = "stored" if stored > turned else "turned"
    if open_ones and way is None:
        meaning.questions.append(
            f"{count}, and {len(open_ones):,} labels fit both ways: do labels lie as pictures are "
            "stored (--exif stored), or as they are shown (--exif turned)?"
        )
        return
    if way == "stored":
        meaning.stored |= open_ones
    meaning.remarks.append(f"{count}: {len(meaning.stored):,} of their labels are turned, too")


def palette(rows: Sequence[ClassRow]) -> np.ndarray:
    """A colour for each class, N x 3 uint8: its own, or a generated one that no other has."""
    spare = iter(distinct_colours(2 * len(rows) + 2)[1:].tolist())
    taken = [channels(row.colours[0]) for row in rows if row.colours]
    colours = []
    for row in rows:
        own = channels(row.colours[0]) if row.colours else None
        colours.append(own or next(colour for colour in spare if colour not in taken))
    return np.array(colours, np.uint8)


def channels(code: int) -> list[int]:
    """Red, green and blue of a colour 0xRRGGBB."""
    return [code >> 16, code >> 8 & 255, code & 255]


def hexadecimal(code: int) -> str:
    """A colour as #rrggbb."""
    return f"#{code:06x}"


def distance(one: int, other: int) -> float:
    """How far two colours are from each other."""
    return float(np.linalg.norm(np.subtract(channels(one), channels(other))))


def nearest_colour(code: int, known: Sequence[int]) -> int:
    """The nearest of some colours."""
    return min(known, key=lambda other: distance(code, other))


def describe_colours(found: dict[int, Tally], codes: Sequence[int]) -> str:
    """Colours with their pixels, for messages."""
    return abbreviate(
        [
            f"{hexadecimal(c)} {tuple(channels(c))} {found[c].pixels:,} pixels in "
            f"{found[c].labels:,} labels like {found[c].example}"
            for c in codes[:6]
        ]
    )


def listed(values: Sequence[int]) -> str:
    """Values in a line: 0 to 11, or 0, 50, 100."""
    if len(values) > 2 and values[-1] - values[0] + 1 == len(values):
        return f"{values[0]} to {values[-1]}"
    return abbreviate([str(value) for value in values])
