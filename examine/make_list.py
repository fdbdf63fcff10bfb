"""List files for a folder of pictures and labels, which are matched by name.

Labels in colours become class indices, by the colours of a class table, in a folder of their own.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from checkpoint import check_writable, text, write_whole
from classes import ADE20K_CLASSES
from dataset import make_loader
from decoding import FORMATS, unlabelled_value
from examine.survey import Survey, read_codes, read_colours, survey
from utils import UserError, few

ENDINGS = ("", "_L", "_mask", "_label")  # what a label's name may have beyond its picture's
TRAIN_FOLDERS, VAL_FOLDERS = ("train", "training"), ("val", "validation")
VAL_FRACTION = 0.2


@dataclass(frozen=True)
class Lists:
    """The lists that were written, and what is known of the data set now.

    Attributes:
        train, val: the files.
        root_seg: folder of the labels, which may be a new one.
        num_class, label_offset: as given, or as the values in the labels suggest.
        remarks: what has been found and done, a line each.
    """

    train: Path
    val: Path
    root_seg: Path
    num_class: int
    label_offset: int
    remarks: list[str]


def make_lists(
    folder: Path,
    root_img: Path,
    root_seg: Path,
    list_class: str = ADE20K_CLASSES,
    num_class: int | None = None,
    label_offset: int | None = None,
    val_fraction: float | None = None,
    seed: int = 1234,
    workers: int = 0,
) -> Lists:
    """Match pictures with labels, share them out to training and validation, and write the lists.

    Labels in colours, or with names that differ from their pictures', get copies in a new folder
    that have neither.

    Args:
        folder: of the lists.
        root_img: folder of the pictures.
        root_seg: folder of the labels.
        list_class: the class table, whose colours those of labels in colours are.
        num_class: number of classes; None = what the labels suggest.
        label_offset: value of the first class; None = what the labels suggest.
        val_fraction: share of the pictures for validation; None: see `split`.
        seed: of the split.
        workers: processes that read labels.

    Raises:
        UserError: something would be overwritten, nothing matches, or a colour is no class's.
    """
    train_file, val_file = folder / "train.txt", folder / "val.txt"
    copies = root_seg.with_name(f"{root_seg.name}_index")
    refuse_overwriting(train_file, val_file)
    check_writable("--make_list", folder)
    pairs, remarks = match(root_img, root_seg)
    contents = survey(root_seg, pairs, remarks, workers)
    train, val = split(list(pairs), val_fraction, seed, remarks)
    colours: dict[int, int] = {}
    if contents.in_colour:
        label_offset = 1 if label_offset is None else label_offset
        colours = read_colours(list_class, num_class, label_offset, contents)
    else:
        num_class, label_offset = suggest(contents, num_class, label_offset, remarks)
    if colours or any(label != plain_name(name) for name, label in pairs.items()):
        refuse_overwriting(copies)
        check_writable("--root_seg", copies)
        loader = make_loader(Copies(root_seg, pairs, copies, colours), workers, batch_size=None)
        for _ in tqdm(loader, unit=" labels", leave=False, disable=None):
            pass
        remarks.append(f"{copies}: the labels as class indices, named as their pictures")
        root_seg = copies
    for path, names in ((train_file, train), (val_file, val)):
        write_whole(path, text("".join(f"{name}\n" for name in names)))
        remarks.append(f"{path}: {len(names):,} pictures")
    return Lists(train_file, val_file, root_seg, num_class, label_offset, remarks)


def refuse_overwriting(*paths: Path) -> None:
    """See that nothing is in the way.

    Raises:
        UserError: something is.
    """
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise UserError(f"--make_list would overwrite {few(there)}: move or delete what is there")


def match(root_img: Path, root_seg: Path) -> tuple[dict[str, str], list[str]]:
    """Labels by picture, by their names within the folders; and lines about those left out.

    Raises:
        UserError: there are not two pairs at least.
    """
    if os.path.realpath(root_img) == os.path.realpath(root_seg):
        raise UserError(f"--root_seg {root_seg} is --root_img, too: labels need their own folder")
    labels = {os.path.splitext(name)[0]: name for name in find_files(root_seg, (".png",))}
    pictures = find_files(root_img, FORMATS)
    pairs: dict[str, str] = {}
    alone, same, unlisted = [], [], []
    taken: set[str] = set()
    for name in pictures:
        stem = os.path.splitext(name)[0]
        label = next((labels[stem + end] for end in ENDINGS if stem + end in labels), None)
        if label is None:
            alone.append(name)
        elif label in taken:
            same.append(name)
        else:
            taken.add(label)
            if name.isprintable() and name == name.strip():
                pairs[name] = label
            else:
                unlisted.append(name)
    if len(pairs) < 2:
        example = f", such as {plain_name(pictures[0])} for {pictures[0]}" if pictures else ""
        raise UserError(
            f"{len(pairs)} of {len(pictures)} pictures ({' '.join(FORMATS)}) in {root_img} have a "
            f"label, a PNG of the same name{example}, in {root_seg}; check --root_img, --root_seg"
        )
    left_out = {
        "pictures without a label": alone,
        "labels without a picture": sorted({*labels.values()} - taken),
        "pictures whose label another one has already": same,
        "pictures with a name that no list can hold": unlisted,
    }
    return pairs, [
        f"{what}, left out ({len(names)}): {few(names)}"
        for what, names in left_out.items()
        if names
    ]


def find_files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Names, relative to a folder, of the visible files in it that end so; sorted.

    Raises:
        UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; check --make_list, or give --root_img, --root_seg")
    return sorted(
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(endings) and not name.startswith(".")
    )


def plain_name(name: str) -> str:
    """What the label of a picture is to be called."""
    return f"{os.path.splitext(name)[0]}.png"


def split(
    names: Sequence[str], val_fraction: float | None, seed: int, remarks: list[str]
) -> tuple[list[str], list[str]]:
    """Pictures for training and for validation, one each at least; the same for the same seed.

    Without a fraction, pictures in subfolders of `TRAIN_FOLDERS` and `VAL_FOLDERS`, if there are
    some of both, are for what they are called; otherwise the fraction is `VAL_FRACTION`.
    """
    if val_fraction is None:
        folders = [name.partition("/")[0].lower() for name in names]
        train, val = (
            [name for name, folder in zip(names, folders, strict=True) if folder in called]
            for called in (TRAIN_FOLDERS, VAL_FOLDERS)
        )
        if train and val:
            remarks.append("split by subfolders; --val_fraction splits at random")
            others = sorted({*names} - {*train, *val})
            if others:
                remarks.append(f"pictures of other subfolders, left out: {few(others)}")
            return train, val
        val_fraction = VAL_FRACTION
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    chosen = set(random.Random(seed).sample(names, count))
    return [name for name in names if name not in chosen], [n for n in names if n in chosen]


class Copies(Dataset):
    """Asking for item i writes a copy of a label, with class indices and its picture's name.

    Args:
        root_seg: folder of the labels.
        pairs: their names, by their pictures'.
        target: folder of the copies.
        colours: values by colour; of no use where labels are not in colours.
    """

    def __init__(
        self, root_seg: Path, pairs: dict[str, str], target: Path, colours: dict[int, int]
    ):
        self.root_seg = root_seg
        self.pairs = list(pairs.items())
        self.target = target
        self.colours = colours

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> int:
        name, label = self.pairs[index]
        values, in_colour = read_codes(self.root_seg / label)
        if in_colour:
            codes, places = np.unique(values, return_inverse=True)
            values = np.array([self.colours[code] for code in codes.tolist()])[places]
            values = values.reshape(places.shape)
        image = Image.fromarray(values.astype(np.uint8 if values.max() < 256 else np.uint16))
        write_whole(self.target / plain_name(name), partial(image.save, format="PNG"))
        return index


def suggest(
    survey: Survey, num_class: int | None, offset: int | None, remarks: list[str]
) -> tuple[int, int]:
    """Number of classes and value of the first, as given, or as the values in labels suggest.

    Raises:
        UserError: they suggest less than two classes.
    """
    values = sorted(survey.found)
    unlabelled = 255 if values[-1] <= 255 else 2**16 - 1
    highest = max((value for value in values if value != unlabelled), default=0)
    given = num_class is not None and offset is not None
    if offset is None:
        # Where there are but two values, the first is not unlabelled, but the ground.
        from_0 = unlabelled in values or highest == 1 or highest + 1 == num_class
        offset = 0 if from_0 else 1
    if num_class is None:
        num_class = highest + 1 - offset
        if num_class < 2:
            raise UserError(
                f"the labels hold the values {few([str(value) for value in values])} only: write "
                "class indices, such as 0 and 1; or give --num_class and --label_offset"
            )
    if not given:
        remarks.append(
            f"the labels hold values from {values[0]} to {values[-1]}: taken for classes from "
            f"{offset} to {num_class - 1 + offset}, and {unlabelled_value(num_class, offset)} for "
            "unlabelled; otherwise give --num_class and --label_offset"
        )
    return num_class, offset
