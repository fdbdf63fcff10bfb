"""What labels hold: values, or colours, which a class table gives values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from classes import ADE20K_CLASSES, read_classes
from dataset import make_loader
from decoding import ColourError, decode, read_bytes, read_values, unlabelled_value
from utils import UserError, few

MOST_CODES = 2**16  # colours; no table has more


def read_codes(path: Path) -> tuple[np.ndarray, bool]:
    """What a label holds, H x W, and whether these are colours, 0xRRGGBB, rather than values.

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
class Content:
    """What a label holds: its values or colours, ascending, and how many pixels each has."""

    codes: np.ndarray
    pixels: np.ndarray
    in_colour: bool
    defect: str = ""


class Contents(Dataset):
    """Item i is the `Content` of a label; none makes it raise."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Content:
        try:
            codes, in_colour = read_codes(self.paths[index])
        except UserError as error:
            return Content(np.zeros(0), np.zeros(0), False, str(error))
        codes, pixels = np.unique(codes, return_counts=True)
        return Content(codes[:MOST_CODES], pixels[:MOST_CODES], in_colour)


@dataclass(frozen=True)
class Survey:
    """What all labels hold together.

    Attributes:
        found: by value or colour: (pixels, labels, the first label).
        in_colour: whether these are colours.
    """

    found: dict[int, tuple[int, int, str]]
    in_colour: bool


def survey(root_seg: Path, pairs: dict[str, str], remarks: list[str], workers: int) -> Survey:
    """What the labels hold; the pairs of those that cannot be read are left out and remarked on.

    Raises:
        UserError: only some of them are in colours, or none can be read.
    """
    found: dict[int, tuple[int, int, str]] = {}
    kinds: dict[bool, str] = {}  # the first label in colours, and the first that is not
    defects = []
    loader = make_loader(Contents([root_seg / name for name in pairs.values()]), workers, None)
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
        remarks.append(f"unreadable labels, left out ({len(defects)}): {few(defects)}")
    if len(pairs) < 2:
        raise UserError(f"hardly a label in {root_seg} can be read: {few(defects)}")
    if len(kinds) > 1:
        raise UserError(
            f"some labels in {root_seg} are in colours, like {kinds[True]}, and some are not, "
            f"like {kinds[False]}: give each kind a --root_seg of its own"
        )
    return Survey(found, in_colour=True in kinds)


def read_colours(
    list_class: str, num_class: int | None, offset: int, survey: Survey
) -> dict[int, int]:
    """Values by colour: black is unlabelled, unless a class has it.

    Raises:
        UserError: there is no table of the colours, or it lacks some.
    """
    example = next(iter(survey.found.values()))[2]
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
    unknown = {code: told for code, told in survey.found.items() if code not in colours}
    if unknown:
        order = sorted(unknown, key=lambda code: -unknown[code][0])
        named = few(
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
    return colours
