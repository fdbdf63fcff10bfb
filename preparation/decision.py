"""Decide whether labels are values or colours, and what these mean."""

from preparation.colours import agree, decide_colours
from preparation.meaning import Answers, Meaning, decide_turns
from preparation.survey import Survey
from preparation.tables import ClassTable
from preparation.values import decide_values


def decide(found: Survey, table: ClassTable | None, answers: Answers) -> Meaning:
    """What labels mean, given what they hold; questions where that cannot be known.

    Labels with a palette are both: their colours count where a table has them, or where palettes
    differ from file to file.
    """
    meaning = Meaning()
    all_have_colours = found.num_colours == found.num_labels
    in_colours = found.num_values < found.num_labels
    disagreeing = [index for index, colours in found.palette.items() if len(colours) > 1]
    if (in_colours or disagreeing) and not all_have_colours:
        meaning.questions.append(
            "some labels are in colours and some are values in grey: prepare each kind by itself"
        )
        return meaning
    by_table = table is not None and table.has_colours and agree(found.colours, table)
    if disagreeing and not by_table:
        meaning.remarks.append(
            f"palettes differ from file to file, as for index {disagreeing[0]}: colours count"
        )
    if in_colours or disagreeing or (by_table and all_have_colours):
        decide_colours(meaning, found.colours, table, answers)
    else:
        decide_values(meaning, found, table, answers)
    decide_turns(meaning, found, answers)
    return meaning
