"""Runs that others are given: as folders, and on a hub."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest

from .conftest import TINY, Data, Result, Server, flags

pytest.importorskip("safetensors")
pytestmark = pytest.mark.slow

Script = Callable[..., Result]
EVAL = flags(workers=0, scales=1, device="cpu")


@pytest.fixture
def shared(script: Script, data: Data) -> Path:
    """The folder to share of a run `mine` with scores."""
    names = ["sky", "ground", "a|b", "other"]
    rows = [f"{i + 1},{name},{60 * i},90,{200 - 60 * i}" for i, name in enumerate(names)]
    Path("classes.csv").write_text("\n".join(["index,name,r,g,b", *rows]))
    options = flags(id="mine", num_epoch=1, list_class="classes.csv")
    assert script("train.py", *TINY, *data.flags, *options).code == 0
    assert script("eval.py", "--id", "mine", *EVAL).code == 0
    picture = data.picture("val/0")
    result = script("export.py", "--id", "mine", "--format", "safetensors", "--panel", picture)
    assert result.code == 0 and "with the scores of result/mine/scores.json" in result.out
    return Path("export/mine").absolute()


def scores_of(name: str) -> dict:
    return json.loads(Path(f"result/{name}/scores.json").read_text()) | {"settings": None}


def test_a_shared_folder_is_a_run_anywhere_and_tells_of_no_path(
    script: Script, data: Data, shared: Path, tmp_path: Path
) -> None:
    here = Path.cwd()
    texts = [path for path in shared.iterdir() if path.suffix in (".json", ".md", ".csv")]
    assert len(texts) == 4
    assert not [path for path in texts if str(tmp_path) in path.read_text()]
    page = (shared / "README.md").read_text()
    expected = scores_of("mine")
    assert f"| mean IoU | {expected['mean_iou']:.2%} |" in page and "| 3 | a&#124;b |" in page
    assert (shared / "panel.png").exists()

    Path("classes.csv").unlink()
    moved = tmp_path / "elsewhere"
    shared.rename(moved)
    segment = ["--test_img", data.picture("val/0"), "--device", "cpu"]
    assert script("test.py", "--id", "mine", *segment).code == 0  # a run has its own table
    result = script("test.py", "--id", moved, *segment)
    assert result.code == 0 and ("a|b" in result.out or "sky" in result.out), result.err
    result = script("eval.py", "--id", moved, *data.flags[2:], *EVAL)
    assert result.code == 0, result.err
    assert scores_of("elsewhere") == expected
    assert {path.name for path in moved.iterdir()} == {
        "README.md", "classes.csv", "config.json", "decoder_best.safetensors",
        "encoder_best.safetensors", "panel.png", "scores.json",
    }  # fmt: skip
    (tmp_path / "none").mkdir()
    result = script("test.py", "--id", tmp_path / "none", *segment)
    assert result.code == 2 and "or the folder of a run, with its config.json" in result.err
    weights = moved / "encoder_best.safetensors"
    options = flags(id="next", num_epoch=1, weights_encoder=weights)
    assert script("train.py", *TINY, *data.flags, *options).code == 0
    assert Path.cwd() == here


def test_scores_of_other_weights_are_not_shared(script: Script, shared: Path) -> None:
    export = ("export.py", "--id", "mine", "--format", "safetensors")
    result = script(*export)
    assert result.code == 2 and "export/mine is there" in result.err
    later = shared.stat().st_mtime + 60
    os.utime("ckpt/mine/encoder_best.pth", (later, later))
    result = script(*export, "--result", "again")
    assert result.code == 0 and "are of other weights; python eval.py --id mine" in result.out
    assert not Path("again/mine/scores.json").exists()
    assert "It has not been scored" in Path("again/mine/README.md").read_text()
    result = script(*export, "--result", "latest", "--suffix", "_latest.pth")
    assert result.code == 0 and "are of other weights" in result.out
    shutil.copytree("ckpt", "others")  # with the times of the files
    result = script(*export, "--result", "others_export", "--ckpt", "others")
    assert result.code == 0 and "are of other weights" in result.out
    Path("result/mine/scores.json").write_text("{")
    assert "is damaged" in script(*export, "--result", "third").out


def test_a_run_on_a_hub_is_downloaded_once(
    script: Script, data: Data, shared: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.chdir(shared.parent.parent)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    commit = "0123456789" * 4
    server.headers = {"ETag": '"1"', "X-Repo-Commit": commit}

    def publish(name: str, files: dict[str, bytes]) -> None:
        """Serve a repository as the hub does."""
        about = {"id": name, "sha": commit, "siblings": [{"rfilename": file} for file in files]}
        tree = [
            {"type": "file", "path": file, "size": len(content), "oid": "1"}
            for file, content in files.items()
        ]
        listing = f"api/models/{name}/tree/{commit}?recursive=true&expand=false"
        server.files[f"api/models/{name}/revision/main"] = json.dumps(about).encode()
        server.files[listing] = json.dumps(tree).encode()
        for file, content in files.items():
            server.files[f"{name}/resolve/{commit}/{file}"] = content

    files = {path.name: path.read_bytes() for path in shared.iterdir()}
    publish("me/streets", files | {"pytorch_model.bin": b"anything"})
    publish("me/other", {"README.md": b"something else"})
    segment = ["--test_img", data.picture("val/0"), "--device", "cpu"]
    result = script("test.py", "--id", "hf:me/streets", *segment)
    assert result.code == 0, (result.err, server.requests)
    found = cv2.imread("0_prediction.png", cv2.IMREAD_UNCHANGED)
    assert script("test.py", "--id", "mine", *segment).code == 0
    assert (found == cv2.imread("0_prediction.png", cv2.IMREAD_UNCHANGED)).all()
    assert not list(Path("ckpt/hf--me--streets").glob("*.bin"))
    server.requests.clear()
    assert script("test.py", "--id", "hf:me/streets", *segment).code == 0
    assert not server.requests

    for address, reason in (("me/none", "cannot be downloaded"), ("nonsense", "hf:OWNER/NAME")):
        result = script("test.py", "--id", f"hf:{address}", *segment)
        assert result.code == 2 and reason in result.err and result.err.count("\n") == 1
    result = script("test.py", "--id", "hf:me/other", *segment)
    assert result.code == 2 and "holds no run" in result.err
    assert {path.name for path in Path("ckpt").iterdir()} == {"mine", "hf--me--streets"}
