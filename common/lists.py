"""List files, which name the pictures of a data set."""

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from utils import UserError

logger = logging.getLogger(__name__)


class ListedNames(Sequence[str]):
    """The lines of a text without surrounding blanks; blank lines are left out.

    They stay bytes. Ten million strings would take more than a gigabyte, and each worker would copy
    them, because looking at a string changes its count of references.
    """

    def __init__(self, content: bytes):
        self.content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n") + b"\n"
        values = np.frombuffer(self.content, np.uint8)
        ends = np.flatnonzero(values == ord("\n"))
        starts = np.concatenate([[0], ends[:-1] + 1])
        visible = np.logical_or.reduceat(values > ord(" "), starts)
        self.bounds = np.stack([starts, ends], axis=1)[visible]

    def __len__(self) -> int:
        return len(self.bounds)

    def drop_repeats(self) -> int:
        """Leave out lines that came before; returns how many."""
        first: dict[str, int] = {}
        for index, name in enumerate(self):
            first.setdefault(name, index)
        repeats = len(self) - len(first)
        self.bounds = self.bounds[list(first.values())]
        return repeats

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        start, end = self.bounds[index]
        return self.content[start:end].strip().decode()


def read_list(path: str | Path, limit: int = -1, repeats: bool = True) -> ListedNames:
    """The lines of a list file without empty ones; only the first `limit` unless that is -1.

    Without `repeats`, lines that came before are left out, and told.

    Raises:
        UserError: there is no such file, or it names nothing.
    """
    try:
        content = Path(path).read_bytes()
        content.decode()
    except OSError as error:
        where = where_from(path)
        raise UserError(f"cannot read the list {path}: {error.strerror}{where}") from error
    except ValueError as error:  # of its content or, where settings are damaged, of its name
        raise UserError(f"the list {path} is no text in UTF-8, naming a picture a line") from error
    names = ListedNames(content)
    if not names:
        raise UserError(f"the list {path} is empty: it should name a picture a line")
    if not repeats and (dropped := names.drop_repeats()):
        logger.warning(
            "WARNING: %s names %d of its pictures again: each is scored once", path, dropped
        )
    if limit != -1:
        names.bounds = names.bounds[:limit]
    return names


def what_is_there(absent: Path) -> str:
    """Which file a list may have meant by one that is not there, as the beginning of a clause."""
    try:
        names = sorted(os.listdir(absent.parent))
    except (OSError, ValueError):  # the latter of a name that no file can have
        return f"there is no folder {absent.parent}: "
    # A list may leave the ending out, and then a label's name is right.
    stems = {absent.stem.casefold(), absent.name.casefold()}
    alike = [name for name in names if os.path.splitext(name)[0].casefold() in stems]
    if alike:
        return f"{absent.parent / alike[0]} is there: a list has whole names, labels are .png; "
    endings = Counter(os.path.splitext(name)[1] or "no ending" for name in names)
    found = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(3))
    return f"{absent.parent} has {found or 'nothing'}; "


def where_from(path: str | Path) -> str:
    """Where the files of ADE20K's lists come from, as the end of a sentence; nothing for others."""
    if not Path(path).name.startswith("ADE20K_object150_"):
        return ""
    return "; ./download_ADE20K.sh fetches ADE20K, `make demo` runs on a sample"
