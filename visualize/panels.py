"""Panels of pictures for people: the classes in colour and by name, and a legend.

Pictures and labels get a moderate size first: small ones are enlarged, large ones shrunk.
"""

import math
from collections.abc import Sequence

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.classes import Classes, colour_code

MIN_SIDE = 320  # pixels of the long side of a tile; smaller pictures are enlarged
MAX_SIDE = 800  # larger ones are shrunk; their label maps have every pixel
SHAPE = 1.6  # width to height of all tiles of a panel together, about
GAP = 8
HALO = 2  # pixels of black around letters on a picture
MARGIN = 3  # pixels between that and the border of a region
LEAST_REGION = 0.003  # of a tile, for a region to be named
LEAST_SHARE = 0.01  # of the pixels, for a class to stand in the legend
MOST_ENTRIES = 32
LONGEST_ENTRY = 12  # heights of a letter; the rest of a name is cut off
OPACITY = 0.6  # of the classes' colours over a picture
WRONG = (255, 60, 30)
UNLABELLED = (175, 175, 175)

Entry = tuple[tuple[int, int, int], str, str]  # of a legend: colour, name, and a number or ""


def panel(picture: np.ndarray, labels: np.ndarray, classes: Classes) -> Image.Image:
    """A picture beside the classes over it, and a legend.

    Args:
        picture: H x W x 3, uint8.
        labels: h x w, classes from 0.
        classes: their names and colours.
    """
    size = tile_size(*picture.shape[:2])
    font = load_font(size)
    small = resize_picture(picture, size)
    tiles = [Image.fromarray(small), named(small, resize_labels(labels, size), classes, font)]
    return arrange(tiles, [], legend(labels, classes), font)


def comparison(
    picture: np.ndarray, label: np.ndarray, prediction: np.ndarray, classes: Classes
) -> Image.Image:
    """A picture, its label, a prediction, and where they differ; and a legend.

    Args:
        picture: H x W x 3, uint8.
        label: h x w, classes from 0; other values are unlabelled.
        prediction: h x w, classes from 0.
        classes: their names and colours.
    """
    label = label.astype(np.int32)
    label[label >= len(classes.names)] = -1
    labelled = label >= 0
    wrong = (label != prediction)[labelled].mean() if labelled.any() else 0
    captions = ["picture", "label", "prediction", f"wrong: {wrong:.1%}"]
    both = np.stack([label, prediction.astype(np.int32)])
    # A share of both maps together would say little.
    entries = [(colour, name, "") for colour, name, _ in legend(both, classes)]
    if not labelled.all():
        entries.append((UNLABELLED, "unlabelled", ""))

    size = tile_size(*picture.shape[:2])
    font = load_font(size)
    small = resize_picture(picture, size)
    maps = [resize_labels(labels, size) for labels in (label, prediction)]
    tiles = [Image.fromarray(small), *(named(small, labels, classes, font) for labels in maps)]
    tiles.append(Image.fromarray(difference(small, *maps)))
    return arrange(tiles, captions, entries, font)


def tile_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the tiles of a picture; small ones grow by a whole factor."""
    long = max(height, width)
    if long < MIN_SIDE:
        factor = math.ceil(MIN_SIDE / long)
        return height * factor, width * factor
    scale = min(1, MAX_SIDE / long)
    return max(1, round(height * scale)), max(1, round(width * scale))


def load_font(size: tuple[int, int]) -> ImageFont.FreeTypeFont:
    """The font for tiles of a size: matplotlib's, which knows more than Latin letters."""
    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, 10 + max(size) // 80)


def resize_picture(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture H x W x 3 in another size (height, width)."""
    smooth = cv2.INTER_AREA if size[0] < picture.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(picture, size[::-1], interpolation=smooth)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Labels H x W in another size (height, width): each is the one nearest to its centre."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def overlay(
    picture: np.ndarray, labels: np.ndarray, classes: Classes, opacity: float = OPACITY
) -> np.ndarray:
    """A picture H x W x 3 in grey under the colours of labels H x W, with borders of regions."""
    coloured = colour_code(labels, classes.palette)
    mixed = cv2.addWeighted(coloured, opacity, greyed(picture, 64, 255), 1 - opacity, 0)
    mixed[borders(labels)] = 255
    return mixed


def greyed(picture: np.ndarray, darkest: int, brightest: int) -> np.ndarray:
    """A picture H x W x 3 in shades of grey from `darkest` to `brightest`."""
    shades = np.linspace(darkest, brightest, 256).astype(np.uint8)
    return cv2.cvtColor(shades[cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)], cv2.COLOR_GRAY2RGB)


def borders(labels: np.ndarray) -> np.ndarray:
    """The pixels of labels H x W whose right or lower neighbour is of another class (bool)."""
    edges = np.zeros(labels.shape, bool)
    edges[:-1] |= labels[:-1] != labels[1:]
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    return edges


def difference(picture: np.ndarray, label: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The picture H x W x 3 in dim grey, but `WRONG` where the prediction H x W is not the label.

    Where the label is negative, it is `UNLABELLED`.
    """
    tile = greyed(picture, 32, 140)
    tile[label != prediction] = WRONG
    tile[label < 0] = UNLABELLED
    return tile


def named(
    picture: np.ndarray,
    labels: np.ndarray,
    classes: Classes,
    font: ImageFont.FreeTypeFont,
    opacity: float = OPACITY,
) -> Image.Image:
    """An overlay with the names of the larger regions."""
    image = Image.fromarray(overlay(picture, labels, classes, opacity))
    draw = ImageDraw.Draw(image)
    for x, y, name in place_names(labels, classes, font):
        draw.text((x, y), name, "white", font, "lt", stroke_width=HALO, stroke_fill="black")
    return image


def place_names(
    labels: np.ndarray, classes: Classes, font: ImageFont.FreeTypeFont
) -> list[tuple[int, int, str]]:
    """Names of the regions of labels H x W, and the left and upper end of each.

    A region is a set of connected pixels of a class. A name with its halo stays within its region,
    at the widest place, so that no two overlap. Regions that are small or too narrow get none.
    """
    # A border of zeros around the picture, and between regions, which only touch across it.
    inside = np.pad(~borders(labels), 1).astype(np.uint8)
    _, regions, stats, _ = cv2.connectedComponentsWithStats(inside, connectivity=4)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_3)
    outside = cv2.integral(1 - inside)  # a box's content is a sum over its four corners
    places = []
    for region in np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable"):
        x, y, width, height, area = stats[region]
        if area < LEAST_REGION * labels.size:
            break
        own = regions[y : y + height, x : x + width] == region
        row, column = np.unravel_index(own.argmax(), own.shape)
        c = labels[y + row - 1, x + column - 1]
        if region == 0 or not 0 <= c < len(classes.names) or not classes.names[c]:
            continue  # the borders themselves, unlabelled, or without a name
        left, top, right, bottom = font.getbbox(classes.names[c], anchor="lt", stroke_width=HALO)
        w, h = (math.ceil(side) + 2 * MARGIN for side in (right - left, bottom - top))
        if w > width or h > height:
            continue
        sums = outside[y : y + height + 1, x : x + width + 1]
        fits = sums[h:, w:] - sums[h:, :-w] - sums[:-h, w:] + sums[:-h, :-w] == 0
        middle = np.s_[h // 2 :, w // 2 :]  # of the box whose upper left pixel is at (0, 0)
        fits &= own[middle][: fits.shape[0], : fits.shape[1]]
        if fits.any():
            deep = depth[y : y + height, x : x + width][middle][: fits.shape[0], : fits.shape[1]]
            row, column = np.unravel_index(np.where(fits, deep, -1).argmax(), fits.shape)
            at = x + column - 1 + MARGIN - left, y + row - 1 + MARGIN - top
            places.append((round(at[0]), round(at[1]), classes.names[c]))
    return places


def class_shares(labels: np.ndarray, num_class: int) -> list[tuple[int, float]]:
    """(class, share of the labelled pixels) in labels of any shape; largest first."""
    pixels = np.zeros(num_class, np.int64)
    for row in labels.reshape(-1, labels.shape[-1]):  # small copies stay in a cache
        pixels += np.bincount(row[row >= 0], minlength=num_class)[:num_class]
    order = np.argsort(-pixels, kind="stable")
    return [(int(i), float(pixels[i] / pixels.sum())) for i in order if pixels[i]]


def legend(labels: np.ndarray, classes: Classes) -> list[Entry]:
    """Colour, name and share of the classes in labels, largest first; small ones are one entry.

    That entry is white: it has no colour of its own.
    """
    shares = class_shares(labels, len(classes.names))
    listed = [(i, share) for i, share in shares[:MOST_ENTRIES] if share >= LEAST_SHARE]
    entries = [
        (tuple(classes.palette[i + 1].tolist()), classes.names[i], f"{share:.0%}")
        for i, share in listed
    ]
    rest = [share for _, share in shares[len(listed) :]]
    if rest:
        small = sum(rest)
        number = "<1%" if small < 0.005 else f"{small:.0%}"
        entries.append(((255, 255, 255), f"{len(rest)} more", number))
    return entries


def arrange(
    tiles: Sequence[Image.Image],
    captions: Sequence[str],
    entries: Sequence[Entry],
    font: ImageFont.FreeTypeFont,
) -> Image.Image:
    """Tiles of one size in rows, captions over them if there are any, and a legend to the right."""
    line = round(1.5 * font.size)
    width = max([tiles[0].width, *(math.ceil(font.getlength(text)) for text in captions)]) + GAP
    height = tiles[0].height + GAP + (line if captions else 0)
    n = len(tiles)
    columns = min(
        (columns for columns in range(1, n + 1) if n % columns == 0),
        key=lambda columns: abs(math.log(columns**2 * width / (n * height * SHAPE))),
    )
    rows = n // columns

    texts = [cut(name, LONGEST_ENTRY * font.size, font) for _, name, _ in entries]
    name_width = max(map(font.getlength, texts), default=0)
    number_width = max((font.getlength(number) for *_, number in entries), default=0)
    entry_width = math.ceil(line + name_width + 2 * GAP + number_width + 2 * GAP)
    # As many entries below one another as there is room for; 8 if there is hardly any.
    below = max((rows * height - GAP) // line, 8)
    canvas = Image.new(
        "RGB",
        (
            GAP + columns * width + math.ceil(len(entries) / below) * entry_width,
            GAP + max(rows * height, min(len(entries), below) * line + GAP),
        ),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    for i, tile in enumerate(tiles):
        x, y = GAP + i % columns * width, GAP + i // columns * height
        if captions:
            draw.text((x, y + line // 2 - 2), captions[i], "black", font, "lm")
            y += line
        canvas.paste(tile, (x, y))
    for i, (colour, _, number) in enumerate(entries):
        x = GAP + columns * width + i // below * entry_width
        y = GAP + i % below * line + line // 2
        half = round(0.45 * font.size)
        draw.rectangle((x, y - half, x + 2 * half, y + half), colour, "grey")
        draw.text((x + line, y), texts[i], "black", font, "lm")
        draw.text((x + entry_width - 2 * GAP, y), number, "dimgrey", font, "rm")
    return canvas


def cut(text: str, width: float, font: ImageFont.FreeTypeFont) -> str:
    """A text of at most so many pixels; its end is left out where it does not fit."""
    if font.getlength(text) <= width:
        return text
    return next(
        shorter
        for end in range(len(text), -1, -1)
        if font.getlength(shorter := f"{text[:end]}…") <= width or not end
    )
