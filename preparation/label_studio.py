"""Label Studio's brush masks: a file of 0 and 255 for each class of a picture."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from preparation.files import SourceFiles, split_of
from preparation.labels import BinaryFiles
from preparation.matching import Found, FoundPair
from preparation.outlines import enumerated
from utils import UserError

BRUSH = re.compile(r"task-(\d+)-annotation-(\d+)-by-")


def is_tasks(document: Any) -> bool:
    """Whether a document is a list of Label Studio's tasks."""
    return isinstance(document, list) and all(
        isinstance(task, dict) and "data" in task and "id" in task for task in document
    )


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


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by their value."""
    return [(int(part) if part.isdigit() else -1, part) for part in re.split(r"(\d+)", name)]
