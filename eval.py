"""Score a trained network on a list of pictures, at several scales.

    python eval.py --id ID                               # the run's own validation list
    python eval.py --id ID --scales 1 --visualize 1      # one scale; panels in RESULT/ID
    python eval.py --id ID --suffix _epoch_20.pth --num_val 100
    torchrun --nproc_per_node 4 eval.py --id ID          # a quarter of the pictures each
    python eval.py --id ID --report 1                    # a page to look at: RESULT/ID/report.html
    python eval.py --compare ID_A ID_B                   # two evaluated runs, side by side
    python eval.py --id ID --protocol reference          # as published scores were measured

Architecture, classes and lists are the run's own unless given. Predictions are scored at the size
of their labels. The scores also go to RESULT/ID/scores.json, and counts of each picture to
RESULT/ID/pictures.npz.
"""

import argparse
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from common.classes import ADE20K, Classes, read_classes
from common.data_file import read_data
from common.distributed import World
from common.files import Content, check_writable, png, text, write_atomically, write_together
from common.loader import batch_by_size, make_loader, together
from common.metrics import ConfusionMatrix, Scores
from common.runs import describe_runs, find_run
from dataset import SegmentationDataset
from inference import (
    REFERENCE_SCALES,
    REFERENCE_SIDE,
    SCALES,
    load_network,
    predict,
    predict_as_reference,
    scaled_size,
)
from models import ModelError, SegmentationModel
from options import SHARED, Parser, fill_from_run
from report.collector import Collector, join
from report.compare import compare, table
from report.page import Evaluation, build_page
from utils import UserError, result_names, run_script
from visualize.panels import comparison

PROGRESS_SECONDS = 10  # between lines that tell how far it is


@dataclass(frozen=True)
class Protocol:
    """How an evaluation shows pictures to a network, and at which sizes unless flags say others."""

    predict: Callable[..., Tensor]
    short_side: int
    scales: tuple[float, ...]


PROTOCOLS = {
    "own": Protocol(predict, -1, SCALES),
    "reference": Protocol(predict_as_reference, REFERENCE_SIDE, REFERENCE_SCALES),
}
WAIT = 24 * 3600  # seconds, as shares take different times; torchrun notices a process that died


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id", "list_ids", "suffix")
    parser.add_argument(
        "--compare", nargs=2, metavar=("ID_A", "ID_B"), help="compare two evaluated runs instead"
    )
    parser.group("model")
    parser.from_run("arch_encoder", "arch_decoder")
    parser.shared("fc_dim")
    parser.from_run("num_class", "list_class")
    parser.group("data")
    parser.shared("data", help="folder of a data set to score on (default: the run's lists)")
    parser.add_argument("--split", help="which list of the data set (default: val)")
    parser.from_run("list_val", "root_img", "root_seg", "label_offset")
    parser.shared("num_val", default=-1)
    parser.add_argument(
        "--protocol",
        choices=tuple(PROTOCOLS),
        default="own",
        help="how pictures are seen: own = as they are, at scales 0.5 to 1.5; reference = as the "
        "published scores were measured, at short sides of 300 to 600",
    )
    parser.shared("imgSize", help=f"{SHARED['imgSize']['help']} (default: PROTOCOL's)")
    parser.shared("segSize", default=-1)
    parser.shared("scales", help=f"{SHARED['scales']['help']} (default: PROTOCOL's)")
    parser.shared("flip")
    parser.shared("workers")
    parser.group("hardware")
    parser.shared("batch_size", "device", "amp")
    parser.group("output")
    parser.shared("ckpt")
    parser.shared("result", default="./result")
    parser.shared("visualize", default=0)
    parser.add_argument(
        "--report", type=int, choices=(0, 1), default=0, help="1 = write a page to look at"
    )
    args = parser.parse_args()
    if not (args.compare or args.list_ids):
        parser.require(args, "id")
    protocol = PROTOCOLS[args.protocol]
    args.imgSize = args.imgSize or protocol.short_side
    args.scales = args.scales or protocol.scales
    return args


def main() -> None:
    """Evaluate a run, or compare two."""
    args = parse_args()
    if args.list_ids:
        print(describe_runs(args.ckpt))
        return
    if args.compare:
        print_comparison(Path(args.result), *args.compare)
        return
    world = World(args.device, WAIT)
    with world.explain_lost_connections(), world.print_on_main():
        evaluate(args, world)
    world.close()


def print_comparison(result: Path, first: str, second: str) -> None:
    """Tell how two evaluated runs differ, and keep it in a file."""
    found = compare(result, first, second)
    path = result / first / f"compared_to_{second}.json"
    write_atomically(path, text(json.dumps(found, indent=2, ensure_ascii=False) + "\n"))
    print("\n".join([f"A: {first}\nB: {second}", *table(found)]))
    print(f"{found['pictures']} pictures; comparison: {path}")


def fill_from_data(args: argparse.Namespace, config: dict) -> None:
    """Give flags that were not given the settings of --data, or with --split of the run's data set.

    Raises:
        UserError: there is no such data set or split, or its classes are not the run's.
    """
    folder = args.data or (config.get("data") if args.split else None)
    if folder is None:
        if args.split:
            raise UserError(f"--split {args.split}: {args.id} was trained without --data; give it")
        return
    flags = read_data(folder, args.split or "val")
    ours, theirs = (
        read_classes(str(setting["list_class"]), int(setting["num_class"])).names
        for setting in (ADE20K | config, flags)
    )
    if ours != theirs:
        raise UserError(f"--data {folder} has other classes than {args.id}: there is no score")
    for name in ("list_val", "root_img", "root_seg", "label_offset"):
        if getattr(args, name) is None:
            setattr(args, name, flags[name])


def evaluate(args: argparse.Namespace, world: World) -> None:
    """Score this process's share of the pictures, and report the scores of all."""
    with world.fail_together():
        if world.is_main:  # a download is for all
            find_run(args.ckpt, args.id, args.suffix)
    with world.fail_together():
        config = find_run(args.ckpt, args.id, args.suffix)
        fill_from_data(args, config)
        fill_from_run(args, config)
        folder = Path(args.result) / args.id
        check_writable("--result", folder)
        classes = read_classes(args.list_class, args.num_class)
        dataset = SegmentationDataset(
            args.list_val,
            args.root_img,
            args.root_seg,
            args.num_class,
            args.num_val,
            args.label_offset,
        )
        model = load_network(args, world.device)
    confusion, collector = score_share(args, model, dataset, classes, world)
    confusion.counts = world.all_reduce(confusion.counts.cpu())  # NCCL would set itself up for it
    parts = world.gather(collector)
    if world.is_main:
        evaluation = Evaluation(
            names=list(dataset.names),
            collected=join(parts),
            confusion=confusion.counts.numpy(),
            scores=confusion.scores(),
            classes=classes,
            settings={"command": typed_command(world.size), **vars(args)},
        )
        files = {
            "scores.json": all_scores(evaluation, args, len(dataset)),
            "pictures.npz": evaluation.collected.counts(evaluation.names).content(),
        }
        report = folder / "report.html"
        report.unlink(missing_ok=True)  # it would show an earlier evaluation beside these scores
        write_together(folder, files)
        print_scores(evaluation.scores, classes)
        if args.protocol == "reference":
            mean = f"{evaluation.scores.mean_iou_of_all:.2%}"
            print(f"Mean IoU over all classes, absent ones as 0, as the reference's: {mean}")
        if args.report:
            page = build_page(evaluation)
            write_atomically(report, lambda file: file.write(page))
            print(f"report: {report}")
        print(f"{len(dataset)} pictures; scores: {folder / 'scores.json'}")


def score_share(
    args: argparse.Namespace,
    model: SegmentationModel,
    dataset: SegmentationDataset,
    classes: Classes,
    world: World,
) -> tuple[ConfusionMatrix, Collector]:
    """Predict this process's share of the pictures: their pixels by class, and by picture."""
    folder, results = Path(args.result) / args.id, result_names(dataset.names)
    confusion = ConfusionMatrix(args.num_class, world.device)
    collector = Collector(args.num_class)
    places = {name: place for place, name in enumerate(dataset.names)}
    share = dataset.by_size(range(world.rank, len(dataset), world.size))
    pin = world.device.type == "cuda"
    loader = make_loader(dataset, args.workers, None, share, pin_memory=pin)
    done, told = 0, time.time()
    for batch in batch_by_size(loader, args.batch_size):
        pictures, label_maps, names = zip(*batch, strict=True)
        images, labels = together(pictures), together(label_maps)
        size = scaled_size(labels.shape[-2:], args.segSize)
        if args.segSize != -1:
            labels = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0]
        predict = PROTOCOLS[args.protocol].predict
        predictions = predict(model, images, size, args.imgSize, args.scales, args.flip)
        for name, image, label, prediction in zip(names, images, labels, predictions, strict=True):
            counts = ConfusionMatrix(args.num_class, world.device)
            counts.update(prediction, label.to(world.device, non_blocking=True))
            confusion.counts += counts.counts
            collector.add(places[name], counts.counts.cpu().numpy())
            if not (args.report or args.visualize):
                continue
            picture = image.permute(1, 2, 0).numpy()
            maps = label.long().numpy(), prediction.cpu().numpy()
            if args.report:
                collector.show(places[name], picture, *maps)
            if args.visualize:
                panel = comparison(picture, *maps, classes)
                write_atomically(folder / f"{results[name]}.png", png(panel))
        done += len(batch)
        if time.time() - told > PROGRESS_SECONDS:
            print(f"{done} of {len(share)} pictures")
            told = time.time()
    return confusion, collector


def typed_command(processes: int) -> str:
    """The command that started this evaluation."""
    launcher = f"torchrun --nproc_per_node {processes}" if processes > 1 else "python"
    return f"{launcher} {shlex.join(sys.argv)}"


def print_scores(scores: Scores, classes: Classes) -> None:
    """A line a class that occurs, then the means."""
    print(f"{'class':>24}      IoU  accuracy    share")
    rows = zip(classes.names, scores.iou, scores.accuracy, scores.share, strict=True)
    for name, iou, accuracy, share in rows:
        if not np.isnan(iou):
            found = "-" if np.isnan(accuracy) else f"{accuracy:.2%}"
            print(f"{name:>24}  {iou:7.2%}  {found:>8}  {share:7.2%}")
    print(
        f"Classes in neither labels nor predictions, left out of the means: {scores.absent}\n"
        f"Pixel accuracy:         {scores.pixel_accuracy:7.2%}\n"
        f"Mean accuracy:          {scores.mean_accuracy:7.2%}\n"
        f"Mean IoU:               {scores.mean_iou:7.2%}\n"
        f"Frequency-weighted IoU: {scores.frequency_weighted_iou:7.2%}\n"
        f"(mIoU + accuracy) / 2:  {scores.overall:7.2%}"
    )


def all_scores(evaluation: Evaluation, args: argparse.Namespace, pictures: int) -> Content:
    """A JSON file of all scores, as fractions, and settings; null where a class has no score."""
    scores, classes = evaluation.scores, evaluation.classes
    columns = {"iou": scores.iou, "accuracy": scores.accuracy, "share": scores.share}
    per_class = [
        {"index": i + 1, "name": name}
        | {key: None if np.isnan(values[i]) else values[i] for key, values in columns.items()}
        for i, name in enumerate(classes.names)
    ]
    report = {
        "pictures": pictures,
        "pixel_accuracy": scores.pixel_accuracy,
        "mean_accuracy": scores.mean_accuracy,
        "mean_iou": scores.mean_iou,
        "mean_iou_of_all_classes": scores.mean_iou_of_all,
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "overall": scores.overall,
        "absent_classes": scores.absent,
        "classes": per_class,
        "settings": vars(args),
    }
    return text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    run_script(main, ModelError)
