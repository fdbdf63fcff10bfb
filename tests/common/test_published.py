"""Published networks become runs: whole or not at all, whatever the servers answer."""

import json
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from common import published
from common.classes import ADE20K
from common.published import PUBLISHED, Published
from common.runs import describe_runs, find_run, runs
from models import DECODERS, ENCODERS, ModelBuilder, ModelError, weights
from models.weights import Fingerprint, read_tensors
from utils import UserError

from ..conftest import ROOT, Malicious, Server, file_of, flags

ID = "ade20k-mobilenetv2dilated-c1_deepsup"
NAMES = ("encoder_epoch_20.pth", "decoder_epoch_20.pth")


def as_published(state: dict[str, Tensor]) -> bytes:
    """A file as the reference has them: of an old format, with SyncBN's buffers, without counts."""
    old = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        old[key] = value
        if key.endswith("running_mean"):
            module = key.removesuffix("running_mean")
            old |= {f"{module}_tmp_{kind}": value + 1 for kind in ("running_mean", "running_var")}
            old[f"{module}_running_iter"] = torch.ones(1)
    return file_of(old, _use_new_zipfile_serialization=False)


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the smallest published network: random ones."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("mobilenetv2dilated", weights="none")
    decoder = ModelBuilder.build_decoder("c1_deepsup", encoder.channels, 150)
    return encoder.state_dict(), decoder.state_dict()


@pytest.fixture(scope="module")
def pair(states) -> dict[str, bytes]:
    """The two files, by name."""
    return {name: as_published(state) for name, state in zip(NAMES, states, strict=True)}


@pytest.fixture
def reference(server: Server, pair: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server with the two files in the place of the reference's."""
    monkeypatch.setattr(published, "REFERENCE", f"{server.url}/model")
    server.files = {f"model/{ID}/{name}": content for name, content in pair.items()}
    return server


def change(monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    monkeypatch.setitem(PUBLISHED, ID, replace(PUBLISHED[ID], **fields))


def everything() -> list[str]:
    return sorted(path.as_posix() for path in Path().rglob("*"))


def test_a_published_network_becomes_an_ordinary_run(reference, states):
    config = find_run("ckpt", ID, "_best.pth")
    assert config == json.loads(Path(f"ckpt/{ID}/config.json").read_text())
    assert config["arch_encoder"] == "mobilenetv2dilated" and config["fc_dim"] == 320
    assert config["arch_decoder"] == "c1_deepsup" and config.items() >= ADE20K.items()
    assert config["weights_used"] == f"{reference.url}/model/{ID}/encoder_epoch_20.pth"
    for part, state in zip(("encoder", "decoder"), states, strict=True):
        kept = torch.load(f"ckpt/{ID}/{part}_best.pth", weights_only=True)
        torch.testing.assert_close(kept, state, rtol=0, atol=0)
    names = ("config.json", "decoder_best.pth", "encoder_best.pth")
    assert everything() == ["ckpt", f"ckpt/{ID}", *(f"ckpt/{ID}/{name}" for name in names)]
    find_run("ckpt", ID, "_best.pth")
    assert len(reference.requests) == 2  # once
    ModelBuilder.build_encoder("mobilenetv2dilated", weights=f"ckpt/{ID}/encoder_best.pth")


def test_files_in_the_old_format_are_read_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("old.pth").write_bytes(file_of({"x": torch.ones(2)}, _use_new_zipfile_serialization=False))
    assert torch.equal(read_tensors("old.pth")["x"], torch.ones(2))
    harmful = file_of({"x": Malicious()}, _use_new_zipfile_serialization=False)
    Path("old.pth").write_bytes(harmful)
    with pytest.raises(ModelError, match="old.pth .* asks for code to be run, which was not"):
        read_tensors("old.pth")
    assert not Path("harm").exists()


def test_what_is_left_out_of_a_file_are_the_buffers_of_the_references_syncbn():
    reference = pytest.importorskip(
        "mit_semseg.models.models", reason="mit-semseg, the reference, is not installed"
    )
    theirs = reference.C1DeepSup(num_class=150, fc_dim=320).state_dict()
    ours = ModelBuilder.build_decoder("c1_deepsup", (160, 320), 150).state_dict()
    assert theirs.keys() > ours.keys() == weights.without(theirs, weights.SYNC_BN).keys()


def cut(server: Server) -> None:
    server.cut_after = 50_000


def cut_decoder(server: Server) -> None:
    key = f"model/{ID}/decoder_epoch_20.pth"
    server.files[key] = server.files[key][:-100]


def promise_more(server: Server) -> None:
    server.promised = 10**9
    server.cut_after = 50_000


def promise_less(server: Server) -> None:
    server.promised = 50_000


def answer_late(server: Server) -> None:
    server.wait[f"model/{ID}/decoder_epoch_20.pth"] = 0.6


def serve(content: bytes):
    def change(server: Server) -> None:
        server.files[f"model/{ID}/decoder_epoch_20.pth"] = content

    return change


def go_in_circles(server: Server) -> None:
    key = f"model/{ID}/decoder_epoch_20.pth"
    server.redirects[key] = key


FAILURES = {
    "nothing there": (serve(b""), "404"),
    "an end half-way": (cut, "not a whole"),
    "the second file cut": (cut_decoder, "not a whole"),
    "a length too long": (promise_more, "not a whole"),
    "a length too short": (promise_less, "not a whole"),
    "no answer for long": (answer_late, "timed out"),
    "a page": (serve(b"<html>We have moved</html>"), "not a whole"),
    "code": (serve(file_of(Malicious())), "asks for code to be run, which was not"),
    "another network": (serve(file_of({"x": torch.ones(3)})), "does not fit"),
    "other things": (serve(file_of({"x": 3})), "not a state dict"),
    "redirects without end": (go_in_circles, "302"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_what_fails_leaves_nothing_and_says_where_to_put_files(case, reference, monkeypatch):
    spoil, reason = FAILURES[case]
    spoil(reference)
    monkeypatch.setattr(weights, "TIMEOUT", 0.3)
    with pytest.raises(ModelError) as error:
        find_run("ckpt", ID, "_best.pth")
    message = str(error.value)
    assert "\n" not in message and reason in message and ".partial" not in message
    assert f"{reference.url}/model/{ID}/" in message and f"pretrained/{ID}" in message
    assert everything() == []


def test_redirects_are_followed(reference):
    key = f"model/{ID}/encoder_epoch_20.pth"
    reference.files["moved/e.pth"] = reference.files.pop(key)
    reference.redirects[key] = "moved/e.pth"
    find_run("ckpt", ID, "_best.pth")
    assert "/moved/e.pth" in reference.requests


def test_a_mirror_serves_what_the_first_address_does_not(reference, monkeypatch):
    change(monkeypatch, mirror=f"{reference.url}/mirror")
    for name in NAMES:
        reference.files[f"mirror/{name}"] = reference.files.pop(f"model/{ID}/{name}")
    reference.files[f"model/{ID}/{NAMES[1]}"] = file_of({"x": torch.ones(3)})  # no such network
    config = find_run("ckpt", ID, "_best.pth")
    assert config["weights_used"] == f"{reference.url}/mirror/encoder_epoch_20.pth"


def test_files_of_another_size_or_hash_than_is_known_are_refused(reference, pair, monkeypatch):
    size = len(pair[NAMES[1]])
    change(monkeypatch, fingerprints={"decoder": Fingerprint(size + 1, "")})
    with pytest.raises(ModelError, match=f"it has {size:,} bytes, and should have {size + 1:,}"):
        find_run("ckpt", ID, "_best.pth")
    change(monkeypatch, fingerprints={"decoder": Fingerprint(size, "00")})
    with pytest.raises(ModelError, match="another SHA-384"):
        find_run("ckpt", ID, "_best.pth")
    folder = Path("pretrained", ID)
    folder.mkdir(parents=True)
    (folder / NAMES[1]).write_bytes(pair[NAMES[1]])
    with pytest.raises(ModelError, match=f"pretrained/{ID}/{NAMES[1]} has another SHA-384"):
        find_run("ckpt", ID, "_best.pth")
    assert not Path("ckpt").exists()


def test_files_put_there_by_hand_need_no_network(server, pair):
    folder = Path("pretrained", ID)
    folder.mkdir(parents=True)
    for name, content in pair.items():
        (folder / name).write_bytes(content)
    config = find_run("ckpt", ID, "_best.pth")
    assert config["weights_used"] == f"pretrained/{ID}/encoder_epoch_20.pth"
    assert server.requests == [] and runs("ckpt") == [ID]


@pytest.mark.slow
def test_two_starts_at_once_end_with_one_whole_run(reference):
    reference.wait = {f"model/{ID}/{name}": 0.1 for name in NAMES}
    found: list[dict] = []
    threads = [
        threading.Thread(target=lambda: found.append(find_run("ckpt", ID, "_best.pth")))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] and len(reference.requests) == 4
    assert [path.name for path in Path("ckpt").iterdir()] == [ID]
    assert len(list(Path("ckpt", ID).iterdir())) == 3


def test_a_folder_that_holds_something_else_is_left_alone(reference):
    Path("ckpt", ID).mkdir(parents=True)
    Path("ckpt", ID, "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=f"--id {ID}: .* holds something else"):
        find_run("ckpt", ID, "_best.pth")
    assert everything()[1:] == [f"ckpt/{ID}", f"ckpt/{ID}/notes.txt"]
    assert reference.requests == []


@pytest.mark.parametrize("network", PUBLISHED.values(), ids=PUBLISHED)
def test_published_networks_are_ones_that_can_be_built(network: Published):
    assert network.encoder in ENCODERS and network.decoder in DECODERS
    assert all(0 < a < b < 100 for a, b in zip(network.one_scale, network.five_scales, strict=True))


def test_a_list_has_all_networks_and_ones_own_runs_with_their_best_score(server):
    assert "No run of one's own in ckpt" in describe_runs("ckpt")
    for name, history in (("b", "epoch,mean_iou\n1,\n2,0.5\n3,0.25\n"), ("a", "?"), (ID, "")):
        Path("ckpt", name).mkdir(parents=True)
        Path("ckpt", name, "encoder_best.pth").touch()
        Path("ckpt", name, "history.csv").write_text(history)
    text = describe_runs("ckpt")
    assert "reference publishes" in text and "not measured here" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["ade20k-hrnetv2-c1", "42.03", "43.20", "80.77", "81.47"] in lines
    assert lines[-2:] == [["a", "-"], ["b", "50.00"]]
    assert sum(line[0] == ID for line in lines) == 1


@pytest.mark.slow
def test_a_fresh_clone_segments_and_scores_with_a_published_network(
    reference, script, data, tmp_path
):
    picture = data.picture("val/0")
    result = script("test.py", "--id", ID, "--test_img", picture, *flags(imgSize=32, amp="off"))
    assert result.code == 0, result.err
    with Image.open("0_prediction.png") as labels:
        assert labels.size == (80, 64) and np.asarray(labels).min() >= 1
    options = flags(protocol="reference", imgSize=32, workers=0, amp="off")
    result = script("eval.py", "--id", ID, *data.flags[2:8], *options)
    assert result.code == 0 and "Mean IoU over all classes, absent ones as 0" in result.out
    scores = json.loads(Path(f"result/{ID}/scores.json").read_text())
    iou = [row["iou"] or 0 for row in scores["classes"]]
    assert scores["mean_iou_of_all_classes"] == pytest.approx(sum(iou) / 150)
    assert len(reference.requests) == 2
    assert script("eval.py", "--list_ids").out == script("test.py", "--list_ids").out


def test_without_network_a_script_ends_with_one_line(script, data, monkeypatch):
    monkeypatch.setattr(published, "REFERENCE", "http://127.0.0.1:9")
    result = script("test.py", "--id", ID, "--test_img", data.picture("val/0"))
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"http://127.0.0.1:9/{ID}/encoder_epoch_20.pth" in result.err
    assert f"pretrained/{ID}" in result.err
    assert [path.name for path in Path().iterdir()] == ["data"]


def test_a_picture_that_is_not_there_is_told_before_any_download(script, reference):
    result = script("test.py", "--id", ID, "--test_img", "nowhere.jpg")
    assert result.code == 2 and "nowhere.jpg" in result.err and reference.requests == []


def test_baseline_networks_are_refused_with_the_reason(tmp_path):
    with pytest.raises(UserError, match=r"no such run.*BGR .*102.9801, 115.9465, 122.7717"):
        find_run(tmp_path, "baseline-resnet50dilated-ppm_deepsup", "_best.pth")


def test_a_mistyped_published_network_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="the nearest: ade20k-hrnetv2-c1,"):
        find_run(tmp_path, "ade20k-hrnet-c1", "_best.pth")


@pytest.mark.slow
def test_torch_hub_gives_the_network_trained_or_not(reference, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    load = partial(torch.hub.load, str(ROOT), "mobilenetv2dilated_c1_deepsup", source="local")
    network, again, random = load(), load(), load(pretrained=False)
    assert len(reference.requests) == 2 and not network.training
    images = torch.randint(256, (2, 3, 40, 52), dtype=torch.uint8)
    labels = network.predict(images)
    assert labels.shape == (2, 40, 52) and labels.dtype == torch.uint8
    assert torch.equal(labels, again.predict(images))
    assert not torch.equal(labels, random.predict(images))
    find_run(tmp_path / "hub/segmentation", ID, "_best.pth")
