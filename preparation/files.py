"""The files of a source, and what their names tell."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

from PIL import Image

from common.data_file import DATA_FILE, UNFINISHED
from common.images import FORMATS
from utils import UserError

SPLITS = {"tr": "train", "va": "val", "de": "val", "ev": "val", "te": "test", "ts": "test"}
# A word for a split as a part of a name: alone, or with a number, or with what the folder holds.
SPLIT_WORD = re.compile(
    r"(?:^|[_\-. ])(train(?:ing)?|val(?:id(?:ation)?)?|dev|eval(?:uation)?|test(?:ing)?)"
    r"(?:20\d\d|\d)?(?=$|[_\-. ]|annot|image|img|mask|label|set|data|list|split)",
    re.IGNORECASE,
)
MEDICAL_WORD = re.compile(r"(?:images|labels)(Tr|Ts)$")  # as in the Medical Segmentation Decathlon
SKIPPED_FOLDERS = {"__MACOSX"}  # beside the hidden ones
ORIENTATION = 0x0112  # EXIF's tag
ON_ITS_SIDE = (5, 6, 7, 8)  # orientations that exchange height and width
MOST_TEXT = 2**31  # bytes of a text or JSON file


class SourceFiles:
    """The visible files of a folder and its subfolders, by name relative to it; sorted.

    Hidden files and folders, folders that hold a prepared data set, and links in a circle are left
    out.

    Attributes:
        guessed: images by the names for which `find` took them, whose folders are others.
    """

    def __init__(self, root: Path):
        self.root = root
        self.guessed: dict[str, str] = {}
        self.names = sorted(walk(root))
        self.images = [name for name in self.names if name.lower().endswith(FORMATS)]

    def with_ending(self, ending: str) -> list[str]:
        """The names that end so, in any case of letters."""
        return [name for name in self.names if name.lower().endswith(ending)]

    def first_named(self, *basenames: str) -> str | None:
        """The first file, from the top, that is called like one of these."""
        found = [name for name in self.names if name.rpartition("/")[2].lower() in basenames]
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    def text(self, name: str) -> str:
        """The text in a file.

        Raises:
            UserError: it is none.
        """
        path = self.root / name
        try:
            if path.stat().st_size > MOST_TEXT:
                raise UserError(f"{path} has more than {MOST_TEXT:,} bytes")
            return path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise UserError(f"{path} is no text in UTF-8") from error

    def load_json(self, name: str) -> Any:
        """The document in a JSON file; None if it is damaged, or of another kind."""
        try:
            return json.loads(self.text(name))
        except (UserError, ValueError, RecursionError):
            return None

    @cached_property
    def known_images(self) -> set[str]:
        """The images, to look one up."""
        return {*self.images}

    @cached_property
    def by_basename(self) -> dict[str, list[str]]:
        """The images by the last part of their name."""
        return grouped((name.rpartition("/")[2], name) for name in self.images)

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """The images by their name without its ending."""
        return grouped((os.path.splitext(name)[0], name) for name in self.images)

    def find(self, named: str, near: str) -> str | None:
        """The image that an annotation in the file `near` names; None if there is none, or two."""
        named = named.strip().lstrip("./") if not os.path.isabs(named) else named
        folder = near.rpartition("/")[0]
        for place in (f"{folder}/{named}".lstrip("/"), named):
            if place in self.known_images:
                return place
        # Paths of another machine, or from elsewhere: the one with most folders in common.
        parts = named.replace("\\", "/").split("/")
        candidates = self.by_basename.get(parts[-1], [])
        common = {name: common_end(name.split("/"), parts) for name in candidates}
        candidates = [name for name in candidates if common[name] == max(common.values())]
        told = split_of(near)
        candidates = [n for n in candidates if not told or split_of(n) in ("", told)]
        if len(candidates) > 1:
            split = split_of(near, with_stem=True)
            candidates = [name for name in candidates if split_of(name) == split]
        if len(candidates) != 1:
            return None
        if len(parts) > 1 and common[candidates[0]] == 1:
            self.guessed[named] = candidates[0]
        return candidates[0]

    def image_with_stem(self, stem: str) -> str | None:
        """The image of a name without its ending."""
        return next(iter(self.by_stem.get(stem, ())), None)


def walk(root: Path) -> Iterator[str]:
    """Names of visible files below a folder; each real folder once."""
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        prepared = {DATA_FILE, UNFINISHED} & {*names} and Path(folder) != root
        if real in seen or prepared:
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and name not in SKIPPED_FOLDERS
        )
        relative = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in names:
            if not name.startswith("."):
                yield name if relative == "." else f"{relative}/{name}"


def split_of(name: str, with_stem: bool = False) -> str:
    """The split that the folders of a file tell, and with `with_stem` its own name; or "".

    The deepest counts: training_data/test/a.jpg is for tests.
    """
    parts = os.path.splitext(name)[0].split("/")
    told = map(split_in, reversed(parts if with_stem else parts[:-1]))
    return next(filter(None, told), "")


def split_in(part: str) -> str:
    """The split that one part of a name tells, or ""."""
    found = SPLIT_WORD.search(part) or MEDICAL_WORD.search(part)
    return SPLITS[found[1][:2].lower()] if found else ""


def common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts two paths have in common, from their ends."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def grouped(items: Iterator[tuple[str, str]]) -> dict[str, list[str]]:
    """Values by key."""
    groups = defaultdict(list)
    for key, value in items:
        groups[key].append(value)
    return groups


def size_of(picture: Path, height: object = None, width: object = None) -> tuple[int, int]:
    """Height and width of a picture as shown, unless they are known.

    Raises:
        UserError: it cannot be read.
    """
    if height and width:
        return int(height), int(width)  # type: ignore[call-overload]
    try:
        with Image.open(picture) as image:
            size = image.height, image.width
            return size[::-1] if orientation_in(image) in ON_ITS_SIDE else size
    except Exception as error:  # Pillow has half a dozen classes for what may be wrong with a file
        raise UserError(f"{picture} cannot be read: {error}") from error


def orientation_of(picture: str) -> int:
    """The orientation in a picture's EXIF data; 1 = as stored, or not known."""
    try:
        with Image.open(picture) as image:
            return orientation_in(image)
    except Exception:  # Pillow has a dozen kinds; the check names what cannot be decoded
        return 1


def orientation_in(image: Image.Image) -> int:
    """The same of an open picture."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # of damaged EXIF data, of a picture that is sound
        return 1
