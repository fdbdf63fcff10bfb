"""Videos, frame by frame, as OpenCV's FFmpeg reads and writes them; their sound is left out."""

import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from common.files import MARK, atomic_path
from utils import UserError

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
COUNTED = (".mp4", ".m4v", ".mov", ".avi")  # formats that tell how many frames they hold
CODEC = "mp4v"  # MPEG-4 Part 2, the one of .mp4 that every build of OpenCV can write
MAX_FAILED = 100  # attempts to decode a frame, one after the other, until it is the end
ROUNDED = 1  # frames that a number of frames, if estimated from a duration, may be too high
USUAL_RATE = 25.0  # frames a second, where a file does not tell


def open_video(path: Path) -> cv2.VideoCapture:
    """A video, to be read from its beginning.

    Raises:
        UserError: it cannot be decoded.
    """
    silence_ffmpeg()
    # An absolute path is never mistaken for an address or a pattern of file names.
    video = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
    if not video.isOpened():
        raise UserError(f"{path} is not a video that can be decoded: damaged, cut short or foreign")
    return video


def silence_ffmpeg() -> None:
    """Keep FFmpeg from messages of its own; it reads this variable when it is first used."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


def frame_rate(video: cv2.VideoCapture) -> float:
    """Frames a second."""
    rate = video.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else USUAL_RATE


class Frames:
    """The frames of a video, H x W x 3, RGB, in an iterator; damaged ones are passed over.

    Attributes:
        count: frames so far.
        promised: frames that the file says it holds, or an estimate if its format is not `COUNTED`:
            its duration, or that of its sound, by its rate.
        holes: how often frames came after some that could not be decoded.
    """

    def __init__(self, video: cv2.VideoCapture, limit: int = -1):
        self.video = video
        self.limit = limit
        self.count = self.holes = 0
        self.promised = round(video.get(cv2.CAP_PROP_FRAME_COUNT))

    def __iter__(self) -> Iterator[np.ndarray]:
        failed = 0
        while self.count != self.limit and failed < MAX_FAILED:
            found, frame = self.video.read()
            if not found:  # the end, or damage
                failed += 1
                continue
            self.holes += failed > 0
            self.count, failed = self.count + 1, 0
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    @property
    def lost(self) -> str:
        """What could not be decoded, in words; "" if nothing is missed."""
        expected = self.promised if self.limit == -1 else min(self.limit, self.promised)
        if self.holes or expected - self.count > ROUNDED:
            return f"only {self.count} of {self.promised} frames can be decoded"
        return ""


@contextmanager
def write_video(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yield the function that writes a frame H x W x 3, RGB; in the end the file is there, whole.

    All frames get the size of the first one. The codec takes even sides only: an odd one loses a
    pixel.

    Raises:
        UserError: it cannot be written.
    """
    writer, count, size = cv2.VideoWriter(), 0, (0, 0)
    silence_ffmpeg()

    def write(frame: np.ndarray) -> None:
        nonlocal count, size
        if not count:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2
            code = cv2.VideoWriter.fourcc(*CODEC)
            if not writer.open(os.path.abspath(partial), cv2.CAP_FFMPEG, code, rate, size):
                raise UserError(f"cannot write {path}: no video of {size[0]} x {size[1]} pixels")
        if (frame.shape[1] // 2 * 2, frame.shape[0] // 2 * 2) == size:
            frame = frame[: size[1], : size[0]]
        else:
            frame = cv2.resize(frame, size)
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        count += 1

    with atomic_path(path) as partial:
        try:
            yield write
        finally:
            writer.release()
        if count:
            with partial.open("ab") as file:  # a box of MP4 that players pass over
                file.write(struct.pack(">I4s", 8 + len(MARK), b"free") + MARK.encode())
        # The writer does not tell of a full disk.
        if count and open_video(partial).get(cv2.CAP_PROP_FRAME_COUNT) != count:
            raise UserError(f"cannot write {path}: it is not whole; is the disk full?")
