"""ADE20K and data sets in its layout: list files, items, crop, scale and flip.

    python dataset.py --make_list mine                     # lists of mine/images, mine/annotations
    python dataset.py --list mine/train.txt --list_val mine/val.txt --num_class 11 \\
        --root_img mine/images --root_seg mine/annotations  # is anything wrong with it?

An item is a uint8 picture, a label of class indices and the picture's name; normalisation is left
to the network, so that a quarter of the bytes travel.
"""

import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until Ctrl-C can be answered in one line

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from decoding import UnreadableError, read_label, read_picture
from utils import STOP_SIGNALS, UserError, few, keep_freed_memory, run_script

Item = tuple[Tensor, Tensor, str]
Key = tuple[int, int, bool]  # epoch, index, whether the picture counts

# Pictures, evenly taken from a longer list, that must be there at the start.
MAX_LOOKED_UP = 100_000
WHERE_FROM = "./download_ADE20K.sh fetches ADE20K, `make demo` runs on a sample"


class SegmentationDataset(Dataset):
    """Whole pictures with their labels.

    Item i is (picture 3 x H x W, RGB uint8; label H x W; name). Labels count classes from 0;
    unlabelled is -1 in the label's own type: 255 in uint8, or int32 above 255 classes. A picture is
    turned as its EXIF data say, and so as people saw it who labelled it.

    Args:
        list_file: names pictures relative to `root_img`, one a line.
        root_img: folder of the pictures.
        root_seg: folder of the labels: PNGs of the same name, with values as `read_label` has them.
        num_class: number of classes.
        limit: use only the first so many; -1 = all.
        label_offset: the value of the first class in the files, 1 or 0.

    Raises:
        UserError: list or files are missing; later, as items are read, a file cannot be decoded, a
            label's size is not its picture's, or it holds a value that is no class.
    """

    def __init__(
        self,
        list_file: str,
        root_img: str,
        root_seg: str,
        num_class: int,
        limit: int = -1,
        label_offset: int = 1,
    ):
        self.list_file = list_file
        self.names = read_list(list_file, limit)
        self.root_img = Path(root_img)
        self.root_seg = Path(root_seg)
        self.num_class = num_class
        self.label_offset = label_offset
        self.look_up()

    def look_up(self) -> None:
        """See that the files are there.

        Raises:
            UserError: some are not.
        """
        looked_up = range(0, len(self), math.ceil(len(self) / MAX_LOOKED_UP))
        files = [path for i in looked_up for path in self.paths(i)]
        absent = [str(path) for path in files if not os.path.isfile(path)]
        if absent:
            raise UserError(
                f"{len(absent)} of {len(files)} files that {self.list_file} names are absent: "
                f"{few(absent)}; check --root_img and --root_seg; {WHERE_FROM}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Item:
        picture, label = self.load(index)
        return to_item(picture, label, self.names[index])

    def paths(self, index: int) -> tuple[Path, Path]:
        """The files of a picture and its label.

        Raises:
            UserError: they would be elsewhere than in the folders.
        """
        name = self.names[index]
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise UserError(f"{self.list_file} names {name}, which is no path within --root_img")
        return self.root_img / name, self.root_seg / f"{os.path.splitext(name)[0]}.png"

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
    them mirrored. Item (epoch, index, counts) is the same whoever asks for it and whenever; unless
    it counts, its label is all unlabelled.

    An item has a fourth part: why its picture, or its label, could not be read, so that it is of
    another one of the epoch; or else "".
    """

    def __init__(self, *args, seed: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.seed = seed

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor, str, str]:
        epoch, index, counts = key
        rng = random.Random(f"{self.seed} {epoch} {index}")  # a fifth of the time NumPy's takes
        defect = ""
        while True:
            try:
                picture, label = self.load(index)
                break
            except UnreadableError as error:
                if defect:
                    raise  # two in a row are no accident
                defect = str(error)
                index = rng.randrange(len(self))
        height, width = label.shape
        side = min(round(self.imgSize / rng.uniform(0.5, 1.5)), height, width)
        y, x = rng.randrange(height - side + 1), rng.randrange(width - side + 1)
        picture, label = self.crop(picture, label, y, x, side)
        if rng.random() < 0.5:
            picture, label = cv2.flip(picture, 1), cv2.flip(label, 1)
        if not counts:
            label = np.zeros_like(label) - 1
        return *to_item(picture, label, self.names[index]), defect


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

    `world` · `batch_size` consecutive pictures are shared out among the processes. Where there are
    not enough for all, in the end, the others get one that does not count.

    Attributes:
        epoch: the one to go through.
        start: how many of its pictures to leave out, as they have been trained on.
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


def make_loader(
    dataset: Dataset,
    workers: int,
    batch_size: int | None = 1,
    sampler: Iterable[int] | None = None,
    batch_sampler: Sampler | None = None,
    pin_memory: bool = False,
) -> DataLoader:
    """A DataLoader with `workers` processes, but not more than there are cores for it.

    It gives (pictures B x 3 x H x W, labels B x H x W, names, …), or items if `batch_size` is None.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that share this machine
    workers = min(workers, max(1, cores // trainings))
    return DataLoader(
        dataset,
        batch_size if batch_sampler is None else 1,
        sampler=sampler,
        batch_sampler=batch_sampler,
        collate_fn=None if batch_size is None else collate,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
    )


def prepare_worker(_: int) -> None:
    """One thread a worker, no messages of OpenCV's beside our own, and pictures' memory kept.

    Signals that mean the whole training are for its main process to answer, but when that one ends,
    it sends a SIGTERM itself, and waits for the workers to obey.
    """
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # where there is none, as on macOS, any SIGTERM ends them
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=obey_parent, daemon=True).start()
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    keep_freed_memory()


def obey_parent() -> NoReturn:
    """End this process at a SIGTERM of its parent's, but at nobody else's."""
    parent = multiprocessing.parent_process().pid  # os.getppid() may be a server that forks for it
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def collate(items: list[tuple]) -> tuple:
    """A batch, whose pictures keep the channels last, as decoding gives and convolutions want."""
    pictures, labels, *texts = zip(*items, strict=True)
    batch = torch.stack([picture.permute(1, 2, 0) for picture in pictures])  # B x H x W x 3
    return batch.permute(0, 3, 1, 2), torch.stack(labels), *texts


class Names(Sequence[str]):
    """The lines of a text, without those that are blank, each without the blanks around it.

    They stay the bytes they are: ten million strings would take a gigabyte and more, which each
    worker would come to copy, as looking at a string changes its count of references.
    """

    def __init__(self, content: bytes):
        self.content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n") + b"\n"
        values = np.frombuffer(self.content, np.uint8)
        ends = np.flatnonzero(values == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        visible = np.logical_or.reduceat(values > ord(" "), starts)
        self.bounds = np.stack([starts, ends], axis=1)[visible]

    def __len__(self) -> int:
        return len(self.bounds)

    def __getitem__(self, index: int) -> str:
        start, end = self.bounds[index]
        return self.content[start:end].strip().decode()


def read_list(path: str, limit: int = -1) -> Names:
    """The lines of a list file, without empty ones; only the first `limit` unless that is -1.

    Raises:
        UserError: there is no such file, or it names nothing.
    """
    try:
        content = Path(path).read_bytes()
        content.decode()
    except OSError as error:
        raise UserError(f"cannot read the list {path}: {error.strerror}; {WHERE_FROM}") from error
    except ValueError as error:  # of its content or, where settings are damaged, of its name
        raise UserError(f"the list {path} is no text in UTF-8, naming a picture a line") from error
    names = Names(content)
    if not names:
        raise UserError(f"the list {path} is empty: it should name a picture a line")
    if limit != -1:
        names.bounds = names.bounds[:limit]
    return names


def to_item(picture: np.ndarray, label: np.ndarray, name: str) -> Item:
    """Tensors of a picture H x W x 3, whose channels come first in shape but not in memory, and of
    a label H x W."""
    return torch.from_numpy(picture).permute(2, 0, 1), torch.from_numpy(label), name


if __name__ == "__main__":
    from examine.command import main  # which imports this very module by its name

    run_script(main)
