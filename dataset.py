"""ADE20K and data sets in its layout: list files, decoding, crop, scale and flip.

An item is a uint8 picture, a label of class indices and the picture's name; normalisation is left
to the network, so that a quarter of the bytes travel.
"""

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils import UserError, keep_freed_memory

Item = tuple[Tensor, Tensor, str]

PNG_SIGNATURE, PNG_PALETTE = b"\x89PNG\r\n\x1a\n", 3
WHERE_FROM = "./download_ADE20K.sh fetches ADE20K, `make demo` runs on a sample"


class SegmentationDataset(Dataset):
    """Whole pictures with their labels.

    Item i is (picture 3 x H x W, RGB uint8; label H x W; name). Labels count classes from 0;
    unlabelled is -1 in the label's own type: 255 in uint8, or int32 above 255 classes. A picture is
    turned as its EXIF data say, and so as people saw it who labelled it.

    Args:
        list_file: names pictures relative to `root_img`, one a line.
        root_img: folder of the pictures.
        root_seg: folder of the labels: PNGs of the same name, 0 = unlabelled, 1…num_class.
        num_class: number of classes.
        limit: use only the first so many; -1 = all.

    Raises:
        UserError: list or files are missing; later, as items are read, a file cannot be decoded, a
            label's size is not its picture's, or it holds a value above num_class.
    """

    def __init__(
        self, list_file: str, root_img: str, root_seg: str, num_class: int, limit: int = -1
    ):
        self.names = read_list(list_file)
        if limit != -1:
            self.names = self.names[:limit]
        self.root_img = Path(root_img)
        self.root_seg = Path(root_seg)
        self.num_class = num_class
        for name in self.names:
            if os.path.isabs(name) or ".." in Path(name).parts:
                raise UserError(f"{list_file} names {name}, which is no path within --root_img")
        files = [path for i in range(len(self)) for path in self.paths(i)]
        absent = [str(path) for path in files if not os.path.isfile(path)]
        if absent:
            raise UserError(
                f"{len(absent)} of {len(files)} files that {list_file} names are absent: "
                f"{', '.join(absent[:5])}{', …' if len(absent) > 5 else ''}; "
                f"check --root_img and --root_seg; {WHERE_FROM}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        picture, label = self.load(index)
        return to_item(picture, label, self.names[index])

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a picture and its label."""
        name = self.names[index]
        return self.root_img / name, self.root_seg / f"{os.path.splitext(name)[0]}.png"

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture H x W x 3 and its label H x W, as decoded."""
        path_img, path_seg = self.paths(index)
        picture = read_picture(path_img)
        label = read_label(path_seg, self.num_class)
        if picture.shape[:2] != label.shape:
            sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (picture, label)]
            raise UserError(
                f"{path_img} is {sizes[0]} but its label {path_seg} is {sizes[1]} pixels"
            )
        return picture, label


class CropDataset(SegmentationDataset):
    """Square pieces of pictures: `imgSize` pixels a side, their labels `segSize`.

    The piece is chosen in the picture as it is and scaled then, rather than the other way round.
    """

    def __init__(self, *args, imgSize: int, segSize: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.imgSize = imgSize
        self.segSize = segSize

    def crop(
        self, picture: np.ndarray, label: np.ndarray, y: int, x: int, side: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The square at (y, x), `side` pixels wide, scaled."""
        square = np.s_[y : y + side, x : x + side]
        # Down to a half, the neighbours that are interpolated between are all the pixels there are;
        # below, only averaging areas keeps a picture free of aliasing, at four times the cost.
        smooth = cv2.INTER_AREA if side > 2 * self.imgSize else cv2.INTER_LINEAR
        picture = cv2.resize(picture[square], (self.imgSize, self.imgSize), interpolation=smooth)
        label = cv2.resize(
            label[square], (self.segSize, self.segSize), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return picture, label


class TrainDataset(CropDataset):
    """Random crops at 0.5 to 1.5 of the pictures' scale, but never larger than a picture, half of
    them mirrored. Item (epoch, index) is the same whoever asks for it and whenever."""

    def __init__(self, *args, seed: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def __getitem__(self, key: tuple[int, int]) -> Item:
        epoch, index = key
        rng = random.Random(f"{self.seed} {epoch} {index}")  # a fifth of the time NumPy's takes
        picture, label = self.load(index)
        height, width = label.shape
        side = min(round(self.imgSize / rng.uniform(0.5, 1.5)), height, width)
        y, x = rng.randrange(height - side + 1), rng.randrange(width - side + 1)
        picture, label = self.crop(picture, label, y, x, side)
        if rng.random() < 0.5:
            picture, label = cv2.flip(picture, 1), cv2.flip(label, 1)
        return to_item(picture, label, self.names[index])


class ValDataset(CropDataset):
    """Central squares as large as the pictures allow."""

    def __getitem__(self, index: int) -> Item:
        picture, label = self.load(index)
        height, width = label.shape
        side = min(height, width)
        picture, label = self.crop(picture, label, (height - side) // 2, (width - side) // 2, side)
        return to_item(picture, label, self.names[index])


class EpochSampler(Sampler):
    """The keys (epoch, index) of a `TrainDataset`, in an order that is new in every epoch."""

    def __init__(self, length: int, seed: int):
        self.length = length
        self.seed = seed
        self.epoch = 1

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return ((self.epoch, index) for index in order.tolist())


def make_loader(
    dataset: Dataset, workers: int, batch_size: int | None = 1, sampler: Sampler | None = None
) -> DataLoader:
    """A DataLoader with `workers` processes, but not more than there are cores.

    It gives (pictures B x 3 x H x W, labels B x H x W, names), or items if `batch_size` is None.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = min(workers, cores)
    return DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        collate_fn=None if batch_size is None else collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
    )


def prepare_worker(_: int) -> None:
    """One thread a worker, no messages of OpenCV's beside our own, and pictures' memory kept."""
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    keep_freed_memory()


def collate(items: list[Item]) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """A batch, whose pictures keep the channels last, as decoding gives and convolutions want."""
    pictures, labels, names = zip(*items, strict=True)
    batch = torch.stack([picture.permute(1, 2, 0) for picture in pictures])  # B x H x W x 3
    return batch.permute(0, 3, 1, 2), torch.stack(labels), names


def read_list(path: str) -> list[str]:
    """The lines of a list file, without empty ones.

    Raises:
        UserError: there is no such file, or it names nothing.
    """
    try:
        names = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror}; {WHERE_FROM}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the list {path} is no text in UTF-8, naming a picture a line") from error
    names = [name.strip() for name in names if name.strip()]
    if not names:
        raise UserError(f"the list {path} is empty: it should name a picture a line")
    return names


def read_picture(path: str | Path) -> np.ndarray:
    """A picture of any format that OpenCV knows, H x W x 3, RGB uint8, turned as its EXIF says."""
    return decode(read_bytes(path), path, cv2.IMREAD_COLOR_RGB)


def read_label(path: str | Path, num_class: int) -> np.ndarray:
    """A label H x W: classes from 0, unlabelled -1; uint8, where that is 255, up to 255 classes.

    The file holds the classes from 1, 0 = unlabelled, as shades of grey or indices of a palette.

    Raises:
        UserError: the file cannot be decoded, is in colour, or holds a value above num_class.
    """
    content = read_bytes(path)
    label = decode(content, path, cv2.IMREAD_UNCHANGED)
    if content[:8].tobytes() == PNG_SIGNATURE:
        depth, colour_type = content[24:26].tolist()
        if colour_type == PNG_PALETTE:
            label = np.asarray(Image.open(io.BytesIO(content)))  # OpenCV gives the colours
        elif depth < 8:
            label = label // (255 // (2**depth - 1))  # OpenCV spreads the values over 0…255
    if label.ndim != 2:
        raise UserError(f"{path} is a colour picture: labels are class indices in a single channel")
    if label.max() > num_class:
        raise UserError(
            f"{path} holds the value {label.max()}, but labels go to --num_class {num_class} "
            "(0 = unlabelled)"
        )
    return label.astype(np.uint8 if num_class <= 255 else np.int32) - 1


def read_bytes(path: str | Path) -> np.ndarray:
    """The bytes of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def decode(content: np.ndarray, path: str | Path, flags: int) -> np.ndarray:
    """What OpenCV makes of the content of the file `path`.

    Raises:
        UserError: it is not a whole picture.
    """
    try:
        image = cv2.imdecode(content, flags)
    except cv2.error:  # an empty file, or a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise UserError(
            f"{path} is not a picture that can be decoded: damaged, cut short or foreign"
        )
    return image


def to_item(picture: np.ndarray, label: np.ndarray, name: str) -> Item:
    """Tensors of a picture H x W x 3, whose channels come first in shape but not in memory, and of
    a label H x W."""
    return torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(label), name
