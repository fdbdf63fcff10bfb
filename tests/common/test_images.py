import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.images import read_label, read_picture
from utils import UserError


def smooth(height: int, width: int) -> np.ndarray:
    """A colour picture without edges, so that no format or resizing changes it much."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 150 * x / width, 60 + 120 * y / height, 200 - 90 * x / width], 2)


def test_more_than_255_classes_make_wider_labels(tmp_path):
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 1, 255, 300]], np.uint16)).save(path)
    assert read_label(path, 300).tolist() == [[-1, 0, 254, 299]]
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(path)
    assert read_label(path, 255).tolist() == [[255, 0, 254]]


@pytest.mark.parametrize(
    ("num_class", "values", "expected"),
    [
        (3, [0, 1, 2, 255], [0, 1, 2, 255]),
        (255, [0, 254, 255], [0, 254, 255]),
        (300, [0, 255, 299, 65535], [0, 255, 299, -1]),
        (2**16 - 1, [0, 65534, 65535], [0, 65534, -1]),
    ],
)
def test_classes_may_count_from_0_and_the_highest_value_be_unlabelled(
    num_class, values, expected, tmp_path
):
    path = tmp_path / "label.png"
    for dtype in (np.uint8, np.uint16)[max(values) > 255 :]:
        Image.fromarray(np.array([values], dtype)).save(path)
        assert read_label(path, num_class, offset=0).tolist() == [expected]


@pytest.mark.parametrize(
    ("offset", "value", "culprits"),
    [
        (1, 255, ["the value 255", "--num_class 4 go from 1 to 4", "--label_offset 0"]),
        (1, 5, ["the value 5", "0 is unlabelled", "--label_offset 0"]),
        (0, 4, ["the value 4", "--num_class 4 go from 0 to 3", "--label_offset 1"]),
        (0, 254, ["the value 254", "255 is unlabelled", "--label_offset 1"]),
    ],
)
def test_a_value_that_is_no_class_tells_of_the_other_way_to_count(
    offset, value, culprits, tmp_path
):
    path = tmp_path / "label.png"
    Image.fromarray(np.array([[0, 1, value, 255 * (1 - offset)]], np.uint8)).save(path)
    with pytest.raises(UserError) as error:
        read_label(path, 4, offset)
    assert all(culprit in str(error.value) for culprit in ["label.png", *culprits])


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_labels_of_any_depth_hold_their_values(depth, tmp_path):
    path = tmp_path / "label.png"
    values = np.arange(2 ** min(depth, 4), dtype=np.uint8)[None].repeat(3, 0)
    write_grey_png(path, values, depth)
    assert (read_label(path, 15) == values - 1).all()


@pytest.mark.parametrize("colours", [2, 4, 16, 256])
def test_palette_labels_hold_their_indices(colours, tmp_path):
    path = tmp_path / "label.png"
    values = np.arange(colours, dtype=np.uint8)[None].repeat(3, 0)
    image = Image.fromarray(values).convert("P")
    image.putpalette(np.random.default_rng(0).integers(0, 256, colours * 3).tolist())
    image.save(path)
    assert (read_label(path, 255) == values - 1).all()


def write_grey_png(path: Path, values: np.ndarray, depth: int) -> None:
    """A grey PNG of less than 8 bits a pixel too, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body).to_bytes(4, "big")
        return len(body).to_bytes(4, "big") + kind + body + check

    height, width = values.shape
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :].reshape(height, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1))
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "kind", ["jpg", "png", "webp", "bmp", "grey", "rgba", "16bit", "cmyk", "palette"]
)
def test_pictures_of_any_kind_come_out_right(kind, tmp_path):
    rgb = smooth(48, 64).astype(np.uint8)
    image = Image.fromarray(rgb)
    path = tmp_path / f"picture.{kind if kind in ('jpg', 'webp', 'bmp') else 'png'}"
    if kind == "grey":
        image = image.convert("L")
        rgb = np.repeat(np.array(image)[..., None], 3, 2)
    elif kind == "rgba":
        image.putalpha(200)
    elif kind == "palette":
        image = image.quantize(256)
    if kind == "16bit":
        cv2.imwrite(str(path), rgb[..., ::-1].astype(np.uint16) * 257)
    elif kind == "cmyk":
        path = tmp_path / "picture.jpg"
        image.convert("CMYK").save(path, quality=98)
    else:
        image.save(path)
    picture = read_picture(path)
    assert picture.shape == (48, 64, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - rgb).mean() < 5


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    rgb = smooth(48, 64).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter for viewing
    path = tmp_path / "turned.jpg"
    Image.fromarray(rgb).rotate(90, expand=True).save(path, exif=exif, quality=98)
    assert np.abs(read_picture(path).astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.bmp"])
@pytest.mark.parametrize("part", [0.0, 0.02, 0.5, 0.95])
def test_a_picture_cut_short_is_an_error_that_names_it(name, part, tmp_path):
    path = tmp_path / name
    rgb = smooth(96, 128) + np.random.default_rng(0).normal(0, 20, (96, 128, 3))
    Image.fromarray(rgb.clip(0, 255).astype(np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(UserError, match=name):
        read_picture(path)


def test_a_header_of_a_huge_picture_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "huge.png"
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    path.write_bytes(content)
    with pytest.raises(UserError, match="huge.png"):
        read_picture(path)


def test_an_absent_picture_is_an_error_that_names_it():
    with pytest.raises(UserError, match="nowhere.jpg: No such file"):
        read_picture("nowhere.jpg")


def test_a_coloured_label_is_refused(tmp_path):
    path = tmp_path / "label.png"
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    with pytest.raises(UserError, match="label.png is a colour picture.*prepare.py SOURCE"):
        read_label(path, 5)


def test_a_colour_profile_prints_no_line_and_changes_no_pixel(tmp_path, capfd):
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "profile.png", icc_profile=b"no profile at all")
    plain, other = (read_picture(tmp_path / f"{name}.png") for name in ("plain", "profile"))
    assert (plain == other).all() and capfd.readouterr() == ("", "")
