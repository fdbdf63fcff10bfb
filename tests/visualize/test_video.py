import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils import UserError
from visualize.video import Frames, frame_rate, open_video, write_video

from ..conftest import ROOT

# Bright enough for a codec to keep apart, and moving.
FRAMES = [np.full((36, 64, 3), (20 * i, 128, 200 - 20 * i), np.uint8) for i in range(9)]


def make_video(path: Path, frames: list[np.ndarray] = FRAMES, rate: float = 12.5) -> Path:
    with write_video(path, rate) as write:
        for frame in frames:
            write(frame)
    return path


@pytest.mark.parametrize("rate", [12.5, 29.97, 60])
def test_a_video_comes_back_with_its_frames_colours_and_rate(rate, tmp_path):
    video = open_video(make_video(tmp_path / "new" / "a.mp4", rate=rate))
    assert frame_rate(video) == pytest.approx(rate, rel=1e-4)
    frames = list(Frames(video))
    assert len(frames) == len(FRAMES)
    for frame, expected in zip(frames, FRAMES, strict=True):
        assert frame.shape == expected.shape
        assert np.abs(frame.mean((0, 1)) - expected[0, 0]).max() < 8
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.mp4"]


def test_odd_sides_lose_a_pixel_and_other_sizes_are_scaled(tmp_path):
    frames = [np.zeros(shape, np.uint8) for shape in ((35, 63, 3), (34, 62, 3), (70, 20, 3))]
    video = open_video(make_video(tmp_path / "a.mp4", frames))
    assert [frame.shape for frame in Frames(video)] == [(34, 62, 3)] * 3


def test_what_is_cut_short_while_writing_leaves_what_had_been(tmp_path):
    path = tmp_path / "a.mp4"

    def cut_short() -> None:
        with write_video(path, 25) as write:
            write(FRAMES[0])
            raise KeyboardInterrupt

    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        cut_short()
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with write_video(path, 25):
        pass  # no frame
    assert path.read_text() == "before"


def test_a_video_that_the_disk_has_no_room_for_is_told(tmp_path, monkeypatch):
    whole = make_video(tmp_path / "b.mp4")  # of more frames
    monkeypatch.setattr("visualize.video.open_video", lambda path: open_video(whole))
    with pytest.raises(UserError, match="a.mp4.* disk"), write_video(tmp_path / "a.mp4", 25) as w:
        w(FRAMES[0])
    assert not (tmp_path / "a.mp4").exists()


def test_sizes_that_the_codec_cannot_take_are_refused(tmp_path):
    with pytest.raises(UserError, match="a.mp4: no video of 0 x 2"):
        make_video(tmp_path / "a.mp4", [np.zeros((2, 1, 3), np.uint8)])
    assert list(tmp_path.iterdir()) == []


OPEN = """
import sys
import cv2
from utils import UserError
from visualize.video import open_video
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # as run_script does
for path in sys.argv[1:]:
    try:
        open_video(path)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
def test_foreign_files_are_refused_quietly(tmp_path):
    """In a process of its own, as only the first video that one opens can make FFmpeg quiet."""
    whole = make_video(tmp_path / "whole.mp4").read_bytes()
    contents = (b"", b"I am a video", whole[: len(whole) // 2], b"#EXTM3U\nhttp://x.y/z.ts\n")
    paths = [tmp_path / f"{i}.mp4" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    command = [sys.executable, "-c", OPEN, *paths]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stderr == "" and len(run.stdout.splitlines()) == len(paths)
    for path, line in zip(paths, run.stdout.splitlines(), strict=True):
        assert line.startswith(f"{path} is not a video")
