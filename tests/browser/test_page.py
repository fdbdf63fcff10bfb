"""The page of `app.py` in a real browser."""

import io
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.images import read_picture

from ..conftest import ROOT, SMALL

SECONDS = 60  # until something is seen, on a busy machine


@pytest.fixture
def served(script, data, tmp_path):
    """A run `mine` on a page; its address, and the folder of all temporary files."""
    pytest.importorskip("gradio")
    result = script("train.py", "--id", "mine", *SMALL, *data.flags, "--num_epoch", "1")
    assert result.code == 0, result.err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, ROOT / "app.py", "--imgSize", "-1", "--device", "cpu"]
    process = subprocess.Popen(
        [*map(str, command), "--port", str(port)],
        env=os.environ | {"TMPDIR": str(tmp_path / "temporary")},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while "http://" not in (line := process.stdout.readline()):
            assert line, "the page did not start"
        yield line.split()[0], tmp_path / "temporary", process
    finally:
        process.kill()
        process.wait()


def around() -> set[Path]:
    """What is in the working folder and beside the page's modules."""
    return {*Path.cwd().iterdir(), *(ROOT / "browser").iterdir()}


@pytest.mark.slow
def test_the_page_segments_what_is_dropped_and_leaves_nothing(served, browser, script, data):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    address, temporary, process = served
    before = around()

    def found(selector: str) -> list:
        return browser.find_elements(By.CSS_SELECTOR, selector)

    def until(condition: object) -> object:
        return WebDriverWait(browser, SECONDS).until(lambda _: condition())

    def drop(path: object) -> None:
        until(lambda: found("input[type=file]"))[0].send_keys(str(path))

    def overlay() -> np.ndarray:
        source = until(lambda: found("img[alt]:not([alt=''])"))[0].get_attribute("src")
        return np.asarray(Image.open(io.BytesIO(urllib.request.urlopen(source).read())))

    browser.get(address)
    drop(data.picture("val/0"))
    until(lambda: found(".classes button"))
    settings = ["--imgSize", -1, "--device", "cpu", "--result", "result"]
    assert script("test.py", "--id", "mine", "--test_img", data.picture("val/0"), *settings)
    panel = read_picture("result/0_panel.png")
    shown = overlay()
    height, width = shown.shape[:2]
    # A panel has a picture, and to its right the classes over it.
    assert (panel[8 : 8 + height, 16 + width : 16 + 2 * width] == shown).all()

    names = [button.text.split()[0] for button in found(".classes button")]
    assert names
    found(".classes button")[0].send_keys(Keys.ENTER)
    until(lambda: found(".classes button[aria-pressed=true]"))
    focused = "return document.activeElement.getAttribute('aria-pressed')"
    until(lambda: browser.execute_script(focused) == "true")
    if len(names) > 1:
        assert (overlay() != shown).any()
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    until(lambda: not found(".classes button[aria-pressed=true]"))
    assert (overlay() == shown).all()

    files = {path.name: path for path in temporary.rglob("*.png")}
    labels = cv2.imread(str(files["0_prediction.png"]), cv2.IMREAD_UNCHANGED)
    assert (labels == cv2.imread("result/0_prediction.png", cv2.IMREAD_UNCHANGED)).all()

    broken = data.folder / "broken.jpg"
    broken.write_bytes(data.picture("val/1").read_bytes()[:500])
    browser.get(address)
    drop(broken)
    message = until(lambda: found(".toast-body"))[0].text
    assert "broken.jpg is not a picture that can be decoded" in message
    assert not found(".classes button")

    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    left = [path.name for path in temporary.iterdir() if path.name.startswith("segmentation-")]
    assert not left
    assert around() - before == {Path("result").absolute()}


@pytest.mark.slow
def test_what_is_wrong_with_the_flags_of_the_page_takes_one_line(script):
    pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = script("app.py", "--port", port, "--device", "cpu")
    assert result.code == 2 and f"--port {port} is taken" in result.err
    result = script("app.py", "--id", "none", "--device", "cpu")
    assert result.code == 2 and "there is no such run" in result.err
    assert result.err.count("\n") == 1


def test_without_gradio_one_line_says_how_to_get_it(script, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "browser.page", raising=False)
    result = script("app.py", "--device", "cpu")
    assert result.code == 2 and "pip install gradio" in result.err
