"""Files that are whole or not there, alone or several together; every writer uses these.

A file is written under another name, synchronised with the disk, and renamed. A crash at any
instant leaves the new content or the old one, never a part of it.
"""

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from utils import UserError, abbreviate

T = TypeVar("T")
Content = Callable[[BinaryIO], object]  # writes what a file is to hold

MARK = "semantic-segmentation scripts"  # in what may be written anew: PNGs, videos, pages
MARKED_BYTES = 1000  # at either end of a file, where the mark may be
MAX_NAME_BYTES = 255  # the limit of common file systems
MAX_READS = 100  # of files that change meanwhile
STAGING = ".saved"  # holds the files of the last `write_together` until all are in place


def text(content: str) -> Content:
    """The content of a text file, in UTF-8.

    A part of a path that is no text (a lone surrogate) becomes an escape, which JSON reads back.
    """
    return lambda file: file.write(content.encode(errors="backslashreplace"))


def tensors(state: dict) -> Content:
    """The content of a file of tensors and plain values, as `torch.save` writes it."""
    return lambda file: torch.save(state, file)


def png(image: Image.Image, compress_level: int = 6) -> Content:
    """The content of a PNG file that `is_own`; the level is zlib's, 0…9."""
    mark = PngInfo()
    mark.add_text("Software", MARK)
    return lambda file: image.save(file, format="PNG", compress_level=compress_level, pnginfo=mark)


def write_atomically(path: Path, content: Content) -> None:
    """Write one file: after a crash it holds the new content or the old one.

    Raises:
        UserError: the file cannot be written; the old one stays.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as file:
            content(file)
    except OSError as error:  # Pillow's have no strerror
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield the name under which a file is to be written; afterwards it moves to `path`.

    Nothing moves if the body fails or writes no file.
    """
    # Short, because `path` may have the longest name possible; random, because several processes
    # may write the same file; with the same ending, because a video's tells its format.
    partial = path.with_name(f".partial.{secrets.token_hex(4)}{path.suffix}")
    try:
        yield partial
        if partial.exists():
            sync_file(partial)
            os.replace(partial, path)
            sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_together(folder: Path, files: Mapping[str, Content | str]) -> None:
    """Write files that belong together: after a crash, `saved_file` finds all new or all old ones.

    The files are first written into a folder aside. Renaming that folder to `STAGING` is what
    counts. From there the files move to their places, now or before the next save.

    Args:
        folder: where the files belong.
        files: the content of each file by name; a string is the name of an earlier entry, of which
            the file becomes a hard link, or a copy.

    Raises:
        UserError: the files cannot be written, on a full disk, say; the old ones stay.
    """
    partial = folder / f"{STAGING}.partial"
    try:
        move_into_place(folder)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files.items():
            if isinstance(content, str):
                link_or_copy(partial / content, partial / name)
            else:
                with (partial / name).open("wb") as file:
                    content(file)
                sync_file(partial / name)
        sync_folder(partial)
        os.rename(partial, folder / STAGING)
        sync_folder(folder)
        move_into_place(folder)
    except (OSError, RuntimeError) as error:  # torch.save turns the system's errors into the latter
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot save to {folder}: {reason}; what was saved before stays as it was"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def move_into_place(folder: Path) -> None:
    """Move the files of the last `write_together` to their places, unless they are there."""
    saved = folder / STAGING
    if saved.is_dir():
        for path in saved.iterdir():
            os.replace(path, folder / path.name)
        sync_folder(folder)
        saved.rmdir()


def saved_file(folder: Path, name: str) -> Path:
    """Where a file of `write_together` is: in its place, or aside if a crash cut the moving."""
    saved = folder / STAGING / name
    return saved if os.path.exists(saved) else folder / name


def saved_names(folder: Path, pattern: str) -> set[str]:
    """Names of the files of `write_together` that match a pattern."""
    # In the order in which the files move.
    return {path.name for where in (folder / STAGING, folder) for path in where.glob(pattern)}


def read_together(folder: Path, names: Sequence[str], read: Callable[..., T]) -> T:
    """What `read`, given the paths of files of `write_together`, makes of them.

    It is called again if they changed meanwhile: they may have been of two saves, or moving.

    Raises:
        UserError: they never stay for long enough. Whatever `read` raises of files that stay.
    """

    def state() -> list[tuple[Path, object]]:
        paths = [saved_file(folder, name) for name in names]
        return [(path, identity(path)) for path in paths]

    for _ in range(MAX_READS):
        before = state()
        try:
            result = read(*(path for path, _ in before))
        except Exception:
            if state() == before:
                raise
            continue
        if state() == before:
            return result
    raise UserError(f"{folder} is saved again and again while it is read; try later")


def identity(path: Path) -> tuple[int, int, int] | None:
    """What tells a file from another one of the same name; None if there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def is_own(path: str | Path) -> bool:
    """Whether a file has the mark of these scripts near its beginning or its end."""
    try:
        with open(path, "rb") as file:
            ends = file.read(MARKED_BYTES)
            file.seek(-min(MARKED_BYTES, os.path.getsize(path)), os.SEEK_END)
            return MARK.encode() in ends + file.read()
    except OSError:
        return False


def check_own(flag: str, paths: Iterable[Path]) -> None:
    """Check that files which are going to be written, and are there, are these scripts' own.

    Raises:
        UserError: some are somebody else's.
    """
    foreign = [str(path) for path in paths if os.path.lexists(path) and not is_own(path)]
    if foreign:
        raise UserError(
            f"{flag}: {abbreviate(foreign)} would be lost, and these scripts did not write it; "
            "choose another folder, or move it"
        )


def check_writable(flag: str, folder: Path) -> None:
    """Check that a folder can be made and written to; nothing is made.

    Raises:
        UserError: it cannot.
    """
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in folder.parts):
        raise UserError(f"{flag} {folder}: a folder's name has at most {MAX_NAME_BYTES} bytes")
    parents = folder, *folder.absolute().parents
    parent = next(path for path in parents if os.path.exists(path))
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{flag} {folder}: {parent} is no folder that may be written to")


@contextmanager
def made_aside(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which becomes `folder` in the end; nothing of it stays otherwise.

    Of several processes that make the same folder at once, the first is the one that counts.

    Raises:
        UserError: it cannot be put there.
    """
    aside = folder.with_name(f".{secrets.token_hex(4)}.partial")
    with no_empty_folders(folder.parent):
        try:
            aside.mkdir(parents=True)
            yield aside
            try:
                os.rename(aside, folder)
            except OSError as error:
                if not is_filled(folder):
                    raise UserError(f"cannot write {folder}: {error.strerror}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def is_filled(folder: Path) -> bool:
    """Whether there is a folder that holds something."""
    return folder.is_dir() and any(folder.iterdir())


@contextmanager
def no_empty_folders(folder: Path) -> Iterator[None]:
    """A context that removes a folder and its parents again if it made them and they are empty."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    finally:
        with suppress(OSError):
            for path in made:
                path.rmdir()


def link_or_copy(source: Path, path: Path) -> None:
    """Give a file a second name; copy it where the file system knows no hard links."""
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def sync_file(path: Path) -> None:
    """Bring a file's content from the system's memory to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; Windows opens no folder, and does it by itself."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
