"""Loss curves of one training in single and in half precision.

    python -m benchmarks.amp

Trains resnet34_dilated8 + c1_bilinear twice on the sample of `make demo`, with the same crops in
the same order. The second training is slow on hardware without native bfloat16.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import Tables, main

ROOT = Path(__file__).parent.parent
RECIPE = {
    "weights_encoder": "none",
    "imgSize": 128,
    "segSize": 128,
    "batch_size_per_gpu": 8,
    "optim": "AdamW",
    "weight_decay": 0.01,
    "lr_encoder": 0.002,
    "lr_decoder": 0.002,
}


def history(amp: str, sample: Path, epochs: int) -> list[dict[str, str]]:
    """The rows of the history.csv of a training with `--amp`."""
    settings = RECIPE | {
        "id": amp,
        "amp": amp,
        "num_epoch": epochs,
        "ckpt": sample,
        "vis": sample / "vis",
        "list_train": sample / "train.txt",
        "list_val": sample / "val.txt",
        "root_img": sample / "images",
        "root_seg": sample / "annotations",
    }
    flags = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, str(ROOT / "train.py"), *flags]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with (sample / amp / "history.csv").open() as file:
        return list(csv.DictReader(file))


def tables(args: argparse.Namespace) -> Tables:
    """The losses after each epoch."""
    with tempfile.TemporaryDirectory() as name:
        sample = Path(name)
        make_sample = [sys.executable, str(ROOT / "data/make_sample.py"), "--out", name]
        subprocess.run(make_sample, check=True, stdout=subprocess.DEVNULL)
        runs = {amp: history(amp, sample, args.epochs) for amp in ("off", "bf16")}
    titles = {"train_loss": "training", "val_loss": "validation"}
    return {
        "Loss with and without half precision": [
            {"epoch": rows[0]["epoch"]}
            | {
                f"{title}, `--amp {amp}`": float(row[column])
                for column, title in titles.items()
                for amp, row in zip(runs, rows, strict=True)
            }
            for rows in zip(*runs.values(), strict=True)
        ]
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables, epochs={"type": int, "default": 6, "help": "epochs"})
