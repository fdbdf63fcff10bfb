"""The loader: items of any data set from worker processes, in batches or one by one.

Workers answer no signal but their parent's, and no wait for a worker is without an end.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, islice
from typing import Any, NoReturn, TypeVar

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from utils import KNOWN_RUNTIME_ERRORS, STOP_SIGNALS, UserError, keep_freed_memory

SHARED_MEMORY, LEAST_SHARED = "/dev/shm", 2**20  # bytes: queues and the smallest batches
LONGEST_WAIT = 600  # seconds for a picture or batch, from a worker

Item = TypeVar("Item")


def make_loader(
    dataset: Dataset,
    workers: int,
    batch_size: int | None = 1,
    sampler: Iterable[int] | None = None,
    **options: Any,
) -> DataLoader:
    """A DataLoader with `workers` processes, at most one for each core.

    It yields (pictures B x 3 x H x W, labels B x H x W, …), each part of all items, or items if
    `batch_size` is None. The options are torch's, such as `batch_sampler` and `pin_memory`.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    trainings = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that share this machine
    workers = min(workers, max(1, cores // trainings))
    if workers:
        check_shared_memory()
    return DataLoader(
        dataset,
        batch_size if options.get("batch_sampler") is None else 1,
        sampler=sampler,
        collate_fn=share if batch_size is None else collate,
        num_workers=workers,
        timeout=LONGEST_WAIT if workers else 0,
        persistent_workers=workers > 0,
        worker_init_fn=prepare_worker,
        **options,
    )


def check_shared_memory() -> None:
    """Check that there is some shared memory left: without, loaders fail in many ways.

    Raises:
        UserError: there is hardly any.
    """
    if os.path.isdir(SHARED_MEMORY):  # as on Linux
        status = os.statvfs(SHARED_MEMORY)
        if status.f_bavail * status.f_frsize < LEAST_SHARED:
            raise UserError(KNOWN_RUNTIME_ERRORS["shared memory"])


def prepare_worker(_: int) -> None:
    """Set up a worker: one thread, no messages of OpenCV's, and freed memory kept.

    The main process answers signals that mean the whole training. When it ends, it sends a SIGTERM
    itself, and waits for the workers to obey.
    """
    for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # without it, as on macOS, any SIGTERM ends a worker
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=exit_when_told_by_parent, daemon=True).start()
    cv2.setNumThreads(0)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    keep_freed_memory()


def exit_when_told_by_parent() -> NoReturn:
    """End this process at a SIGTERM of its parent's; ignore those of others."""
    parent = multiprocessing.parent_process()  # os.getppid() may be a server that forks for it
    assert parent is not None
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
        pass
    os._exit(0)


def collate(items: list[tuple]) -> tuple:
    """A batch. Its pictures keep the channels last: decoding gives and convolutions want that."""
    pictures, *others = zip(*items, strict=True)
    batch = torch.stack([picture.permute(1, 2, 0) for picture in pictures])  # B x H x W x 3
    stacked = (torch.stack(x) if isinstance(x[0], Tensor) else x for x in others)
    return share((batch.permute(0, 3, 1, 2), *stacked))


def share(item: Any) -> Any:
    """An item or a batch, whose tensors a worker moves to shared memory.

    They would be moved there on their way to the main process, too, but by a thread whose errors
    reach nobody: the main process would wait for ever.
    """
    if torch.utils.data.get_worker_info() is None:
        return item
    if isinstance(item, Tensor):
        return item.share_memory_()
    return tuple(map(share, item)) if isinstance(item, tuple) else item


def together(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors as one with a dimension more; a single one is not copied out of its pinned memory."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def ahead(items: Iterable[Item]) -> Iterator[Item]:
    """The items; a thread gets the next one while the last one is in use."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(next, iterator, end)
        while (item := future.result()) is not end:
            future = thread.submit(next, iterator, end)
            yield item  # type: ignore[misc]


def batch_by_size(items: Iterable[tuple], batch_size: int) -> Iterator[list[tuple]]:
    """Up to `batch_size` successive items whose first parts, the pictures, are of one size."""
    for _, group in groupby(items, key=lambda item: item[0].shape):
        while batch := list(islice(group, batch_size)):
            yield batch
