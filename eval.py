"""Score a trained network on a list of pictures, at several scales.

    python eval.py --id ID                               # the run's own validation list
    python eval.py --id ID --scales 1 --visualize 1      # one scale; panels in RESULT/ID
    python eval.py --id ID --suffix _epoch_20.pth --num_val 100
    torchrun --nproc_per_node 4 eval.py --id ID          # a quarter of the pictures each
    python eval.py --id ID --report 1                    # a page to look at: RESULT/ID/report.html
    python eval.py --compare ID_A ID_B                   # two evaluated runs, side by side

Architecture, classes and lists are the run's own unless given. The scores, each at the label's own
size, also go to RESULT/ID/scores.json, and counts of each picture to RESULT/ID/pictures.npz.
"""

import argparse
import json
import shlex
import signal
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until Ctrl-C can be answered in one line

import numpy as np
import torch
import torch.nn.functional as F

from checkpoint import check_writable, find_run, text, write_whole
from classes import Classes, read_classes
from dataset import SegmentationDataset, make_loader
from distributed import Team
from inference import SCALES, batch_by_size, load_network, predict, scaled_size
from models import ModelError
from options import Parser, complete
from report import Collector, build_page, join
from report.compare import compare, table
from utils import ConfusionMatrix, Scores, result_names, run_script
from visualize import comparison

TELL_SECONDS = 10  # between signs of life
WAIT = 24 * 3600  # seconds, as shares take different times; torchrun notices a process that died


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id")
    parser.shared("suffix")
    parser.add_argument(
        "--compare", nargs=2, metavar=("ID_A", "ID_B"), help="compare two evaluated runs instead"
    )
    parser.group("model")
    parser.from_run("arch_encoder", "arch_decoder")
    parser.shared("fc_dim")
    parser.from_run("num_class", "list_class")
    parser.group("data")
    parser.from_run("list_val", "root_img", "root_seg", "label_offset")
    parser.shared("num_val", default=-1)
    parser.shared("imgSize", "segSize", default=-1)
    parser.shared("scales", default=SCALES)
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
    if args.id is None and args.compare is None:
        parser.error("the following arguments are required: --id")
    return args


def main() -> None:
    args = parse_args()
    if args.compare:
        return print_comparison(Path(args.result), *args.compare)
    config, encoder_file, decoder_file = find_run(args.ckpt, args.id, args.suffix)
    complete(args, config)
    team = Team(args.device, WAIT)
    with team.watch(), team.one_voice():
        evaluate(args, encoder_file, decoder_file, team)
    team.close()


def print_comparison(result: Path, first: str, second: str) -> None:
    """Tell what differs between two evaluated runs, and keep it."""
    found = compare(result, first, second)
    path = result / first / f"compared_to_{second}.json"
    write_whole(path, text(json.dumps(found, indent=2, ensure_ascii=False) + "\n"))
    print("\n".join([f"A: {first}\nB: {second}", *table(found)]))
    print(f"{found['pictures']} pictures; comparison: {path}")


def evaluate(args: argparse.Namespace, encoder_file: Path, decoder_file: Path, team: Team) -> None:
    """Score this process's share of the pictures, and report the scores of all."""
    folder = Path(args.result) / args.id
    with team.agree():
        check_writable("--result", folder)
        classes = read_classes(args.list_class, args.num_class)
        dataset = SegmentationDataset(
            *(args.list_val, args.root_img, args.root_seg, args.num_class, args.num_val),
            label_offset=args.label_offset,
        )
        model = load_network(args, encoder_file, decoder_file, team.device)

    results = result_names(dataset.names)
    confusion = ConfusionMatrix(args.num_class, team.device)
    collector = Collector(args.num_class)
    places = {name: place for place, name in enumerate(dict.fromkeys(dataset.names))}
    share = range(team.rank, len(dataset), team.size)
    loader = make_loader(
        *(dataset, args.workers),
        batch_size=None,
        sampler=share,
        pin_memory=team.device.type == "cuda",
    )
    done, told = 0, time.time()
    for batch in batch_by_size(loader, args.batch_size):
        images, labels, names = zip(*batch, strict=True)
        images, labels = torch.stack(images), torch.stack(labels)
        size = scaled_size(*labels.shape[-2:], args.segSize)
        if args.segSize != -1:
            labels = F.interpolate(labels[:, None].float(), size, mode="nearest-exact")[:, 0]
        predictions = predict(model, images, size, args.imgSize, args.scales)
        for name, image, label, found in zip(names, images, labels, predictions, strict=True):
            counts = ConfusionMatrix(args.num_class, team.device)
            counts.update(found, label.to(team.device))
            confusion.counts += counts.counts
            collector.add(places[name], counts.counts.cpu().numpy())
            if args.report:
                maps = label.long().numpy(), found.cpu().numpy()
                collector.show(places[name], image.permute(1, 2, 0).numpy(), *maps)
        if args.visualize:
            folder.mkdir(parents=True, exist_ok=True)
            for i, name in enumerate(names):
                picture = images[i].permute(1, 2, 0).numpy()
                maps = labels[i].numpy(), predictions[i].cpu().numpy()
                comparison(picture, *maps, classes).save(folder / f"{results[name]}.png")
        done += len(batch)
        if time.time() - told > TELL_SECONDS:
            print(f"{done} of {len(share)} pictures")
            told = time.time()

    team.add_up(confusion.counts)
    parts = team.collect(collector)
    if team.rank == 0:
        whole, listed = join(parts), list(places)
        scores = confusion.scores()
        write_scores(folder / "scores.json", scores, classes, args, len(dataset))
        whole.counts(listed).write(folder / "pictures.npz")
        print_scores(scores, classes)
        if args.report:
            launcher = f"torchrun --nproc_per_node {team.size}" if team.size > 1 else "python"
            settings = {"command": f"{launcher} {shlex.join(sys.argv)}", **vars(args)}
            matrix = confusion.counts.cpu().numpy()
            page = build_page(whole, listed, matrix, scores, classes, settings)
            write_whole(folder / "report.html", lambda file: file.write(page))
            print(f"report: {folder / 'report.html'}")
        print(f"{len(dataset)} pictures; scores: {folder / 'scores.json'}")


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


def write_scores(
    path: Path, scores: Scores, classes: Classes, args: argparse.Namespace, pictures: int
) -> None:
    """All scores as fractions, and what they are of; null where a class has no score."""
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
        "frequency_weighted_iou": scores.frequency_weighted_iou,
        "overall": scores.overall,
        "absent_classes": scores.absent,
        "classes": per_class,
        "settings": vars(args),
    }
    write_whole(path, text(json.dumps(report, indent=2, ensure_ascii=False) + "\n"))


if __name__ == "__main__":
    run_script(main, ModelError)
