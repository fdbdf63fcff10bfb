"""The values or colours that labels hold; a class table turns colours into values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from common.classes import ADE20K_CLASSES, read_classes
from common.images import ColourError, decode, read_bytes, read_values, unlabelled_value
from common.loader import make_loader
from utils import UserError, abbreviate

MOST_CODES = 2**16  # colours; no table has more


def read_codes(path: Path) -> tuple[np.ndarray, bool]:
    """The codes H x W of a label, and whether they are colours, 0xRRGGBB, rather than values.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return read_values(path), False
    except ColourError:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        return pack(decode(read_bytes(path), path, flags)), True


def pack(colours: np.ndarray) -> np.ndarray:
    """Colours … x 3 (uint8) as numbers 0xRRGGBB (int32)."""
    return colours.astype(np.int32) @ np.array([2**16, 2**8, 1], np.int32)


@dataclass(frozen=True)
class LabelCodes:
    """The values or colours of one label, ascending, and how many pixels each has."""

    codes: np.ndarray
    pixels: np.ndarray
    in_colour: bool
    defect: str = ""


class LabelCodesDataset(Dataset):
    """Item i is the `LabelCodes` of a label; no file makes it raise."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> LabelCodes:
        try:
            codes, in_colour = read_codes(self.paths[index])
        except UserError as error:
            return LabelCodes(np.zeros(0), np.zeros(0), False, str(error))
        codes, pixels = np.unique(codes, return_counts=True)
        return LabelCodes(codes[:MOST_CODES], pixels[:MOST_CODES], in_colour)


@dataclass(frozen=True)
class CodeCounts:
    """The values or colours of all labels together.

    Attributes:
        found: by value or colour: (pixels, labels, the first label).
        in_colour: whether these are colours.
    """

    found: dict[int, tuple[int, int, str]]
    in_colour: bool


def count_codes(
    root_seg: Path, pairs: dict[str, str], remarks: list[str], workers: int
) -> CodeCounts:
    """Count the values or colours of labels; pairs that cannot be read are dropped with a remark.

    Raises:
        UserError: only some of them are in colours, or none can be read.
    """
    found: dict[int, tuple[int, int, str]] = {}
    kinds: dict[bool, str] = {}  # the first label in colours, and the first that is not
    defects = []
    loader = make_loader(
        LabelCodesDataset([root_seg / name for name in pairs.values()]), workers, None
    )
    with tqdm(loader, unit=" labels", leave=False, disable=None) as bar:
        for (name, label), content in zip(list(pairs.items()), bar, strict=False):
            if content.defect:
                defects.append(content.defect)
                del pairs[name]
                continue
            kinds.setdefault(content.in_colour, label)
            for code, pixels in zip(content.codes.tolist(), content.pixels.tolist(), strict=True):
                before = found.get(code, (0, 0, label))
                found[code] = before[0] + pixels, before[1] + 1, before[2]
            if len(found) > MOST_CODES:
                break
    if defects:
        remarks.append(f"unreadable labels, left out ({len(defects)}): {abbreviate(defects)}")
    if len(pairs) < 2:
        raise UserError(f"hardly a label in {root_seg} can be read: {abbreviate(defects)}")
    if len(kinds) > 1:
        raise UserError(
            f"some labels in {root_seg} are in colours, like {kinds[True]}, and some are not, "
            f"like {kinds[False]}: give each kind a --root_seg of its own"
        )
    return CodeCounts(found, in_colour=True in kinds)


def read_colours(
    list_class: str, num_class: int | None, offset: int, counts: CodeCounts
) -> tuple[int, dict[int, int]]:
    """The number of classes, and values by colour: black is unlabelled, unless a class has it.

    Raises:
        UserError: there is no table of the colours, or it lacks some.
    """
    example = next(iter(counts.found.values()))[2]
    if num_class is None or (list_class == ADE20K_CLASSES and num_class != 150):
        raise UserError(
            f"the labels, like {example}, are in colours: name the classes' by --list_class, a "
            "table of index,name,r,g,b, and --num_class"
        )
    classes = read_classes(list_class, num_class)
    colours = {0: unlabelled_value(num_class, offset)}
    owners: dict[int, str] = {}
    for i, (name, code) in enumerate(zip(classes.names, pack(classes.palette[1:]), strict=True)):
        code = int(code)
        if code in owners:
            raise UserError(f"--list_class {list_class}: {owners[code]} and {name} look the same")
        owners[code] = name
        colours[code] = i + offset
    unknown = {code: told for code, told in counts.found.items() if code not in colours}
    if unknown:
        order = sorted(unknown, key=lambda code: -unknown[code][0])
        named = abbreviate(
            [
                f"({code >> 16}, {code >> 8 & 255}, {code & 255}) {pixels:,} pixels in {labels:,} "
                f"labels like {label}"
                for code in order[:6]
                for pixels, labels, label in [unknown[code]]
            ]
        )
        raise UserError(
            f"colours that no class of {list_class} has ({len(unknown):,}): {named}; add them to "
            "the table, or make black (0, 0, 0) what is unlabelled"
        )
    return num_class, colours
