"""What all labels hold: one pass that counts, before anything is decided.

Beside pixels it counts what tells a class index from a value that was made by scaling or lossy
storage, and whether labels were turned with their pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from common.images import decode, read_bytes
from common.loader import make_loader
from preparation.files import orientation_of
from preparation.labels import Label, LabelImage
from utils import UserError

MOST_CODES = 2**16  # values or colours; labels with more are pictures
MOST_RAMPS, LEAST_ENDS = 0.07, 200  # see `is_blurred`
# What makes an array as its EXIF orientation says, 2…8.
TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}


@dataclass(frozen=True)
class Pair:
    """A picture and its label.

    Attributes:
        picture: path of the picture.
        label: what reads its label.
        name: of the picture in the data set, relative to the folder of pictures.
        split: "train", "val", "test" or, where the source does not tell, "".
    """

    picture: str
    label: Label
    name: str
    split: str = ""


@dataclass
class Tally:
    """How often a value or colour occurs.

    Attributes:
        pixels: that have it.
        inside: those whose four neighbours have it, too.
        labels: that have it.
        example: the first of them.
    """

    pixels: int = 0
    inside: int = 0
    labels: int = 0
    example: str = ""


@dataclass(frozen=True)
class Codes:
    """The values or colours of one label, and how many pixels have each: all, and those inside."""

    codes: np.ndarray
    pixels: np.ndarray
    inside: np.ndarray


@dataclass(frozen=True)
class LabelFacts:
    """What one label holds.

    Attributes:
        values, colours: as far as it has them.
        palette: (index, colour) of a palette, as far as it is used; N x 2.
        is_blurred: whether neighbours rise or fall twice so often as only interpolation makes them.
        is_lossy: whether its file was stored with loss.
        turn: how well label and picture fit as stored, and as EXIF turns them; None: not turned.
        defect: why it cannot be read, or "".
    """

    values: Codes | None = None
    colours: Codes | None = None
    palette: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    is_blurred: bool = False
    is_lossy: bool = False
    turn: tuple[float, float] | None = None
    defect: str = ""


@dataclass
class Survey:
    """What the labels of a data set hold.

    Attributes:
        values, colours: tallies of what occurs.
        num_labels, num_values, num_colours: labels that can be read, and those that have such.
        palette: the colours of each index that a palette has.
        shared: values that occur beside another one than 0.
        blurred, lossy: labels that are, as in `LabelFacts`.
        turns: pictures that EXIF turns, by their place: how well they fit, as in `LabelFacts`.
        defects: why labels cannot be read, by their place.
    """

    values: dict[int, Tally] = field(default_factory=dict)
    colours: dict[int, Tally] = field(default_factory=dict)
    num_labels: int = 0
    num_values: int = 0
    num_colours: int = 0
    palette: dict[int, set[int]] = field(default_factory=dict)
    shared: set[int] = field(default_factory=set)
    blurred: list[str] = field(default_factory=list)
    lossy: list[str] = field(default_factory=list)
    turns: dict[int, tuple[float, float]] = field(default_factory=dict)
    defects: dict[int, str] = field(default_factory=dict)

    def add(self, place: int, facts: LabelFacts, label: str) -> None:
        """Count one label."""
        if facts.defect:
            self.defects[place] = facts.defect
            return
        for codes, tallies in ((facts.values, self.values), (facts.colours, self.colours)):
            if codes is not None and len(tallies) <= MOST_CODES:
                for code, pixels, inside in zip(
                    codes.codes.tolist(), codes.pixels.tolist(), codes.inside.tolist(), strict=True
                ):
                    tally = tallies.setdefault(code, Tally(example=label))
                    tally.pixels += pixels
                    tally.inside += inside
                    tally.labels += 1
        self.num_labels += 1
        self.num_values += facts.values is not None
        self.num_colours += facts.colours is not None
        for index, colour in facts.palette.tolist():
            self.palette.setdefault(index, set()).add(colour)
        if facts.values is not None:
            visible = {*facts.values.codes.tolist()} - {0}
            if len(visible) > 1:
                self.shared |= visible
        if facts.is_blurred:
            self.blurred.append(label)
        if facts.is_lossy:
            self.lossy.append(label)
        if facts.turn is not None:
            self.turns[place] = facts.turn


class FactsDataset(Dataset):
    """Item i is the `LabelFacts` of a pair; no file makes it raise."""

    def __init__(self, pairs: Sequence[Pair]):
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> LabelFacts:
        pair = self.pairs[index]
        try:
            facts = facts_of(pair.label.read(), pair.picture)
            if facts.turn and pair.label.is_of_shown:
                facts = replace(facts, turn=(0, facts.turn[1]))
            return replace(facts, is_lossy=not pair.label.is_drawn and is_lossy(pair.label.path))
        except UserError as error:
            return LabelFacts(defect=str(error))


def survey(pairs: Sequence[Pair], workers: int) -> Survey:
    """Count what the labels of pairs hold."""
    result = Survey()
    loader = make_loader(FactsDataset(pairs), workers, batch_size=None)
    with tqdm(loader, unit=" labels", leave=False, disable=None) as bar:
        for place, facts in enumerate(bar):
            result.add(place, facts, pairs[place].label.path)
    return result


def facts_of(label: LabelImage, picture: str) -> LabelFacts:
    """What one label holds; `picture` is the file of its picture."""
    values = None if label.values is None else count(label.values)
    colours = None if label.colours is None else count(label.colours)
    palette = np.zeros((0, 2), np.int64)
    if label.values is not None and label.colours is not None:
        firsts = np.unique(label.values, return_index=True)
        palette = np.stack([firsts[0], label.colours.ravel()[firsts[1]]], axis=1)
    plane = label.colours if label.values is None else label.values
    assert plane is not None
    blurred = label.values is not None and is_blurred(label.values)
    return LabelFacts(values, colours, palette, blurred, turn=fit(picture, plane))


def count(plane: np.ndarray) -> Codes:
    """The codes of a plane H x W, and their pixels."""
    same = np.zeros(plane.shape, bool)
    middle = plane[1:-1, 1:-1]
    same[1:-1, 1:-1] = (
        (middle == plane[:-2, 1:-1])
        & (middle == plane[2:, 1:-1])
        & (middle == plane[1:-1, :-2])
        & (middle == plane[1:-1, 2:])
    )
    if plane.dtype == np.uint8:
        pixels, inside = np.bincount(plane.ravel()), np.bincount(plane[same], minlength=256)
        codes = pixels.nonzero()[0]
        return Codes(codes, pixels[codes], inside[codes])
    codes, places, pixels = np.unique(plane, return_inverse=True, return_counts=True)
    inside = np.bincount(places.reshape(plane.shape)[same], minlength=len(codes))
    return Codes(codes[:MOST_CODES], pixels[:MOST_CODES], inside[:MOST_CODES])


def is_blurred(plane: np.ndarray) -> bool:
    """Whether interpolation made a label.

    Between two areas it leaves values that rise or fall from pixel to pixel. Of triples of
    neighbours in rows and columns whose ends differ, those are more than a tenth then, and hardly
    more than a fiftieth where areas meet as people draw them.
    """
    ends = ramps = 0
    for lines in (plane, plane.T):
        first, middle, last = lines[:, :-2], lines[:, 1:-1], lines[:, 2:]
        ends += int((first != last).sum())
        rises = (first < middle) & (middle < last)
        ramps += int((rises | ((first > middle) & (middle > last))).sum())
    return ramps > MOST_RAMPS * max(ends, LEAST_ENDS)


def is_lossy(path: str) -> bool:
    """Whether a file is a JPEG or a WebP with loss."""
    with open(path, "rb") as file:
        start = file.read(16)
    return start.startswith(b"\xff\xd8") or (start[:4] == b"RIFF" and start[8:16] == b"WEBPVP8 ")


def fit(picture: str, label: np.ndarray) -> tuple[float, float] | None:
    """How well a label fits its picture as stored, and as its EXIF data turns it.

    Returns:
        The mean contrast of the picture where the label has edges, either way; 0 where sizes
        differ. None if nothing turns the picture, or it cannot be read.
    """
    orientation = orientation_of(picture)
    if orientation not in TURNS:
        return None
    try:
        content = read_bytes(picture)
        stored = decode(content, picture, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
        turned = decode(content, picture, cv2.IMREAD_GRAYSCALE)
    except UserError:
        return None  # the check names it
    if stored.shape == turned.shape and (stored == turned).all():
        return None  # OpenCV does not turn this format
    edges = outlines(label)
    fits = [
        float((contrast(image) * edges).sum() / max(edges.sum(), 1))
        if image.shape == label.shape
        else 0.0
        for image in (stored, turned)
    ]
    # A size that is right decides, even if nothing has an edge.
    tiny = 1e-6
    return (
        fits[0] + tiny * (stored.shape == label.shape),
        fits[1] + tiny * (turned.shape == label.shape),
    )


def outlines(label: np.ndarray) -> np.ndarray:
    """Where a label's areas meet, widened by a pixel; float32, H x W."""
    edges = np.zeros(label.shape, np.float32)
    edges[:, 1:] = label[:, 1:] != label[:, :-1]
    edges[1:] = np.maximum(edges[1:], label[1:] != label[:-1])
    return cv2.dilate(edges, np.ones((3, 3)))


def contrast(image: np.ndarray) -> np.ndarray:
    """The slope of a grey picture, divided by its mean: 1 is usual."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.float32)
    slope = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 1, 0))
    slope += np.abs(cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return slope / max(float(slope.mean()), 1e-6)


def turn(image: np.ndarray, picture: str) -> np.ndarray:
    """A label as its picture's EXIF data turns the picture."""
    return np.ascontiguousarray(TURNS.get(orientation_of(picture), lambda same: same)(image))


def named(tallies: dict[int, Tally], codes: Iterable[int]) -> list[str]:
    """Codes with their pixels and labels, for messages."""
    return [
        f"{code} ({tallies[code].pixels:,} pixels in {tallies[code].labels:,} labels like "
        f"{Path(tallies[code].example).name})"
        for code in codes
    ]
