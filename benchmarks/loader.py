"""Training crops per second and core, against the classic pipeline and against albumentations.

    python -m benchmarks.loader

Crops of 384 x 384 pixels from synthetic JPEGs of 683 x 512 pixels with PNG labels. A contender has
one thread, and takes a crop of every picture in a turn.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.classic import classic_item
from benchmarks.common import Job, Tables, compare, main
from common.loader import prepare_worker
from dataset import TrainDataset, to_item

SIDE, PICTURES = 384, 32
MAKE_SAMPLE = Path(__file__).parent.parent / "data/make_sample.py"


def dataset(folder: Path) -> TrainDataset:
    """The training crops of the pictures in a folder."""
    return TrainDataset(
        f"{folder}/train.txt",
        f"{folder}/images",
        f"{folder}/annotations",
        num_class=150,
        imgSize=SIDE,
        segSize=SIDE,
        seed=0,
    )


def classic(folder: Path) -> Job:
    """The classic recipe."""
    data, rng = dataset(folder), np.random.default_rng(0)
    files = [data.paths(i) for i in range(len(data))]

    def job() -> None:
        for path_img, path_seg in files:
            classic_item(path_img, path_seg, SIDE, rng)

    return job


def albumentations_pipeline(folder: Path) -> Job:
    """Albumentations at its fastest: OpenCV decodes, crops come before scaling, all in uint8."""
    import albumentations

    sides = (round(SIDE / 1.5), 512)  # scales of 0.75 (as far as pictures are high) to 1.5
    transform = albumentations.Compose(
        [
            albumentations.RandomSizedCrop(sides, (SIDE, SIDE), w2h_ratio=1),
            albumentations.HorizontalFlip(),
        ]
    )
    data = dataset(folder)
    files = [data.paths(i) for i in range(len(data))]

    def job() -> None:
        for path_img, path_seg in files:
            picture = cv2.imread(str(path_img), cv2.IMREAD_COLOR_RGB)
            label = cv2.imread(str(path_seg), cv2.IMREAD_UNCHANGED)
            crop = transform(image=picture, mask=label)
            to_item(crop["image"], crop["mask"] - 1, "")

    return job


def ours(folder: Path) -> Job:
    """What train.py does."""
    data = dataset(folder)

    def job() -> None:
        for i in range(len(data)):
            data[1, i, True]

    return job


def decoding(folder: Path) -> Job:
    """Decoding alone, which every pipeline does."""
    data = dataset(folder)

    def job() -> None:
        for i in range(len(data)):
            data.load(i)

    return job


def alone(pipeline: Callable[[Path], Job], folder: Path) -> Job:
    """A pipeline's job on one thread, as in a worker."""
    torch.set_num_threads(1)
    prepare_worker(0)
    return pipeline(folder)


def tables(args: argparse.Namespace) -> Tables:
    """The comparison, with crops per second and core beside the times."""
    pipelines = {"classic: PIL, scale, then crop": classic}
    if find_spec("albumentations"):
        pipelines["albumentations, tuned"] = albumentations_pipeline
    pipelines |= {"`dataset.py`": ours, "decoding alone": decoding}
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", "683", "512", "--num_train", str(PICTURES), "--num_val", "0"]
        command = [sys.executable, str(MAKE_SAMPLE), "--out", folder, *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        contenders = {
            name: partial(alone, pipeline, Path(folder)) for name, pipeline in pipelines.items()
        }
        rows = compare(contenders, 5 * args.rounds)  # turns are short
    for row in rows:
        row["pictures a second and core"] = 1e3 * PICTURES / float(row["median ms"])
    return {"Training crops from 683 x 512 pixels": rows}


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
