"""Training crops a second and core, against the classic pipeline and against albumentations.

    python -m benchmarks.loader

JPEGs of 683 x 512 pixels with PNG labels, rendered for the purpose; crops of 384 x 384. One core,
one thread: a contender gets through all pictures in a turn.
"""

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.classic import classic_item
from benchmarks.common import Contender, Job, Tables, compare, main
from dataset import TrainDataset, prepare_worker, to_item

SIDE, PICTURES = 384, 32
MAKE_SAMPLE = Path(__file__).parent.parent / "data/make_sample.py"


def dataset(folder: Path) -> TrainDataset:
    return TrainDataset(
        *(f"{folder}/train.txt", f"{folder}/images", f"{folder}/annotations"),
        *(150,),
        imgSize=SIDE,
        segSize=SIDE,
        seed=0,
    )


def classic(folder: Path) -> Job:
    data, rng = dataset(folder), np.random.default_rng(0)
    files = [data.paths(i) for i in range(len(data))]

    def job() -> None:
        for paths in files:
            classic_item(*paths, SIDE, rng)

    return job


def albumentations_pipeline(folder: Path) -> Job:
    """Its best: OpenCV decodes, the crop is taken from the source, uint8 throughout."""
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
    data = dataset(folder)

    def job() -> None:
        for i in range(len(data)):
            data[1, i, True]

    return job


def decoding(folder: Path) -> Job:
    """What no pipeline can do without."""
    data = dataset(folder)

    def job() -> None:
        for i in range(len(data)):
            data.load(i)

    return job


def alone(contender: Contender) -> Job:
    """On one thread, as in a worker."""
    torch.set_num_threads(1)
    prepare_worker(0)
    return contender()


def tables(args: argparse.Namespace) -> Tables:
    contenders = {"classic: PIL, scale, then crop": classic}
    if find_spec("albumentations"):
        contenders["albumentations, tuned"] = albumentations_pipeline
    contenders |= {"`dataset.py`": ours, "decoding alone": decoding}
    with tempfile.TemporaryDirectory() as folder:
        size = ["--size", "683", "512", "--num_train", str(PICTURES), "--num_val", "0"]
        command = [sys.executable, str(MAKE_SAMPLE), "--out", folder, *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        jobs = {
            name: partial(alone, partial(job, Path(folder))) for name, job in contenders.items()
        }
        rows = compare(jobs, 5 * args.rounds)  # they are short
    rates = [{"pictures a second and core": 1e3 * PICTURES / row["median ms"]} for row in rows]
    return {
        "Training crops from 683 x 512 pixels": [
            row | rate for row, rate in zip(rows, rates, strict=True)
        ]
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
