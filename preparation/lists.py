"""Write the list files of a folder of pictures and labels that are matched by name.

Labels in a class table's colours become class indices, in a folder of their own.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from common.classes import ADE20K_CLASSES
from common.files import check_writable, png, text, write_atomically
from common.images import FORMATS, unlabelled_value
from common.loader import make_loader
from preparation.label_values import CodeCounts, count_codes, read_codes, read_colours
from utils import UserError, abbreviate

ENDINGS = ("", "_L", "_mask", "_label")  # what a label's name may have beyond its picture's
TRAIN_FOLDERS, VAL_FOLDERS = ("train", "training"), ("val", "validation")
VAL_FRACTION = 0.2


@dataclass(frozen=True)
class ListSettings:
    """How to make lists.

    Attributes:
        list_class: the class table with the colours of labels in colours.
        num_class: number of classes; None = as the labels suggest.
        label_offset: value of the first class; None = as the labels suggest.
        val_fraction: share of the pictures for validation; None: see `split`.
        seed: of the split.
        workers: processes that read labels.
    """

    list_class: str = ADE20K_CLASSES
    num_class: int | None = None
    label_offset: int | None = None
    val_fraction: float | None = None
    seed: int = 1234
    workers: int = 0


@dataclass(frozen=True)
class Lists:
    """The lists that were written, and what is known of the data set now.

    Attributes:
        train, val: the files.
        root_seg: folder of the labels, which may be a new one.
        num_class, label_offset: as given, or as the values in the labels suggest.
        remarks: what was found and done, a line each.
    """

    train: Path
    val: Path
    root_seg: Path
    num_class: int
    label_offset: int
    remarks: list[str]


def make_lists(
    folder: Path, root_img: Path, root_seg: Path, settings: ListSettings | None = None
) -> Lists:
    """Match pictures with labels, split them into training and validation, and write the lists.

    Labels in colours, or with names that differ from their pictures', get copies in a new folder
    that have neither.

    Args:
        folder: of the lists.
        root_img: folder of the pictures.
        root_seg: folder of the labels.
        settings: None = the defaults.

    Raises:
        UserError: something would be overwritten, nothing matches, or a colour is no class's.
    """
    settings = settings or ListSettings()
    train_file, val_file = folder / "train.txt", folder / "val.txt"
    copies = root_seg.with_name(f"{root_seg.name}_index")
    refuse_overwriting(train_file, val_file)
    check_writable("--make_list", folder)
    pairs, remarks = match(root_img, root_seg)
    counts = count_codes(root_seg, pairs, remarks, settings.workers)
    train, val = split(list(pairs), settings.val_fraction, settings.seed, remarks)
    colours: dict[int, int] = {}
    if counts.in_colour:
        label_offset = 1 if settings.label_offset is None else settings.label_offset
        num_class, colours = read_colours(
            settings.list_class, settings.num_class, label_offset, counts
        )
    else:
        num_class, label_offset = suggest(
            counts, settings.num_class, settings.label_offset, remarks
        )
    if colours or any(label != plain_name(name) for name, label in pairs.items()):
        refuse_overwriting(copies)
        check_writable("--root_seg", copies)
        dataset = IndexLabels(root_seg, pairs, copies, colours)
        loader = make_loader(dataset, settings.workers, batch_size=None)
        for _ in tqdm(loader, unit=" labels", leave=False, disable=None):
            pass
        remarks.append(f"{copies}: the labels as class indices, named as their pictures")
        root_seg = copies
    for path, names in ((train_file, train), (val_file, val)):
        write_atomically(path, text("".join(f"{name}\n" for name in names)))
        remarks.append(f"{path}: {len(names):,} pictures")
    return Lists(train_file, val_file, root_seg, num_class, label_offset, remarks)


def refuse_overwriting(*paths: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        UserError: something would.
    """
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there:
        raise UserError(
            f"--make_list would overwrite {abbreviate(there)}: move or delete what is there"
        )


def match(root_img: Path, root_seg: Path) -> tuple[dict[str, str], list[str]]:
    """The label of each picture, as names within the folders, and remarks on what is left out.

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
        f"{what}, left out ({len(names)}): {abbreviate(names)}"
        for what, names in left_out.items()
        if names
    ]


def find_files(folder: Path, endings: tuple[str, ...]) -> list[str]:
    """Names, relative to a folder, of the visible files in it with these endings; sorted.

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
    """The name of a picture's label."""
    return f"{os.path.splitext(name)[0]}.png"


def split(
    names: Sequence[str], val_fraction: float | None, seed: int, remarks: list[str]
) -> tuple[list[str], list[str]]:
    """Pictures for training and for validation, one each at least; the same for the same seed.

    Without a fraction, subfolders called as in `TRAIN_FOLDERS` and `VAL_FOLDERS` decide, if both
    have pictures; otherwise the fraction is `VAL_FRACTION`.
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
                remarks.append(f"pictures of other subfolders, left out: {abbreviate(others)}")
            return train, val
        val_fraction = VAL_FRACTION
    count = min(max(1, round(val_fraction * len(names))), len(names) - 1)
    chosen = set(random.Random(seed).sample(names, count))
    return [name for name in names if name not in chosen], [n for n in names if n in chosen]


class IndexLabels(Dataset):
    """Reading item i writes a copy of a label, with class indices and its picture's name.

    Args:
        root_seg: folder of the labels.
        pairs: names of the labels, by their pictures'.
        target: folder of the copies.
        colours: values by colour; unused where labels are not in colours.
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
        write_atomically(self.target / plain_name(name), png(image))
        return index


def suggest(
    counts: CodeCounts, num_class: int | None, offset: int | None, remarks: list[str]
) -> tuple[int, int]:
    """Number of classes and value of the first, as given, or as the values in labels suggest.

    Raises:
        UserError: the values suggest less than two classes.
    """
    values = sorted(counts.found)
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
            found = abbreviate([str(value) for value in values])
            raise UserError(
                f"the labels hold the values {found} only: write class indices, such as 0 and 1; "
                "or give --num_class and --label_offset"
            )
    if not given:
        remarks.append(
            f"the labels hold values from {values[0]} to {values[-1]}: taken for classes from "
            f"{offset} to {num_class - 1 + offset}, and {unlabelled_value(num_class, offset)} for "
            "unlabelled; otherwise give --num_class and --label_offset"
        )
    return num_class, offset
