"""Pictures of a data set: a chart of the classes' shares, and a sheet of labelled pictures."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from common.classes import Classes
from visualize.panels import (
    MOST_ENTRIES,
    arrange,
    class_shares,
    cut,
    load_font,
    named,
    resize_labels,
    resize_picture,
)

MOST_BARS = 150
BARS_A_COLUMN = 50
LONGEST_NAME = 28  # letters beside a bar
WIDE = 20  # how many times the smallest share the largest has to be for a log axis
LEAST_SHARE = 1e-5  # where a log axis begins at the latest
TILE_SIDE = 360  # pixels of the long side of a picture on a sheet
ROW = 4  # pictures in a row of it, where there are more


def share_chart(shares: dict[str, np.ndarray], classes: Classes, rare: float) -> Figure:
    """Bars of the classes' shares of the pixels, largest first.

    Args:
        shares: by the name of a list, num_class each; the first's are bars, a second one's dots.
        classes: their names and colours.
        rare: the share below which a class is rare, where a line is drawn.
    """
    order = np.argsort(-next(iter(shares.values())), kind="stable")[:MOST_BARS]
    columns = math.ceil(len(order) / BARS_A_COLUMN)
    rows = math.ceil(len(order) / columns)
    more = len(classes.names) - len(order)
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure((3 + 5 * columns, 2 + 0.28 * rows), dpi=100, layout="constrained")
        figure.suptitle("Share of the labelled pixels" + f"; {more:,} more classes" * (more > 0))
        for i, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
            scale(axes, np.concatenate([some[order] for some in shares.values()]), rare)
            handles = draw_bars(axes, order[i * rows : (i + 1) * rows], shares, classes)
            handles.append(axes.axvline(rare, color="crimson", linestyle="--"))
            axes.set_ylim(rows - 0.4, -0.6)
        labels = [*shares, f"{100 * rare:g}%"]
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def scale(axes: Axes, shares: np.ndarray, rare: float) -> None:
    """Give a chart an axis for shares: logarithmic where the smallest could not be seen."""
    shares = shares[shares > 0]
    if shares.max() > WIDE * shares.min():
        axes.set_xscale("log")
        low = max(10 ** math.floor(math.log10(min(shares.min(), rare) / 1.5)), LEAST_SHARE)
        axes.set_xlim(low, shares.max() * 1.5)
    else:
        axes.set_xlim(0, 1.1 * shares.max())
    axes.xaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)


def draw_bars(
    axes: Axes, order: np.ndarray, shares: dict[str, np.ndarray], classes: Classes
) -> list[Artist]:
    """Draw the shares of some classes below one another, between names and numbers.

    Returns the legend's symbols for the lists.
    """
    places = np.arange(len(order))
    main, *others = (some[order] for some in shares.values())
    edge: dict[str, Any] = dict(edgecolor="dimgrey", linewidth=0.7)
    axes.barh(places, main, 0.75, color=classes.palette[order + 1] / 255, **edge)
    handles: list[Artist] = [Patch(facecolor="lightgrey", **edge)]
    for some in others:
        some = np.where(some > 0, some, np.nan)
        handles += axes.plot(some, places, "D", color="white", markeredgecolor="black", ms=5)
    # A $ in a name begins no formula.
    axes.set_yticks(places, [shorten(classes.names[c]) for c in order], parse_math=False)
    numbers = ["  ".join(f"{number(some[i]):>5}" for some in (main, *others)) for i in places]
    right = axes.secondary_yaxis("right")
    right.set_yticks(places, numbers, family="monospace", size=9)
    right.tick_params(length=0)
    return handles


def shorten(name: str) -> str:
    """A name that leaves room for the bars."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def number(share: float) -> str:
    """A share in percent, in few letters."""
    if share >= 0.01:
        return f"{share:.1%}"
    return f"{share:.2%}" if share >= 1e-4 else "<.01%" if share else "none"


def contact_sheet(
    items: Sequence[tuple[str, np.ndarray, np.ndarray]], classes: Classes
) -> Image.Image:
    """Pictures with the classes over them, and a legend.

    Args:
        items: name, picture H x W x 3 (uint8), and label H x W, classes from 0.
        classes: their names and colours.
    """
    sizes = [fitted(*label.shape) for _, _, label in items]
    tile_size = max(width for _, width in sizes), max(height for height, _ in sizes)
    font = load_font((TILE_SIDE, TILE_SIDE))
    tiles, captions, maps = [], [], []
    for (name, picture, label), size in zip(items, sizes, strict=True):
        small = resize_labels(label, size)
        tile = Image.new("RGB", tile_size, "white")
        tile.paste(named(resize_picture(picture, size), small, classes, font))
        tiles.append(tile)
        captions.append(cut(name, tile.width, font))
        maps.append(small.ravel())
    blanks = -len(tiles) % ROW if len(tiles) > ROW else 0
    tiles += [Image.new("RGB", tile_size, "white")] * blanks
    captions += [""] * blanks
    present = class_shares(np.concatenate(maps)[None], len(classes.names))[:MOST_ENTRIES]
    entries = [(tuple(classes.palette[i + 1].tolist()), classes.names[i], "") for i, _ in present]
    if any(((small < 0) | (small >= len(classes.names))).any() for small in maps):
        entries.append((tuple(classes.palette[0].tolist()), "unlabelled", ""))
    return arrange(tiles, captions, entries, font)


def fitted(height: int, width: int) -> tuple[int, int]:
    """(height, width) of a tile for a picture of a size."""
    scale = TILE_SIDE / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))
