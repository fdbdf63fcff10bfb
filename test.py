"""Segment pictures: one, a folder of them, or a quoted glob.

    python test.py --id ID --test_img photo.jpg
    python test.py --id ID --test_img holiday/ --imgSize -1 --result segmented
    python test.py --id ID --test_img 'holiday/*.webp' --visualize 0

Writes, per picture, the label map NAME_prediction.png, whose values are class indices from 1, and
the panel NAME_panel.png: picture, coloured labels, and a legend of the classes.
"""

import argparse
import glob
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from checkpoint import check_writable, find_run
from classes import read_classes
from dataset import read_picture
from inference import batch_by_size, predict, scaled_size
from models import ModelBuilder, ModelError, SegmentationModel
from options import Parser, complete
from utils import (
    UserError,
    result_names,
    run_script,
    select_amp,
    select_device,
)
from visualize import class_shares, panel

FORMATS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PANEL, LABELS = "_panel.png", "_prediction.png"
NUM_TOP = 5  # classes that are printed for a picture


def parse_args() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0])
    parser.group("run")
    parser.shared("id", required=True)
    parser.shared("suffix")
    parser.group("model")
    parser.from_run("arch_encoder", "arch_decoder")
    parser.shared("fc_dim")
    parser.from_run("num_class", "list_class")
    parser.group("data")
    parser.add_argument("--test_img", required=True, help="a picture, a folder, or a quoted glob")
    parser.shared("num_val", default=-1)
    parser.shared("imgSize", default=384)
    parser.shared("segSize", default=-1)
    parser.shared("scales", default=(1.0,))
    parser.group("hardware")
    parser.shared("batch_size", "device", "amp")
    parser.group("output")
    parser.shared("ckpt")
    parser.shared("result", default=".")
    parser.shared("visualize", default=1)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    config, encoder_file, decoder_file = find_run(args.ckpt, args.id, args.suffix)
    complete(args, config)
    folder = Path(args.result)
    check_writable("--result", folder)
    paths = find_pictures(args.test_img)
    if args.num_val != -1:
        paths = paths[: args.num_val]
    device = select_device(args.device)
    classes = read_classes(args.list_class, args.num_class)

    encoder = ModelBuilder.build_encoder(args.arch_encoder, args.fc_dim, encoder_file)
    decoder = ModelBuilder.build_decoder(
        args.arch_decoder, encoder.fc_dim, args.num_class, weights=decoder_file
    )
    model = SegmentationModel(encoder, decoder, select_amp(args.amp, device)).freeze().to(device)

    root = os.path.commonpath([path.parent for path in paths])
    names = result_names([os.path.relpath(path, root) for path in paths])
    names = dict(zip(paths, names.values(), strict=True))
    unreadable: list[str] = []
    for batch in batch_by_size(read_pictures(paths, unreadable), args.batch_size):
        images, batch_paths = zip(*batch, strict=True)
        size = scaled_size(*images[0].shape[-2:], args.segSize)
        predictions = predict(model, torch.stack(images), size, args.imgSize, args.scales)
        folder.mkdir(parents=True, exist_ok=True)
        for image, path, labels in zip(images, batch_paths, predictions.cpu().numpy(), strict=True):
            write_labels(folder / f"{names[path]}{LABELS}", labels, args.num_class)
            if args.visualize:
                picture = image.permute(1, 2, 0).numpy()
                panel(picture, labels, classes).save(folder / f"{names[path]}{PANEL}")
            top = class_shares(labels, args.num_class)[:NUM_TOP]
            print(f"{path}: {', '.join(f'{classes.names[i]} {share:.1%}' for i, share in top)}")
    print(f"Segmented {len(paths) - len(unreadable)} of {len(paths)}; results: {folder}")
    if unreadable:
        raise UserError("; ".join(unreadable[:5] + ["…"] * (len(unreadable) > 5)))


def find_pictures(where: str) -> list[Path]:
    """The pictures that `where`, a file, a folder or a glob, stands for, sorted.

    Raises:
        UserError: there are none.
    """
    if os.path.isfile(where):  # a name may itself hold the signs of a glob
        return [Path(where)]
    if os.path.isdir(where):
        found = [str(path) for path in Path(where).iterdir()]
        found = [path for path in found if path.lower().endswith(FORMATS)]
    else:
        found = glob.glob(where, recursive=True)
    # What an earlier call has written is no picture to segment.
    found = [path for path in found if os.path.isfile(path) and not path.endswith((PANEL, LABELS))]
    if not found:
        raise UserError(f"--test_img {where}: no picture there ({' '.join(FORMATS)})")
    return [Path(path) for path in sorted(set(found))]


def read_pictures(paths: list[Path], unreadable: list[str]) -> Iterator[tuple[Tensor, Path]]:
    """Each picture, 3 x H x W, with its path; errors are collected, so that one spoils no other."""
    for path in paths:
        try:
            picture = read_picture(path)
        except UserError as error:
            unreadable.append(str(error))
            continue
        yield torch.from_numpy(picture).permute(2, 0, 1), path


def write_labels(path: Path, labels: np.ndarray, num_class: int) -> None:
    """Write labels H x W, classes from 0, as a PNG that counts them from 1, like annotations do."""
    dtype = np.uint8 if num_class <= 255 else np.uint16
    Image.fromarray((labels + 1).astype(dtype)).save(path)


if __name__ == "__main__":
    run_script(main, ModelError)
