"""Read pictures and labels: files become arrays; damaged, foreign and too large ones are refused.

OpenCV decodes. Headers are checked first, so that none makes it allocate what it promises.
"""

import io
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from utils import UserError

# Endings of pictures and labels in a folder.
FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
MAX_VALUE = 2**16 - 1  # in a label
MAX_PIXELS = 2**28  # of a picture or label; decoded in colour, they take 0.8 GB
MAX_BYTES = 8 * MAX_PIXELS  # of a file; no more than four channels of 16 bits are ever stored

PNG_SIGNATURE, PNG_PALETTE = b"\x89PNG\r\n\x1a\n", 3
# A marker that a segment with a length follows; SOF, with the size, is any of JPEG_FRAMES.
JPEG_SEGMENT = re.compile(rb"\xff([\x02-\xcf\xda-\xfe])")
JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


class UnreadableError(UserError):
    """A file that cannot be read or decoded."""


class ColourError(UserError):
    """A label in colours rather than class indices."""


def read_picture(path: str | Path) -> np.ndarray:
    """A picture H x W x 3, RGB uint8, of any format that OpenCV knows; EXIF's rotation is applied.

    Raises:
        UserError: the file cannot be decoded, or promises more than `MAX_PIXELS`. A JPEG has no
            checksum: one that was changed after its header, but not cut short, may look wrong.
    """
    return decode(read_bytes(path), path, cv2.IMREAD_COLOR_RGB)


def read_label(path: str | Path, num_class: int, offset: int = 1) -> np.ndarray:
    """A label H x W: classes count from 0, unlabelled is -1.

    Up to 255 classes are uint8, where -1 is 255; more are int32.

    Args:
        path: a file as `read_values` takes it.
        num_class: number of classes.
        offset: the value of the first class in the file: 1 in ADE20K, 0 in Cityscapes and PASCAL
            VOC. `unlabelled_value` is the value of unlabelled pixels there.

    Raises:
        UserError: the file cannot be read, or holds a value that is no class.
    """
    values = read_values(path)
    unlabelled = unlabelled_value(num_class, offset)
    last = num_class - 1 + offset
    highest = int(cv2.minMaxLoc(values, (values != unlabelled).view(np.uint8))[1])
    if highest > last:
        first, other = ("0", "255") if offset else ("1", "0")
        raise UserError(
            f"{path} holds the value {highest}, but the classes of --num_class {num_class} go from "
            f"{offset} to {last}, and {unlabelled} is unlabelled; where {first} is the first class "
            f"and {other} unlabelled: --label_offset {1 - offset}"
        )
    # In uint8, 0 - 1 wraps around to 255: unlabelled in either case.
    label = values.astype(np.uint8 if num_class <= 255 else np.int32) - offset
    if label.dtype == np.int32:
        label[values == unlabelled] = -1
    return label


def size_of_png(path: str | Path) -> tuple[int, int]:
    """Width and height of a PNG by its header alone; (0, 0) where that cannot be read."""
    try:
        with open(path, "rb") as file:
            header = file.read(24)
    except OSError:
        header = b""
    is_png = len(header) == 24 and header.startswith(PNG_SIGNATURE)
    return struct.unpack_from(">II", header, 16) if is_png else (0, 0)


def unlabelled_value(num_class: int, offset: int) -> int:
    """The value of an unlabelled pixel in a file.

    With offset 1 it is 0; with offset 0 it is 255, or 65535 above 255 classes.
    """
    return 0 if offset else 255 if num_class <= 255 else MAX_VALUE


def read_values(path: str | Path) -> np.ndarray:
    """The values H x W of a label's file, shades of grey or indices of a palette, uint8 or uint16.

    Raises:
        ColourError: the file has several channels.
        UserError: the file is no PNG, cannot be decoded, or promises more than `MAX_PIXELS`.
    """
    return decode_values(read_bytes(path), path)


def decode_values(content: bytes, path: str | Path) -> np.ndarray:
    """As `read_values`, from the content of the file `path`."""
    if not content.startswith(PNG_SIGNATURE):
        raise UserError(f"{path} is not a picture in PNG, as labels are: damaged or foreign")
    values = decode(content, path, cv2.IMREAD_UNCHANGED)
    depth, colour_type = content[24:26]
    if colour_type == PNG_PALETTE:
        values = palette_indices(content, path)
    elif depth < 8:
        values = values // (255 // (2**depth - 1))  # OpenCV spreads the values over 0…255
    if values.ndim != 2:
        raise ColourError(
            f"{path} is a colour picture: labels are class indices in a single channel; "
            "`python prepare.py SOURCE --data DATA` makes them of colours"
        )
    return values


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file.

    Raises:
        UnreadableError: it cannot be read, or has more than `MAX_BYTES`.
    """
    try:
        if os.path.getsize(path) > MAX_BYTES:
            raise UnreadableError(f"{path} has more than {MAX_BYTES:,} bytes")
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UnreadableError(f"cannot read {path}: {error.strerror}") from error


def decode(content: bytes, path: str | Path, flags: int) -> np.ndarray:
    """The image that OpenCV decodes from the content of the file `path`.

    Raises:
        UnreadableError: it is not a whole picture, or promises more than `MAX_PIXELS`.
    """
    pixels = promised_pixels(content)
    if pixels > MAX_PIXELS:
        raise UnreadableError(f"{path} promises {pixels:,} pixels; scale it down to {MAX_PIXELS:,}")
    try:
        image = cv2.imdecode(np.frombuffer(without_profile(content), np.uint8), flags)
    except cv2.error:  # an empty file, or a size that OpenCV refuses
        image = None
    if image is None:
        raise UnreadableError(
            f"{path} is not a picture that can be decoded: damaged, cut short or foreign"
        )
    return image


def without_profile(content: bytes) -> bytes:
    """A PNG without the colour profile that nothing here uses: libpng prints a line for many."""
    at = 8 if content.startswith(PNG_SIGNATURE) else len(content)
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 12 + length
        if kind == b"iCCP":
            return content[:at] + content[end:]
        if kind == b"IDAT":  # a profile comes before
            break
        at = end
    return content


def promised_pixels(content: bytes) -> int:
    """How many pixels the header of a JPEG, PNG, BMP or extended WebP promises; 0 = not known.

    A plain WebP holds at most `MAX_PIXELS`. In any other format OpenCV itself refuses 2**30.
    """
    sides: Sequence[int]
    try:
        if content.startswith(PNG_SIGNATURE):
            sides = struct.unpack_from(">II", content, 16)
        elif content.startswith(b"BM"):
            sides = struct.unpack_from("<HH" if content[14] == 12 else "<ii", content, 18)
        elif content[8:16] == b"WEBPVP8X":
            sides = [int.from_bytes(content[i : i + 3], "little") + 1 for i in (24, 27)]
        elif content.startswith(b"\xff\xd8"):
            sides = struct.unpack_from(">HH", content, frame_header(content) + 5)
        else:
            return 0
    except (IndexError, struct.error):  # cut short
        return 0
    return abs(sides[0] * sides[1])  # negative: a BMP whose first row is on top


def frame_header(content: bytes) -> int:
    """The offset of a JPEG's own SOF segment; a thumbnail's, inside another segment, is skipped."""
    at = 2
    while found := JPEG_SEGMENT.search(content, at):
        at = found.start()
        if found[1][0] in JPEG_FRAMES:
            return at
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    return len(content)


def palette_indices(content: bytes, path: str | Path) -> np.ndarray:
    """The indices H x W of a PNG with a palette; OpenCV would give its colours.

    Raises:
        UnreadableError: the file is not whole.
    """
    try:
        return np.asarray(Image.open(io.BytesIO(content)))
    except Exception as error:  # Pillow has half a dozen classes for what may be wrong with a file
        raise UnreadableError(f"{path} cannot be decoded: {error}") from error
