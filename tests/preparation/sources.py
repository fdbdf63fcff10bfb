"""Tiny data sets in the forms that the world's tools write; each has the same labels."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ground", "sky", "tree", "car")  # values 0 to 3
COLOURS = [(10, 10, 10), (128, 128, 255), (0, 128, 0), (200, 0, 100)]
SIZE = (48, 64)  # height and width
SPLITS = {"train": 4, "val": 2, "test": 2}
BOXES = {1: (0, 0, 63, 12), 2: (4, 20, 20, 40), 3: (40, 24, 60, 36)}  # x, y, x, y; inclusive


def label(number: int) -> np.ndarray:
    """The label of a picture, H x W uint8: boxes on the ground, moved by the picture's number."""
    values = np.zeros(SIZE, np.uint8)
    for value, (x, y, x2, y2) in boxes(number).items():
        values[y : y2 + 1, x : x2 + 1] = value
    return values


def boxes(number: int) -> dict[int, tuple[int, int, int, int]]:
    """The corners of each class's box in a picture."""
    shift = number % 3
    return {
        v: (x + shift * (v > 1), y, x2 + shift * (v > 1), y2) for v, (x, y, x2, y2) in BOXES.items()
    }


def picture(number: int) -> Image.Image:
    """A picture in its label's colours, with noise of its own."""
    noise = np.random.default_rng(number).normal(0, 4, (*SIZE, 3))
    colours = np.array(COLOURS, np.float64)[label(number)]
    return Image.fromarray((colours + noise).clip(0, 255).astype(np.uint8))


def numbered() -> list[tuple[str, int]]:
    """The split and the number of each picture."""
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    return list(zip(splits, range(len(splits)), strict=True))


def save(image: Image.Image | np.ndarray, path: Path) -> None:
    """Write an image, in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write(path: Path, content: str) -> None:
    """Write a text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")


def pairs(
    root: Path,
    image: str,
    mask: str,
    change: Callable[[np.ndarray], Image.Image | np.ndarray] = lambda values: values,
) -> None:
    """Pictures and labels by templates with {split}, {other} for its other name, and {n}."""
    other = {"train": "training", "val": "valid", "test": "test"}
    for split, n in numbered():
        names = {"split": split, "other": other[split], "n": n}
        save(picture(n), root / image.format(**names))
        save(change(label(n)), root / mask.format(**names))


def with_palette(values: np.ndarray) -> Image.Image:
    """A label as a PNG with a palette."""
    image = Image.fromarray(values).convert("P")
    image.putpalette([c for colour in COLOURS for c in colour])
    return image


def in_colours(values: np.ndarray) -> np.ndarray:
    """A label in colours."""
    return np.array(COLOURS, np.uint8)[values]


def table_of_names(root: Path, name: str = "classes.txt") -> None:
    """The classes' names, one a line."""
    write(root / name, "\n".join(NAMES))


def table_of_colours(root: Path) -> None:
    """Names and colours, as Kaggle's class_dict.csv has them."""
    rows = [f"{name},{r},{g},{b}" for name, (r, g, b) in zip(NAMES, COLOURS, strict=True)]
    write(root / "class_dict.csv", "\n".join(["name,r,g,b", *rows]))


def nested(root: Path) -> None:
    """Hugging Face's and Kaggle's: train/images, train/masks, valid/…"""
    pairs(root, "{other}/images/{n}.jpg", "{other}/masks/{n}.png")
    table_of_names(root)


def roboflow(root: Path) -> None:
    """Labels beside pictures, with a table of values."""
    pairs(root, "{other}/street_{n}_jpg.rf.4f{n}.jpg", "{other}/street_{n}_jpg.rf.4f{n}_mask.png")
    rows = [f"{value}, {name}" for value, name in enumerate(NAMES)]
    for other in ("training", "valid", "test"):
        write(root / other / "_classes.csv", "\n".join(["Pixel Value, Class", *rows]))


def kaggle(root: Path) -> None:
    """Labels in colours, in folders beside those of pictures."""
    pairs(root, "{split}/{n}.png", "{split}_labels/{n}_L.png", in_colours)
    table_of_colours(root)


def segnet(root: Path) -> None:
    """CamVid's of SegNet: trainannot beside train, and lists of two columns."""
    pairs(root, "{split}/{n}.png", "{split}annot/{n}.png")
    for split in SPLITS:
        numbers = [n for which, n in numbered() if which == split]
        lines = [
            f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in numbers
        ]
        write(root / f"{split}.txt", "\n".join(lines))
    table_of_names(root)


def voc(root: Path) -> None:
    """PASCAL VOC's: palettes, lists of stems, and lists of another task."""
    pairs(root, "JPEGImages/2007_{n:06}.jpg", "SegmentationClass/2007_{n:06}.png", with_palette)
    for _, n in numbered():
        save(label(n), root / f"SegmentationObject/2007_{n:06}.png")
    save(picture(90), root / "JPEGImages/2008_000090.jpg")
    for split in SPLITS:
        numbers = [n for which, n in numbered() if which == split]
        lines = "".join(f"2007_{n:06}\n" for n in numbers)
        write(root / f"ImageSets/Segmentation/{split}.txt", lines)
        write(root / f"ImageSets/Main/{split}.txt", lines + "2008_000090\n")
    write(root / "ImageSets/Segmentation/trainval.txt", "2007_000000\n")
    table_of_names(root, "class_names.txt")


def cvat(root: Path) -> None:
    """CVAT's masks: VOC's folders, colours, labelmap.txt."""
    pairs(root, "JPEGImages/{split}/{n}.jpg", "SegmentationClass/{split}/{n}.png", in_colours)
    rows = [f"{name}:{r},{g},{b}::" for name, (r, g, b) in zip(NAMES, COLOURS, strict=True)]
    write(root / "labelmap.txt", "\n".join(["# label:color_rgb:parts:actions", *rows]))


def odgt(root: Path) -> None:
    """mit-semseg's lists of JSON."""
    pairs(root, "images/{split}/{n}.jpg", "annotations/{split}/{n}.png", lambda values: values + 1)
    for split, odd in (("train", "training"), ("val", "validation"), ("test", "test")):
        lines = [
            json.dumps(
                {
                    "fpath_img": f"images/{split}/{n}.jpg",
                    "fpath_segm": f"annotations/{split}/{n}.png",
                    "width": SIZE[1],
                    "height": SIZE[0],
                }
            )
            for which, n in numbered()
            if which == split
        ]
        write(root / f"{odd}.odgt", "\n".join(lines))
    table_of_names(root)


def listed_in_csv(root: Path) -> None:
    """Lists in CSV with a header, whose names tell nothing."""
    for _, n in numbered():
        save(picture(n), root / f"a/{n}x.jpg")
        save(label(n), root / f"b/{n}y.png")
    for split in SPLITS:
        rows = [f"a/{n}x.jpg,b/{n}y.png" for which, n in numbered() if which == split]
        write(root / f"{split}.csv", "\n".join(["image,mask", *rows]))
    table_of_names(root)


def absolute_paths(root: Path) -> None:
    """Lists of absolute paths, with blanks in names."""
    pairs(root, "all pictures/{n} a.jpg", "masks/{n} a.png")
    for split in SPLITS:
        paths = [root.absolute() / f"all pictures/{n} a.jpg" for s, n in numbered() if s == split]
        write(root / f"{split}.txt", "\n".join(map(str, paths)))
    table_of_names(root)


def img_and_mask(root: Path) -> None:
    """img0 and mask0, in two folders without a word in common; GIFs as labels."""
    pairs(root, "{split}/img{n}.jpg", "{split}/mask{n}.gif", with_palette)
    table_of_names(root)


def double_ending(root: Path) -> None:
    """Labels called x.jpg.png, and pictures called X.JPG."""
    pairs(root, "{other}/images/{n}.JPG", "{other}/labels/{n}.JPG.png")
    table_of_names(root)


def no_words(root: Path) -> None:
    """Folders whose names tell nothing: what is in the files does. BMPs as labels."""
    pairs(root, "x/{split}/{n}.jpg", "y/{split}/{n}.bmp")
    table_of_names(root)


def same_folder(root: Path) -> None:
    """x.jpg and x.png in one folder."""
    pairs(root, "{split}/{n}.jpg", "{split}/{n}.png")
    table_of_names(root)


def tiff(root: Path) -> None:
    """TIFFs of both kinds."""
    pairs(root, "{split}/images/{n}.tif", "{split}/gt/{n}.tiff")
    table_of_names(root)


def polygon(box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """The corners of a box."""
    x, y, x2, y2 = box
    return [(x, y), (x2, y), (x2, y2), (x, y2)]


def labelme(root: Path) -> None:
    """labelme's: a JSON beside each picture, the picture in it."""
    for split, n in numbered():
        image = picture(n)
        save(image, root / f"{split}/{n}.jpg")
        data = io.BytesIO()
        image.save(data, "JPEG")
        shapes = [
            {"label": NAMES[value], "points": polygon(box), "shape_type": "polygon"}
            for value, box in boxes(n).items()
        ]
        shapes[-1] |= {
            "points": [shapes[-1]["points"][i] for i in (0, 2)],
            "shape_type": "rectangle",
        }
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{n}.jpg",
            "imageData": base64.b64encode(data.getvalue()).decode(),
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
        }
        write(root / f"{split}/{n}.json", json.dumps(document))
    write(root / "labels.txt", "\n".join(["__ignore__", "_background_", *NAMES[1:]]))


def yolo(root: Path) -> None:
    """Ultralytics': a text of outlines for each picture, in shares of its sides."""
    for split, n in numbered():
        save(picture(n), root / f"images/{split}/{n}.jpg")
        lines = []
        for value, box in boxes(n).items():
            corners = [((x + 0.25) / SIZE[1], (y + 0.25) / SIZE[0]) for x, y in polygon(box)]
            points = [f"{x:.6f} {y:.6f}" for x, y in corners]
            lines.append(f"{value - 1} {' '.join(points)}")
        write(root / f"labels/{split}/{n}.txt", "\n".join(lines))
    names = "\n".join(f"  {i}: {name}" for i, name in enumerate(NAMES[1:]))
    write(root / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}\n")


def coco(root: Path) -> None:
    """COCO's: a JSON for each split; the second class as run lengths, a crowd."""
    for split in SPLITS:
        images, annotations = [], []
        for which, n in numbered():
            if which != split:
                continue
            save(picture(n), root / f"{split}2017/{n:012}.jpg")
            images.append(
                {"id": n, "file_name": f"{n:012}.jpg", "height": SIZE[0], "width": SIZE[1]}
            )
            annotations += [coco_annotation(n, value, box) for value, box in boxes(n).items()]
        categories = [{"id": 10 * v, "name": NAMES[v], "supercategory": "thing"} for v in (1, 2, 3)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        write(root / f"annotations/instances_{split}2017.json", json.dumps(document))


def coco_annotation(n: int, value: int, box: tuple[int, int, int, int]) -> dict:
    """An annotation of a box, in the way that its class has."""
    x, y, x2, y2 = box
    width, height = x2 - x + 1, y2 - y + 1
    segmentation: list | dict = [[x, y, x2 + 1, y, x2 + 1, y2 + 1, x, y2 + 1]]
    if value == 2:  # columns from the top left: so many without, so many with it, …
        mask = np.zeros(SIZE, bool)
        mask[y : y2 + 1, x : x2 + 1] = True
        changes = np.flatnonzero(np.diff(mask.T.ravel(), prepend=False, append=False)).tolist()
        counts = np.diff([0, *changes, mask.size]).tolist()
        segmentation = {"counts": counts, "size": list(SIZE)}
    return {
        "id": 10 * n + value,
        "image_id": n,
        "category_id": 10 * value,
        "segmentation": segmentation,
        "area": width * height,
        "bbox": [x, y, width, height],
        "iscrowd": int(value == 2),
    }


def label_studio(root: Path) -> None:
    """Label Studio's brushes: a file of 0 and 255 for each tag, and a JSON of the tasks."""
    tasks = []
    for split, n in numbered():
        save(picture(n), root / f"{split}/{n}.jpg")
        tasks.append({"id": n + 1, "data": {"image": f"/data/local-files/?d={split}/{n}.jpg"}})
        for value in (1, 2, 3):
            mask = ((label(n) == value) * 255).astype(np.uint8)
            name = f"task-{n + 1}-annotation-{n + 7}-by-1-tag-{NAMES[value]}-0.png"
            save(mask, root / "brush" / name)
    write(root / "project.json", json.dumps(tasks))


# Forms with the classes in the order of `NAMES`, and those whose ground is called background; a
# form with names in another order has them here.
WITH_GROUND = (
    nested, roboflow, kaggle, segnet, voc, cvat, odgt, listed_in_csv, absolute_paths, img_and_mask,
    double_ending, no_words, same_folder, tiff,
)  # fmt: skip
DRAWN = {labelme: ("sky", "tree", "car"), yolo: ("sky", "tree", "car"),
         coco: ("sky", "tree", "car"), label_studio: ("car", "sky", "tree")}  # fmt: skip
