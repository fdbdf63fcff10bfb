"""A prepared data set: `data.json` in its folder names its lists, folders and classes."""

import json
import os
from pathlib import Path
from typing import Any

from utils import UserError

DATA_FILE, UNFINISHED = "data.json", ".unfinished"  # the latter is there while it is prepared
PATHS = ("root_img", "root_seg", "list_class")  # relative to the folder, as lists are
NUMBERS = ("num_class", "label_offset")


def load_data(folder: str | Path) -> dict[str, Any]:
    """What the `data.json` of a folder holds: `PATHS`, `NUMBERS`, and `lists` by split.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = Path(folder) / DATA_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kinds = dict.fromkeys(PATHS, str) | dict.fromkeys(NUMBERS, int) | {"lists": dict}
        wrong = [name for name, kind in kinds.items() if not isinstance(content[name], kind)]
        lists = content["lists"]
        if wrong or not lists or not all(isinstance(name, str) for name in lists.values()):
            raise ValueError(f"{wrong or 'lists'} is not what it should be")
    except FileNotFoundError as error:
        if Path(folder).is_dir() and any(Path(folder).iterdir()):
            way_out = f"if it is a source: prepare.py {folder} --data NAME, then --data NAME"
        else:
            way_out = f"prepare.py SOURCE --data {folder} makes it"
        raise UserError(f"--data {folder}: there is no {path}; {way_out}") from error
    except NotADirectoryError as error:
        raise UserError(f"--data {folder} is a file; give the folder of the data set") from error
    except OSError as error:
        raise UserError(f"--data {folder}: cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--data {folder}: {path} is damaged: {error!r}") from error
    return content


def data_flags(
    folder: str | Path, content: dict[str, Any], split: str = "val"
) -> dict[str, str | int]:
    """What a `data.json` says, by the names of flags.

    Args:
        folder: of the data set.
        content: as `load_data` gives it.
        split: whose list `list_val` is to be.

    Raises:
        UserError: there is no such split.
    """
    lists = content["lists"]
    if split not in lists:
        raise UserError(f"--data {folder} has no split {split}, but {', '.join(lists)}")
    paths = {name: content[name] for name in PATHS} | {"list_val": lists[split]}
    if "train" in lists:
        paths["list_train"] = lists["train"]
    numbers = {name: content[name] for name in NUMBERS}
    return numbers | {name: os.path.normpath(Path(folder) / path) for name, path in paths.items()}


def read_data(folder: str | Path, split: str = "val") -> dict[str, str | int]:
    """What the `data.json` of a folder says, by the names of flags.

    Raises:
        UserError: as `load_data` and `data_flags`.
    """
    return data_flags(folder, load_data(folder), split)
