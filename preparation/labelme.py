"""labelme's annotations: a JSON of shapes for each picture."""

from pathlib import Path
from typing import Any

from common.images import MAX_VALUE
from preparation.files import SourceFiles, size_of, split_of
from preparation.labels import LEAST_NUMBERS, SHAPE_KINDS, Shape, Shapes
from preparation.matching import Found, FoundPair
from preparation.outlines import enumerated

# Names for what is no class: none of a shape, and what is unlabelled.
NONE, IGNORED = "_background_", "__ignore__"
KEYS = ("imagePath", "imageHeight", "imageWidth", "shapes")  # all but the picture itself


def is_labelme(document: Any) -> bool:
    """Whether a document has what labelme's have."""
    return isinstance(document, dict) and "shapes" in document and "imagePath" in document


def read_labelme(files: SourceFiles, documents: dict[str, dict]) -> Found:
    """Pairs of labelme's files, one for each picture."""
    listed = files.first_named("labels.txt")
    names: list[str] = []
    if listed:
        names = [line.strip() for line in files.text(listed).splitlines() if line.strip()]
    for document in documents.values():
        names += sorted({shape["label"] for shape in document["shapes"]})
    ordered = [n for n in dict.fromkeys(names) if n not in (NONE, IGNORED)]
    if not listed:
        ordered.sort()
    values, table = enumerated(ordered, "their labels")
    values |= {NONE: 0, IGNORED: MAX_VALUE}  # the latter is unlabelled
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
            points = tuple(float(x) for point in shape["points"] for x in point)
            if kind.endswith("rectangle") and len(points) == 8:  # all of its corners
                kind = "polygon"
            least = LEAST_NUMBERS if kind == "polygon" else 4
            most = 4 if kind in ("rectangle", "circle") else len(points)
            if kind not in SHAPE_KINDS or not least <= len(points) <= most:
                what = f"shapes without an area ({kind})"
                found.left_out[what].append(f"{name}: {shape['label']}")
            else:
                mask = shape.get("mask") if kind == "mask" else None
                shapes.append(Shape(values[shape["label"]], points, kind, mask))
        size = size_of(files.root / picture, document["imageHeight"], document["imageWidth"])
        label = Shapes(str(files.root / name), size, tuple(shapes))
        found.pairs.append(FoundPair(picture, label, split_of(picture)))
    if without := sorted({*files.images} - {pair.picture for pair in found.pairs}):
        found.left_out["pictures without annotations"] = without
    return found
