"""Who scores best after the same minutes of training from random weights: ours or other networks?

    python -m benchmarks.race --data camvid --minutes 15 30 60

Every contender has the data, crops, loss, optimiser and precision of recipes/camvid.sh and, for
each number of minutes, a training of its own, as many epochs as fit: the learning rates always come
down to zero. Scored is the validation list, at five scales. The runs stay in CKPT; the same command
goes on with what was cut short.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.common import Row, Tables, main

ROOT = Path(__file__).parent.parent
SMP = "segmentation-models-pytorch, {} of ResNet-34"
CONTENDERS = {  # encoder and decoder
    "`resnet34_dilated16` + `c1_bilinear`": ("resnet34_dilated16", "c1_bilinear"),
    SMP.format("Unet"): ("smp_unet_resnet34", "as_it_is"),
    SMP.format("DeepLabV3+"): ("smp_deeplabv3plus_resnet34", "as_it_is"),
}
RECIPE = (
    *("--weights_encoder", "none", "--imgSize", 256, "--segSize", 256, "--batch_size_per_gpu", 8),
    *("--optim", "AdamW", "--lr_encoder", 1e-3, "--lr_decoder", 1e-3, "--weight_decay", 0.01),
    *("--class_weight", "sqrt", "--num_val", 1),
)


class Racer:
    """Trains and scores a contender, whose `arch` names encoder and decoder.

    Args:
        data: a folder as recipes/camvid.sh wants it.
        ckpt: where the runs are kept.
    """

    def __init__(self, arch: tuple[str, str], data: Path, ckpt: Path):
        with (data / "classes.csv").open(encoding="utf-8-sig") as file:
            num_class = sum(1 for _ in csv.DictReader(file))
        self.arch, self.data, self.ckpt = arch, data, ckpt
        self.flags = ("--ckpt", ckpt, "--num_class", num_class)

    def train(self, name: str, epochs: int) -> tuple[str, float]:
        """The id of a training, and the seconds that its epochs took."""
        run = f"race-{self.arch[0]}-{name}"
        data = (
            *("--list_train", self.data / "train.txt", "--list_val", self.data / "val.txt"),
            *("--root_img", self.data / "images", "--root_seg", self.data / "annotations"),
            *("--list_class", self.data / "classes.csv", "--vis", self.ckpt / "vis"),
        )
        arch = ("--arch_encoder", self.arch[0], "--arch_decoder", self.arch[1])
        ends = ("--num_epoch", epochs, "--eval_epoch", epochs)
        call("train.py", "--id", run, "--resume", 1, *self.flags, *arch, *data, *RECIPE, *ends)
        with (self.ckpt / run / "history.csv").open() as file:
            return run, sum(float(row["seconds"]) for row in csv.DictReader(file))

    def score(self, run: str) -> float:
        """Mean IoU of what a training ended with."""
        result = self.ckpt / "result"
        call("eval.py", "--id", run, "--suffix", "_latest.pth", *self.flags, "--result", result)
        return json.loads((result / run / "scores.json").read_text())["mean_iou"]


def call(script: str, *flags: object) -> None:
    command = [sys.executable, "-m", "benchmarks.peers", script, *map(str, flags)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def tables(args: argparse.Namespace) -> Tables:
    racers = {
        name: Racer(arch, args.data.absolute(), args.ckpt.absolute())
        for name, arch in CONTENDERS.items()
    }
    epoch_seconds = {name: racer.train("epoch", 1)[1] for name, racer in racers.items()}
    rows: list[Row] = []
    for minutes in args.minutes:
        for name, racer in racers.items():
            epochs = max(1, round(60 * minutes / epoch_seconds[name]))
            run, seconds = racer.train(f"{minutes:g}min", epochs)
            rows.append(
                {
                    "contender": name,
                    "epochs": epochs,
                    "minutes of training": seconds / 60,
                    "mean IoU at five scales, %": 100 * racer.score(run),
                }
            )
    return {"Scores after the same minutes of training": rows}


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        data={"type": Path, "required": True, "help": "folder of the data"},
        minutes={"type": float, "nargs": "+", "default": [15, 30, 60], "help": "of each training"},
        ckpt={"type": Path, "default": "./ckpt/race", "help": "folder of the runs"},
    )
