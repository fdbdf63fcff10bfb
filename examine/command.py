"""The command line of `dataset.py`: it examines a data set, or writes the lists of one."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from checkpoint import check_writable, write_whole
from classes import ADE20K_CLASSES, Classes, read_classes
from decoding import unlabelled_value
from examine import RARE, Part, Probes, examine, sides
from examine.make_list import make_lists
from examine.overview import contact_sheet, share_chart
from options import SHARED, Parser, within
from utils import UserError

TILES = 16  # of the contact sheet
CHART, SHEET = "classes.png", "sheet.png"


def parse_args() -> argparse.Namespace:
    parser = Parser("Examine a data set, or write the lists of one.")
    parser.group("examine")
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
        parser.error("give either --list, to examine a data set, or --make_list")
    return args


def data_flags(args: argparse.Namespace) -> list[str]:
    """The flags by which other commands know the data set."""
    flags = ["--root_img", args.root_img, "--root_seg", args.root_seg]
    flags += ["--num_class", str(args.num_class)]
    if args.list_class != ADE20K_CLASSES:
        flags += ["--list_class", args.list_class]
    if not args.label_offset:
        flags += ["--label_offset", "0"]
    return flags


def main() -> None:
    args = parse_args()
    if args.make_list is not None:
        return write_lists(args)
    for name in ("root_img", "root_seg", "num_class", "label_offset"):
        if getattr(args, name) is None:
            setattr(args, name, SHARED[name]["default"])
    folder = Path(args.result)
    check_writable("--result", folder)
    classes = read_classes(args.list_class, args.num_class)
    folders = dict(root_img=args.root_img, root_seg=args.root_seg)
    values = dict(num_class=args.num_class, label_offset=args.label_offset)
    lists = [path for path in (args.list, args.list_val) if path is not None]
    datasets = [Probes(path, **folders, **values) for path in lists]
    findings = examine(datasets, classes, args.workers)
    parts = findings.parts
    for line in summary(parts, classes, unlabelled_value(args.num_class, args.label_offset)):
        print(line)
    if parts[0].shares.any():
        shares = {part.list_file: part.shares for part in parts}
        chart = share_chart(shares, classes, RARE)
        write_whole(folder / CHART, partial(chart.savefig, format="png"))
        print(f"Shares of the classes: {folder / CHART}")
    if parts[0].sound:
        drawn = np.linspace(0, len(parts[0].sound) - 1, min(TILES, len(parts[0].sound))).round()
        places = [parts[0].sound[int(i)] for i in drawn]
        items = [(datasets[0].names[i], *datasets[0].load(i)) for i in places]
        sheet = contact_sheet(items, classes)
        write_whole(folder / SHEET, partial(sheet.save, format="PNG"))
        print(f"{len(items)} labelled pictures: {folder / SHEET}")
    for hint in findings.hints:
        print(f"Note: {hint}")
    if findings.mend:
        print("To mend:")
        for number, line in enumerate(findings.mend, 1):
            print(f"{number}. {line}")
        sys.exit(1)
    command = ["python", "train.py", "--list_train", args.list, "--list_val", str(args.list_val)]
    print("ready" if len(lists) == 1 else f"ready: {shlex.join([*command, *data_flags(args)])}")


def summary(parts: Sequence[Part], classes: Classes, unlabelled: int) -> Iterator[str]:
    """Lines about what there is: pictures, their sizes, and the shares of the classes."""
    for part in parts:
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
    pictures = sum(part.occurrences[part.classes] for part in parts)
    if pictures.any():
        heads = [f"  {Path(part.list_file).stem[:10]:>10}" for part in parts]
        yield f"{'class':>24}{''.join(heads)}  in pictures"
    for i in np.argsort(-parts[0].shares, kind="stable"):
        if pictures[i]:
            shares = "".join(f"  {part.shares[i]:10.2%}" for part in parts)
            yield f"{classes.names[i]:>24}{shares}  {pictures[i]:11,}"


def write_lists(args: argparse.Namespace) -> None:
    """Write lists, and tell how to examine what they name."""
    folder = Path(args.make_list)
    args.root_img = args.root_img or str(folder / "images")
    lists = make_lists(
        folder,
        Path(args.root_img),
        Path(args.root_seg or folder / "annotations"),
        *(args.list_class, args.num_class, args.label_offset),
        *(args.val_fraction, args.seed, args.workers),
    )
    for remark in lists.remarks:
        print(UserError(remark))  # a line that can be printed, whatever is in the name of a file
    args.root_seg, args.num_class = str(lists.root_seg), lists.num_class
    args.label_offset = lists.label_offset
    names = ["--list", str(lists.train), "--list_val", str(lists.val)]
    print("To examine the data set:")
    print(shlex.join(["python", "dataset.py", *names, *data_flags(args)]))
