"""Write a small set of synthetic street and room scenes in ADE20K's layout and class indices.

    python data/make_sample.py --out ./data/sample

The pictures go to OUT/images/{training,validation}, their labels (8-bit, ADE20K's class index, 0 =
unlabelled) to OUT/annotations, and the lists of pictures to OUT/train.txt and OUT/val.txt.
OUT/data.json names them for `train.py --data OUT`. The same seed gives the same files with any
number of processes.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import repeat
from pathlib import Path

import cv2
from scenes import render_scene

FOLDERS = {"train": "training", "val": "validation"}
JPEG_QUALITY = 92
SMALLEST_SIDE = 64
CLASSES = Path(__file__).parent / "ADE20K_object150_classes.csv"


def parse_arguments() -> argparse.Namespace:
    """Read the command line; a bad argument ends the program with exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("./data/sample"), help="folder to fill")
    parser.add_argument("--num_train", type=int, default=200, help="scenes for training")
    parser.add_argument("--num_val", type=int, default=24, help="scenes for validation")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(192, 144), metavar=("WIDTH", "HEIGHT"), help="pixels"
    )
    parser.add_argument("--seed", type=int, default=1, help="another seed gives other scenes")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes that render"
    )
    options = parser.parse_args()
    for name, value, least in (
        ("--num_train", options.num_train, 0),
        ("--num_val", options.num_val, 0),
        ("--size", min(options.size), SMALLEST_SIDE),
        ("--seed", options.seed, 0),
        ("--workers", options.workers, 1),
    ):
        if value < least:
            parser.exit(2, f"{parser.prog}: error: {name} must be at least {least}, not {value}\n")
    return options


def write_scene(out: Path, seed: int, size: tuple[int, int], split: str, number: int) -> str:
    """Render one scene and write its two files; returns the picture's path below OUT/images."""
    image, label = render_scene(seed, split, number, *size)
    name = f"{FOLDERS[split]}/ADE_{split}_{number:08d}"
    jpeg = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    cv2.imwrite(str(out / f"images/{name}.jpg"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), jpeg)
    cv2.imwrite(str(out / f"annotations/{name}.png"), label)
    return f"{name}.jpg"


def main() -> None:
    """Render and write all scenes and the two lists."""
    options = parse_arguments()
    counts = {"train": options.num_train, "val": options.num_val}
    for kind in ("images", "annotations"):
        for folder in FOLDERS.values():
            (options.out / kind / folder).mkdir(parents=True, exist_ok=True)
    write = partial(write_scene, options.out, options.seed, tuple(options.size))
    # Each process computes on one thread: more would compete with the other processes. Here 1 in
    # place of 0 would hang, as OpenCV would wait for threads that a forked process does not have.
    with ProcessPoolExecutor(options.workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        for split, count in counts.items():
            names = pool.map(write, repeat(split), range(1, count + 1), chunksize=4)
            (options.out / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    content = {
        "num_class": 150,
        "label_offset": 1,
        "list_class": Path(os.path.relpath(CLASSES, options.out)).as_posix(),
        "root_img": "images",
        "root_seg": "annotations",
        "lists": {split: f"{split}.txt" for split in counts},
    }
    (options.out / "data.json").write_text(json.dumps(content, indent=2) + "\n")
    print(f"{counts['train']} training and {counts['val']} validation scenes are in {options.out}")


if __name__ == "__main__":
    main()
