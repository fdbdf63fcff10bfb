"""Flat drawing: each call changes a picture and its label map at the same pixels."""

from collections.abc import Sequence
from copy import copy
from enum import IntEnum
from functools import cached_property

import cv2
import numpy as np

Colour = Sequence[float] | np.ndarray  # red, green, blue; 1 is white in full light, more glows
Point = Sequence[float] | np.ndarray  # the coordinates of a point or of a vector
Points = Sequence[Point] | np.ndarray  # one row a point

SUBPIXEL_BITS = 4  # of the fixed-point coordinates that OpenCV draws with


class Ade(IntEnum):
    """ADE20K's class indices; 0 is an unlabelled pixel and, on a sprite, a transparent one."""

    NONE = 0
    WALL = 1
    BUILDING = 2
    SKY = 3
    FLOOR = 4
    TREE = 5
    CEILING = 6
    ROAD = 7
    BED = 8
    WINDOWPANE = 9
    GRASS = 10
    CABINET = 11
    SIDEWALK = 12
    PERSON = 13
    DOOR = 15
    TABLE = 16
    MOUNTAIN = 17
    PLANT = 18
    CHAIR = 20
    CAR = 21
    WATER = 22
    PAINTING = 23
    LAMP = 37


# The colours of everything that people paint, weave or wear. Walls, cars, doors and coats share
# them, so that a colour alone says little about a class.
PIGMENTS = np.array(
    [
        (0.93, 0.90, 0.83),
        (0.86, 0.78, 0.64),
        (0.80, 0.64, 0.45),
        (0.62, 0.43, 0.29),
        (0.42, 0.30, 0.23),
        (0.80, 0.42, 0.30),
        (0.70, 0.25, 0.22),
        (0.90, 0.68, 0.32),
        (0.66, 0.70, 0.45),
        (0.38, 0.50, 0.36),
        (0.52, 0.68, 0.66),
        (0.33, 0.48, 0.60),
        (0.60, 0.72, 0.84),
        (0.25, 0.30, 0.42),
        (0.72, 0.56, 0.66),
        (0.62, 0.62, 0.64),
        (0.34, 0.34, 0.36),
        (0.90, 0.76, 0.72),
    ],
    np.float32,
)


def pigment(
    rng: np.random.Generator, pale: float = 0.0, unlike: np.ndarray | None = None
) -> np.ndarray:
    """Draw a colour (3,) near one of `PIGMENTS`, mixed with the share `pale` of white.

    It differs visibly from the colour `unlike`.
    """
    while True:
        colour = rng.choice(PIGMENTS) * rng.uniform(0.88, 1.1) + rng.normal(0, 0.02, 3)
        colour = np.clip(mix(colour, (1, 1, 1), pale), 0.05, 1)
        if unlike is None or np.abs(colour - unlike).max() > 0.25:
            return colour


def mix(first: Colour, second: Colour, share: float | np.ndarray) -> np.ndarray:
    """Blend two colours; `share` is how much of the second, one or an array of them (..., 1)."""
    return (1 - share) * np.asarray(first) + share * np.asarray(second)


def noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Draw smooth noise (height, width) of about unit variance, its widest spots `cell` pixels.

    It has up to three octaves, none of them finer than two pixels. At any size it takes a single
    number from `rng`, so that what a scene shows does not depend on its resolution.
    """
    rng = np.random.default_rng(rng.integers(2**32))
    total = np.zeros((1, 1), np.float32)
    for octave in range(3):
        step = max(cell / 2**octave, 2.0)
        shape = (int(height / step) + 2, int(width / step) + 2)
        coarse = rng.standard_normal(shape, np.float32) * np.float32(0.5**octave)
        total = cv2.resize(total, shape[::-1]) + coarse
        if step == 2:
            break
    return cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)


class Canvas:
    """A picture (rows, columns, 3) with its labels (rows, columns).

    Coordinates are in the canvas's own unit (metres on a wall or a facade), origin top left, x to
    the right and y down; `scale` is pixels per unit. A call without a label keeps the labels.
    """

    def __init__(
        self, width: float, height: float, scale: float, colour: Colour, label: Ade = Ade.NONE
    ) -> None:
        rows, columns = max(round(height * scale), 2), max(round(width * scale), 2)
        self.width, self.height, self.scale = width, height, scale
        self.image: np.ndarray = np.empty((rows, columns, 3), np.float32)
        self.image[:] = colour
        self.label: np.ndarray = np.full((rows, columns), label, np.uint8)

    def _pixels(self, points: Points) -> np.ndarray:
        scaled = np.asarray(points, np.float64) * (self.scale * 2**SUBPIXEL_BITS)
        return np.round(scaled).astype(np.int32)

    def polygon(self, points: Points, colour: Colour, label: Ade | None = None) -> None:
        """Fill a polygon of (n, 2) points."""
        corners = [self._pixels(points)]
        cv2.fillPoly(self.image, corners, tuple(map(float, colour)), shift=SUBPIXEL_BITS)
        if label is not None:
            cv2.fillPoly(self.label, corners, int(label), shift=SUBPIXEL_BITS)

    def rectangle(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        colour: Colour,
        label: Ade | None = None,
    ) -> None:
        """Fill an upright rectangle given by its top left corner and its size."""
        right, bottom = x + width, y + height
        self.polygon([(x, y), (right, y), (right, bottom), (x, bottom)], colour, label)

    def ellipse(
        self,
        x: float,
        y: float,
        radius_x: float,
        radius_y: float,
        colour: Colour,
        label: Ade | None = None,
        degrees: float = 0.0,
    ) -> None:
        """Fill an ellipse given by its centre and its half axes, turned clockwise by `degrees`."""
        unit = self.scale * 2**SUBPIXEL_BITS
        centre = round(x * unit), round(y * unit)
        axes = round(radius_x * unit), round(radius_y * unit)
        shape = (centre, axes, float(degrees), 0.0, 360.0)
        cv2.ellipse(self.image, *shape, tuple(map(float, colour)), -1, shift=SUBPIXEL_BITS)
        if label is not None:
            cv2.ellipse(self.label, *shape, int(label), -1, shift=SUBPIXEL_BITS)

    def line(
        self, points: Points, thickness: float, colour: Colour, label: Ade | None = None
    ) -> None:
        """Draw an open line with round ends through (n, 2) points."""
        path, pixels = [self._pixels(points)], max(round(thickness * self.scale), 1)
        paint = tuple(map(float, colour))
        cv2.polylines(self.image, path, False, paint, pixels, shift=SUBPIXEL_BITS)
        if label is not None:
            cv2.polylines(self.label, path, False, int(label), pixels, shift=SUBPIXEL_BITS)

    def gradient(self, start: Colour, end: Colour, vertical: bool = True) -> None:
        """Multiply the picture by colours running from the top (or left) to the bottom (right)."""
        rows, columns = self.label.shape
        share = np.linspace(0, 1, rows if vertical else columns, dtype=np.float32)
        ramp = mix(start, end, share[:, None]).astype(np.float32)
        self.image *= ramp[:, None] if vertical else ramp[None]

    def grain(self, rng: np.random.Generator, strength: float, cell: float) -> None:
        """Multiply the picture by smooth noise; `cell` is the size of its widest spots in units."""
        rows, columns = self.label.shape
        self.image *= 1 + strength * noise(rng, rows, columns, cell * self.scale)[..., None]

    def courses(
        self,
        rng: np.random.Generator,
        length: float,
        height: float,
        joint: float,
        contrast: float,
        stagger: float = 0.5,
    ) -> None:
        """Multiply the picture by rows of bricks, slabs, tiles or boards with dark joints.

        `length`, `height` and `joint` (the gap's width) are in units; `contrast` is how much the
        single pieces differ; `stagger` is the shift from row to row in lengths.
        """
        rows, columns = self.label.shape
        y = (np.arange(rows, dtype=np.float32) / self.scale)[:, None]
        x = (np.arange(columns, dtype=np.float32) / self.scale)[None]
        row = (y / height).astype(np.int32)
        along = x / length + row * np.float32(stagger)
        column = along.astype(np.int32)
        tones = rng.uniform(1 - contrast, 1 + contrast, 1021).astype(np.float32)
        shade = tones[(row * 57 + column * 13) % len(tones)]
        gap = (y % height < joint) | ((along - column) * length < joint)
        self.image *= np.where(gap, np.float32(0.74), shade)[..., None]

    def paste(self, other: "Canvas", x: float, y: float, brightness: float = 1.0) -> None:
        """Copy another canvas of the same scale to a place given by its top left corner."""
        left, top = max(round(x * self.scale), 0), max(round(y * self.scale), 0)
        region = np.s_[top : top + other.label.shape[0], left : left + other.label.shape[1]]
        rows, columns = self.label[region].shape
        self.image[region] = other.image[:rows, :columns] * brightness
        self.label[region] = other.label[:rows, :columns]

    @cached_property
    def half(self) -> "Canvas":
        """The canvas at half its resolution; it is kept, and later painting does not change it."""
        half = copy(self)
        rows, columns = (max(side // 2, 2) for side in self.label.shape)
        half.scale = self.scale / 2
        half.image = cv2.resize(self.image, (columns, rows), interpolation=cv2.INTER_AREA)
        half.label = cv2.resize(self.label, (columns, rows), interpolation=cv2.INTER_NEAREST)
        return half
