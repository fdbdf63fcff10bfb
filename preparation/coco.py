"""COCO's annotations: polygons and run-length codes in one JSON for many pictures."""

from collections import defaultdict
from typing import Any

from preparation.files import SourceFiles, split_of
from preparation.labels import LEAST_NUMBERS, CodedMasks
from preparation.matching import Found, FoundPair
from preparation.outlines import enumerated
from utils import UserError, abbreviate


def is_coco(document: Any) -> bool:
    """Whether a document has what COCO's have for areas of classes, rather than for keypoints."""
    if not isinstance(document, dict):
        return False
    if not {"images", "annotations", "categories"} <= document.keys():
        return False
    kinds = [*document["annotations"][:1], *document["categories"][:1]]
    return not any({"segments_info", "keypoints", "caption"} & {*kind} for kind in kinds)


def read_coco(files: SourceFiles, documents: dict[str, dict]) -> Found:
    """Pairs of COCO's annotations; where masks overlap, the smaller one is on top.

    Raises:
        UserError: pycocotools is missing, or categories contradict each other.
    """
    try:
        import pycocotools  # type: ignore[import-untyped]  # noqa: F401
    except ImportError as error:
        raise UserError("COCO's annotations need pycocotools: pip install pycocotools") from error
    categories = read_categories(files, documents)
    values, table = enumerated([*categories.values()], "its categories")
    found = Found(f"COCO annotations ({abbreviate([*documents])})", table=table)
    for name, document in documents.items():
        path = str(files.root / name)
        masks = read_masks(path, document, {i: values[c] for i, c in categories.items()}, found)
        for image in document["images"]:
            picture = files.find(image["file_name"], near=name)
            if picture is None:
                what = "pictures that annotations name, but are not there"
                found.left_out[what].append(image["file_name"])
                continue
            size = int(image["height"]), int(image["width"])
            label = CodedMasks(path, size, masks[image["id"]])
            split = split_of(name, with_stem=True) or split_of(picture)
            found.pairs.append(FoundPair(picture, label, split))
    return found


def read_categories(files: SourceFiles, documents: dict[str, dict]) -> dict[int, str]:
    """The names of categories by their number, in its order.

    Raises:
        UserError: they differ from file to file.
    """
    names: dict[int, str] = {}
    kinds = set()  # what several categories are of
    for name, document in documents.items():
        for category in document["categories"]:
            known = names.setdefault(category["id"], category["name"])
            if known != category["name"]:
                raise UserError(
                    f"{files.root / name}: category {category['id']} is {category['name']}, but "
                    f"{known} in another file: prepare them one by one"
                )
            if category.get("supercategory") != category["name"]:
                kinds.add(category.get("supercategory"))
    used = {a["category_id"] for doc in documents.values() for a in doc["annotations"]}
    # Roboflow's exports have a category that is the kind of all others; nothing is of it.
    return {i: names[i] for i in sorted(names) if i in used or names[i] not in kinds}


def read_masks(
    path: str, document: dict[str, Any], values: dict[int, int], found: Found
) -> dict[int, list]:
    """The values and segmentations of each picture, by its number.

    Raises:
        UserError: an annotation is of no category, or of no picture.
    """
    masks = defaultdict(list)
    for annotation in document["annotations"]:
        segmentation = annotation.get("segmentation")
        if isinstance(segmentation, list):
            segmentation = [part for part in segmentation if len(part) >= LEAST_NUMBERS]
        if annotation["category_id"] not in values:
            raise UserError(f"{path}: there is no category {annotation['category_id']}")
        if segmentation:
            value = values[annotation["category_id"]]
            masks[annotation["image_id"]].append((value, segmentation))
        else:
            found.left_out["annotations without an outline"].append(str(annotation["id"]))
    if strays := {*masks} - {image["id"] for image in document["images"]}:
        raise UserError(f"{path}: annotations of pictures that it does not name: {strays.pop()!r}")
    return masks
