"""ADE20K and data sets in its layout: items, crop, scale and flip, order of epochs.

An item is a uint8 picture, a label of class indices and the picture's name. The network normalises
pictures, so that a quarter of the bytes travel.
"""

import hashlib
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from common.augmentation import Augmentation, is_varied, jitter_colours, mix_classes
from common.images import UnreadableError, read_label, read_picture, size_of_png
from common.lists import read_list, what_is_there, where_from
from common.metrics import class_pixels
from utils import UserError, abbreviate

Item = tuple[Tensor, Tensor, str]
TrainItem = tuple[Tensor, Tensor, Tensor, str, str]
Key = tuple[int, int, bool]  # epoch, index, whether the picture counts

MAX_LOOKED_UP = 100_000  # pictures, evenly taken from a longer list, that must exist at the start
MAX_DRAWS = 100  # of pictures until one can be read
MAX_CROPS = 10  # of a picture until one is varied enough


class SegmentationDataset(Dataset):
    """Whole pictures with their labels.

    Item i is (picture 3 x H x W, RGB uint8; label H x W; name). Labels count classes from 0;
    unlabelled is -1 in the label's own type: 255 in uint8, or int32 above 255 classes. A picture's
    EXIF rotation is applied: people labelled what they saw.

    Args:
        list_file: names pictures relative to `root_img`, one a line.
        root_img: folder of the pictures.
        root_seg: folder of the labels: PNGs of the same name, with values as `read_label` has them.
        num_class: number of classes.
        limit: use only the first so many; -1 = all. A picture that is named again is left out.
        label_offset: the value of the first class in the files, 1 or 0.

    Raises:
        UserError: list or files are missing. Reading an item raises it where a file cannot be
            decoded, a label's size is not its picture's, or a label holds a value that is no class.
    """

    repeats = False  # whether a picture that is named again counts again, as it may in training

    def __init__(
        self,
        list_file: str,
        root_img: str | Path,
        root_seg: str | Path,
        num_class: int,
        limit: int = -1,
        label_offset: int = 1,
    ):
        self.list_file = list_file
        self.names = read_list(list_file, limit, self.repeats)
        self.root_img = Path(root_img)
        self.root_seg = Path(root_seg)
        self.num_class = num_class
        self.label_offset = label_offset
        self.check_files_exist()

    def check_files_exist(self) -> None:
        """Check that the files are there.

        Raises:
            UserError: some are not.
        """
        looked_up = range(0, len(self), math.ceil(len(self) / MAX_LOOKED_UP))
        files = [path for i in looked_up for path in self.paths(i)]
        absent = [path for path in files if not os.path.isfile(path)]
        if absent:
            raise UserError(
                f"{len(absent)} of {len(files)} files that {self.list_file} names are absent: "
                f"{abbreviate([str(path) for path in absent])}; {what_is_there(absent[0])}check "
                f"--root_img and --root_seg{where_from(self.list_file)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        picture, label = self.load(index)
        return to_item(picture, label, self.names[index])

    @property
    def digest(self) -> str:
        """The SHA-256 of the pictures' names, by which a run knows them, whatever the list's."""
        digest = hashlib.sha256()
        for index, name in enumerate(self.names):  # one at a time: there may be millions
            digest.update(f"\n{name}".encode() if index else name.encode())
        return digest.hexdigest()

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a picture and its label.

        Raises:
            UserError: the name leads out of the folders.
        """
        name = self.names[index]
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise UserError(f"{self.list_file} names {name}, which is no path within --root_img")
        return self.root_img / name, self.root_seg / f"{os.path.splitext(name)[0]}.png"

    def by_size(self, indices: Sequence[int]) -> list[int]:
        """The indices, those of pictures of one size together: kernels are chosen for each size.

        Large ones come first: where memory is short, that shows at once.
        """
        return sorted(indices, key=lambda i: size_of_png(self.paths(i)[1]), reverse=True)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A picture H x W x 3 and its label H x W, as decoded."""
        path_img, path_seg = self.paths(index)
        picture = read_picture(path_img)
        label = read_label(path_seg, self.num_class, self.label_offset)
        if picture.shape[:2] != label.shape:
            sizes = [f"{array.shape[1]} x {array.shape[0]}" for array in (picture, label)]
            raise UserError(
                f"{path_img} is {sizes[0]} but its label {path_seg} is {sizes[1]} pixels"
            )
        return picture, label


class CropDataset(SegmentationDataset):
    """Square crops of pictures, `imgSize` pixels a side, and of their labels, `segSize`.

    The crop is chosen in the source, and only that is scaled.
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
        # Down to a half, bilinear interpolation uses every pixel. Below, only averaging areas keeps
        # a picture free of aliasing, at four times the cost.
        smooth = cv2.INTER_AREA if side > 2 * self.imgSize else cv2.INTER_LINEAR
        picture = cv2.resize(picture[square], (self.imgSize, self.imgSize), interpolation=smooth)
        label = cv2.resize(
            label[square], (self.segSize, self.segSize), interpolation=cv2.INTER_NEAREST_EXACT
        )
        return picture, label


class TrainDataset(CropDataset):
    """Random crops, half of them mirrored; by default at 0.5 to 1.5 of the pictures' scale.

    A crop is never larger than its picture. Key (epoch, index, counts) and seed fix an item. Unless
    it counts, every pixel of its label is unlabelled. Before the name, an item has the number of
    pixels of each class; after it, why its picture or label could not be read, so that another one
    of the epoch replaces it, or "".
    """

    repeats = True

    def __init__(self, *args, seed: int, augmentation: Augmentation | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed
        self.augmentation = augmentation or Augmentation()

    def __getitem__(self, key: Key) -> TrainItem:  # type: ignore[override]
        epoch, index, counts = key
        rng = random.Random(f"{self.seed} {epoch} {index}")  # takes a fifth of NumPy's time
        picture, label, index, defect = self.draw(index, rng)
        if self.augmentation.classmix and rng.random() < self.augmentation.classmix:
            other, other_label, _, other_defect = self.draw(rng.randrange(len(self)), rng)
            picture, label = mix_classes(picture, label, other, other_label, rng)
            defect = defect or other_defect
        if not counts:  # several processes may read such a picture: none reports its defect
            label, defect = np.zeros_like(label) - 1, ""  # 255 in uint8
        image, target, name = to_item(picture, label, self.names[index])
        return image, target, class_pixels(target, self.num_class), name, defect

    def draw(self, index: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray, int, str]:
        """A random crop of a picture and its label, or of another one's that can be read.

        Returns:
            As `load_or_replace`.
        """
        picture, label, index, defect = self.load_or_replace(index, rng)
        height, width = label.shape
        augmentation = self.augmentation
        for _ in range(MAX_CROPS):
            scale = rng.uniform(augmentation.scale_min, augmentation.scale_max)
            side = min(max(1, round(self.imgSize / scale)), height, width)
            y, x = rng.randrange(height - side + 1), rng.randrange(width - side + 1)
            ratio = augmentation.cat_max_ratio
            if ratio == 1 or is_varied(label[y : y + side, x : x + side], ratio):
                break
        picture, label = self.crop(picture, label, y, x, side)
        if rng.random() < 0.5:
            picture, label = cv2.flip(picture, 1), cv2.flip(label, 1)
        if augmentation.color_jitter:
            picture = jitter_colours(picture, augmentation.color_jitter, rng)
        return picture, label, index, defect

    def load_or_replace(
        self, index: int, rng: random.Random
    ) -> tuple[np.ndarray, np.ndarray, int, str]:
        """A picture and its label, or those of another one that can be read.

        Returns:
            Picture and label as `load` has them, their index, and why the first choice could not be
            read, or "".

        Raises:
            UserError: hardly any picture can be read.
        """
        defect = ""
        for _ in range(MAX_DRAWS):
            try:
                return *self.load(index), index, defect
            except UnreadableError as error:
                defect = defect or str(error)
                index = rng.randrange(len(self))
        raise UserError(f"{defect}; nor could {MAX_DRAWS - 1} others that were drawn be read")


class ValDataset(CropDataset):
    """Central squares as large as the pictures allow."""

    def __getitem__(self, index: int) -> Item:
        picture, label = self.load(index)
        height, width = label.shape
        side = min(height, width)
        picture, label = self.crop(picture, label, (height - side) // 2, (width - side) // 2, side)
        return to_item(picture, label, self.names[index])


class EpochSampler(Sampler[list[Key]]):
    """Batches of a `TrainDataset`'s keys for one of `world` processes, newly ordered every epoch.

    The processes share `world` · `batch_size` consecutive pictures. Where there are fewer pictures
    than processes, at the end of an epoch, the others get one that does not count.

    Attributes:
        epoch: the epoch to go through.
        start: how many of its pictures to skip, as training has seen them.
    """

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 1
        self.start = 0

    def __len__(self) -> int:
        return math.ceil((self.length - self.start) / (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        for begin in range(self.start, self.length, self.batch_size * self.world):
            batch = order[begin : begin + self.batch_size * self.world].tolist()
            share = batch[self.rank :: self.world]
            yield [(self.epoch, i, True) for i in share] or [(self.epoch, batch[0], False)]


def to_item(picture: np.ndarray, label: np.ndarray, name: str) -> Item:
    """Tensors of a picture H x W x 3 and a label H x W.

    The picture's channels come first in shape, and last in memory.
    """
    return torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(label), name
