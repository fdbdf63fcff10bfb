"""Processes that work as one: a single one, or several that torchrun, or `launch`, has started."""

import logging
import os
import re
import signal
import sys
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from utils import UserError, select_device

ROLL_CALL = timedelta(seconds=5)  # to find out who is missing
SAID_WHY = (2, 128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes
# What the transports say when a process at the other end is gone or silent.
LOST = re.compile(
    "closed by peer|reset by peer|broken pipe|connection refused|timed out|timeout|nccl", re.I
)


class Team:
    """The processes of a job, each with a number, its rank; alone, nothing here does anything.

    Args:
        device: a name, as `select_device` has it.
        timeout: seconds that one process waits for another before it gives up.

    Raises:
        UserError: there is no such device.

    Attributes:
        device: what this process computes on.
        rank: 0…size-1; the process of rank 0 is the one that writes and prints.
        size: number of processes.
    """

    def __init__(self, device: str, timeout: float = 600):
        self.rank, self.size = 0, 1
        if not is_launched():
            self.device = select_device(device)
        else:
            if int(os.environ["RANK"]):
                logging.disable(logging.WARNING)  # one process speaks for all
            self.device = device = select_device(own_gpu(device))
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            wait = timedelta(seconds=timeout)
            store, self.rank, self.size = meet(wait)
            dist.init_process_group(
                backend, store=store, rank=self.rank, world_size=self.size, timeout=wait
            )
            self.roll = dist.new_group(backend="gloo", timeout=wait)

    def close(self) -> None:
        """Part in good order."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, whose gradients become the mean over the processes."""
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            return DistributedDataParallel(model, device_ids=[self.device])
        # After the first step, gradients would be packed anew, in the order of their arrival, and
        # sums over three processes be rounded otherwise: a resumed training would differ in its
        # last bits. Looking for parameters without gradient, which none is, keeps the packs.
        warnings.filterwarnings("ignore", ".*find_unused_parameters=True was specified")
        return DistributedDataParallel(model, find_unused_parameters=True)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.size == 1:
            return list(values)
        return self.add_up(torch.tensor(values, dtype=torch.float64)).tolist()

    def add_up(self, tensor: Tensor) -> Tensor:
        """The tensor, summed over the processes in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: object) -> list:
        """What each process has, by rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def collect(self, value: object) -> list:
        """What each process has, by rank, for rank 0; the others get nothing."""
        values = [value] * self.size if self.rank == 0 else []
        if self.size > 1:
            dist.gather_object(value, values or None)
        return values

    def share_buffers(self, model: nn.Module) -> None:
        """Give all processes the buffers, such as BatchNorm's statistics, that rank 0 has."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def agree(self) -> Iterator[None]:
        """What one process fails in, all fail in, and a single one tells; afterwards all are here.

        Raises:
            SystemExit: another process tells.
        """
        error = None
        try:
            yield
        except Exception as raised:
            error = raised
        failed = self.gather(error is not None)
        if any(failed):
            if error is not None and self.rank == failed.index(True):
                raise error
            sys.exit(2)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Say which process is missing, should one be.

        Raises:
            UserError: one has ended, or has kept the others waiting for too long.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not LOST.search(str(error)):
                raise
            raise UserError(
                f"rank {self.rank} of {self.size} stops: {self.missing()}; --resume goes on from "
                "the last save"
            ) from error

    @contextmanager
    def one_voice(self) -> Iterator[None]:
        """Let only rank 0 print."""
        with (
            open(os.devnull, "w") as nowhere,
            redirect_stdout(nowhere if self.rank else sys.stdout),
        ):
            yield

    def missing(self) -> str:
        """Which processes do not answer."""
        try:
            dist.monitored_barrier(self.roll, timeout=ROLL_CALL, wait_all_ranks=True)
        except RuntimeError as error:
            found = re.search(r"[Rr]anks? ([\d, ]+) failed|from rank (\d+)", str(error))
            if found:
                return f"rank {found[1] or found[2]} does not answer"
        return "the connection to another process was lost"


def is_launched() -> bool:
    """Whether torchrun, or something like it, has started this process as one of a team."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def meet(timeout: timedelta) -> tuple[dist.Store, int, int]:
    """Where all processes of this start meet, this one's rank, and their number.

    torchrun keeps one store for all restarts, and a process may find in it the address of one that
    is gone (https://github.com/pytorch/pytorch/issues/135712). So each asks rank 0, under a name
    that is new, where in the store to meet; rank 0 answers whoever asks until all have come.

    Raises:
        UserError: one of them did not come in time.
    """
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    name = uuid.uuid4().hex
    if rank:
        store.set(f"asks/{rank}", name)
        try:
            place = store.get(name).decode()
        except dist.DistStoreError as error:
            raise UserError(f"rank 0 has not started within {timeout}") from error
        store.add(place, 1)
    else:
        place, late = name, time.monotonic() + timeout.total_seconds()
        while store.add(place, 0) < size - 1:
            if time.monotonic() > late:
                raise UserError(f"some of the {size} processes have not started within {timeout}")
            for asking in range(1, size):
                if store.check([f"asks/{asking}"]):
                    store.set(store.get(f"asks/{asking}").decode(), place)
            time.sleep(0.02)
    return dist.PrefixStore(place, store), rank, size


def own_gpu(name: str) -> str:
    """The name of this process's device: each process of a machine has a GPU of its own."""
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
    )
    # The launcher passes on what ends it, but does not know this signal.
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode in SAID_WHY:
            sys.exit(failure.exitcode)
        how = f"was killed ({failure.signal_name()})" if failure.exitcode < 0 else "failed"
        raise UserError(
            f"the process of rank {rank} {how}; --resume goes on from the last save"
        ) from error
