"""`benchmarks/`: the classic recipe computes what ours does, and comparisons compare."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import gpu, gpu_checks
from benchmarks.classic import (
    classic_item,
    classic_logits,
    classic_loss,
    classic_network,
    classic_prediction,
    normalised,
)
from benchmarks.common import Job, compare, markdown
from benchmarks.peers import NAMES, PeerDecoder, PeerEncoder
from benchmarks.race import Contender, Track
from inference import predict
from models import ModelBuilder, SegmentationModel
from models.loss import upsample_cross_entropy
from utils import UserError

from .conftest import TINY, Data, flags

Script = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("arch_decoder", ["c1_bilinear", "psp_bilinear", "fpn"])
def test_the_classic_recipe_gives_the_same_logits_loss_and_labels(arch_decoder: str) -> None:
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    decoder = ModelBuilder.build_decoder(arch_decoder, encoder.channels, num_class=7)
    model = SegmentationModel(encoder, decoder).eval()
    networks = [classic_network(network) for network in (encoder, decoder)]
    picture = np.random.default_rng(0).integers(256, size=(64, 80, 3), dtype=np.uint8)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None]
    labels = torch.randint(-1, 7, (1, 64, 80))
    with torch.no_grad():
        logits = classic_logits(*networks, normalised(picture)[None])
        torch.testing.assert_close(logits, model(images), rtol=1e-4, atol=1e-5)
        loss = upsample_cross_entropy(logits, labels)
    torch.testing.assert_close(classic_loss(logits, labels), loss)
    found = classic_prediction(*networks, picture, (1.0,))
    same = found == predict(model, images, (64, 80), scales=(1.0,))[0]
    assert same.float().mean() > 0.999
    found = classic_prediction(*networks, picture[:59, :75], (1.0,), stretch=False)
    same = found == predict(model, images[..., :59, :75], (59, 75), scales=(1.0,))[0]
    assert same.float().mean() > 0.999


def test_classic_crops_hold_picture_and_label_alike(data: Data) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        picture, label = classic_item(data.picture("train/0"), data.label("train/0"), 48, rng)
        assert picture.shape == (3, 48, 48) and label.shape == (48, 48)
        bright = picture[0][label == 2].mean()  # the block that the third class is
        assert bright > picture[0][label == 1].mean() + 2


def busy(numbers: int) -> Job:
    return partial(torch.ones, numbers)


def broken() -> Job:
    raise ValueError("no such contender")


@pytest.mark.slow
def test_contenders_are_timed_and_weighed_in_processes_of_their_own() -> None:
    rows = compare({"small": partial(busy, 2**10), "large": partial(busy, 2**25)}, rounds=3)
    assert [row["contender"] for row in rows] == ["small", "large"]
    assert rows[0]["times as fast"] == 1
    assert rows[0]["extra MB"] < 64 < 100 < rows[1]["extra MB"] < 200
    assert "| large |" in markdown({"Two": rows})


@pytest.mark.slow
def test_a_contender_that_fails_ends_the_comparison(capfd: pytest.CaptureFixture) -> None:
    with pytest.raises((EOFError, ConnectionError)):
        compare({"broken": broken}, rounds=1)
    assert "no such contender" in capfd.readouterr().err


def test_networks_of_others_give_logits_of_a_pictures_own_size() -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="needs the benchmarks' peers")
    for name in NAMES:
        encoder = PeerEncoder(name)
        model = SegmentationModel(encoder, PeerDecoder(name, 3, encoder.channels)).eval()
        with torch.no_grad():
            assert model(torch.rand(2, 3, 70, 45)).shape == (2, 3, 70, 45)


def test_peers_start_from_the_weights_of_timms_backbone() -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="needs the benchmarks' peers")
    timm = pytest.importorskip("timm", reason="needs timm")
    backbone = timm.create_model("tf_efficientnet_lite0")
    encoder = PeerEncoder("smp_fpn_lite0")
    encoder.load_backbone(backbone.state_dict())
    stem = encoder.encoder.model.conv_stem.weight
    assert torch.equal(stem, backbone.conv_stem.weight)


def test_a_network_of_others_needs_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match="pip install -r benchmarks/requirements.txt"):
        PeerEncoder("smp_unet_resnet34")


@pytest.mark.slow
def test_networks_are_trained_as_a_run_was_and_scored(script, data, tmp_path: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="needs the benchmarks' peers")
    result = script("benchmarks/race.py", "--id", "run", "--ckpt", tmp_path)
    assert result.code == 2 and "no such run" in result.err.splitlines()[-1]
    result = script("benchmarks/race.py", "--id", "run", "--ckpt", tmp_path, "--minutes", 15)
    assert result.code == 2 and "--minutes and --seeds" in result.err.splitlines()[-1]
    run = flags(id="run", num_epoch=4, eval_epoch=4, warmup_iters=4, optim="AdamW")
    assert script("train.py", *TINY, *run, *data.flags, "--ckpt", tmp_path).code == 0
    picture = tmp_path / "race.png"
    race = flags(id="run", peers="smp_fpn_lite0", minutes=1e-9, seeds=1, factors=1, plot=picture)
    result = script("benchmarks/race.py", *race, "--json", "--ckpt", tmp_path)
    rows = json.loads(result.out)["Scores after the same time"]
    assert [row["contender"].split()[-1] for row in rows] == ["`c1_bilinear`", "EfficientNet-Lite0"]
    for row in rows:
        assert 0 < row["least"] == row["mean IoU at five scales, %"] == row["most"] <= 100
    configs = [json.loads(path.read_text()) for path in (tmp_path / "race").glob("*/config.json")]
    found = {(config["num_epoch"], config["warmup_iters"]) for config in configs}
    assert found == {(1, 1), (2, 2)}, "warm-up keeps its share of the steps"
    assert picture.exists()


@pytest.mark.slow
def test_a_race_keeps_no_score_of_other_weights(script: Script, data: Data) -> None:
    run = flags(id="run", num_epoch=1, eval_epoch=1)
    assert script("train.py", *TINY, *run, *data.flags).code == 0
    track, network = Track("run", "ckpt"), ("timm:test_resnet@16", "c1_bilinear")
    file = str(Path("ckpt/run/encoder_best.pth").absolute())
    name, other = (track.train(Contender("", *network, w), 1, 1)[0] for w in ("none", file))
    assert name != other
    score, path = track.score(name), Path("ckpt/race/result", name, "scores.json")
    content = json.loads(path.read_text()) | {"mean_iou": 2}
    path.write_text(json.dumps(content))
    assert track.score(name) == 200, "what was scored is not scored again"
    os.utime(path, (0, 0))
    assert track.score(name) == score, "but weights that came later are"


@pytest.mark.slow
@pytest.mark.parametrize("arch_decoder", ["c1_bilinear", "fpn"])
def test_a_runs_labels_are_compared_with_the_classic_recipe(
    arch_decoder: str, script: Script, data: Data
) -> None:
    result = script("benchmarks/agreement.py", "--id", "run")
    assert result.code == 2 and "no such run" in result.err
    run = flags(id="run", num_epoch=16, eval_epoch=16, optim="AdamW", arch_decoder=arch_decoder)
    assert script("train.py", *TINY, *run, *data.flags).code == 0
    result = script("benchmarks/agreement.py", "--id", "run", "--pictures", 2, "--json")
    agreed, scores = list(json.loads(result.out).values())[1:]
    assert all(float(row["same labels"].rstrip("%")) > 95 for row in agreed), agreed
    whole, *cut = scores  # the pictures' sides are multiples of the stride
    for score in ("pixel accuracy", "mean IoU"):
        assert whole[f"stretched: {score}"] == whole[f"exact: {score}"]
        assert any(row[f"stretched: {score}"] != row[f"exact: {score}"] for row in cut)


@pytest.mark.slow
def test_a_gpu_would_be_checked():
    """All checks of `make gpu` in a small size, on the CPU."""
    found = dict(gpu_checks.checks(torch.device("cpu"), gpu_checks.TINY))
    assert "two processes on one GPU, as one" in found and not any(found.values()), found


@pytest.mark.slow
def test_a_gpu_would_be_measured():
    """All measurements of `make gpu` in a small size, on the CPU."""
    cpu = torch.device("cpu")
    for measure in (gpu.heads, gpu.steps, gpu.pictures, gpu.profiled):
        assert "|" in markdown({"Table": measure(cpu, gpu_checks.TINY)})


def test_what_a_gpu_gets_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = gpu_checks.upsample_cross_entropy

    def wrong(logits: Tensor, *args: Any) -> Tensor:
        return exact(logits, *args) * (1 if logits.dtype == torch.float64 else 1.001)

    monkeypatch.setattr(gpu_checks, "upsample_cross_entropy", wrong)
    wrong_by = gpu_checks.head_is_exact(torch.device("cpu"), gpu_checks.TINY)
    assert "gradient off by 1.0e-03" in wrong_by
