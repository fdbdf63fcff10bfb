"""What the page of `app.py` shows: networks to choose from, and photos that they segment."""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.classes import Classes, label_map, read_classes
from common.devices import select_device
from common.files import identity, png, saved_file, write_atomically
from common.images import read_picture
from common.published import PUBLISHED
from common.runs import is_run, run_folder, runs, weights_files
from inference import load_network, predict, run_settings
from models import SegmentationModel
from utils import result_names
from visualize.panels import (
    class_shares,
    load_font,
    named,
    panel,
    resize_labels,
    resize_picture,
    tile_size,
)


class Networks:
    """The networks to choose from; the last one that was used stays in memory."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.device = select_device(args.device)
        self.loaded: tuple[object, tuple[SegmentationModel, Classes]] | None = None

    @property
    def names(self) -> list[str]:
        """One's own runs, the latest first, and the published networks."""
        own = [name for name in runs(self.args.ckpt) if name not in PUBLISHED]
        own.sort(key=lambda name: -run_folder(self.args.ckpt, name).stat().st_mtime)
        return [*own, *PUBLISHED]

    def is_here(self, run_id: str) -> bool:
        """Whether a network needs no download."""
        return is_run(run_folder(self.args.ckpt, run_id))

    def load(self, run_id: str) -> tuple[SegmentationModel, Classes]:
        """A network and its classes; a training that goes on may have saved a better one since.

        Raises:
            UserError, ModelError: there is none, or it cannot be read.
        """
        args = run_settings(self.args.ckpt, run_id, self.args.suffix)
        args.amp = self.args.amp
        folder = run_folder(args.ckpt, run_id)
        names = weights_files(folder, args.suffix)
        state = run_id, [identity(saved_file(folder, name)) for name in names]
        if self.loaded is None or self.loaded[0] != state:
            self.loaded = None  # two at a time may not fit into memory
            classes = read_classes(args.list_class, args.num_class)
            self.loaded = state, (load_network(args, self.device), classes)
        return self.loaded[1]


@dataclass(frozen=True)
class Segmented:
    """A photo of a moderate size and its labels, and both results as files.

    Attributes:
        picture: h x w x 3, uint8.
        labels: h x w, classes from 0.
        shares: of the classes in the whole photo, largest first.
        classes: names and colours.
        folder: holds the files, and vanishes with this object.
        label_map, panel: the files.
    """

    picture: np.ndarray
    labels: np.ndarray
    shares: list[tuple[int, float]]
    classes: Classes
    folder: tempfile.TemporaryDirectory
    label_map: Path
    panel: Path


def segment(
    path: Path, network: tuple[SegmentationModel, Classes], side: int, scales: Sequence[float]
) -> Segmented:
    """Segment a photo.

    Args:
        path: of its file, in the folder that everything is kept in.
        network: what labels it, and its classes.
        side: pixels of the short side that the network sees; -1 = as many as it has.
        scales: factors of that, over which probabilities are averaged.

    Raises:
        UserError: it cannot be read, or the network's output is not finite.
    """
    model, classes = network
    picture = read_picture(path)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None]
    labels = predict(model, images, picture.shape[:2], side, scales)[0].cpu().numpy()
    folder = tempfile.TemporaryDirectory(dir=path.parent)
    name = result_names([path.name])[path.name]
    files = [Path(folder.name, f"{name}_{kind}.png") for kind in ("prediction", "panel")]
    write_atomically(files[0], png(label_map(labels, len(classes.names))))
    write_atomically(files[1], png(panel(picture, labels, classes)))
    size = tile_size(*picture.shape[:2])
    small = resize_picture(picture, size), resize_labels(labels, size)
    return Segmented(*small, class_shares(labels, len(classes.names)), classes, folder, *files)


def draw(result: Segmented, opacity: float, alone: int | None) -> np.ndarray:
    """The photo with its classes over it, or with one of them alone."""
    labels = result.labels.astype(np.int32)
    if alone is not None:
        labels[labels != alone] = -1
    font = load_font(labels.shape)
    return np.asarray(named(result.picture, labels, result.classes, font, opacity))


def buttons(result: Segmented, alone: int | None) -> list[dict[str, object]]:
    """What the page's buttons show: the classes, with their shares of the photo."""
    return [
        {
            "index": i,
            "name": result.classes.names[i],
            "share": f"{share:.1%}" if share >= 0.0005 else "<0.1%",
            "colour": "#{:02x}{:02x}{:02x}".format(*result.classes.palette[i + 1]),
            "alone": "true" if i == alone else "false",
        }
        for i, share in result.shares
    ]
