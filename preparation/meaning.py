"""What the labels of a source mean, and what of it the user has to tell.

A meaning is decided for all labels together: by `values.py` or `colours.py`. What was decided is
said. What only the user can know becomes a question, and `--yes` accepts what a question offers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from common.classes import distinct_colours
from common.images import unlabelled_value
from preparation.survey import Survey
from preparation.tables import ClassRow, ClassTable, channels
from utils import abbreviate

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

    def offer(self, what: str, way_out: str, accepted: bool) -> None:
        """Say that something was done as offered, or ask whether it may be."""
        if accepted:
            self.remarks.append(f"{what}: {way_out}")
        else:
            self.questions.append(f"{what}; with --yes: {way_out}")

    def take_classes(self, table: ClassTable, answers: Answers, rows: Sequence[ClassRow]) -> None:
        """Take the rows of a table that are classes; those that are called void, say, are none."""
        self.rows = [row for row in rows if not row.is_unlabelled]
        left_out = sorted({row.name for row in rows if row.is_unlabelled})
        if left_out:
            self.remarks.append(f"unlabelled, by their names: {abbreviate(left_out)}")
        if answers.num_class not in (None, len(self.rows)):
            self.questions.append(
                f"--num_class {answers.num_class}, but {table.path} has {len(self.rows)} classes: "
                "leave the flag out, or mend the table"
            )

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


def decide_turns(meaning: Meaning, found: Survey, answers: Answers) -> None:
    """Which labels lie as their pictures are stored, rather than as EXIF data turns these."""
    if not found.turns:
        return
    sure = {place for place, (stored, turned) in found.turns.items() if not (stored and turned)}
    meaning.stored = {place for place in sure if found.turns[place][0]}
    open_ones = {*found.turns} - sure
    other = meaning.stored if answers.exif == "turned" else sure - meaning.stored
    if answers.exif and other:
        meaning.remarks.append(
            f"--exif {answers.exif}: not for {len(other):,} labels, which surely lie the other way"
        )
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
