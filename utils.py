"""What all scripts share: errors for the user, signals, names of results. It knows no torch."""

import ctypes
import io
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import TextIO, TypeVar

import cv2

logger = logging.getLogger(__name__)

MAX_STEM_BYTES = 200  # of a name without its ending: file systems take 255 in all

# RuntimeErrors of torch that are no bugs: a part of their text, and the way out.
KNOWN_RUNTIME_ERRORS = {
    "out of memory": "out of memory: try smaller pictures or batches",  # on a GPU
    "can't allocate memory": "out of memory: try smaller pictures or batches",  # on a CPU
    "shared memory": "out of shared memory, in which pictures come from the processes that read "
    "them: take fewer --workers (0 needs none), or give a container more (docker run --shm-size)",
    "dataloader timed out": "no picture has come for long: the disk, or a file server, hangs",
    "dataloader worker": "a process that reads pictures was killed, perhaps as memory ran out: "
    "try fewer --workers",
}
# Signals that ask a training to save and end: Ctrl-C, those of schedulers, a terminal that closes.
POSIX_SIGNALS = [signal.SIGUSR1, signal.SIGHUP] if os.name == "posix" else []
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, *POSIX_SIGNALS)
T = TypeVar("T")
LONGEST_ERROR = 1000  # characters; a few paths fit


class UserError(Exception):
    """A mistake of the user's: one line that names the file or the flag and the way out.

    Characters that cannot be printed, such as a line end in the name of a file, are escaped. A line
    of more than `LONGEST_ERROR` characters loses its middle.
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
    """Run a script. What is not a bug ends it with one line.

    Exit code 2: a `UserError` or another error given, a file system that refuses, memory that ran
    out, a lost worker. 130: Ctrl-C. 1: nobody reads the output any more.
    """
    screen = Screen(sys.stdout)
    screen.setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[screen], force=True)
    logger.setLevel(logging.DEBUG)
    for name in ("httpx", "httpx2"):  # they tell of each request
        logging.getLogger(name).setLevel(logging.WARNING)
    # Line by line, so that a log file is up to date; names of files may be no valid text.
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    keep_freed_memory()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return main()
    except BrokenPipeError:
        discard(sys.stdout)  # what the flush at exit writes, too
        message, code = "nobody reads its output any more", 1
    except Exception as error:
        line = in_one_line(error, *errors)
        if line is None:
            raise
        message, code = f"error: {line}", 2
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    logger.debug(message)  # for a log, if there is one
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    sys.exit(code)


def in_one_line(error: Exception, *errors: type[Exception]) -> str | None:
    """What to tell the user of an error; None if it may be a bug.

    Args:
        error: what was raised.
        errors: kinds that are mistakes of the user's, beside `UserError`.
    """
    if isinstance(error, (UserError, OSError, *errors)):
        return str(UserError(str(error)))
    if isinstance(error, MemoryError):
        return KNOWN_RUNTIME_ERRORS["out of memory"]
    if isinstance(error, RuntimeError):
        signs = [sign for sign in KNOWN_RUNTIME_ERRORS if sign in str(error).lower()]
        return KNOWN_RUNTIME_ERRORS[signs[0]] if signs else None
    return None


class OneLineErrors(logging.Handler):
    """A handler of log lines that cannot be written: it says so once, and the script goes on."""

    lost = "some lines of the log are lost"
    told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A line could not be written."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            name = Path(sys.argv[0]).name
            with suppress(OSError):
                print(f"{name}: {self.lost}: {error.strerror}; going on", file=sys.stderr)


class Screen(OneLineErrors, logging.StreamHandler):
    """Log lines on standard output, which may be a pipe that nobody reads any more."""

    lost = "standard output cannot be written"

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """A line could not be written; nor could what the flush at exit still holds."""
        super().handleError(record)
        if isinstance(sys.exc_info()[1], OSError):
            discard(sys.stdout)


class LogFile(OneLineErrors, logging.FileHandler):
    """Log lines in a file, whose disk may be full."""


def discard(stream: TextIO) -> None:
    """Let everything that is written to a stream vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def redirect_log(stream: TextIO | io.TextIOBase) -> None:
    """Send log lines that go to standard output to another stream."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout:
            handler.setStream(stream)


class StopRequest:
    """A context that notes signals to stop, in `signal`, for the caller to act upon.

    A second one, more than a second later, ends the process at once. What is ignored at the start,
    as `nohup` has it, stays ignored.
    """

    def __init__(self) -> None:
        self.signal = 0  # none so far
        self.since = 0.0
        self.waiting = False

    def __enter__(self) -> "StopRequest":
        self.handlers = {
            number: signal.signal(number, self.note)
            for number in STOP_SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def note(self, number: int, _: object) -> None:
        """Answer a signal."""
        # A terminal or scheduler, and a launcher on top, may send the very same request twice.
        if self.signal and time.monotonic() - self.since > 1:
            os._exit(128 + number)
        self.signal, self.since = number, time.monotonic()
        if self.waiting:
            self.waiting = False
            raise WaitEnded

    def wait_for(self, get: Callable[[], T], otherwise: T) -> T:
        """What `get` returns, or `otherwise` as soon as there is a signal: no wait outlasts it."""
        try:
            self.waiting = True
            try:
                return otherwise if self.signal else get()
            finally:
                self.waiting = False
        except WaitEnded:
            return otherwise


class WaitEnded(BaseException):
    """A signal has ended a wait; like KeyboardInterrupt, it is no error that code may hide."""


def keep_freed_memory() -> None:
    """Make this process reuse the memory that it frees, where its C library is glibc.

    By default, a freed block of 32 MB or more, such as a layer's features, goes back to the system.
    The system clears each of its pages before it hands them out anew, and a training step on a CPU
    takes up to a fifth more time.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)


def abbreviate(texts: Sequence[str], separator: str = ", ") -> str:
    """The first five of some texts in a line, and … for the others."""
    return separator.join([*texts[:5], *["…"] * (len(texts) > 5)])


def result_names(names: Sequence[str]) -> dict[str, str]:
    """For each name of a picture, `a/b.jpg`, one without folders for its results: `a_b`.

    Where two would be the same, the later one keeps its ending, `a_b_png`, or gets a number. No
    name is hidden, and long ones are cut; with an ending it is a plain file.
    """
    results: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        path = Path(name)
        stem = path.with_suffix("").as_posix().replace("/", "_").lstrip(".") or "_"
        stem = os.fsdecode(os.fsencode(stem)[:MAX_STEM_BYTES])
        candidates = chain([stem], (f"{stem}_{path.suffix[1:]}{n}" for n in chain([""], count(2))))
        results[name] = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(results[name])
    return results
