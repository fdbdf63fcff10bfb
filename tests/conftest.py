"""What the tests share: a tiny data set in ADE20K's layout, flags, and a way to run the scripts."""

import io
import os
import runpy
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parent.parent

# Tests compare numbers exactly and start several processes at a time, on CPUs alone: `make gpu` is
# for a GPU. A CPU runs a GPU's kernels in Triton's interpreter, which is chosen at its import.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["TRITON_INTERPRET"] = "1"


CHROMIUM = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-quic",
    "no-first-run",
    "disable-background-networking",
    "disable-component-update",
    "disable-sync",
    "window-size=1280,900",
)


def flags(**settings: object) -> list[str]:
    """The settings as one types them: `--name`, its value, and so on."""
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


# A real network on small pictures, without worker processes.
SMALL = flags(
    arch_encoder="resnet18dilated",
    weights_encoder="none",
    device="cpu",
    amp="off",
    imgSize=32,
    segSize=32,
    batch_size_per_gpu=3,
    workers=0,
)

# The smallest of timm's, for what is about processes and files: a save takes no time.
TINY = [*SMALL, *flags(arch_encoder="timm:test_resnet@16")]


@dataclass(frozen=True)
class Data:
    """A data set of four classes: its folder, and the flags that name it."""

    folder: Path
    num_class: int = 4

    @property
    def flags(self) -> list[str]:
        return flags(
            list_train=f"{self.folder}/train.txt",
            list_val=f"{self.folder}/val.txt",
            root_img=f"{self.folder}/images",
            root_seg=f"{self.folder}/annotations",
            num_class=self.num_class,
        )

    def picture(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.jpg"

    def label(self, name: str) -> Path:
        return self.folder / "annotations" / f"{name}.png"


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return make_data(tmp_path / "data")


def make_data(folder: Path) -> Data:
    """Six training and three validation pictures, 80 x 64: a bright block on a ground, and sky."""
    data = Data(folder)
    rng = np.random.default_rng(0)
    for part, n in (("train", 6), ("val", 3)):
        for folder in ("images", "annotations"):
            (data.folder / folder / part).mkdir(parents=True)
        names = [f"{part}/{i}" for i in range(n)]
        for name in names:
            label = np.full((64, 80), 2, np.uint8)
            label[: rng.integers(20, 40)] = 1
            x, y = rng.integers(40), rng.integers(30)
            label[y : y + 24, x : x + 24] = 3
            label[:3, :3] = 0
            colours = np.array([[0, 0, 0], [200, 120, 80], [60, 90, 50], [240, 240, 240]])
            picture = colours[label] + rng.normal(0, 8, (64, 80, 3))
            cv2.imwrite(str(data.picture(name)), picture.clip(0, 255).astype(np.uint8))
            cv2.imwrite(str(data.label(name)), label)
        lines = [f"{name}.jpg\n" for name in names]
        (data.folder / f"{part}.txt").write_text("".join(lines))
    return data


def changed_training(folder: Path, change: str) -> str:
    """A script that runs train.py after some lines that change one of its modules."""
    script = folder / "changed.py"
    script.write_text(
        "import os, runpy, sys, time\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"{change}\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    return str(script)


class Server:
    """Serves `files` by path on loopback, and 404 for all else; every request is noted.

    Attributes:
        redirects: the path to go to instead, by path.
        cut_after: bytes after which each answer ends.
        promised: the length that each answer claims; None = its own.
        wait: seconds before each answer, by path.
        headers: of each answer.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.redirects: dict[str, str] = {}
        self.cut_after: int | None = None
        self.promised: int | None = None
        self.wait: dict[str, float] = {}
        self.headers: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        # It looks that often whether it should end.
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path[1:]
        self.requests.append(request.path)
        time.sleep(self.wait.get(path, 0))
        body = self.files.get(path, b"")
        promised = len(body) if self.promised is None else self.promised
        request.send_response(302 if path in self.redirects else 200 if body else 404)
        if path in self.redirects:
            request.send_header("Location", f"/{self.redirects[path]}")
        request.send_header("Content-Length", str(promised))
        for name, value in self.headers.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "HEAD":
            return
        with suppress(ConnectionError):  # the client may have given up
            request.wfile.write(body[: self.cut_after])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of files; the working folder is empty."""
    server = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    yield server
    server.http.shutdown()
    server.http.server_close()


def file_of(state: object, **options: object) -> bytes:
    """The bytes of a file that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(state, file, **options)
    return file.getvalue()


class Malicious:
    """Something whose unpickling makes the file `harm`."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("harm"),))


@dataclass(frozen=True)
class Result:
    """How a script ended and what it printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> Callable[..., Result]:
    """Runs a script of the project as `python NAME ARGS…` would, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("os.fsync", lambda _: None)  # a tenth of the time; nothing cuts the power
    (tmp_path / "here/data").symlink_to(ROOT / "data")

    def run(name: str, *args: object) -> Result:
        monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
        code = 0
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as end:
            code = end.code
        return Result(code, *capsys.readouterr())

    return run


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    """Chromium without a screen, driven by selenium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in CHROMIUM:
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()
