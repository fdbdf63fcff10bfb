"""Small things that the scripts share: errors for the user, devices, meters and scores."""

import ctypes
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

logger = logging.getLogger(__name__)

# What torch's RuntimeErrors say that are no bugs, and what there is to do.
HARDSHIPS = {
    "out of memory": "out of memory: try smaller pictures or batches",  # on a GPU
    "can't allocate memory": "out of memory: try smaller pictures or batches",  # on a CPU
    "dataloader worker": "a process that reads pictures was killed, perhaps as memory ran out: "
    "try fewer --workers",
}
# What asks a training to save and end: a terminal's Ctrl-C, and schedulers.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if os.name == "posix" else []))
LONGEST_ERROR = 1000  # characters, which leaves room for a few paths


class UserError(Exception):
    """A mistake of the user's: one line that names the file or the flag and the way out.

    What is not printable, such as a line end in the name of a file, is escaped, and of more than
    `LONGEST_ERROR` characters the middle is left out.
    """

    def __init__(self, message: str):
        # An error in a DataLoader's worker arrives as the text of its whole traceback.
        message = re.split(rf"\n[\w.]*\b{type(self).__name__}: ", message)[-1].strip()
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
        if len(line) > LONGEST_ERROR:
            half = LONGEST_ERROR // 2 - 1
            line = f"{line[:half]}…{line[-half:]}"
        super().__init__(line)


def run_script(main: Callable[[], None], *errors: type[Exception]) -> None:
    """Run a script; what is not a bug ends it with one line: a `UserError` or another one given,
    a file system that refuses, memory that ran out or a lost worker (exit code 2), Ctrl-C (130), or
    a reader of its output that went away (1).
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout, force=True)
    logging.getLogger().handlers[0].setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    # Line by line, so that a log file is up to date, too; names of files may be no valid text.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    keep_freed_memory()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        message, code = "nobody reads its output any more", 1
    except (UserError, OSError, *errors) as error:
        message, code = f"error: {UserError(str(error))}", 2
    except MemoryError:
        message, code = f"error: {HARDSHIPS['out of memory']}", 2
    except RuntimeError as error:
        signs = [sign for sign in HARDSHIPS if sign in str(error).lower()]
        if not signs:
            raise
        message, code = f"error: {HARDSHIPS[signs[0]]}", 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    logger.debug(message)  # for a log, if there is one
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def few(texts: Sequence[str], separator: str = ", ") -> str:
    """Some of them in a line, at most five."""
    return separator.join([*texts[:5], *["…"] * (len(texts) > 5)])


class StopRequest:
    """A context in which signals that ask a training to end are only noted, in `signal`.

    A second one, more than a second later, ends the process at once.
    """

    def __enter__(self) -> "StopRequest":
        self.signal = 0
        self.since = 0.0
        self.handlers = {number: signal.signal(number, self.note) for number in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, _: object) -> None:
        # A terminal or scheduler, and a launcher on top, may send the very same request twice.
        if self.signal and time.monotonic() - self.since > 1:
            os._exit(128 + number)
        self.signal, self.since = number, time.monotonic()


def keep_freed_memory() -> None:
    """Let this process use again what it frees, where its C library is glibc.

    By default, a block of 32 MB or more, such as a layer's features, goes back to the system when
    it is freed. That clears each of its pages when it is asked for anew, and a training step on a
    CPU takes up to a fifth more time.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def select_device(name: str) -> torch.device:
    """The device of a name that torch knows; "auto" = the first GPU if there is one, else the CPU.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        logger.info("No GPU found: running on the CPU.")
        return torch.device("cpu")
    try:
        probe = torch.zeros((), device=name)
        probe.item()  # the device "meta" holds no values
        return probe.device
    # torch raises the latter two where it was built without.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"--device {name}: not on this machine; use auto or cpu") from error


def select_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The half-precision type to compute in; None = full precision.

    "auto" is bfloat16 where the hardware computes with it natively, float16 on older GPUs, which
    makes training scale the loss, and full precision elsewhere.
    """
    if name != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        # Releases of torch that cannot tell what a CPU is capable of do without.
        capabilities = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.bfloat16
    return None


class AverageMeter:
    """The mean of numbers, or of scalar tensors, which stay on their device until `average`."""

    def __init__(self) -> None:
        self.sum: float | Tensor = 0.0
        self.count = 0

    def update(self, value: float | Tensor, n: int = 1) -> None:
        """Count a value `n` times."""
        self.sum = self.sum + value * n
        self.count += n

    @property
    def average(self) -> float:
        return float(self.sum) / max(self.count, 1)


def is_labelled(labels: Tensor, num_class: int) -> Tensor:
    """Where labels hold one of the classes 0…num_class-1 (bool, of their shape)."""
    return (labels >= 0) & (labels < num_class)


class ConfusionMatrix:
    """How many pixels of each class (row) were predicted as each class (column)."""

    def __init__(self, num_class: int, device: torch.device | str = "cpu"):
        self.num_class = num_class
        self.counts = torch.zeros(num_class, num_class, dtype=torch.int64, device=device)

    def update(self, predictions: Tensor, labels: Tensor) -> None:
        """Count pixels; those whose label is none of 0…num_class-1 are left out.

        Args:
            predictions: integers of any shape, 0…num_class-1.
            labels: integers of the same shape; both on the matrix's device.
        """
        n = self.num_class
        rows = labels.int()
        rows = rows.where(is_labelled(rows, n), n)  # a row more, for what is left out
        pairs = rows.mul_(n).add_(predictions).flatten()
        self.counts += torch.bincount(pairs, minlength=(n + 1) * n)[: n * n].view(n, n)

    def scores(self) -> "Scores":
        """The scores of all pixels so far.

        Raises:
            UserError: no pixel had a label.
        """
        counts = self.counts.cpu().double().numpy()
        if counts.sum() == 0:
            raise UserError("no pixel of the labels belongs to a class: there is nothing to score")
        hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
        with np.errstate(invalid="ignore"):  # 0/0 = nan marks what cannot be scored
            iou = hits / (labelled + predicted - hits)
            accuracy = hits / labelled
        return Scores(iou, accuracy, labelled / labelled.sum(), float(hits.sum() / labelled.sum()))


@dataclass(frozen=True)
class Scores:
    """Scores as fractions; those of a class that cannot have any are nan, and no mean counts them.

    Attributes:
        iou: num_class, intersection over union; nan where no label and no prediction has the class.
        accuracy: num_class, share of the class's pixels that were found; nan where no label has it.
        share: num_class, share of all labelled pixels.
        pixel_accuracy: share of all labelled pixels that were predicted right.
    """

    iou: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    pixel_accuracy: float

    @property
    def mean_iou(self) -> float:
        return float(np.nanmean(self.iou))

    @property
    def mean_accuracy(self) -> float:
        return float(np.nanmean(self.accuracy))

    @property
    def frequency_weighted_iou(self) -> float:
        return float(np.nansum(self.share * self.iou))

    @property
    def overall(self) -> float:
        """The benchmark's ranking: mean of mean IoU and pixel accuracy."""
        return (self.mean_iou + self.pixel_accuracy) / 2

    @property
    def absent(self) -> int:
        """Number of classes in neither label nor prediction."""
        return int(np.isnan(self.iou).sum())


def result_names(names: Sequence[str]) -> dict[str, str]:
    """For each name of a picture, `a/b.jpg`, one without folders for its results: `a_b`.

    Where two would be the same, the later one keeps its ending, `a_b_png`, or gets a number. None
    is hidden, so that an ending makes it a plain file.
    """
    results: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        path = Path(name)
        stem = path.with_suffix("").as_posix().replace("/", "_").lstrip(".") or "_"
        candidates = chain([stem], (f"{stem}_{path.suffix[1:]}{n}" for n in chain([""], count(2))))
        results[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(results[name])
    return results
