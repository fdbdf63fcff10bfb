"""What an evaluation keeps of its pictures for the report."""

import base64
from dataclasses import dataclass, field

import cv2
import numpy as np

from report.analysis import Counts, by_distance, by_region_size, iou, mean_known

THUMB_SIDE = 384  # pixels
EMBEDDED = 64 * 2**20  # characters of pictures in a page, at most


@dataclass
class Collector:
    """What an evaluation keeps of each picture: counts, and thumbnails of the worst ones.

    Attributes:
        rows: place in the list -> pixels 3 x C: hits, labelled, predicted.
        thumbs: (mIoU, place) -> picture, label and prediction in base64.
        limit: the lowest key that was dropped for lack of room; only keys below it are kept.
        regions, distances: see `by_region_size` and `by_distance`.
    """

    num_class: int
    rows: dict[int, np.ndarray] = field(default_factory=dict)
    thumbs: dict[tuple[float, int], str] = field(default_factory=dict)
    limit: tuple[float, int] = (np.inf, 0)
    regions: np.ndarray = field(default_factory=lambda: np.zeros(1))
    distances: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))

    def add(self, place: int, confusion: np.ndarray) -> None:
        """Keep the counts of a picture; its confusion matrix is C x C, a row a label's class."""
        self.rows[place] = np.stack([confusion.diagonal(), confusion.sum(1), confusion.sum(0)])

    def show(self, place: int, picture: np.ndarray, label: np.ndarray, found: np.ndarray) -> None:
        """Keep what the page shows of a picture that was added.

        Args:
            place: in the list.
            picture: H x W x 3, uint8.
            label: h x w; values that are no class are unlabelled.
            found: h x w, the prediction.
        """
        label = np.where(label < self.num_class, label, -1)
        self.regions = self.regions + by_region_size(label, found)
        self.distances = self.distances + by_distance(label, found, self.num_class)
        key = (picture_miou(self.rows[place]), place)
        if key < self.limit:
            self.thumbs[key] = thumbnails(picture, label, found, self.num_class)
            self.make_room()

    def make_room(self) -> None:
        """Drop the best pictures until the others fit."""
        size = sum(map(len, self.thumbs.values()))
        while size > EMBEDDED:
            self.limit = max(self.thumbs)
            size -= len(self.thumbs.pop(self.limit))

    def counts(self, names: list[str]) -> Counts:
        """The counts of all pictures of the list."""
        pixels = np.stack([self.rows[place] for place in range(len(names))], axis=1)
        return Counts(names, *pixels)


def join(parts: list[Collector]) -> Collector:
    """Several collectors as one, the same as if it had seen all pictures."""
    whole = Collector(parts[0].num_class, limit=min(part.limit for part in parts))
    for part in parts:
        whole.rows |= part.rows
        whole.thumbs |= {key: thumb for key, thumb in part.thumbs.items() if key < whole.limit}
        whole.regions = whole.regions + part.regions
        whole.distances = whole.distances + part.distances
    whole.make_room()
    return whole


def picture_miou(pixels: np.ndarray) -> float:
    """Mean IoU of one picture's pixels 3 x C; 1, to come last, where nothing is labelled."""
    return float(np.nan_to_num(mean_known(iou(*pixels)), nan=1.0))


def thumbnails(picture: np.ndarray, label: np.ndarray, found: np.ndarray, num_class: int) -> str:
    """JPEG of the picture, PNGs of label and prediction (class + 1), in base64, by spaces."""
    height, width = label.shape
    scale = min(1, THUMB_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    thumb = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", thumb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    files = [jpeg]
    for labels in (label, found):
        small = cv2.resize(labels.astype(np.float32), size, interpolation=cv2.INTER_NEAREST)
        values = (small + 1).astype(np.uint16)
        if num_class > 255:  # blue stays 0, green is the high byte, red the low one
            values = np.dstack([np.zeros_like(values), values >> 8, values & 255])
        files.append(cv2.imencode(".png", values.astype(np.uint8))[1])
    return " ".join(base64.b64encode(file.tobytes()).decode() for file in files)
