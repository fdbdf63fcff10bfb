"""Make pictures and labels of almost any form a data set to train on, and check them.

    python prepare.py SOURCE --data mine    # mine/data.json, mine/classes.png, mine/sheet.png, …
    python prepare.py --data mine           # check a data set again

It ends in `ready` and the command to train with, or in a numbered list of what to mend.
"""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load

import numpy as np

from common.classes import Classes, read_classes
from common.data_file import DATA_FILE, data_flags, load_data
from common.files import check_writable, png, write_atomically
from common.images import unlabelled_value
from options import Parser, within
from preparation.check import RARE, CheckedDataset, ListStatistics, check_datasets, sides
from preparation.conversion import CHART, SHEET, Part, begin, convert, finish
from preparation.decision import decide
from preparation.meaning import Answers
from preparation.overview import contact_sheet, share_chart
from preparation.sources import Source, SourceSettings, prefixes, read_source
from preparation.survey import survey
from preparation.table_files import read_table
from utils import UserError, abbreviate, run_script

TILES = 16  # of the contact sheet


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument(
        "source",
        nargs="*",
        metavar="SOURCE",
        help="folders of pictures and labels; without any, the data set in DATA is checked",
    )
    parser.add_argument("--data", required=True, help="folder of the data set")
    parser.group("classes")
    parser.shared("list_class", default=None, help="class table: names, and values or colours")
    parser.shared("num_class", default=None)
    parser.add_argument(
        "--background",
        choices=("class", "unlabelled"),
        help="what value 0, black, and what no outline covers is",
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        type=within(int, -(2**31), 2**31),
        default=[],
        metavar="VALUE",
        help="values in labels that are unlabelled",
    )
    parser.group("files")
    parser.add_argument(
        "--label_name",
        help="what labels are called, with {stem} for their picture's name: '{stem}_mask.png'",
    )
    parser.add_argument(
        "--exif",
        choices=("stored", "turned"),
        help="how labels lie where EXIF data turns pictures: as these are stored, or shown",
    )
    parser.add_argument(
        "--val_fraction",
        type=within(float, 0, 1),
        help="share of the pictures to draw for validation (default: the source's split, or 0.2)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**63), default=1234, help="random seed")
    parser.add_argument("--yes", action="store_true", help="accept what is offered")
    parser.shared("workers")
    return parser.parse_args()


def main() -> None:
    """Prepare sources and check them, or check what is prepared."""
    args = parse_args()
    folder = Path(args.data)
    if args.source:
        check_writable("--data", folder)
        sources = read_sources(args)
        origin = origin_of(args, sources)
    if not args.source or (folder / DATA_FILE).exists():
        content = load_data(folder)
        if args.source and (other := differences(content.get("origin", {}), origin)):
            raise UserError(
                f"--data {folder} holds a data set that was made otherwise ({'; '.join(other)}): "
                "choose another folder, or delete it"
            )
        check(args, folder, content)
    else:
        parts = understand(args, sources)
        begin(folder)
        content = convert(folder, parts, args.workers)
        check(args, folder, content)
        finish(folder, content | {"origin": origin})
    command = ["python", "train.py", "--data", args.data]
    say(f"ready: {shlex.join(command)}")


def read_sources(args: argparse.Namespace) -> list[Source]:
    """The sources' pairs and classes; the script ends where their form is not known.

    Raises:
        UserError: a source or the class table is not there.
    """
    roots = [Path(source) for source in args.source]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is no folder")
    table = None
    if args.list_class is not None:
        table = replace(read_table(args.list_class), of_source=False)
    settings = SourceSettings(table, args.label_name, args.val_fraction, args.seed)
    try:
        return [read_source(r, settings, p) for r, p in zip(roots, prefixes(roots), strict=True)]
    except UserError as error:
        end_if([str(error)])
        raise


def origin_of(args: argparse.Namespace, sources: Sequence[Source]) -> dict[str, object]:
    """Where a data set comes from: sources, what is in them, and flags."""
    flags = {name: value for name, value in vars(args).items() if name not in ("data", "workers")}
    return flags | {
        "source": [os.path.abspath(source) for source in args.source],
        "digests": [source.digest for source in sources],
    }


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """What differs between two answers of `origin_of`, in words; the first may be empty."""
    if not before:
        return ["not by this script"]
    other = [
        f"--{name} {before.get(name)!r}, not {value!r}"
        for name, value in now.items()
        if name not in ("source", "digests") and before.get(name) != value
    ]
    if before["source"] != now["source"]:
        other.insert(0, f"from {before['source']}")
    elif not other and before["digests"] != now["digests"]:
        other.append("the source has changed since")
    return other


def understand(args: argparse.Namespace, sources: Sequence[Source]) -> list[Part]:
    """The sources' pairs, and what their labels mean; the script ends where that must be asked."""
    answers = Answers(args.num_class, args.background, tuple(args.ignore), args.exif, args.yes)
    parts, questions = [], []
    for path, source in zip(args.source, sources, strict=True):
        for remark in source.remarks:
            say(remark)
        found = survey(source.pairs, args.workers)
        if found.defects:
            defects = abbreviate([*found.defects.values()])
            questions.append(
                f"unreadable labels ({len(found.defects)}): {defects}; replace them, or take their "
                f"pictures out of {path}"
            )
            continue
        meaning = decide(found, source.table, answers)
        for remark in meaning.remarks:
            say(remark)
        questions += meaning.questions
        parts.append(Part(source.pairs, meaning))
    classes = [[row.name for row in part.meaning.rows] for part in parts]
    if not questions and (others := [i for i, names in enumerate(classes) if names != classes[0]]):
        pairs = (0, others[0]), (others[0], 0)
        alone = {i: [name for name in classes[i] if name not in classes[j]] for i, j in pairs}
        told = [f"{args.source[i]} alone has {abbreviate(n)}" for i, n in alone.items() if n]
        questions.append(
            f"the sources have different classes ({'; '.join(told) or 'in another order'}): "
            "prepare them one by one, or give one --list_class for all"
        )
    end_if(questions)
    return parts


def check(args: argparse.Namespace, folder: Path, content: dict[str, Any]) -> None:
    """Check all pictures and labels, and draw what is in them; the script ends where these lack."""
    settings: dict[str, Any] = data_flags(folder, content, next(iter(content["lists"])))
    classes = read_classes(settings["list_class"], content["num_class"])
    names = ("root_img", "root_seg", "num_class", "label_offset")
    datasets = [
        CheckedDataset(str(folder / path), **{name: settings[name] for name in names})
        for path in content["lists"].values()
    ]
    findings = check_datasets(datasets, classes, args.workers, args.yes)
    unlabelled = unlabelled_value(content["num_class"], content["label_offset"])
    for line in summary(findings.lists, classes, unlabelled):
        print(line)
    draw(folder, datasets, findings.lists, classes)
    for hint in findings.hints:
        print(f"Note: {hint}")
    end_if(findings.mend)


def end_if(lines: Sequence[str]) -> None:
    """End the script with a numbered list of what is to mend or to answer, if there is any."""
    if lines:
        say("To mend:")
        for number, line in enumerate(lines, 1):
            say(f"{number}. {line}")
        sys.exit(1)


def say(line: str) -> None:
    """Print a line that can be printed, whatever is in the name of a file."""
    print(UserError(line))


def draw(
    folder: Path,
    datasets: Sequence[CheckedDataset],
    lists: Sequence[ListStatistics],
    classes: Classes,
) -> None:
    """Draw a chart of the classes' shares and a sheet of labelled training pictures."""
    train, pictures = lists[0], datasets[0]
    if train.shares.any():
        chart = share_chart({part.list_file: part.shares for part in lists}, classes, RARE)
        write_atomically(folder / CHART, lambda file: chart.savefig(file, format="png"))
        print(f"Shares of the classes: {folder / CHART}")
    if train.sound:
        drawn = np.linspace(0, len(train.sound) - 1, min(TILES, len(train.sound))).round()
        places = [train.sound[int(i)] for i in drawn]
        items = [(pictures.names[i], *pictures.load(i)) for i in places]
        write_atomically(folder / SHEET, png(contact_sheet(items, classes)))
        print(f"{len(items)} labelled pictures: {folder / SHEET}")


def summary(lists: Sequence[ListStatistics], classes: Classes, unlabelled: int) -> Iterator[str]:
    """Lines about pictures, their sizes, and the shares of the classes."""
    for part in lists:
        sizes = sorted(part.sizes, key=lambda size: (size[0] * size[1], size))
        facts = [f"{part.list_file}: {len(sizes):,} pictures"]
        if len(set(sizes)) == 1:
            facts.append(f"all {sides(sizes[0])}")
        elif sizes:
            named = {"smallest": 0, "median": len(sizes) // 2, "largest": -1}
            facts += [f"{what} {sides(sizes[i])}" for what, i in named.items()]
        if part.histogram.any():
            share = part.histogram[unlabelled] / part.histogram.sum()
            facts.append(f"{share:.2%} of the pixels unlabelled")
        yield ", ".join(facts)
    pictures = np.sum([part.occurrences[part.classes] for part in lists], axis=0)
    if pictures.any():
        heads = [f"  {Path(part.list_file).stem[:10]:>10}" for part in lists]
        yield f"{'class':>24}{''.join(heads)}  in pictures"
    for i in np.argsort(-lists[0].shares, kind="stable"):
        if pictures[i]:
            shares = "".join(f"  {part.shares[i]:10.2%}" for part in lists)
            yield f"{classes.names[i]:>24}{shares}  {pictures[i]:11,}"


if __name__ == "__main__":
    run_script(main)
