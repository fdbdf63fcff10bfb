"""What a person looks at: panels of pictures and labels with a legend, and curves of a training."""

from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageDraw, ImageFont

from classes import Classes, colour_code

MAX_SIDE = 1024  # pixels of a tile in a panel; the label map is where every pixel of a large one is
GAP = 8
LINE = 20
FONT_SIZE = 14


def panel(picture: np.ndarray, maps: Sequence[np.ndarray], classes: Classes) -> Image.Image:
    """A picture, label maps in colour beside it, and a legend of the last one's classes.

    Args:
        picture: H x W x 3, uint8.
        maps: H x W each, classes from 0, anything else is unlabelled.
        classes: their names and colours.
    """
    tiles = [shrink(picture, cv2.INTER_AREA)]
    for labels in maps:
        # Colours are never blended: the mean of two classes' may be a third one's.
        tiles.append(colour_code(shrink(labels, cv2.INTER_NEAREST), classes.palette))
    images = [Image.fromarray(tile) for tile in tiles]
    entries = legend(maps[-1], classes)
    font = ImageFont.load_default(FONT_SIZE)
    text_width = max((font.getlength(text) for _, text in entries), default=0)
    width = sum(image.width + GAP for image in images) + LINE + round(text_width) + 2 * GAP
    height = max(*(image.height for image in images), len(entries) * LINE) + 2 * GAP
    canvas = Image.new("RGB", (width, height), "white")
    x = GAP
    for image in images:
        canvas.paste(image, (x, GAP))
        x += image.width + GAP
    draw = ImageDraw.Draw(canvas)
    for i, (colour, text) in enumerate(entries):
        y = GAP + i * LINE
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=tuple(colour.tolist()), outline="grey")
        draw.text((x + LINE, y + LINE // 2 - 1), text, fill="black", font=font, anchor="lm")
    return canvas


def shrink(image: np.ndarray, interpolation: int) -> np.ndarray:
    """An image H x W (x 3) of at most `MAX_SIDE` pixels a side."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=interpolation)


def legend(labels: np.ndarray, classes: Classes) -> list[tuple[np.ndarray, str]]:
    """Colour, and name with share, of the classes that cover 1 % or more of labels H x W."""
    return [
        (classes.palette[i + 1], f"{classes.names[i]}  {share:.0%}")
        for i, share in class_shares(labels)
        if share >= 0.01
    ]


def class_shares(labels: np.ndarray) -> list[tuple[int, float]]:
    """(class, share of the pixels) in labels H x W, all labelled; largest first."""
    pixels = np.bincount(labels.ravel())
    order = np.argsort(-pixels, kind="stable")
    return [(int(i), float(pixels[i] / labels.size)) for i in order if pixels[i]]


def history_figures(history: Sequence[dict[str, float]]) -> dict[str, Figure]:
    """The curves of a run's history, a row an epoch, by the names of their files."""
    losses = {"train_loss": "training", "val_loss": "validation"}
    scores = {"pixel_accuracy": "pixel accuracy", "mean_iou": "mean IoU"}
    return {
        "loss.png": curves(history, losses, "loss"),
        "accuracy.png": curves(history, scores, "accuracy"),
    }


def curves(history: Sequence[dict[str, float]], columns: dict[str, str], title: str) -> Figure:
    """Some columns of a history, which may have gaps, over its epochs."""
    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for column, label in columns.items():
        rows = [row for row in history if column in row]
        epochs, values = [row["epoch"] for row in rows], [row[column] for row in rows]
        axes.plot(epochs, values, marker=".", label=label)
    axes.set(xlabel="epoch", ylabel=title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
