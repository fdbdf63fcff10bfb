"""Segment pictures: one, a folder of them, or a quoted glob; or a video.

    python test.py --id ID --test_img photo.jpg
    python test.py --id ID --test_img holiday/ --imgSize -1 --result segmented
    python test.py --id ID --test_img 'holiday/*.webp' --visualize 0 --json 1
    python test.py --id ID --test_img drive.mp4
    python test.py --id ade20k-resnet50dilated-ppm_deepsup --test_img photo.jpg  # comes trained
    python test.py --list_ids                           # networks that do, and one's own runs

Writes, per picture, the label map NAME_prediction.png, whose values are class indices from 1, and
the panel NAME_panel.png: picture, classes over it, and a legend; of several pictures the page
index.html shows all panels. Of a video it is NAME_panel.mp4, with the classes over each frame.
"""

import argparse
import glob
import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback while modules load

import cv2
import numpy as np
import torch
from torch import Tensor

from common.classes import Classes, label_map, read_classes
from common.devices import leaves_cpu_free, select_device
from common.files import check_own, check_writable, is_own, png, write_atomically
from common.images import FORMATS, read_picture
from common.loader import ahead, batch_by_size, together
from common.runs import describe_runs, find_run
from inference import load_network, predict, scaled_size
from models import ModelError, SegmentationModel
from options import Parser, fill_from_run
from utils import UserError, abbreviate, redirect_log, result_names, run_script
from visualize.gallery import Card, write_index
from visualize.panels import class_shares, overlay, panel, resize_labels
from visualize.video import COUNTED, VIDEOS, Frames, frame_rate, open_video, write_video

PANEL, LABELS, VIDEO = "_panel.png", "_prediction.png", "_panel.mp4"
INDEX = "index.html"
NUM_TOP = 5  # classes that are printed for a picture
PROGRESS_SECONDS = 10  # between lines that tell how far it is


def parse_args() -> argparse.Namespace:
    """The flags."""
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id", "list_ids", "suffix")
    parser.group("model")
    parser.from_run("arch_encoder", "arch_decoder")
    parser.shared("fc_dim")
    parser.from_run("num_class", "list_class")
    parser.group("data")
    parser.add_argument("--test_img", help="a picture, a folder, a quoted glob, or a video")
    parser.shared("num_val", default=-1)
    parser.shared("imgSize", default=384)
    parser.shared("segSize", default=-1)
    parser.shared("scales", default=(1.0,))
    parser.shared("flip")
    parser.group("hardware")
    parser.shared("batch_size", "device", "amp")
    parser.group("output")
    parser.shared("ckpt")
    parser.shared("result", default=".")
    parser.shared("visualize", default=1)
    parser.add_argument(
        "--json",
        type=int,
        choices=(0, 1),
        default=0,
        help="1 = print nothing but a JSON object a picture, with the share of each class",
    )
    args = parser.parse_args()
    if not args.list_ids:
        parser.require(args, "id", "test_img")
    return args


def main() -> None:
    """Segment a picture, several, or a video."""
    args = parse_args()
    if args.list_ids:
        print(describe_runs(args.ckpt))
        return
    if args.json:
        redirect_log(sys.stderr)
    folder = Path(args.result)
    check_writable("--result", folder)
    paths = find_pictures(args.test_img)
    if args.num_val != -1:
        paths = paths[: args.num_val]
    fill_from_run(args, find_run(args.ckpt, args.id, args.suffix))
    is_video = args.test_img.lower().endswith(VIDEOS) and paths == [Path(args.test_img)]
    video = open_video(paths[0]) if is_video else None
    device = select_device(args.device)
    classes = read_classes(args.list_class, args.num_class)
    model = load_network(args, device)
    if video:
        segment_video(video, paths[0], model, classes, args)
    else:
        segment_pictures(paths, model, classes, args)


def segment_pictures(
    paths: list[Path], model: SegmentationModel, classes: Classes, args: argparse.Namespace
) -> None:
    """Segment pictures, write label maps and panels, and print their classes.

    Raises:
        UserError: files of the user's would be lost; or some could not be read, and the others are
            done.
    """
    folder = Path(args.result)
    root = os.path.commonpath([path.parent for path in paths])
    relative = {path: os.path.relpath(path, root) for path in paths}
    results = result_names(list(relative.values()))
    several = not os.path.isfile(args.test_img)
    kinds = (LABELS, PANEL) if args.visualize else (LABELS,)
    own = [folder / f"{name}{kind}" for name in results.values() for kind in kinds]
    check_own("--result", [*own, *([folder / INDEX] if several and args.visualize else [])])
    unreadable: list[str] = []
    cards: list[Card] = []
    for images, batch_paths, maps in segmented(read_pictures(paths, unreadable), model, args):
        for image, path, labels in zip(images, batch_paths, maps, strict=True):
            name, shares = results[relative[path]], class_shares(labels, args.num_class)
            write_atomically(folder / f"{name}{LABELS}", png(label_map(labels, args.num_class)))
            if args.visualize:
                figure = panel(image.permute(1, 2, 0).numpy(), labels, classes)
                # This level takes a third of the default's time, for some percent more bytes.
                write_atomically(folder / f"{name}{PANEL}", png(figure, compress_level=3))
                top = top_classes(shares, classes)
                cards.append(Card(relative[path], top, f"{name}{PANEL}", *figure.size))
            if args.json:
                print_json(shares, classes, picture=str(path))
            else:
                print(f"{path}: {top_classes(shares, classes)}")
    if cards and several:
        title = f"{args.id}: {len(cards)} pictures"
        write_index(folder / INDEX, title, cards, unreadable)
    done = f"Segmented {len(paths) - len(unreadable)} of {len(paths)}; results: {folder}"
    print(done, file=sys.stderr if args.json else sys.stdout)
    if unreadable:
        raise UserError(abbreviate(unreadable, "; "))


def segment_video(
    video: cv2.VideoCapture,
    path: Path,
    model: SegmentationModel,
    classes: Classes,
    args: argparse.Namespace,
) -> None:
    """Segment the frames of a video, write a video of overlays, and print the classes.

    Raises:
        UserError: it has no frame that can be decoded, or not all that it should have, or the new
            one cannot be written.
    """
    name = result_names([path.name])[path.name]
    target = Path(args.result) / f"{name}{VIDEO}"
    if args.visualize:
        check_own("--result", [target])
    messages = sys.stderr if args.json else sys.stdout
    frames = Frames(video, args.num_val)
    items = ((torch.from_numpy(frame).permute(2, 0, 1), i) for i, frame in enumerate(frames))
    pixels, told = np.zeros(args.num_class), time.time()
    with write_video(target, frame_rate(video)) as write:
        for images, numbers, maps in segmented(items, model, args):
            for image, number, labels in zip(images, numbers, maps, strict=True):
                shares = class_shares(labels, args.num_class)
                if args.visualize:
                    frame = image.permute(1, 2, 0).numpy()
                    write(overlay(frame, resize_labels(labels, frame.shape[:2]), classes))
                if args.json:
                    print_json(shares, classes, picture=str(path), frame=number)
                for i, share in shares:
                    pixels[i] += share
            if time.time() - told > PROGRESS_SECONDS:
                print(f"{frames.count} frames", file=messages)
                told = time.time()
    if not frames.count:
        raise UserError(f"{path} holds no frame that can be decoded: damaged, cut short or foreign")
    shares = sorted(((i, p / frames.count) for i, p in enumerate(pixels) if p), key=lambda x: -x[1])
    if not args.json:
        print(f"{path}: {top_classes(shares, classes)}")
    results = f"; result: {target}" if args.visualize else ""
    print(f"Segmented {frames.count} frames{results}", file=messages)
    if frames.lost and (frames.holes or path.suffix.lower() in COUNTED):
        raise UserError(f"{path} is damaged: {frames.lost}")
    if frames.lost:
        doubt = f"WARNING: {path} is cut short, or its sound lasts longer: {frames.lost}"
        print(doubt, file=sys.stderr)


def segmented(
    items: Iterable[tuple[Tensor, object]], model: SegmentationModel, args: argparse.Namespace
) -> Iterator[tuple[tuple[Tensor, ...], tuple, np.ndarray]]:
    """As `segment`; beside a GPU, reading, the network and the use of its results overlap."""
    if not leaves_cpu_free(model.mean.device):
        return segment(items, model, args)
    return ahead(segment(ahead(items), model, args))


def segment(
    items: Iterable[tuple[Tensor, object]], model: SegmentationModel, args: argparse.Namespace
) -> Iterator[tuple[tuple[Tensor, ...], tuple, np.ndarray]]:
    """Batches of pictures 3 x H x W, the key that came with each of them, and their labels."""
    for batch in batch_by_size(items, args.batch_size):
        images, keys = zip(*batch, strict=True)
        size = scaled_size(images[0].shape[-2:], args.segSize)
        maps = predict(model, together(images), size, args.imgSize, args.scales, args.flip)
        yield images, keys, maps.cpu().numpy()


def top_classes(shares: list[tuple[int, float]], classes: Classes) -> str:
    """The largest classes, in words."""
    return ", ".join(f"{classes.names[i]} {share:.1%}" for i, share in shares[:NUM_TOP])


def print_json(shares: list[tuple[int, float]], classes: Classes, **what: object) -> None:
    """Print a line of JSON: which picture it is, and the share of each of its classes."""
    found = [{"index": i + 1, "name": classes.names[i], "share": share} for i, share in shares]
    print(json.dumps({**what, "classes": found}))


def find_pictures(where: str) -> list[Path]:
    """The pictures that `where`, a file, a folder or a glob, stands for, sorted.

    Raises:
        UserError: there are none.
    """
    if os.path.isfile(where):  # a name may itself hold the signs of a glob
        return [Path(where)]
    if os.path.isdir(where):
        visible = [path for path in Path(where).iterdir() if not path.name.startswith(".")]
        found = [str(path) for path in visible if path.name.lower().endswith(FORMATS)]
    else:
        found = glob.glob(where, recursive=True)
    # Results of an earlier call are no pictures to segment.
    endings = (PANEL, LABELS, VIDEO, INDEX)
    found = [
        path
        for path in found
        if os.path.isfile(path) and not (path.endswith(endings) and is_own(path))
    ]
    if not found:
        raise UserError(f"--test_img {where}: no picture there ({' '.join(FORMATS)})")
    return [Path(path) for path in sorted(set(found))]


def read_pictures(paths: list[Path], unreadable: list[str]) -> Iterator[tuple[Tensor, Path]]:
    """Each picture, 3 x H x W, with its path; errors are collected, so that none spoils others."""
    for path in paths:
        try:
            picture = read_picture(path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        yield torch.from_numpy(picture).permute(2, 0, 1), path


if __name__ == "__main__":
    run_script(main, ModelError)
