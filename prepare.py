"""Check a data set, or write the lists of one.

    python prepare.py --make_list mine                     # lists of mine/images, mine/annotations
    python prepare.py --list mine/train.txt --list_val mine/val.txt --num_class 11 \\
        --root_img mine/images --root_seg mine/annotations  # is anything wrong with it?

A check ends in `ready` and the command to train with, or in a numbered list of what to mend.
"""

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load

import numpy as np

from common.classes import ADE20K_CLASSES, Classes, read_classes
from common.files import check_writable, png, write_atomically
from common.images import unlabelled_value
from options import SHARED, Parser, within
from preparation.check import RARE, CheckedDataset, ListStatistics, check_datasets, sides
from preparation.lists import ListSettings, make_lists
from preparation.overview import contact_sheet, share_chart
from utils import UserError, run_script

TILES = 16  # of the contact sheet
CHART, SHEET = "classes.png", "sheet.png"


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.group("check")
    parser.add_argument("--list", metavar="FILE", help="pictures to train on, one a line")
    parser.shared("list_val", default=None)
    parser.shared("result", default="./result/data")
    parser.group("write lists")
    parser.add_argument(
        "--make_list",
        metavar="FOLDER",
        help="write FOLDER/train.txt and val.txt, of pictures in FOLDER/images or ROOT_IMG and "
        "their labels of the same name in FOLDER/annotations or ROOT_SEG",
    )
    parser.add_argument(
        "--val_fraction",
        type=within(float, 0, 1),
        help="share of the pictures for validation (default: 0.2, but subfolders train and val, or "
        "training and validation, are kept apart)",
    )
    parser.add_argument("--seed", type=within(int, 0, 2**63), default=1234, help="random seed")
    parser.group("data")
    parser.shared("root_img", "root_seg", "num_class", "label_offset", default=None)
    parser.shared("list_class", "workers")
    args = parser.parse_args()
    if (args.list is None) == (args.make_list is None):
        parser.error("give either --list, to check a data set, or --make_list")
    return args


def data_flags(args: argparse.Namespace) -> list[str]:
    """The flags that tell other commands of the data set."""
    flags = ["--root_img", args.root_img, "--root_seg", args.root_seg]
    flags += ["--num_class", str(args.num_class)]
    if args.list_class != ADE20K_CLASSES:
        flags += ["--list_class", args.list_class]
    if not args.label_offset:
        flags += ["--label_offset", "0"]
    return flags


def main() -> None:
    """Check a data set or write its lists, as the flags say."""
    args = parse_args()
    if args.make_list is not None:
        write_lists(args)
    else:
        check(args)


def check(args: argparse.Namespace) -> None:
    """Check the lists' pictures and labels, draw what is in them, and tell what to mend."""
    for name in ("root_img", "root_seg", "num_class", "label_offset"):
        if getattr(args, name) is None:
            setattr(args, name, SHARED[name]["default"])
    folder = Path(args.result)
    check_writable("--result", folder)
    classes = read_classes(args.list_class, args.num_class)
    settings = {
        "root_img": args.root_img,
        "root_seg": args.root_seg,
        "num_class": args.num_class,
        "label_offset": args.label_offset,
    }
    lists = [path for path in (args.list, args.list_val) if path is not None]
    datasets = [CheckedDataset(path, **settings) for path in lists]
    findings = check_datasets(datasets, classes, args.workers)
    for line in summary(
        findings.lists, classes, unlabelled_value(args.num_class, args.label_offset)
    ):
        print(line)
    draw(folder, datasets, findings.lists, classes)
    for hint in findings.hints:
        print(f"Note: {hint}")
    if findings.mend:
        print("To mend:")
        for number, line in enumerate(findings.mend, 1):
            print(f"{number}. {line}")
        sys.exit(1)
    command = ["python", "train.py", "--list_train", args.list, "--list_val", str(args.list_val)]
    print("ready" if len(lists) == 1 else f"ready: {shlex.join([*command, *data_flags(args)])}")


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
            facts.append(f"{share:.2%} of the pixels unlabelled (value {unlabelled})")
        yield ", ".join(facts)
    pictures = np.sum([part.occurrences[part.classes] for part in lists], axis=0)
    if pictures.any():
        heads = [f"  {Path(part.list_file).stem[:10]:>10}" for part in lists]
        yield f"{'class':>24}{''.join(heads)}  in pictures"
    for i in np.argsort(-lists[0].shares, kind="stable"):
        if pictures[i]:
            shares = "".join(f"  {part.shares[i]:10.2%}" for part in lists)
            yield f"{classes.names[i]:>24}{shares}  {pictures[i]:11,}"


def write_lists(args: argparse.Namespace) -> None:
    """Write lists, and tell how to check the pictures that they name."""
    folder = Path(args.make_list)
    args.root_img = args.root_img or str(folder / "images")
    settings = ListSettings(
        list_class=args.list_class,
        num_class=args.num_class,
        label_offset=args.label_offset,
        val_fraction=args.val_fraction,
        seed=args.seed,
        workers=args.workers,
    )
    root_seg = Path(args.root_seg or folder / "annotations")
    lists = make_lists(folder, Path(args.root_img), root_seg, settings)
    for remark in lists.remarks:
        print(UserError(remark))  # a line that can be printed, whatever is in the name of a file
    args.root_seg, args.num_class = str(lists.root_seg), lists.num_class
    args.label_offset = lists.label_offset
    names = ["--list", str(lists.train), "--list_val", str(lists.val)]
    print("To check the data set:")
    print(shlex.join(["python", "prepare.py", *names, *data_flags(args)]))


if __name__ == "__main__":
    run_script(main)
