"""Scores of our network and of others after the same minutes of training.

    pip install -r benchmarks/requirements.txt
    recipes/camvid.sh camvid && recipes/camvid.sh camvid 0006R0
    python -m benchmarks.race --id camvid camvid-unseen-0006R0

Every contender is trained with the settings of each run ID: its data, crops, loss, optimiser and
precision; the network is the first run's, or one of a peer's. Each first takes the better of some
factors of the run's learning rates, by `--trial` minutes with each on the first run's data. Each
number of minutes has trainings of its own, of as many epochs as fit by the faster of two, so that
the learning rates always decay to zero; warm-up keeps its share of the steps. The score is the mean
IoU on the run's validation list at five scales. The runs are kept in CKPT/race, and the same
command resumes what was interrupted.
"""

import argparse
import csv
import hashlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure

from benchmarks.common import Row, Tables, main
from benchmarks.peers import NAMES, PeerEncoder
from common.files import write_atomically
from common.runs import existing_run, read_config
from models.weights import read_state
from utils import UserError

ROOT = Path(__file__).parent.parent
WEIGHTS = "encoder_latest.pth"  # as old as a run's last save
NOT_SHARED = {"fc_dim", "weights_used", "drop_path", "pictures"}  # settings of one network or run


@dataclass
class Contender:
    """A network, and the factor of the learning rates that it is trained with."""

    name: str
    arch_encoder: str
    arch_decoder: str
    weights: str
    factor: float = 1.0


class Track:
    """The data and settings of a run, on which contenders are trained and scored.

    Args:
        run: its id.
        ckpt: the folder that it is in.
    """

    def __init__(self, run: str, ckpt: str):
        self.run = run
        self.config = read_config(existing_run(ckpt, run))
        self.folder = Path(ckpt, "race").absolute()

    def train(self, contender: Contender, epochs: int, seed: int) -> tuple[str, list[float]]:
        """Train a contender, or resume it; returns the id, and the minutes of each epoch."""
        arch = contender.arch_encoder.replace(":", "-").replace("@", "-")
        initial = fingerprint(contender.weights)
        run = f"{arch}-{initial}-{self.run}-{contender.factor:g}-epochs{epochs}-seed{seed}"
        own = {
            "id": run,
            "arch_encoder": contender.arch_encoder,
            "arch_decoder": contender.arch_decoder,
            "weights_encoder": contender.weights,
            "weights_decoder": "",
            "lr_encoder": self.config["lr_encoder"] * contender.factor,
            "lr_decoder": self.config["lr_decoder"] * contender.factor,
            "warmup_iters": round(self.config["warmup_iters"] * epochs / self.config["num_epoch"]),
            "num_epoch": epochs,
            "eval_epoch": epochs,
            "seed": seed,
            "num_val": 1,
            "resume": "1",
            "ckpt": self.folder,
            "vis": self.folder / "vis",
        }
        settings = {
            name: value
            for name, value in (self.config | own).items()
            if name not in NOT_SHARED and value not in (None, "")
        }
        call("train.py", **settings)
        with (self.folder / run / "history.csv").open() as file:
            return run, [float(row["seconds"]) / 60 for row in csv.DictReader(file)]

    def score(self, run: str) -> float:
        """The mean IoU of a contender's last weights, in percent; they are scored only once."""
        scores, weights = self.folder / "result" / run / "scores.json", self.folder / run / WEIGHTS
        if not scores.exists() or scores.stat().st_mtime < weights.stat().st_mtime:
            call(
                "eval.py",
                id=run,
                suffix="_latest.pth",
                ckpt=self.folder,
                result=self.folder / "result",
            )
        return 100 * json.loads(scores.read_text())["mean_iou"]


def fingerprint(weights: str) -> str:
    """The first digits of the SHA-256 of a file of weights; "none" for random ones."""
    if weights == "none":
        return weights
    return hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:8]


def call(script: str, **flags: object) -> None:
    """Run a script that knows the networks of `benchmarks.peers`."""
    pairs = (str(word) for name, value in flags.items() for word in (f"--{name}", value))
    command = [sys.executable, "-m", "benchmarks.peers", script, *pairs]
    if code := subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        sys.exit(code)  # the script has said why


def contenders(track: Track, peers: list[str], weights: str) -> Iterator[Contender]:
    """The network of a run, and peers; all start from the weights of a backbone, or random ones."""
    ours = track.config["arch_encoder"], track.config["arch_decoder"]
    yield Contender("`{}` + `{}`".format(*ours), *ours, weights)
    for peer in peers:
        encoder = PeerEncoder(peer)  # where its library is absent, that shows before any training
        initial = weights
        if weights != "none":
            encoder.load_backbone(read_state(weights))
            initial = str(track.folder / f"{peer}-{fingerprint(weights)}.pth")
            track.folder.mkdir(exist_ok=True)
            save = partial(torch.save, encoder.state_dict())
            write_atomically(Path(initial), save)
        yield Contender(f"segmentation-models-pytorch, {NAMES[peer]}", peer, peer, initial)


def best_factor(track: Track, racer: Contender, epochs: int, factors: list[float]) -> float:
    """The factor of the learning rates with the best trial; a single one has no trial."""
    if len(factors) == 1:
        return factors[0]
    trials = {}
    for factor in factors:
        run, _ = track.train(replace(racer, factor=factor), epochs, 0)
        trials[factor] = track.score(run)
    return max(trials, key=trials.__getitem__)


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """A row for each run, number of minutes and contender."""
    if len(args.minutes) != len(args.seeds):
        raise UserError("--minutes and --seeds: give a number of seeds for each number of minutes")
    tracks = [Track(run, args.ckpt) for run in args.id]
    racers = list(contenders(tracks[0], args.peers, args.weights))
    epoch: dict[str, float] = {}  # minutes
    for racer in racers:
        _, times = tracks[0].train(racer, 2, 0)
        epoch[racer.name] = min(times)  # the first starts slowly, and other work only adds to it
        epochs = max(1, round(args.trial / epoch[racer.name]))
        racer.factor = best_factor(tracks[0], racer, epochs, args.factors)
    for track in tracks:
        for minutes, seeds in zip(args.minutes, args.seeds, strict=True):
            for racer in racers:
                epochs = max(1, round(minutes / epoch[racer.name]))
                runs = [track.train(racer, epochs, seed) for seed in range(1, seeds + 1)]
                scores = [track.score(run) for run, _ in runs]
                yield {
                    "run": track.run,
                    "contender": racer.name,
                    "factor": racer.factor,
                    "epochs": epochs,
                    "minutes of training": statistics.mean(sum(times) for _, times in runs),
                    "seeds": seeds,
                    "mean IoU at five scales, %": statistics.mean(scores),
                    "least": min(scores),
                    "most": max(scores),
                }


def draw(results: list[Row]) -> Figure:
    """The scores over the minutes, with their spread; a pane for each run."""
    runs = list(dict.fromkeys(str(row["run"]) for row in results))
    figure = Figure(figsize=(5 * len(runs), 4), layout="constrained")
    panes = figure.subplots(1, len(runs), squeeze=False, sharey=True)[0]
    for axes, run in zip(panes, runs, strict=True):
        own = [row for row in results if row["run"] == run]
        for name in dict.fromkeys(row["contender"] for row in own):
            points = [row for row in own if row["contender"] == name]
            x, y, least, most = (
                [float(row[column]) for row in points]
                for column in ("minutes of training", "mean IoU at five scales, %", "least", "most")
            )
            below, above = ([abs(a - b) for a, b in zip(y, z, strict=True)] for z in (least, most))
            label = str(name).replace("`", "").removeprefix("segmentation-models-pytorch, ")
            axes.errorbar(x, y, yerr=(below, above), marker="o", capsize=3, label=label)
        axes.set_title(run, fontsize=10)
        axes.set_xlabel("minutes of training")
        axes.grid(alpha=0.3)
    panes[0].set_ylabel("mean IoU, %")
    panes[0].legend(fontsize=8)
    return figure


def tables(args: argparse.Namespace) -> Tables:
    """The scores of all contenders; with --plot, a picture of them."""
    results = list(rows(args))
    if args.plot:
        figure = draw(results)
        write_atomically(Path(args.plot), lambda file: figure.savefig(file, format="png"))
    return {"Scores after the same time": results}


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        id={"required": True, "nargs": "+", "help": "runs whose settings all are trained with"},
        weights={"default": "none", "help": "a file of the backbone's weights, as timm has them"},
        peers={"nargs": "+", "choices": tuple(NAMES), "default": list(NAMES)[:3]},
        minutes={"type": float, "nargs": "+", "default": [15, 60], "help": "of each training"},
        seeds={"type": int, "nargs": "+", "default": [3, 1], "help": "their numbers of trainings"},
        factors={"type": float, "nargs": "+", "default": [1, 0.3], "help": "of learning rates"},
        trial={"type": float, "default": 5, "help": "minutes of training with each factor"},
        plot={"help": "a PNG to draw"},
        ckpt={"default": "./ckpt", "help": "folder of the runs"},
    )
