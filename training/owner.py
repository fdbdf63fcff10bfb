"""A run's folder belongs to one training at a time: a lock, and the name of who holds it.

The lock is the system's (`fcntl`, POSIX), which file servers pass on to all machines. It ends with
its process, however that ends, and processes that are forked have no part in it. A file that merely
exists would be left behind by a crash, and `flock` would live on in the workers of a loader.
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.files import no_empty_folders
from utils import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("training")

OWNER = ".owner"  # locked while a training lasts; removed at its end, but not by a crash


@contextmanager
def own(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be and removed if it stays empty.

    Raises:
        UserError: another training holds it, or it cannot be made.
    """
    path = folder / OWNER
    with no_empty_folders(folder), locked(path):
        yield


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file that tells who holds it, and remove the file afterwards.

    Raises:
        UserError: another training holds it, or it cannot be made.
    """
    try:
        file = lock(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    try:
        holder = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%F %T')}"
        with suppress(OSError):  # on a full disk, the lock holds without a name
            os.truncate(file, 0)
            os.write(file, holder.encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is locked: afterwards it may be the next holder's
        os.close(file)


def lock(path: Path) -> int:
    """Open and lock a file; the lock ends when the file, or the process, does.

    Raises:
        UserError: another process has locked it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(file, 1000).decode(errors="replace") or "one that has just begun"
                os.close(file)
                raise UserError(
                    f"{path.parent} belongs to a training that is still running ({holder}); choose "
                    f"another --id, or end that one. If it cannot be running, remove {path}"
                ) from error
            logger.warning(
                "WARNING: files in %s cannot be locked (%s): start no second training there",
                path.parent,
                error.strerror,
            )
            return file
        # The last holder may have removed the file after it was opened here.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(file)):
                return file
        os.close(file)
