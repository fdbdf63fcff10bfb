"""Read the label of a picture, whatever form it has: values, colours, or both.

A label is read whole; nothing is written. Values are what the file holds: what they mean is decided
for all labels together (`meaning.py`).
"""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from PIL import Image, ImageDraw

from common.images import (
    MAX_PIXELS,
    PNG_SIGNATURE,
    UnreadableError,
    decode,
    decode_values,
    read_bytes,
)
from preparation.tables import pack

PNG_GREY = b"\0"  # the type of colour in a header
LEAST_NUMBERS = 6  # of an outline: three points
SHAPE_KINDS = ("polygon", "rectangle", "circle", "mask")  # of labelme's, with an area


@dataclass(frozen=True)
class LabelImage:
    """What a label holds.

    Attributes:
        values: H x W, of any integer type; None where a pixel's colour has no grey.
        colours: H x W, 0xRRGGBB, int32; None where the label has no colours.
    """

    values: np.ndarray | None
    colours: np.ndarray | None = None


@dataclass(frozen=True)
class Label(ABC):
    """The label of a picture.

    Attributes:
        path: of its file, or of the file that holds those of all pictures.
        is_drawn: whether it is drawn from annotations, rather than an image itself.
        is_of_shown: whether it surely lies as EXIF data turn its picture.
    """

    path: str
    is_drawn: ClassVar[bool] = True
    is_of_shown: ClassVar[bool] = False

    @abstractmethod
    def read(self) -> LabelImage:
        """The label.

        Raises:
            UserError: it cannot be read.
        """


@dataclass(frozen=True)
class LabelFile(Label):
    """A label that is an image: grey, with a palette, or in colours."""

    is_drawn = False

    def read(self) -> LabelImage:
        """Its values, its colours, or both: those of a palette, or of greys in three channels."""
        content = read_bytes(self.path)
        if content.startswith(PNG_SIGNATURE) and content[25:26] == PNG_GREY:
            return LabelImage(decode_values(content, self.path))
        if content.startswith(PNG_SIGNATURE) and content[24] == 16:  # Pillow drops half the bits
            return from_wide(decode(content, self.path, cv2.IMREAD_UNCHANGED), self.path)
        return from_image(open_image(content, self.path))


@dataclass(frozen=True)
class BinaryFiles(Label):
    """A label of several masks, one or more for each class: what is bright is of the class.

    Args:
        path: the first mask.
        masks: (value, path of the mask), in the order in which they cover one another.
    """

    masks: tuple[tuple[int, str], ...]

    def read(self) -> LabelImage:
        """Values: those of the masks, and 0 where there is none."""
        label: np.ndarray | None = None
        for value, path in self.masks:
            mask = np.asarray(open_image(read_bytes(path), path).convert("L")) > 127
            if label is None:
                label = np.zeros(mask.shape, np.uint16)
            if mask.shape != label.shape:
                raise UnreadableError(f"{path} has another size than {self.path}")
            label[mask] = value
        return LabelImage(label)


@dataclass(frozen=True)
class Shape:
    """An area of a class.

    Attributes:
        value: the class's.
        points: x, y, x, y, … of its outline, in pixels; two points of a box or circle.
        kind: one of `SHAPE_KINDS`; a circle has its centre and a point on it.
        mask: of a mask, in its box: a PNG, in base64.
    """

    value: int
    points: tuple[float, ...]
    kind: str = "polygon"
    mask: str | None = None


@dataclass(frozen=True)
class Shapes(Label):
    """A label of labelme's shapes, later ones over earlier ones; 0 where there is none.

    Args:
        path: the file of the annotations.
        size: (height, width) of the picture.
        shapes: the outlines.
    """

    size: tuple[int, int]
    shapes: tuple[Shape, ...]

    def read(self) -> LabelImage:
        """Values; a pixel belongs to an outline that goes through it, as in labelme."""
        image = Image.new("I", self.size[::-1])
        for shape in self.shapes:
            try:
                self.draw(shape, image)
            except Exception as error:  # a dozen kinds, of a wrong annotation
                raise UnreadableError(f"{self.path}: a {shape.kind} is wrong: {error}") from error
        return LabelImage(np.asarray(image).astype(np.uint16))

    def draw(self, shape: Shape, image: Image.Image) -> None:
        """Draw a shape into the label."""
        draw, value = ImageDraw.Draw(image), shape.value
        points = list(zip(shape.points[::2], shape.points[1::2], strict=True))
        if shape.kind == "polygon":
            draw.polygon(points, fill=value, outline=value)
        elif shape.kind == "rectangle":
            (x, y), (x2, y2) = points
            corners = [(min(x, x2), min(y, y2)), (max(x, x2), max(y, y2))]
            draw.rectangle(corners, fill=value, outline=value)
        elif shape.kind == "mask":
            content = base64.b64decode(shape.mask or "")
            mask = open_image(content, self.path).convert("L").point(lambda v: 255 * (v > 0))
            left, top = map(int, points[0])
            image.paste(value, (left, top), mask)
        else:
            (x, y), (x2, y2) = points
            radius = np.hypot(x2 - x, y2 - y)
            box = [(x - radius, y - radius), (x + radius, y + radius)]
            draw.ellipse(box, fill=value, outline=value)


@dataclass(frozen=True)
class CodedMasks(Label):
    """A label of COCO's annotations: small ones over large ones; 0 where there is none.

    Args:
        path: the file of the annotations.
        size: (height, width) of the picture.
        masks: (value, COCO's segmentation: polygons, or a run-length code).
    """

    size: tuple[int, int]
    masks: Sequence[tuple[int, list | dict]]

    def read(self) -> LabelImage:
        """Values, by COCO's own rasteriser."""
        from pycocotools import mask as coco  # type: ignore[import-untyped]  # optional

        masks = []
        for value, segmentation in self.masks:
            try:
                if isinstance(segmentation, list):
                    code = coco.merge(coco.frPyObjects(segmentation, *self.size))
                elif isinstance(segmentation["counts"], list):
                    code = coco.frPyObjects(segmentation, *self.size)
                    if sum(segmentation["counts"]) != self.size[0] * self.size[1]:
                        raise ValueError("its runs do not cover the picture")
                else:
                    code = segmentation
                if tuple(code["size"]) != self.size:
                    raise ValueError(f"its size is {code['size']}, the picture's {self.size}")
                mask = coco.decode(code)
                # Where runs end early, the rest is what was in memory; their area leaves it out.
                if mask.sum() != coco.area(code):
                    raise ValueError("its runs do not cover the picture")
                masks.append((value, mask))
            except Exception as error:  # a dozen kinds, of a wrong annotation
                raise UnreadableError(f"{self.path}: a segmentation is wrong: {error}") from error
        return small_over_large(masks, self.size)


@dataclass(frozen=True)
class Outlines(Label):
    """A label of YOLO's outlines: small ones over large ones; 0 where there is none.

    Args:
        path: the file of the annotations.
        size: (height, width) of the picture as shown, of whose sides YOLO's outlines have shares.
        outlines: (value; x, y, x, y, … in pixels).
    """

    is_of_shown = True

    size: tuple[int, int]
    outlines: tuple[tuple[int, tuple[float, ...]], ...]

    def read(self) -> LabelImage:
        """Values; whole parts of coordinates are filled, as in Ultralytics' `polygon2mask`."""
        masks = []
        for value, points in self.outlines:
            mask = np.zeros(self.size, np.uint8)
            cv2.fillPoly(mask, [np.array(points).reshape(-1, 2).astype(np.int32)], 1)
            masks.append((value, mask))
        return small_over_large(masks, self.size)


def small_over_large(masks: list[tuple[int, np.ndarray]], size: tuple[int, int]) -> LabelImage:
    """The label of (value, mask H x W), where smaller masks cover larger ones."""
    label = np.zeros(size, np.uint16)
    for value, mask in sorted(masks, key=lambda pair: -int(np.count_nonzero(pair[1]))):
        label[mask.astype(bool)] = value
    return LabelImage(label)


def open_image(content: bytes, path: str) -> Image.Image:
    """An image of any format that Pillow knows, as it is stored.

    Raises:
        UnreadableError: it cannot be decoded, or promises more than `MAX_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(content))
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableError(f"{path} promises more than {MAX_PIXELS:,} pixels")
        if (count := getattr(image, "n_frames", 1)) > 1:
            raise UnreadableError(f"{path} holds {count} images: a label is one")
        image.load()
    except UnreadableError:
        raise
    except Exception as error:  # Pillow has half a dozen classes for what may be wrong with a file
        raise UnreadableError(f"{path} is no image that can be decoded: {error}") from error
    return image


def from_image(image: Image.Image) -> LabelImage:
    """Values and colours of an image as it is stored: an alpha channel says nothing."""
    if image.mode in ("P", "PA"):
        values = np.asarray(image if image.mode == "P" else image.convert("P"))
        return LabelImage(values, packed_palette(image)[values])
    if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image.convert("L") if image.mode == "LA" else image)
        if image.mode in ("1", "F"):  # fractions are no classes, and their whole parts soft values
            values = values.astype(np.int32)
        return LabelImage(values)
    channels = np.asarray(image.convert("RGB")).astype(np.int32)
    red, green, blue = np.moveaxis(channels, 2, 0)
    is_grey = bool(((red == green) & (green == blue)).all())
    return LabelImage(red if is_grey else None, pack(red, green, blue))


def from_wide(channels: np.ndarray, path: str) -> LabelImage:
    """Values or colours of channels of 16 bits, H x W x 3 or 4; alpha, the last one, says nothing.

    Raises:
        UnreadableError: colours are not those of 8 bits.
    """
    blue, green, red = np.moveaxis(channels[..., :3], 2, 0)
    if (red == green).all() and (green == blue).all():
        return LabelImage(red)
    if (channels[..., :3] % 257).any():
        raise UnreadableError(f"{path} has colours that need 16 bits: save it with 8, or in grey")
    return LabelImage(
        None, pack(*(channel.astype(np.int32) // 257 for channel in (red, green, blue)))
    )


def packed_palette(image: Image.Image) -> np.ndarray:
    """The colours of an image's palette, 256 codes 0xRRGGBB; black where it has fewer."""
    channels = np.zeros((256, 3), np.int32)
    known = np.asarray(image.getpalette("RGB"), np.int32).reshape(-1, 3)
    channels[: len(known)] = known
    return pack(*channels.T)
