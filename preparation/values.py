"""What the values of labels mean: the classes of a table, or those that values suggest."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice

from common.images import MAX_VALUE
from preparation.colours import MOST_GUESSED, is_grey
from preparation.meaning import Answers, Meaning
from preparation.soft_values import nearest_value, own_values
from preparation.survey import MOST_CODES, Survey, Tally, named
from preparation.tables import ClassRow, ClassTable, plain
from utils import abbreviate

IGNORED = (255, MAX_VALUE)  # values that mean unlabelled by convention
MOST_TOLD = 40  # classes that are listed with their values


def decide_values(
    meaning: Meaning, found: Survey, table: ClassTable | None, answers: Answers
) -> None:
    """The class of each value: by a table, or as the values suggest."""
    tallies = found.values
    if len(tallies) > MOST_CODES:
        meaning.questions.append("the labels hold more than 65,536 values: these are no classes")
        return
    if table is None and answers.num_class is not None:
        rows = [ClassRow(name) for name in islice(class_names(), answers.num_class)]
        table = ClassTable("--num_class", rows, of_source=False)
    if table is not None:
        table = with_greys(table, tallies)
    soft = soft_values(meaning, found, table, answers)
    values = [v for v in sorted(tallies) if v not in soft and v not in answers.ignore]
    if meaning.questions or not ask_about_255(meaning, found, values):
        return
    if table is None:
        suggest(meaning, values, answers)
    elif table.has_values:
        use_values(meaning, tallies, values, table, answers)
    else:
        use_order(meaning, tallies, values, table, answers)
    meaning.classes |= {value: -1 for value in answers.ignore if value in tallies}
    known = dict(meaning.classes)
    for value, near in soft.items():
        meaning.classes[value] = -1 if near is None else known.get(near, -1)
    give_colours(meaning, found)


def with_greys(table: ClassTable, tallies: dict[int, Tally]) -> ClassTable:
    """A table whose colours are greys, and these the labels' values, with the values in it."""
    greys = [code & 255 for row in table.rows for code in row.colours if is_grey(code)]
    alike = all(len(row.colours) == 1 for row in table.rows) and len(greys) == len(table.rows)
    if not alike or table.has_values or not {*tallies} <= {*greys, 0, *IGNORED}:
        return table
    rows = [replace(row, value=row.colours[0] & 255) for row in table.rows]
    return replace(table, rows=rows, counts_rows=False)


def soft_values(
    meaning: Meaning, found: Survey, table: ClassTable | None, answers: Answers
) -> dict[int, int | None]:
    """Values that interpolation or lossy storage made, and the class's own value nearest to each.

    They are asked about, or accepted.
    """
    if not (found.blurred or found.lossy):
        return {}
    tallies = found.values
    given = [row.value for row in table.rows if row.value is not None] if table else []
    own = own_values(tallies, given if table and table.has_values else ())
    labels = found.blurred or found.lossy
    if not own:
        cause = "stored with loss" if found.lossy else "scaled with interpolation"
        text = (
            f"{len(labels):,} labels look {cause}, such as {labels[0]}: along edges they hold "
            "values of other classes"
        )
        if found.lossy:
            meaning.questions.append(f"{text}; store labels as PNG")
        else:
            meaning.offer(
                f"{text}; scale labels by the nearest pixel. If these are thin areas",
                "their values are taken as they are",
                answers.yes,
            )
        return {}
    soft = {value: nearest_value(value, own) for value in tallies if value not in own}
    if soft:
        share = sum(tallies[v].pixels for v in soft) / sum(t.pixels for t in tallies.values())
        meaning.offer(
            f"{len(soft):,} values beside {listed(own)} come of interpolation or lossy storage, as "
            f"in {labels[0]}, and have {share:.2%} of the pixels",
            "each becomes the nearest" + " or, in between, unlabelled" * (len(own) > 2),
            answers.yes,
        )
    return soft


def ask_about_255(meaning: Meaning, found: Survey, values: Sequence[int]) -> bool:
    """Whether 255 can be what it is by convention; asks where labels with it have nothing else."""
    others = [value for value in values if 0 < value < 255]
    if 255 not in values or not others or 255 in found.shared or others[-1] == 254:
        return True
    meaning.questions.append(
        f"labels that hold 255 hold 0 beside it, and others {listed(others)}, as in masks of two "
        "kinds: prepare each kind by itself, or give --ignore 255 if that is unlabelled"
    )
    return False


def use_values(
    meaning: Meaning,
    tallies: dict[int, Tally],
    values: Sequence[int],
    table: ClassTable,
    answers: Answers,
) -> None:
    """Classes by a table that tells the value of each."""
    rows = table.rows
    if answers.background == "unlabelled":
        rows = [row for row in rows if row.value != 0]
    elif answers.background == "class" and 0 not in [row.value for row in rows]:
        rows = [ClassRow("background", 0), *rows]
    meaning.take_classes(table, answers, rows)
    meaning.classes = {row.value: -1 for row in table.rows if row.value is not None}
    meaning.classes |= {row.value: i for i, row in enumerate(meaning.rows) if row.value is not None}
    if table.of_outlines:
        say_uncovered(meaning, tallies, table)
    told = [f"{row.value} = {row.name}" for row in meaning.rows]
    told = told if len(told) <= MOST_TOLD else [*told[:MOST_TOLD], "…"]
    meaning.remarks.append(f"values by {table.path}: {', '.join(told)}")
    leave_out(meaning, tallies, values, table.path)


def say_uncovered(meaning: Meaning, tallies: dict[int, Tally], table: ClassTable) -> None:
    """Say what becomes of pixels that no outline covers: of the class background, or of none."""
    pixels = tallies[0].pixels if 0 in tallies else 0
    share = pixels / max(sum(tally.pixels for tally in tallies.values()), 1)
    name = next((row.name for row in meaning.rows if row.value == 0), None)
    if name is None:
        meaning.remarks.append(f"pixels in no outline ({share:.1%}) are unlabelled")
        meaning.classes[0] = -1
    else:
        meaning.remarks.append(
            f"pixels in no outline ({share:.1%}) are the class {name}; "
            "--background unlabelled leaves them out"
        )


def leave_out(
    meaning: Meaning, tallies: dict[int, Tally], values: Iterable[int], path: str
) -> None:
    """Values of no class: 0, 255 and 65535 are unlabelled, others are questions."""
    unknown = [value for value in values if value not in meaning.classes]
    unlabelled = [value for value in unknown if value in (0, *IGNORED)]
    meaning.classes |= dict.fromkeys(unlabelled, -1)
    if unlabelled:
        meaning.remarks.append(f"unlabelled, being of no class: {listed(unlabelled)}")
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
    # As many values as classes, which are no indices; 0 to N-1 and 255 are.
    far_apart = len(values) == num and values[-1] > num and values[:-1] != [*range(num - 1)]
    if far_apart or values == [0, 255]:
        in_order(meaning, values, table, answers)
        return
    beyond = [value for value in values if value > num and value not in IGNORED]
    if len(beyond) > 1:
        meaning.questions.append(
            f"the labels hold the values {listed(values)}, and {table.path} has {num} classes: is "
            "it the table of other labels?"
        )
        return
    first = first_value(values, core, table, answers)
    if first is None:
        meaning.questions.append(
            f"the labels hold the values {listed(core)}, and {table.path} has {num} classes: is 0 "
            "the first of them (--background class), or unlabelled (--background unlabelled)?"
            + (f" Or is {num} unlabelled (--ignore {num})?" if num in core else "")
        )
        return
    rows = list(table.rows)
    unlabelled_first = answers.background == "unlabelled" and first == 0
    if first == 1 and answers.background == "class":
        rows, first = [ClassRow("background"), *rows], 0
    meaning.take_classes(table, answers, rows[unlabelled_first:])
    places = {id(row): index for index, row in enumerate(meaning.rows)}
    meaning.classes = {i: places.get(id(row), -1) for i, row in enumerate(rows, first)}
    last = len(rows) - 1 + first
    meaning.remarks.append(f"the values {first} to {last} are {table.path}'s rows in their order")
    leave_out(meaning, tallies, values, table.path)


def first_value(
    values: Sequence[int], core: Sequence[int], table: ClassTable, answers: Answers
) -> int | None:
    """The value of a table's first row: 0, 1, or None where that is a question.

    Args:
        values: those in labels.
        core: those of them that may be of a class.
        table: the classes in their order.
        answers: what the user says.
    """
    num, highest = len(table.rows), max(core, default=0)
    zero_is_first = plain(table.rows[0].name) == "background" or table.rows[0].is_unlabelled
    if zero_is_first and highest < num:
        return 0
    if answers.background is not None:
        return 0 if answers.background == "class" and highest < num else 1
    if highest == num:
        # The table of another source may count the rows alone, and the highest value be void.
        return 1 if (table.is_numbered and table.of_source) or 0 not in core else None
    if 0 not in core:
        return 1 if table.is_numbered else None
    ends = highest == num - 1 and (
        len(core) == num or any(v in IGNORED and v > num for v in values)
    )
    return 0 if ends and not table.is_numbered else None


def in_order(meaning: Meaning, values: Sequence[int], table: ClassTable, answers: Answers) -> None:
    """Offer the classes of a table, in their order, for as many values far apart."""
    meaning.take_classes(table, answers, table.rows)
    meaning.classes = dict(zip(values, range(len(values)), strict=False))
    if len(values) != len(meaning.rows):
        meaning.questions.append(
            f"the labels hold the values {listed(values)}, and {table.path} has "
            f"{len(meaning.rows)} classes: give a table with the columns value,name"
        )
        return
    pairs = [f"{v} = {row.name}" for v, row in zip(values, meaning.rows, strict=True)]
    meaning.offer(
        f"the labels hold the values {listed(values)}, which are no class indices",
        f"they are {table.path}'s classes in their order, {abbreviate(pairs)}",
        answers.yes,
    )


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
    elif core[0] > 0 or answers.background == "unlabelled":
        number(meaning, range(1, core[-1] + 1), class_names())
    elif len(core) < len(values) or len(core) == 2 or answers.background == "class":
        number(meaning, range(core[-1] + 1), class_names())
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
    number(meaning, classes, [f"value {value}" for value in classes])
    meaning.offer(
        f"the labels hold the values {listed(core)}, which are no class indices; a table with the "
        "columns value,name, by --list_class, names them; --ignore and --background take some out",
        f"{listed(classes)} become classes in this order",
        answers.yes,
    )


def number(meaning: Meaning, values: Sequence[int], names: Iterable[str]) -> None:
    """Make values classes in their order."""
    meaning.rows = [ClassRow(name, value) for name, value in zip(names, values, strict=False)]
    meaning.classes = {value: index for index, value in enumerate(values)}


def class_names() -> Iterator[str]:
    """Names of classes that have none: class 1, class 2, …"""
    return (f"class {i}" for i in count(1))


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


def listed(values: Sequence[int]) -> str:
    """Values in a line: 0 to 11, or 0, 50, 100."""
    if len(values) > 2 and values[-1] - values[0] + 1 == len(values):
        return f"{values[0]} to {values[-1]}"
    return abbreviate([str(value) for value in values])
