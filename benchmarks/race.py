"""Scores of our network and of others after the same minutes of training from random weights.

    recipes/camvid.sh camvid
    python -m benchmarks.race --id camvid-16 --minutes 15 30 60 --seeds 1 2 3

Every contender is trained with the settings of the run ID: its data, crops, loss, optimiser and
precision. Each number of minutes has a training of its own, of as many epochs as fit, so that the
learning rates always decay to zero. The score is the mean IoU on the validation list at five
scales. The runs are kept in CKPT/race, and the same command resumes what was interrupted.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.common import Row, Tables, main
from common.runs import existing_run, read_config

ROOT = Path(__file__).parent.parent
SMP = "segmentation-models-pytorch, {} of ResNet-34"
PEERS = {  # encoder and decoder
    SMP.format("Unet"): ("smp_unet_resnet34", "as_it_is"),
    SMP.format("DeepLabV3+"): ("smp_deeplabv3plus_resnet34", "as_it_is"),
}


class Racer:
    """Trains and scores a contender.

    Args:
        arch: its encoder and decoder.
        config: the settings that it is trained with, but for the network.
        ckpt: where its runs are kept.
    """

    def __init__(self, arch: tuple[str, str], config: dict, ckpt: Path):
        own = {"arch_encoder": arch[0], "arch_decoder": arch[1], "resume": "1", "num_val": 1}
        random = {"weights_encoder": "none", "weights_decoder": ""}
        folders = {"ckpt": ckpt, "vis": ckpt / "vis"}
        of_the_network = {"fc_dim", "weights_used"}
        self.settings = {
            name: value
            for name, value in (config | own | random | folders).items()
            if name not in of_the_network and value is not None
        }

    def train(self, name: str, epochs: int, seed: int) -> float:
        """Train a run, or resume it; returns the seconds that its epochs took."""
        ends = {"id": name, "num_epoch": epochs, "eval_epoch": epochs, "seed": seed}
        call("train.py", **self.settings | ends)
        with (self.settings["ckpt"] / name / "history.csv").open() as file:
            return sum(float(row["seconds"]) for row in csv.DictReader(file))

    def score(self, name: str) -> float:
        """The mean IoU of a run's last weights; they are scored only once."""
        shared = {key: self.settings[key] for key in ("ckpt", "num_class")}
        result = self.settings["ckpt"] / "result"
        scores = result / name / "scores.json"
        if not scores.exists():
            call("eval.py", id=name, suffix="_latest.pth", num_val=-1, result=result, **shared)
        return json.loads(scores.read_text())["mean_iou"]


def call(script: str, **flags: object) -> None:
    """Run a script that knows the networks of `benchmarks.peers`."""
    pairs = (str(word) for name, value in flags.items() for word in (f"--{name}", value))
    command = [sys.executable, "-m", "benchmarks.peers", script, *pairs]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each number of minutes and contender."""
    config = read_config(existing_run(args.ckpt, args.id))
    ours = config["arch_encoder"], config["arch_decoder"]
    archs = {"`{}` + `{}`".format(*ours): ours} | PEERS
    ckpt = Path(args.ckpt, "race").absolute()
    racers = {name: Racer(arch, config, ckpt) for name, arch in archs.items()}
    epoch_seconds = {
        name: racer.train(f"{archs[name][0]}-epoch", 1, 0) for name, racer in racers.items()
    }
    for minutes in args.minutes:
        for name, racer in racers.items():
            epochs = max(1, round(60 * minutes / epoch_seconds[name]))
            seconds, scores = [], []
            for seed in args.seeds:
                run = f"{archs[name][0]}-{minutes:g}min-seed{seed}"
                seconds.append(racer.train(run, epochs, seed))
                scores.append(100 * racer.score(run))
            yield {
                "contender": name,
                "epochs": epochs,
                "minutes of training": statistics.mean(seconds) / 60,
                "mean IoU at five scales, %": statistics.mean(scores),
                "least": min(scores),
                "most": max(scores),
            }


def tables(args: argparse.Namespace) -> Tables:
    """The scores of all contenders."""
    return {f"Scores after the same time, seeds: {len(args.seeds)}": list(rows(args))}


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        id={"required": True, "help": "the run whose settings all are trained with"},
        minutes={"type": float, "nargs": "+", "default": [15, 30, 60], "help": "of each training"},
        seeds={"type": int, "nargs": "+", "default": [1], "help": "a training with each"},
        ckpt={"default": "./ckpt", "help": "folder of the runs"},
    )
