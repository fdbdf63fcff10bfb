"""download_ADE20K.sh, run for real against a small archive served on this machine."""

from __future__ import annotations

import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.data_file import data_flags, load_data

SCRIPT = Path(__file__).resolve().parents[1] / "download_ADE20K.sh"
NAME = "ADEChallengeData2016"
PICTURES = {"training": ("train", 3), "validation": ("val", 2)}
LISTS = {
    f"ADE20K_object150_{short}.txt": [
        f"{split}/ADE_{short}_{i:08d}.jpg" for i in range(1, count + 1)
    ]
    for split, (short, count) in PICTURES.items()
}
TOOLS = [
    "awk",
    "cut",
    "df",
    "dirname",
    "find",
    "mkdir",
    "mv",
    "perl",
    "rm",
    "sed",
    "sort",
    "wc",
    "curl",
    "wget",
    "sha1sum",
    "shasum",
    "unzip",
]
BASH = shutil.which("bash")

pytestmark = pytest.mark.skipif(BASH is None, reason="bash is not installed")


def _encoded(extension: str, picture: np.ndarray) -> bytes:
    ok, data = cv2.imencode(extension, picture)
    assert ok
    return data.tobytes()


@pytest.fixture(scope="session")
def archive() -> bytes:
    """An archive of the dataset's layout; noise keeps it long enough to be cut in the middle."""
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for split, (short, count) in PICTURES.items():
            # Last picture first: the lists must be sorted, not in the order of the archive.
            for i in range(count, 0, -1):
                picture = rng.integers(0, 256, (160, 160, 3), dtype=np.uint8)
                labels = rng.integers(0, 151, (160, 160), dtype=np.uint8)
                stem = f"{split}/ADE_{short}_{i:08d}"
                out.writestr(f"{NAME}/images/{stem}.jpg", _encoded(".jpg", picture))
                out.writestr(f"{NAME}/annotations/{stem}.png", _encoded(".png", labels))
    return buffer.getvalue()


class Server(http.server.ThreadingHTTPServer):
    """Serves one payload at every address, as unhelpfully as a test asks for."""

    daemon_threads = True

    def __init__(self, payload: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.payload = payload
        self.ranges: list[str | None] = []  # the Range header of every request
        self.sent: list[int] = []  # bytes of payload sent in answer to every request
        self.ignore_ranges = False
        self.status: int | None = None  # answer every request with this error
        self.cut_after: int | None = None  # drop the next connection after so many bytes ...
        self.hold: threading.Event | None = None  # ... once this is set

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{NAME}.zip"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, total = self.server, len(self.server.payload)
        wanted = self.headers.get("Range")
        server.ranges.append(wanted)
        if server.status is not None:
            self.send_error(server.status)
            return
        start = 0
        if wanted is not None and not server.ignore_ranges:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= total:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{total}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(total - start))
        self.end_headers()
        end = total if server.cut_after is None else start + server.cut_after
        server.cut_after = None
        body = server.payload[start:end]
        server.sent.append(len(body))
        self.wfile.write(body)
        self.wfile.flush()
        if end != total and server.hold is not None:
            server.hold.wait(30)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(archive: bytes) -> Iterator[Server]:
    with Server(archive) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


class Setup:
    """A target folder, a PATH of chosen tools, and the script's environment."""

    def __init__(self, root: Path, server: Server) -> None:
        self.data = root / "the data"
        self.zip = self.data / f"{NAME}.zip"
        self.bin = root / "bin"
        self.bin.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            if found is not None:
                (self.bin / tool).symlink_to(found)
        self.stub("python3", f'exec "{sys.executable}" "$@"')
        self.stub("sleep", "exit 0")  # waiting between attempts proves nothing here
        self.env = {
            "PATH": str(self.bin),
            "HOME": str(root),  # no .curlrc, no .wgetrc
            "no_proxy": "127.0.0.1",
            "NO_PROXY": "127.0.0.1",
            "ADE20K_URL": server.url,
            "ADE20K_SHA1": hashlib.sha1(server.payload).hexdigest(),
            "ADE20K_DIR": str(self.data),
            "ADE20K_NEED_MB": "1",
        }

    def stub(self, tool: str, body: str) -> None:
        self.without(tool)
        path = self.bin / tool
        path.write_text(f"#!{BASH}\n{body}\n")
        path.chmod(0o755)

    def without(self, *tools: str) -> None:
        for tool in tools:
            (self.bin / tool).unlink(missing_ok=True)

    def run(self, *arguments: str, script: Path = SCRIPT) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BASH), str(script), *arguments],
            env=self.env,
            cwd=self.bin,
            capture_output=True,
            text=True,
            timeout=30,
        )

    def assert_finished(self, archive: bytes) -> None:
        """Exactly the archive's files, the two lists and data.json are there."""
        with zipfile.ZipFile(io.BytesIO(archive)) as source:
            expected = {name: source.read(name) for name in source.namelist()}
        expected |= {name: ("\n".join(lines) + "\n").encode() for name, lines in LISTS.items()}
        data_file = self.data / NAME / "data.json"
        expected[str(data_file.relative_to(self.data))] = data_file.read_bytes()
        settings = data_flags(data_file.parent, load_data(data_file.parent))
        assert [Path(settings[f"list_{split}"]) for split in ("train", "val")] == [
            self.data / name for name in sorted(LISTS)
        ]
        assert Path(settings["list_class"]).name == "ADE20K_object150_classes.csv"
        assert {
            str(path.relative_to(self.data)): path.read_bytes()
            for path in self.data.rglob("*")
            if path.is_file()
        } == expected
        assert {path.name for path in self.data.iterdir()} == {NAME, *LISTS}

    def assert_empty(self) -> None:
        assert list(self.data.iterdir()) == []


@pytest.fixture
def setup(tmp_path: Path, server: Server) -> Setup:
    made = Setup(tmp_path, server)
    if not any((made.bin / tool).exists() for tool in ("curl", "wget")):
        pytest.skip("neither curl nor wget is installed")
    return made


@pytest.fixture(params=["curl", "wget"])
def either(request: pytest.FixtureRequest, setup: Setup) -> Setup:
    """The setup with only one of the two programs that can download."""
    if not (setup.bin / request.param).exists():
        pytest.skip(f"{request.param} is not installed")
    setup.without("wget" if request.param == "curl" else "curl")
    return setup


def _error_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a failed run that is the script's own, which must also be the last."""
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    return lines[-1]


def test_downloads_checks_unpacks_and_lists(either: Setup, server: Server, archive: bytes) -> None:
    done = either.run()
    assert done.returncode == 0, done.stderr
    either.assert_finished(archive)
    assert server.ranges == [None]
    assert f"removed {either.zip}" in done.stdout


def test_default_folder_is_data_beside_the_script_whatever_the_cwd(
    setup: Setup, archive: bytes, tmp_path: Path
) -> None:
    del setup.env["ADE20K_DIR"]
    setup.data = tmp_path / "a clone" / "data"
    setup.data.parent.mkdir()
    done = setup.run(script=shutil.copy(SCRIPT, setup.data.parent))
    assert done.returncode == 0, done.stderr
    setup.assert_finished(archive)


def test_resumes_an_interrupted_download(either: Setup, server: Server, archive: bytes) -> None:
    server.cut_after, server.hold = len(archive) // 2, threading.Event()
    running = subprocess.Popen(
        [str(BASH), str(SCRIPT)],
        env=either.env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 10
    while not (either.zip.exists() and either.zip.stat().st_size):
        assert time.monotonic() < deadline, "nothing was written"
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGTERM)
    assert running.wait(10) != 0
    server.hold.set()
    assert [path.name for path in either.data.iterdir()] == [either.zip.name]
    got = either.zip.stat().st_size
    assert 0 < got <= len(archive) // 2

    done = either.run()
    assert done.returncode == 0, done.stderr
    assert server.ranges == [None, f"bytes={got}-"]
    assert server.sent[1] == len(archive) - got
    either.assert_finished(archive)


def test_a_dropped_connection_is_tried_again_from_where_it_broke(
    either: Setup, server: Server, archive: bytes
) -> None:
    server.cut_after = len(archive) // 3
    done = either.run()
    assert done.returncode == 0, done.stderr
    assert server.ranges == [None, f"bytes={len(archive) // 3}-"]
    either.assert_finished(archive)


def test_server_that_ignores_ranges_still_gives_a_whole_download(
    either: Setup, server: Server, archive: bytes
) -> None:
    server.ignore_ranges = True
    server.cut_after = len(archive) // 3
    done = either.run()
    assert done.returncode == 0, done.stderr
    either.assert_finished(archive)


def test_gives_up_after_a_few_attempts_and_keeps_what_it_has(
    either: Setup, server: Server, archive: bytes
) -> None:
    either.data.mkdir()
    either.zip.write_bytes(archive[:1000])
    server.status = 503
    assert server.url in _error_line(either.run())
    assert server.ranges == ["bytes=1000-"] * 4
    assert either.zip.read_bytes() == archive[:1000]


@pytest.mark.slow
def test_wrong_checksum_is_refused_and_leaves_nothing_that_looks_finished(
    either: Setup, server: Server, archive: bytes
) -> None:
    right = either.env["ADE20K_SHA1"]
    either.env["ADE20K_SHA1"] = "0" * 40
    line = _error_line(either.run())
    assert str(either.zip) in line and right in line
    either.assert_empty()

    either.env["ADE20K_SHA1"] = right
    assert either.run().returncode == 0
    assert server.ranges == [None, None]
    either.assert_finished(archive)


def test_complete_but_corrupt_archive_is_removed_so_that_the_next_run_starts_afresh(
    either: Setup, server: Server, archive: bytes
) -> None:
    either.data.mkdir()
    either.zip.write_bytes(bytes(len(archive)))
    assert str(either.zip) in _error_line(either.run())
    either.assert_empty()

    assert either.run().returncode == 0
    assert server.ranges == [f"bytes={len(archive)}-", None]
    either.assert_finished(archive)


def test_second_run_downloads_nothing(setup: Setup, server: Server, archive: bytes) -> None:
    assert setup.run().returncode == 0
    setup.env["ADE20K_NEED_MB"] = "999999999"  # a finished copy needs no room
    setup.without("curl", "wget", "unzip")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert "already" in done.stdout and len(done.stdout.splitlines()) == 1
    assert len(server.ranges) == 1
    setup.assert_finished(archive)


def test_archive_that_is_already_there_is_not_downloaded_again(
    setup: Setup, server: Server, archive: bytes
) -> None:
    setup.data.mkdir()
    setup.zip.write_bytes(archive)
    setup.without("curl", "wget")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert server.ranges == []
    setup.assert_finished(archive)


@pytest.mark.parametrize("name", LISTS)
def test_missing_list_file_is_made_again(
    setup: Setup, server: Server, archive: bytes, name: str
) -> None:
    assert setup.run().returncode == 0
    (setup.data / name).unlink()
    assert setup.run().returncode == 0
    assert len(server.ranges) == 1
    setup.assert_finished(archive)


@pytest.mark.slow
def test_fresh_copy_replaces_the_lists_of_an_earlier_one(setup: Setup, archive: bytes) -> None:
    setup.data.mkdir()
    for name in LISTS:
        (setup.data / name).write_text("training/gone.jpg\n")
    assert setup.run().returncode == 0
    setup.assert_finished(archive)


def test_folder_without_pictures_is_named_and_gets_no_list(setup: Setup, server: Server) -> None:
    (setup.data / NAME / "images" / "training").mkdir(parents=True)
    assert str(setup.data / NAME / "images" / "training") in _error_line(setup.run())
    assert server.ranges == []
    assert [path.name for path in setup.data.iterdir()] == [NAME]


def test_stops_before_downloading_when_room_is_short(setup: Setup, server: Server) -> None:
    setup.env["ADE20K_NEED_MB"] = "999999999"
    done = setup.run()
    assert "999999999 MB" in _error_line(done)
    assert "999999999 MB" in done.stdout and "MB are free" in done.stdout
    assert len(done.stderr.splitlines()) == 1
    assert server.ranges == []
    setup.assert_empty()


def test_room_asked_for_by_default_holds_the_archive_and_its_files(
    setup: Setup, server: Server
) -> None:
    del setup.env["ADE20K_NEED_MB"]
    setup.stub("df", 'echo header; echo "disk 9 9 $((2200 * 1024)) 9% /"')
    assert "2200 MB of the 2500 MB" in _error_line(setup.run())
    assert server.ranges == []


def test_archive_that_is_already_there_lowers_the_room_asked_for(
    setup: Setup, server: Server, archive: bytes
) -> None:
    padded = io.BytesIO(archive)
    with zipfile.ZipFile(padded, "a") as out:
        out.writestr(f"{NAME}/padding", bytes(3 << 20))
    server.payload = padded.getvalue()
    setup.env["ADE20K_SHA1"] = hashlib.sha1(server.payload).hexdigest()
    setup.env["ADE20K_NEED_MB"] = "10"
    setup.stub("df", 'echo header; echo "disk 9 9 $((7 * 1024)) 9% /"')
    assert "7 MB of the 10 MB" in _error_line(setup.run())

    setup.zip.write_bytes(server.payload)
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert "needs 7 MB" in done.stdout
    assert server.ranges == []


def test_interrupted_unpacking_never_looks_finished(
    setup: Setup, server: Server, archive: bytes
) -> None:
    unzip = shutil.which("unzip")
    # The script is killed while the last argument, the folder to unpack to, is half filled.
    setup.stub("unzip", f'mkdir -p "${{@: -1}}/{NAME}/images/training"; kill -KILL $PPID')
    assert setup.run().returncode == -signal.SIGKILL
    assert not (setup.data / NAME).exists()
    assert not any((setup.data / name).exists() for name in LISTS)

    setup.without("unzip")
    if unzip is not None:
        (setup.bin / "unzip").symlink_to(unzip)
    done = setup.run()
    assert done.returncode == 0, done.stderr
    assert len(server.ranges) == 1
    setup.assert_finished(archive)


def test_failed_unpacking_keeps_the_archive_and_says_so_in_one_line(setup: Setup) -> None:
    setup.stub("unzip", "exit 50")
    done = setup.run()
    assert str(setup.zip) in _error_line(done)
    assert [path.name for path in setup.data.iterdir()] == [setup.zip.name]


def test_unpacks_without_unzip(setup: Setup, archive: bytes) -> None:
    setup.without("unzip")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    setup.assert_finished(archive)


@pytest.mark.parametrize("with_unzip", [True, False])
def test_archive_cannot_write_outside_its_folder(
    setup: Setup, server: Server, archive: bytes, with_unzip: bool
) -> None:
    if not with_unzip:
        setup.without("unzip")
    elif not (setup.bin / "unzip").exists():
        pytest.skip("unzip is not installed")
    hostile = io.BytesIO(archive)
    with zipfile.ZipFile(hostile, "a") as out:
        out.writestr("../escaped", "x")
        out.writestr("../../escaped", "x")
    server.payload = hostile.getvalue()
    setup.env["ADE20K_SHA1"] = hashlib.sha1(server.payload).hexdigest()
    setup.run()
    assert not (setup.data / "escaped").exists()
    assert not (setup.data.parent / "escaped").exists()


def test_archive_of_another_layout_is_refused(setup: Setup, server: Server) -> None:
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as out:
        out.writestr("something/else.txt", "x")
    server.payload = other.getvalue()
    setup.env["ADE20K_SHA1"] = hashlib.sha1(server.payload).hexdigest()
    assert f"{NAME}/images" in _error_line(setup.run())
    assert [path.name for path in setup.data.iterdir()] == [setup.zip.name]


@pytest.mark.parametrize("missing", ["sha1sum", "shasum"])
def test_one_of_the_two_checksum_programs_is_enough(
    setup: Setup, archive: bytes, missing: str
) -> None:
    setup.without(missing)
    if not any((setup.bin / tool).exists() for tool in ("sha1sum", "shasum")):
        pytest.skip(f"only {missing} is installed")
    done = setup.run()
    assert done.returncode == 0, done.stderr
    setup.assert_finished(archive)


@pytest.mark.parametrize("pair", [("curl", "wget"), ("sha1sum", "shasum"), ("unzip", "python3")])
def test_missing_programs_are_both_named_before_any_download(
    setup: Setup, server: Server, pair: tuple[str, str]
) -> None:
    setup.without(*pair)
    done = setup.run()
    line = _error_line(done)
    assert all(tool in line for tool in pair)
    assert len(done.stderr.splitlines()) == 1
    assert server.ranges == []


def test_folder_that_cannot_be_made_is_named_in_one_line(setup: Setup) -> None:
    setup.data.write_text("a file is in the way")
    done = setup.run()
    assert str(setup.data) in _error_line(done)
    assert len(done.stderr.splitlines()) == 1


def test_room_that_is_no_number_is_named_in_one_line(setup: Setup) -> None:
    setup.env["ADE20K_NEED_MB"] = "2G"
    done = setup.run()
    assert "'2G'" in _error_line(done)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--force"], [""], ["--help", "me"]])
def test_unknown_argument_is_one_line_and_exit_code_2(
    setup: Setup, server: Server, arguments: list[str]
) -> None:
    done = setup.run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and " ".join(arguments) in done.stderr
    assert done.stdout == "" and server.ranges == [] and not setup.data.exists()


def test_help_prints_the_usage_and_does_nothing(setup: Setup) -> None:
    done = setup.run("--help")
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("Usage: ")
    for name in ("ADE20K_URL", "ADE20K_SHA1", "ADE20K_DIR", "ADE20K_NEED_MB"):
        assert name in done.stdout
    assert not setup.data.exists()


def test_script_is_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
