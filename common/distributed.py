"""Processes that work together: one alone, or several that torchrun, or `launch`, has started."""

import inspect
import logging
import os
import re
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from common.devices import select_device
from utils import STOP_SIGNALS, UserError

BACKENDS = {"cuda": "cpu:gloo,cuda:nccl"}  # by device; gloo for all others
BARRIER_TIMEOUT = timedelta(seconds=5)  # to find out which rank does not answer
EXPLAINED_EXITS = (2, *(128 + number for number in STOP_SIGNALS))  # codes of one-line endings
# What torchrun tells each process in numbers, and what they are where it does not.
NUMBERS = {
    "RANK": "",
    "WORLD_SIZE": "",
    "MASTER_PORT": "",
    "LOCAL_RANK": "0",
    "LOCAL_WORLD_SIZE": "1",
}
# What the backends say when a process at the other end is gone or silent. Other errors of NCCL's,
# such as a GPU without memory, have causes of their own.
CONNECTION_LOST = re.compile(
    "closed by peer|reset by peer|broken pipe|connection refused|timed out|timeout|ncclRemoteError",
    re.I,
)


class World:
    """The processes of a job. With a single process, every method does nothing or the obvious.

    Args:
        device: a name, as `select_device` takes it.
        timeout: seconds that a process waits for another before it gives up.

    Raises:
        UserError: there is no such device.

    Attributes:
        device: what this process computes on.
        rank: number of this process, 0…size-1.
        size: number of processes, the world size.
    """

    def __init__(self, device: str, timeout: float = 600):
        self.rank, self.size = 0, 1
        if not is_launched():
            self.device = select_device(device)
            return
        if int(os.environ["RANK"]):
            logging.disable(logging.WARNING)  # the main process logs for all
        self.device = select_device(local_device(device))
        backend = BACKENDS.get(self.device.type, "gloo")
        wait = timedelta(seconds=timeout)
        store, self.rank, self.size = fresh_rendezvous(wait)
        dist.init_process_group(
            backend, store=store, rank=self.rank, world_size=self.size, timeout=wait
        )
        self.barrier_group: Any = dist.new_group(backend="gloo", timeout=wait)

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, rank 0, which alone writes and prints."""
        return self.rank == 0

    def close(self) -> None:
        """Leave the process group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes, and the main process's buffers."""
        if self.size == 1:
            return model
        self.broadcast(model)
        # In a step, each process has statistics of its own; whoever scores broadcasts them first.
        known = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: dict[str, Any] = {name: False, "gradient_as_bucket_view": True}
        if self.device.type == "cuda":
            return DistributedDataParallel(model, device_ids=[self.device], **options)
        # By default, the first step repacks gradients in the order of their arrival. Sums over
        # three processes are rounded differently then, and a resumed training would differ in its
        # last bits. Looking for unused parameters (there are none) keeps the packs as they are.
        warnings.filterwarnings("ignore", ".*find_unused_parameters=True was specified")
        return DistributedDataParallel(model, find_unused_parameters=True, **options)

    def no_sync(self, model: nn.Module) -> AbstractContextManager:
        """A context in which a wrapped model adds up gradients without averaging them."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The tensor, summed over the processes in place: by NCCL on a GPU, else by gloo."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each of some numbers, summed over the processes."""
        if self.size == 1:
            return list(values)
        return self.all_reduce(torch.tensor(values, dtype=torch.float64)).tolist()

    def all_gather(self, value: object) -> list:
        """The values of all processes by rank, in every process."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def gather(self, value: object) -> list:
        """The values of all processes by rank, in the main process; an empty list in the others."""
        values = [value] * self.size if self.is_main else []
        if self.size > 1:
            dist.gather_object(value, values or None)
        return values

    def broadcast(self, model: nn.Module) -> None:
        """Give all processes the main process's weights and buffers, as BatchNorm's statistics."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """A context that ends all processes if one of them fails in it, and waits for all.

        All processes have to enter it at the same place, and none may talk to others within.

        Raises:
            Exception: what this process failed with, if it is the first by rank.
            SystemExit: another process failed, and raises.
        """
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = self.all_gather(error is not None)
        if any(failed):
            if error is not None and self.rank == failed.index(True):
                raise error
            sys.exit(2)

    @contextmanager
    def explain_lost_connections(self) -> Iterator[None]:
        """A context that tells which rank is missing when the others cannot reach it.

        Raises:
            UserError: a process has ended, or has kept the others waiting for too long.
        """
        try:
            yield
        except RuntimeError as error:
            lost = CONNECTION_LOST.search(str(error)) and "DataLoader" not in str(error)
            if self.size == 1 or not lost:
                raise
            reason = self.find_missing_rank() or str(error).strip().splitlines()[0]
            raise UserError(
                f"rank {self.rank} of {self.size} stops: {reason}; --resume goes on from the last "
                "save"
            ) from error

    def find_missing_rank(self) -> str:
        """Which rank does not answer, in words; nothing where all do."""
        try:
            dist.monitored_barrier(self.barrier_group, timeout=BARRIER_TIMEOUT, wait_all_ranks=True)
        except RuntimeError as error:
            found = re.search(r"[Rr]anks? ([\d, ]+) failed|from rank (\d+)", str(error))
            if found:
                return f"rank {found[1] or found[2]} does not answer"
        return ""

    @contextmanager
    def print_on_main(self) -> Iterator[None]:
        """A context in which only the main process prints."""
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(sys.stdout if self.is_main else nowhere),
        ):
            yield


def is_launched() -> bool:
    """Whether torchrun, or something like it, has started this process as one of several.

    Raises:
        UserError: it looks so, but what torchrun sets is not all there, or no number.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return False
    bad = [name for name in NUMBERS if not os.environ.get(name, NUMBERS[name]).isdecimal()]
    bad += [] if os.environ.get("MASTER_ADDR") else ["MASTER_ADDR"]
    if not bad and not int(os.environ["RANK"]) < int(os.environ["WORLD_SIZE"]):
        bad = ["RANK"]
    if bad:
        raise UserError(
            f"RANK and WORLD_SIZE say that this is one process of several, but {bad[0]} is "
            f"{os.environ.get(bad[0], 'not set')}: start them by torchrun, or, for a single one, "
            "unset RANK and WORLD_SIZE"
        )
    return True


def fresh_rendezvous(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """A store that the processes of this start share, this one's rank, and the world size.

    torchrun keeps one store for all restarts, and a process may find in it the address of one that
    is gone (https://github.com/pytorch/pytorch/issues/135712). Therefore each process asks rank 0,
    under a new name, for the prefix to use; rank 0 answers until all have come.

    Raises:
        UserError: a process did not come in time, or rank 0 cannot be reached.
    """
    try:
        store, rank, size = next(rendezvous("env://", timeout=timeout))
    except RuntimeError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = str(error).splitlines()[0]
        raise UserError(f"rank 0 cannot be reached at {address} ({reason})") from error
    name = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", name)
        try:
            prefix = store.get(name).decode()
        except dist.DistStoreError as error:
            raise UserError(f"rank 0 has not started within {timeout}") from error
        store.add(prefix, 1)
    else:
        prefix, deadline = name, time.monotonic() + timeout.total_seconds()
        while store.add(prefix, 0) < size - 1:
            if time.monotonic() > deadline:
                raise UserError(f"some of the {size} processes have not started within {timeout}")
            for asking in range(1, size):
                if store.check([f"asks/{asking}"]):
                    store.set(store.get(f"asks/{asking}").decode(), prefix)
            time.sleep(0.02)
    return dist.PrefixStore(prefix, store), rank, size


def local_device(name: str) -> str:
    """The name of this process's device: each process of a machine has a GPU of its own.

    Raises:
        UserError: the machine has fewer GPUs than processes, or a single one was asked for.
    """
    if re.fullmatch(r"cuda:\d+", name) and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) > 1:
        raise UserError(
            f"--device {name} would put all processes of this machine on one GPU; give auto, and "
            "choose GPUs by CUDA_VISIBLE_DEVICES"
        )
    if name not in ("auto", "cuda") or not torch.cuda.is_available():
        return name
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= gpus:
        raise UserError(f"this machine has {gpus} GPUs: start no more processes than that on it")
    return f"cuda:{local_rank}"


def launch(processes: int) -> None:
    """Run this very command in several processes on this machine, and end as they end.

    Raises:
        UserError: one of them was killed.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        # It would answer a closed terminal even after `nohup`, which ignores that.
        signals_to_handle=",".join(
            name
            for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
            if signal.getsignal(signal.Signals[name]) is not signal.SIG_IGN
        ),
    )
    # The launcher passes SIGTERM on, but does not know SIGUSR1.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in EXPLAINED_EXITS:
            sys.exit(failure.exitcode)
        how = f"was killed ({failure.signal_name()})" if failure.exitcode < 0 else "failed"
        raise UserError(
            f"the process of rank {rank} {how}; --resume goes on from the last save"
        ) from error
