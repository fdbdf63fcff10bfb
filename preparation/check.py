"""Check whether a data set is fit to be trained on: one pass finds and names all that is wrong."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import cv2
import numpy as np
from torch.utils.data import ConcatDataset
from tqdm import tqdm

from common.classes import Classes
from common.images import MAX_VALUE, ColourError, decode, read_bytes, read_values, unlabelled_value
from common.loader import make_loader
from dataset import SegmentationDataset
from utils import UserError, abbreviate

VALUES = MAX_VALUE + 1  # that a label's file may hold
RARE = 0.001  # share of the pixels below which a class is rare
MOST_VALUES = 5  # that are no class and have a line each

# What may be wrong with a picture or its label, and the way out.
OUTSIDE = "names that lead out of the folder of pictures"
NO_PICTURE, NO_LABEL = "missing pictures", "missing labels"
BAD_PICTURE, BAD_LABEL = "unreadable pictures", "unreadable labels"
COLOUR, SIZE = "labels in colours", "labels of another size than their pictures"
WAYS_OUT = {
    OUTSIDE: "name pictures relative to that folder",
    NO_PICTURE: "the source has moved, or lists name what is not there",
    NO_LABEL: "the source has moved, or lists name what is not there",
    BAD_PICTURE: "replace them in the source, or take them out of it",
    BAD_LABEL: "replace them in the source, or take their pictures out of it",
    COLOUR: "prepare.py SOURCE --data DATA makes indices of colours",
    SIZE: "scale a label as its picture was scaled, by the nearest pixel",
}


@dataclass
class CheckedItem:
    """What a check found in a picture and its label.

    Attributes:
        name: of the picture, in its list.
        label: path of the label.
        defects: (kind, file, details or "").
        digest: of the picture's bytes, if they can be read.
        size: (height, width) of the picture, if it can be decoded.
        values, pixels: those in the label, and how many pixels each has.
    """

    name: str
    label: str = ""
    defects: list[tuple[str, str, str]] = field(default_factory=list)
    digest: bytes = b""
    size: tuple[int, int] | None = None
    values: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


class CheckedDataset(SegmentationDataset):
    """A data set whose item i is a `CheckedItem`; no file makes it raise."""

    def check_files_exist(self) -> None:
        """Do nothing: a missing file is a finding."""

    def __getitem__(self, index: int) -> CheckedItem:  # type: ignore[override]
        item = CheckedItem(self.names[index])
        try:
            path_img, path_seg = self.paths(index)
        except UserError:
            item.defects.append((OUTSIDE, item.name, ""))
            return item
        item.label = str(path_seg)
        if os.path.isfile(path_img):
            try:
                content = read_bytes(path_img)
                item.digest = hashlib.blake2b(content, digest_size=16).digest()
                item.size = decode(content, path_img, cv2.IMREAD_COLOR_RGB).shape[:2]
            except UserError as error:
                item.defects.append((BAD_PICTURE, str(path_img), str(error)))
        else:
            item.defects.append((NO_PICTURE, str(path_img), ""))
        if os.path.isfile(path_seg):
            try:
                values = read_values(path_seg)
                pixels = np.bincount(values.ravel())
                item.values = pixels.nonzero()[0]
                item.pixels = pixels[item.values]
                if item.size and item.size != values.shape:
                    sizes = f"{sides(values.shape)}, {path_img} {sides(item.size)}"
                    item.defects.append((SIZE, item.label, f"{path_seg} is {sizes}"))
            except ColourError:
                item.defects.append((COLOUR, item.label, ""))
            except UserError as error:
                item.defects.append((BAD_LABEL, item.label, str(error)))
        else:
            item.defects.append((NO_LABEL, item.label, ""))
        return item


@dataclass
class ListStatistics:
    """What the pictures of one list have in common.

    Attributes:
        list_file: the list.
        classes: the classes' values, a slice of a histogram.
        histogram: pixels of each value, in all labels that can be read.
        occurrences: labels that have each value.
        sizes: (height, width) of each picture that can be decoded.
        sound: places in the list of pictures without a defect.
        empty: labels without a pixel of a class.
        digests: names of pictures by the hash of their files.
    """

    list_file: str
    classes: slice
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(VALUES, np.int64))
    occurrences: np.ndarray = field(default_factory=lambda: np.zeros(VALUES, np.int64))
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sound: list[int] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    digests: dict[bytes, list[str]] = field(default_factory=dict)

    def add(self, place: int, item: CheckedItem, is_sound: bool) -> None:
        """Count a picture and its label."""
        self.histogram[item.values] += item.pixels
        self.occurrences[item.values] += 1
        if item.size:
            self.sizes.append(item.size)
        if item.digest:
            self.digests.setdefault(item.digest, []).append(item.name)
        if is_sound:
            self.sound.append(place)
            first, last = self.classes.start, self.classes.stop - 1
            if not ((first <= item.values) & (item.values <= last)).any():
                self.empty.append(item.label)

    @property
    def shares(self) -> np.ndarray:
        """The share of each class in the pixels of any class; num_class."""
        pixels = self.histogram[self.classes]
        return pixels / max(pixels.sum(), 1)


@dataclass(frozen=True)
class Findings:
    """What a check has found.

    Attributes:
        lists: statistics of each list.
        mend: faults that spoil a training, a line each, with the way out.
        hints: other things worth knowing, a line each.
    """

    lists: list[ListStatistics]
    mend: list[str]
    hints: list[str]


def check_datasets(
    datasets: Sequence[CheckedDataset], classes: Classes, workers: int, few: bool = False
) -> Findings:
    """Check all pictures and labels of several lists, the first of which is for training.

    Args:
        datasets: the lists.
        classes: their classes.
        workers: processes that read.
        few: whether most classes may be absent.
    """
    num_class, offset = datasets[0].num_class, datasets[0].label_offset
    where = slice(offset, offset + num_class)
    parts = [ListStatistics(data.list_file, where) for data in datasets]
    known = np.zeros(VALUES, bool)
    known[where] = known[unlabelled_value(num_class, offset)] = True
    defects: dict[str, list[str]] = {kind: [] for kind in WAYS_OUT}
    details: dict[str, str] = {}  # of the first file of a kind
    foreign: dict[int, list[str]] = {}  # value that is no class -> the first labels that have it

    pairs: ConcatDataset = ConcatDataset(datasets)
    loader = make_loader(pairs, workers, batch_size=None)
    with tqdm(loader, unit=" pictures", leave=False, disable=None) as bar:
        items = iter(bar)
        for part, data in zip(parts, datasets, strict=True):
            for place, item in enumerate(islice(items, len(data))):
                for kind, file, detail in item.defects:
                    defects[kind].append(file)
                    details.setdefault(kind, detail)
                strange = item.values[~known[item.values]].tolist()
                for value in strange:
                    files = foreign.setdefault(value, [])
                    if len(files) < 6:  # five are named, the sixth makes a …
                        files.append(item.label)
                part.add(place, item, is_sound=not (item.defects or strange))
    mend = [
        f"{kind} ({len(files)}): {abbreviate(files)}{details[kind] and f' ({details[kind]})'}; "
        f"{WAYS_OUT[kind]}"
        for kind, files in defects.items()
        if files
    ]
    mend += [*foreign_values(foreign, parts, num_class, offset), *nothing_to_learn(parts, few)]
    mend += leaks(parts)
    hints = [*class_hints(parts, classes), *picture_hints(parts)]
    # An error's text is a line that can be printed, whatever is in the name of a file.
    return Findings(parts, *([str(UserError(line)) for line in lines] for lines in (mend, hints)))


def foreign_values(
    foreign: dict[int, list[str]], parts: Sequence[ListStatistics], num_class: int, offset: int
) -> Iterator[str]:
    """Lines about values that are no class, the most frequent ones first.

    Args:
        foreign: by value, the first labels that have it.
        parts: the lists.
        num_class: number of classes.
        offset: value of the first class.
    """
    pixels = np.sum([part.histogram for part in parts], axis=0)
    labels = np.sum([part.occurrences for part in parts], axis=0)
    unlabelled, last = unlabelled_value(num_class, offset), num_class - 1 + offset
    values = sorted(foreign, key=lambda value: -pixels[value])
    for value in values[:MOST_VALUES]:
        files = abbreviate(foreign[value])
        yield (
            f"value {value} ({pixels[value]:,} pixels in {labels[value]:,} labels: {files}) is no "
            f"class, as those go from {offset} to {last}; write a class or {unlabelled}, which is "
            "unlabelled, there, or prepare the source anew"
        )
    if rest := values[MOST_VALUES:]:
        yield (
            f"{len(rest):,} more values that are no class ({pixels[rest].sum():,} pixels): "
            f"{abbreviate([str(value) for value in rest])}, as in {abbreviate(foreign[rest[0]])}; "
            "labels must hold class indices, and neither be scaled with interpolation nor stored "
            "with loss"
        )


def nothing_to_learn(parts: Sequence[ListStatistics], few: bool) -> Iterator[str]:
    """Lines about lists whose readable labels have no class, or too few of them to train on."""
    for part in parts:
        present, num_class = np.count_nonzero(part.shares), len(part.shares)
        if part.histogram.any() and present < (2 if part is parts[0] else 1):
            yield f"{part.list_file}: the labels have {present} of {num_class} classes"
        elif part is parts[0] and 2 * present < num_class and not few and part.histogram.any():
            yield (
                f"{part.list_file}: the labels have {present} of {num_class} classes; if the "
                "others are to come, --yes accepts it"
            )


def leaks(parts: Sequence[ListStatistics]) -> Iterator[str]:
    """A line about pictures that both lists have: they make scores too good."""
    first, *others = parts
    for part in others:
        same = [
            f"{first.digests[digest][0]} = {name}"
            for digest, names in part.digests.items()
            if digest in first.digests
            for name in names
        ]
        if same:
            yield (
                f"pictures in {first.list_file} that are in {part.list_file} too ({len(same)}), "
                f"by content: {abbreviate(same)}; take them out of one of the two"
            )


def class_hints(parts: Sequence[ListStatistics], classes: Classes) -> Iterator[str]:
    """Lines about classes that are absent, or rare in training."""
    for part in parts:
        unused = [name for name, share in zip(classes.names, part.shares, strict=True) if not share]
        if unused and part.shares.any():
            yield (
                f"classes that no label of {part.list_file} has ({len(unused)}): "
                f"{abbreviate(unused)}"
            )
    shares = parts[0].shares
    untrained = [
        name
        for name, share, *others in zip(
            classes.names, shares, *(part.shares for part in parts[1:]), strict=True
        )
        if not share and any(others)
    ]
    if untrained:
        yield (
            f"classes that are scored, but never trained on ({len(untrained)}): "
            f"{abbreviate(untrained)}"
        )
    rare = [i for i in np.argsort(shares, kind="stable") if 0 < shares[i] < RARE]
    if rare:
        names = abbreviate([f"{classes.names[i]} {100 * shares[i]:.2g}%" for i in rare])
        yield (
            f"classes with less than {RARE:.1%} of the pixels ({len(rare)}): {names}; "
            "train.py --class_weight sqrt makes them count more"
        )


def picture_hints(parts: Sequence[ListStatistics]) -> Iterator[str]:
    """Lines about pictures that teach nothing new, or nothing at all."""
    for part in parts:
        same = [" = ".join(names) for names in part.digests.values() if len(names) > 1]
        if same:
            yield f"{part.list_file} has pictures several times ({len(same)}): {abbreviate(same)}"
        if part.empty and part.shares.any():
            yield f"labels without a pixel of a class ({len(part.empty)}): {abbreviate(part.empty)}"


def sides(size: tuple[int, int]) -> str:
    """A size (height, width) as people write it."""
    return f"{size[1]} x {size[0]}"
