"""Labels that tools write as text: COCO, labelme, YOLO and Label Studio.

Each reader gives the pairs of a source, and the table of its classes. Values of classes are 1…N
here, and 0 is what no outline covers.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from PIL import Image

from common.images import MAX_VALUE
from preparation.files import SourceFiles, split_of
from preparation.labels import SHAPE_KINDS, BinaryFiles, CodedMasks, Outlines, Shape, Shapes
from preparation.matching import Found, FoundPair
from preparation.tables import ClassRow, ClassTable, parse_table, plain
from utils import UserError, abbreviate

LEAST_NUMBERS = 6  # of an outline: three points
# Names that labelme has for what is no class: none of a shape, and what is left out.
LABELME_BACKGROUND, LABELME_IGNORED = "_background_", "__ignore__"
LABELME_KEYS = ("imagePath", "imageHeight", "imageWidth", "shapes")
YOLO_LINE = re.compile(r"\d+(\.0*)?(\s+[-+]?[\d.]+([eE][-+]?\d+)?){4,}")
BACKGROUND = "background"  # the class of what no outline covers
BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-")


def recognise(files: SourceFiles) -> Found | None:
    """The pairs of a source with annotations; None if it has none that this module knows.

    Raises:
        UserError: annotations are damaged, or a package that reads them is missing.
    """
    brushes = [name for name in files.images if BRUSH.match(Path(name).name)]
    coco, labelme, tasks = {}, {}, []
    for name in files.with_ending(".json"):
        if name.endswith("_polygons.json"):  # Cityscapes', beside its labels
            continue
        document = files.load_json(name)
        if is_coco(document):
            coco[name] = document
        elif is_labelme(document):  # without the picture in it
            labelme[name] = {key: document.get(key) for key in LABELME_KEYS}
        elif is_tasks(document):
            tasks.append(document)
    if coco:
        return read_coco(files, coco)
    if brushes:
        return read_brushes(files, brushes, tasks)
    if labelme:
        return read_labelme(files, labelme)
    return read_yolo(files)


def is_coco(document: Any) -> bool:
    """Whether a document has what COCO's have."""
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def is_labelme(document: Any) -> bool:
    """Whether a document has what labelme's have."""
    return isinstance(document, dict) and "shapes" in document and "imagePath" in document


def is_tasks(document: Any) -> bool:
    """Whether a document is a list of Label Studio's tasks."""
    return isinstance(document, list) and all(
        isinstance(task, dict) and "data" in task and "id" in task for task in document
    )


def read_coco(files: SourceFiles, documents: dict[str, dict]) -> Found:
    """Pairs of COCO's annotations; where masks overlap, the smaller one is on top.

    Raises:
        UserError: pycocotools is missing, or the documents' categories differ.
    """
    need("pycocotools", "COCO's annotations")
    categories: dict[int, str] = {}
    for name, document in documents.items():
        for category in document["categories"]:
            known = categories.setdefault(category["id"], category["name"])
            if known != category["name"]:
                raise UserError(
                    f"{files.root / name}: category {category['id']} is {category['name']}, but "
                    f"{known} in another file: prepare them one by one"
                )
    used = {a["category_id"] for doc in documents.values() for a in doc["annotations"]}
    # Roboflow's exports have a category that is the kind of all others; nothing is of it.
    kinds = {c.get("supercategory") for doc in documents.values() for c in doc["categories"]}
    order = [i for i in sorted(categories) if i in used or categories[i] not in kinds]
    values, table = enumerated([categories[i] for i in order], "its categories")
    found = Found(f"COCO annotations ({abbreviate([*documents])})", table=table)
    for name, document in documents.items():
        path = str(files.root / name)
        masks = defaultdict(list)
        for annotation in document["annotations"]:
            segmentation = annotation.get("segmentation")
            if isinstance(segmentation, list):
                segmentation = [part for part in segmentation if len(part) >= LEAST_NUMBERS]
            if annotation["category_id"] not in categories:
                raise UserError(f"{path}: there is no category {annotation['category_id']}")
            if segmentation:
                value = values[categories[annotation["category_id"]]]
                masks[annotation["image_id"]].append((value, segmentation))
            else:
                found.left_out["annotations without an outline"].append(str(annotation["id"]))
        for image in document["images"]:
            picture = files.find(image["file_name"], near=name)
            if picture is None:
                found.left_out["pictures that annotations name, but are not there"].append(
                    image["file_name"]
                )
                continue
            label = CodedMasks(path, (image["height"], image["width"]), masks[image["id"]])
            split = split_of(name) or split_of(picture)
            found.pairs.append(FoundPair(picture, label, split))
    return found


def read_labelme(files: SourceFiles, documents: dict[str, dict]) -> Found:
    """Pairs of labelme's files, one for each picture."""
    listed = files.first_named("labels.txt")
    names: list[str] = []
    if listed:
        names = [line.strip() for line in files.text(listed).splitlines() if line.strip()]
    for document in documents.values():
        names += sorted({shape["label"] for shape in document["shapes"]})
    ordered = [n for n in dict.fromkeys(names) if n not in (LABELME_BACKGROUND, LABELME_IGNORED)]
    if not listed:
        ordered.sort()
    values, table = enumerated(ordered, "their labels")
    values |= {LABELME_BACKGROUND: 0, LABELME_IGNORED: MAX_VALUE}  # the latter is unlabelled
    found = Found(f"labelme's files, {len(documents):,} of them", table=table)
    for name, document in documents.items():
        picture = files.find(document["imagePath"].replace("\\", "/"), near=name)
        if picture is None:
            ending = Path(document["imagePath"]).suffix
            picture = files.find(f"{Path(name).stem}{ending}", near=name)
        if picture is None:
            found.left_out["pictures that annotations name, but are not there"].append(
                document["imagePath"]
            )
            continue
        shapes = []
        for shape in document["shapes"]:
            kind = shape.get("shape_type") or "polygon"
            kind = {"oriented_rectangle": "polygon"}.get(kind, kind)
            points = tuple(float(x) for point in shape["points"] for x in point)
            least = LEAST_NUMBERS if kind == "polygon" else 4
            if kind not in SHAPE_KINDS or len(points) < least:
                what = f"shapes without an area ({kind})"
                found.left_out[what].append(f"{name}: {shape['label']}")
            else:
                mask = shape.get("mask") if kind == "mask" else None
                shapes.append(Shape(values[shape["label"]], points, kind, mask))
        size = size_of(files.root / picture, document["imageHeight"], document["imageWidth"])
        label = Shapes(str(files.root / name), size, tuple(shapes))
        found.pairs.append(FoundPair(picture, label, split_of(picture)))
    return found


def read_yolo(files: SourceFiles) -> Found | None:
    """Pairs of YOLO's outlines: a text for each picture, a line for each outline.

    Raises:
        UserError: the lines are boxes, or the names of the classes are missing.
    """
    texts = {}
    for name in files.with_ending(".txt"):
        picture = picture_of_text(files, name)
        if picture is not None and is_yolo(files.text(name)):
            texts[name] = picture
    if not texts:
        return None
    rows = yolo_classes(files)
    without = sorted({*files.images} - {*texts.values()})
    found = Found(f"YOLO's outlines, {len(texts):,} files")
    if without:
        found.left_out["pictures without a text"] = without
    if not rows:
        rows = [f"class {i + 1}" for i in range(highest_index(files, texts) + 1)]
        found.remarks.append("no data.yaml or classes.txt: classes have numbers for names")
    values, found.table = enumerated(rows, "data.yaml")
    for name, picture in texts.items():
        outlines = []
        height, width = size_of(files.root / picture)
        for line in files.text(name).splitlines():
            numbers = [float(number) for number in line.split()]
            if not numbers:
                continue
            if len(numbers) == 5:
                raise UserError(
                    f"{files.root / name} has boxes rather than outlines: segmentation needs those"
                )
            index, points = int(numbers[0]), numbers[1:]
            if index >= len(rows):
                raise UserError(
                    f"{files.root / name} has class {index}, but there are {len(rows)} names"
                )
            scaled = tuple(x * (width, height)[i % 2] for i, x in enumerate(points))
            outlines.append((values[rows[index]], scaled))
        label = Outlines(str(files.root / name), (height, width), tuple(outlines))
        found.pairs.append(FoundPair(picture, label, split_of(picture)))
    return found


def highest_index(files: SourceFiles, texts: Iterable[str]) -> int:
    """The highest class in YOLO's texts."""
    lines = (line for name in texts for line in files.text(name).splitlines() if line.strip())
    return max((int(float(line.split()[0])) for line in lines), default=0)


def picture_of_text(files: SourceFiles, name: str) -> str | None:
    """The picture of a text: beside it, or in `images` where the text is in `labels`."""
    stem = name.removesuffix(".txt")
    parts = stem.split("/")
    at = max((i for i, part in enumerate(parts[:-1]) if part == "labels"), default=None)
    if at is not None:
        stem = "/".join([*parts[:at], "images", *parts[at + 1 :]])
    return files.image_with_stem(stem)


def is_yolo(text: str) -> bool:
    """Whether a text has a line of an index and points for each outline; it may be empty."""
    for line in text.splitlines():
        if line.strip() and not YOLO_LINE.fullmatch(line.strip()):
            return False
        if line.strip() and len(line.split()) % 2 == 0:
            return False
    return True


def yolo_classes(files: SourceFiles) -> list[str]:
    """The names of YOLO's classes, if there is a file of them.

    Raises:
        UserError: the file is damaged, or the package that reads it is missing.
    """
    for name in (*files.with_ending(".yaml"), *files.with_ending(".yml")):
        need("yaml", "YOLO's data.yaml", "PyYAML")
        import yaml  # type: ignore[import-untyped]

        try:
            content = yaml.safe_load(files.text(name))
        except yaml.YAMLError as error:
            raise UserError(f"{files.root / name} is no YAML: {error}") from error
        names = content.get("names") if isinstance(content, dict) else None
        if isinstance(names, dict):
            names = [names[key] for key in sorted(names)]
        if isinstance(names, list):
            return [str(name) for name in names]
    if listed := files.first_named("classes.txt", "obj.names"):
        table = parse_table(files.text(listed), str(files.root / listed))
        return [row.name for row in table.rows]
    return []


def read_brushes(files: SourceFiles, brushes: Sequence[str], tasks: Sequence[list]) -> Found:
    """Pairs of Label Studio's brush masks, a file for each class of a picture.

    Raises:
        UserError: the export that tells which picture a task is of is missing.
    """
    pictures = {
        str(task["id"]): str(next(iter(task["data"].values()), ""))
        for document in tasks
        for task in document
    }
    if not pictures:
        raise UserError(
            f"{files.root} has Label Studio's masks, such as {brushes[0]}, but no JSON that tells "
            "their pictures: export the project as JSON, too, into this folder"
        )
    # The name of the control that drew a mask stands before its tag.
    controls = {
        result["from_name"]
        for document in tasks
        for task in document
        for annotation in task.get("annotations", ())
        for result in annotation.get("result", ())
        if "from_name" in result
    }
    control = "|".join(map(re.escape, controls or {"tag"}))
    masks = defaultdict(list)
    tags = set()
    for name in sorted(brushes, key=natural):
        match = re.fullmatch(rf"{BRUSH.pattern}.*?-(?:{control})-(.+)-\d+\.png", Path(name).name)
        if match is None:
            raise UserError(
                f"{files.root / name}: no tag in its name; export tasks with annotations as JSON"
            )
        masks[match[1], match[2]].append((match[3], name))
        tags.add(match[3])
    values, table = enumerated(sorted(tags), "their tags")
    found = Found(f"Label Studio's masks, {len(brushes):,} of them", table=table)
    seen: set[str] = set()
    for (task, annotation), parts in masks.items():
        where = pictures.get(task, "")
        where = unquote(where.rpartition("?d=")[2]).lstrip("/")
        picture = files.find(where, near="") if where else None
        if picture is None or task in seen:
            what = "a second annotation of a picture" if task in seen else "masks without a picture"
            found.left_out[what].append(f"task {task}, annotation {annotation}")
            continue
        seen.add(task)
        places = tuple((values[tag], str(files.root / name)) for tag, name in parts)
        found.pairs.append(FoundPair(picture, BinaryFiles(places[0][1], places), split_of(picture)))
    if empty := sorted({*pictures} - seen, key=natural):
        found.left_out["tasks without a mask"] = empty
    return found


def enumerated(names: Sequence[str], path: str) -> tuple[dict[str, int], ClassTable]:
    """Values by class, 1…N, and their table: what no outline covers is the background, 0."""
    own = [name for name in names if plain(name) == BACKGROUND]
    others = [name for name in names if name not in own]
    rows = [ClassRow(name, value) for value, name in enumerate([*(own or [BACKGROUND]), *others])]
    return {row.name: row.value or 0 for row in rows}, ClassTable(path, rows)


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]


def size_of(picture: Path, height: int | None = None, width: int | None = None) -> tuple[int, int]:
    """Height and width of a picture as stored, unless they are known.

    Raises:
        UserError: it cannot be read.
    """
    if height and width:
        return height, width
    try:
        with Image.open(picture) as image:
            return image.height, image.width
    except Exception as error:  # Pillow has half a dozen classes for what may be wrong with a file
        raise UserError(f"{picture} cannot be read: {error}") from error


def need(module: str, what: str, package: str = "") -> None:
    """Check that an optional package is there.

    Raises:
        UserError: it is not; the line says how to get it.
    """
    try:
        __import__(module)
    except ImportError as error:
        package = package or module
        raise UserError(f"{what} need the package {package}: pip install {package}") from error
