"""The three scripts as a user runs them, on a tiny data set: results, and what bad input gets."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image

from common.classes import ADE20K_CLASSES, read_classes
from common.distributed import World
from common.files import MARK
from common.loader import make_loader
from common.metrics import ConfusionMatrix
from dataset import EpochSampler, TrainDataset, ValDataset
from inference import predict
from models import ModelBuilder, SegmentationModel
from models.segmentation import PROBE
from training.optimizer import adjust_learning_rates, make_optimizer, trained_batchnorm
from training.options import make_parser
from training.trainer import Trainer, TrainingData
from visualize.video import open_video

from .conftest import ROOT, SMALL, TINY, Data, flags

EARLIER = f"what an earlier call wrote: {MARK}".encode()


@pytest.fixture
def run(data: Data) -> Path:
    """A run of untrained networks: CKPT/run with its settings, as train.py leaves it."""
    folder = data.folder.parent / "here/ckpt/run"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for suffix in ("_best.pth", "_latest.pth"):
        encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
        decoder = ModelBuilder.build_decoder(num_class=data.num_class)
        torch.save(encoder.state_dict(), folder / f"encoder{suffix}")
        torch.save(decoder.state_dict(), folder / f"decoder{suffix}")
    config = {
        "arch_encoder": "resnet18dilated",
        "arch_decoder": "c1_bilinear",
        "fc_dim": 512,
        "num_class": data.num_class,
        "list_class": ADE20K_CLASSES,
        "list_val": str(data.folder / "val.txt"),
        "root_img": str(data.folder / "images"),
        "root_seg": str(data.folder / "annotations"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.slow
def test_train_leaves_a_run_that_eval_and_test_understand(script, data, tmp_path):
    here = tmp_path / "here"
    result = script(
        "train.py",
        *SMALL,
        *data.flags,
        *flags(id="mine", num_epoch=3, ckpt_epoch=2, eval_epoch=2, disp_iter=1),
    )
    assert result.code == 0, result.err
    assert len(re.findall(r"^Epoch: \[\d\]\[\d/2\], Time: .*Loss: \d", result.out, re.M)) == 6

    folder = here / "ckpt/mine"
    kinds = ("latest", "best", "epoch_2")
    expected = {f"{part}_{kind}.pth" for part in ("encoder", "decoder") for kind in kinds}
    expected |= {"config.json", "history.csv", "loss.png", "accuracy.png", "training_latest.pth"}
    expected |= {"train.log", "classes.csv"}
    assert {path.name for path in folder.iterdir()} == expected
    config = json.loads((folder / "config.json").read_text())
    assert config["weights_used"] == "none" and config["fc_dim"] == 512 and config["seed"] == 1234
    with (folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["mean_iou"]) for row in rows] == [False, True, True]
    panels = sorted(path.name for path in (here / "vis/mine").iterdir())
    assert panels == [f"val_{i}_epoch_{e:03d}.png" for i in range(3) for e in (2, 3)]

    command = shlex.split(result.out.splitlines()[-1])
    assert command[:2] == ["python", "eval.py"]
    result = script(*command[1:], "--workers", "0")
    assert result.code == 0 and "Mean IoU" in result.out, result.err
    result = script("test.py", "--id", "mine", "--test_img", data.picture("val/0"))
    assert result.code == 0, result.err
    assert sorted(path.name for path in here.glob("0_*")) == ["0_panel.png", "0_prediction.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [("timm:test_resnet@16", "upernet_lite"), ("timm:test_vit", "c1_bilinear")],
)
def test_encoders_of_timm_train_resume_evaluate_and_segment(
    encoder, decoder, script, data, tmp_path, monkeypatch
):
    """From a file; timm's own weights are never asked for."""
    monkeypatch.setattr("models.timm_encoder.check_connection", None)
    name, _, _ = encoder.removeprefix("timm:").partition("@")
    torch.save(timm.create_model(name).state_dict(), tmp_path / "timm.pth")
    archs = flags(arch_encoder=encoder, arch_decoder=decoder, num_epoch=1)
    weights = ["--weights_encoder", tmp_path / "timm.pth"]
    result = script("train.py", *SMALL, *data.flags, *archs, *weights)
    assert result.code == 0 and "Left out of" in result.out, result.err
    (folder,) = Path("ckpt").iterdir()
    for command in (
        ["train.py", "--resume", folder.name],
        ["eval.py", "--id", folder.name, "--workers", "0"],
        ["test.py", "--id", folder.name, "--test_img", data.picture("val/0")],
    ):
        result = script(*command)
        assert result.code == 0, result.err
    state = torch.load(folder / "encoder_latest.pth")
    ModelBuilder.build_encoder(encoder, weights="none").load_state_dict(state)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 5])  # of a batch; of six pictures, the last has one, too
def test_a_crop_of_a_single_feature_trains(script, data, size):
    options = flags(id="mine", num_epoch=1, arch_encoder="resnet18", batch_size_per_gpu=size)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err


@pytest.mark.slow
def test_the_id_is_composed_from_the_settings_unless_given(script, data, tmp_path):
    result = script("train.py", *SMALL, *data.flags, "--num_epoch", "1")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "here/ckpt").iterdir()
    assert folder.name.startswith(
        "baseline-resnet18dilated-c1_bilinear-ngpus1-batchSize3-imgSize32-segSize32"
        "-lr_encoder0.001-lr_decoder0.01-epoch1-decay0.0001-"
    )


@pytest.mark.slow
def test_computing_the_encoder_twice_gives_the_same_network(script, data):
    for run, value in (("once", 0), ("twice", 1)):
        options = flags(id=run, num_epoch=2, grad_checkpoint=value)
        assert script("train.py", *SMALL, *data.flags, *options).code == 0
    once, twice = (torch.load(f"ckpt/{run}/encoder_latest.pth") for run in ("once", "twice"))
    torch.testing.assert_close(once, twice, rtol=0, atol=0)


@pytest.mark.slow
def test_a_compiled_network_that_computes_something_else_is_refused(script, data, monkeypatch):
    monkeypatch.setattr("training.startup_checks.check_compiler", lambda *_: None)

    def compile_wrongly(network):
        network.decoder.conv_last.weight.data *= 1.1

    monkeypatch.setattr("models.SegmentationModel.compile", compile_wrongly)
    result = script("train.py", "--id", "run", *SMALL, *data.flags, "--compile", "1")
    assert result.code == 2 and "--compile 1" in result.err
    assert not Path("ckpt/run").exists()


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.stress
def test_a_compiled_network_trains(script, data):
    options = flags(id="compiled", num_epoch=1, compile=1)
    result = script("train.py", *TINY, *data.flags, *options)
    assert result.code == 0, result.err
    assert script("eval.py", "--id", "compiled", "--workers", "0", "--scales", "1").code == 0


def test_compiling_where_it_cannot_work_is_refused_at_once(script, data, monkeypatch):
    def fail(_):
        raise RuntimeError("no compiler found\nand much more")

    command = ("train.py", "--id", "run", *SMALL, *data.flags, "--compile", "1")
    assert "--grad_checkpoint" in script(*command, "--grad_checkpoint", "1").err
    monkeypatch.setattr(torch, "compile", fail)
    result = script(*command)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "--compile 1" in result.err and "no compiler found" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains_evaluates_and_segments(script, data, amp):
    result = script("train.py", *TINY, *data.flags, *flags(id="half", num_epoch=2, amp=amp))
    assert result.code == 0, result.err
    losses = [float(loss) for loss in re.findall(r"Loss: (\S+)$", result.out, re.M)]
    assert all(np.isfinite(losses))
    assert script("eval.py", "--id", "half", "--amp", amp, "--workers", "0").code == 0
    result = script("test.py", "--id", "half", "--test_img", data.picture("val/0"), "--amp", amp)
    assert result.code == 0, result.err


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["SGD", "Adam", "AdamW", "Muon"])
def test_every_optimiser_lowers_the_loss(script, data, tmp_path, optim):
    options = flags(id="mine", optim=optim, num_epoch=8, eval_epoch=8)
    rates = flags(lr_encoder=0.001, lr_decoder=0.02)
    result = script("train.py", *TINY, *data.flags, *options, *rates)
    assert result.code == 0, result.err
    with (tmp_path / "here/ckpt/mine/history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert min(losses[-2:]) < 0.8 * losses[0]


@pytest.mark.slow
def test_learning_rates_decay_every_iteration(script, data):
    options = flags(id="mine", num_epoch=2, disp_iter=1, lr_pow=0.5)
    result = script("train.py", *SMALL, *data.flags, *options)
    rates = [float(rate) for rate in re.findall(r"lr_decoder: ([\d.]+)", result.out)]
    assert rates == pytest.approx([0.01 * (1 - step / 4) ** 0.5 for step in range(4)], abs=1e-6)
    with open("ckpt/mine/history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr_decoder"]) for row in rows] == pytest.approx(rates[1::2], abs=1e-6)
    assert [10 * float(row["lr_encoder"]) for row in rows] == pytest.approx(rates[1::2], abs=1e-5)


@pytest.mark.slow
def test_fix_bn_freezes_batchnorm_and_nothing_else(script, data, tmp_path):
    parts = {
        "encoder": ModelBuilder.build_encoder("resnet18dilated", weights="none"),
        "decoder": ModelBuilder.build_decoder("psp_bilinear", num_class=data.num_class),
    }
    options = flags(id="mine", num_epoch=1, arch_decoder="psp_bilinear", fix_bn=1, weight_decay=0)
    for name, part in parts.items():
        for module in part.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
        torch.save(part.state_dict(), tmp_path / f"{name}.pth")
        options += [f"--weights_{name}", tmp_path / f"{name}.pth", f"--lr_{name}", "0.1"]
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err
    for name, part in parts.items():
        trained = torch.load(tmp_path / f"here/ckpt/mine/{name}_latest.pth", weights_only=True)
        norms = {path for path, m in part.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for key, value in part.state_dict().items():
            of_batchnorm = key.rsplit(".", 1)[0] in norms
            assert torch.equal(trained[key], value) == of_batchnorm, key


@pytest.mark.slow
def test_fix_bn_lets_a_decoder_without_initial_weights_learn(script, data, tmp_path):
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
    options = flags(id="mine", num_epoch=1, arch_decoder="psp_bilinear", fix_bn=1)
    options += flags(weights_encoder=tmp_path / "encoder.pth")
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0 and "without initial weights learns: decoder.psp.0.2" in result.out
    trained = torch.load("ckpt/mine/decoder_latest.pth")
    assert not torch.equal(trained["psp.0.2.running_mean"], torch.zeros(512))
    stem = torch.load("ckpt/mine/encoder_latest.pth")["bn1.running_mean"]
    assert torch.equal(stem, encoder.bn1.running_mean)


@pytest.mark.parametrize(
    ("arch", "source", "fresh"),
    [
        ("resnet34_dilated8", "imagenet", {"bn1", "bn2", "bn3"}),
        ("resnet34_dilated8", "places365", set()),
        ("resnet34_dilated8", "encoder.pth", set()),
        ("timm:test_resnet", "timm:test_resnet.r160_in1k", set()),
    ],
)
def test_fix_bn_freezes_what_initial_weights_fill(arch, source, fresh):
    """ImageNet's weights leave the stem of a ResNet random."""
    encoder = ModelBuilder.build_encoder(arch, weights="none")
    network = SegmentationModel(encoder, ModelBuilder.build_decoder(fc_dim=encoder.fc_dim))
    args = SimpleNamespace(arch_encoder=arch, weights_decoder="")
    frozen = trained_batchnorm(network, args, source)
    norms = {n: m for n, m in encoder.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert {name for name, norm in norms.items() if norm not in frozen} == fresh


@pytest.mark.slow
@pytest.mark.parametrize("value", [1, 2])
def test_labels_of_a_single_class_are_told_before_the_training(value, script, data):
    """As 0/1 masks are with --label_offset 1."""
    for path in data.folder.glob("annotations/val/*"):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(label, value, 0).astype(np.uint8))
    result = script("train.py", *SMALL, *data.flags, *flags(id="run", num_epoch=1))
    assert result.code == 0 and f"are of class {value}: scores of them say nothing" in result.out


@pytest.mark.parametrize("name", ["eval.py", "test.py"])
def test_pictures_are_never_seen_smaller_than_asked_for(name, script, run):
    """A network cannot see less than 32 pixels."""
    options = ["--test_img", "x.jpg"] if name == "test.py" else []
    result = script(name, "--id", "run", "--imgSize", "31", *options)
    assert result.code == 2 and "--imgSize: must be at least 32" in result.err


def test_each_part_has_its_own_learning_rate_and_decay():
    args = make_parser("").parse_args(flags(lr_encoder=3, weight_decay=0.5))
    encoder, decoder = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    optimizer = make_optimizer(args, encoder, decoder)
    adjust_learning_rates(optimizer, 0.1)
    for group, part, rate in zip(
        optimizer.param_groups, (encoder, decoder), (0.3, 0.001), strict=True
    ):
        assert group["params"] == list(part.parameters())
        assert group["lr"] == pytest.approx(rate) and group["weight_decay"] == 0.5
        assert group["momentum"] == 0.9


@pytest.mark.slow
def test_best_weights_are_those_of_the_highest_mean_iou(script, data, monkeypatch):
    """Scores 0.2, 0.5, 0.4: the second epoch's weights are the best ones."""
    scores = iter([0.2, 0.5, 0.4])
    monkeypatch.setattr(
        "common.metrics.ConfusionMatrix.scores",
        lambda _: SimpleNamespace(mean_iou=next(scores), pixel_accuracy=0),
    )
    options = flags(id="mine", num_epoch=3, ckpt_epoch=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0, result.err
    best, *epochs = (
        torch.load(f"ckpt/mine/encoder_{kind}.pth", weights_only=True)["conv1.weight"]
        for kind in ("best", "epoch_1", "epoch_2", "epoch_3", "latest")
    )
    assert [torch.equal(best, weight) for weight in epochs] == [False, True, False, False]


@pytest.mark.slow
def test_validation_uses_running_statistics_and_changes_nothing(data, tmp_path):
    encoder = ModelBuilder.build_encoder("resnet18dilated", weights="none")
    model = SegmentationModel(encoder, ModelBuilder.build_decoder(num_class=4)).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folders = (data.folder / "images", data.folder / "annotations")
    labels = cv2.imread(str(data.label("val/0")), cv2.IMREAD_GRAYSCALE)
    labels[:40] = 0  # so that its mean is of fewer pixels than those of the others
    cv2.imwrite(str(data.label("val/0")), labels)
    dataset = ValDataset(data.folder / "val.txt", *folders, num_class=4, imgSize=40, segSize=40)
    args = make_parser("").parse_args(flags(id="run", ckpt=tmp_path, vis=tmp_path))
    classes, world = read_classes(ADE20K_CLASSES, 4), World("cpu", 9)
    world.rank = 1  # which shows nothing
    sampler = EpochSampler(3, batch_size=3, seed=1)
    losses = []
    for size in (1, 3):
        loader = make_loader(dataset, 0, batch_size=size)
        sets = TrainingData(loader, sampler, loader, classes, None)
        loss, scores = Trainer(args, model, sets, world).validate()
        losses.append(loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    confusion = ConfusionMatrix(4)
    for images, labels, _ in loader:  # a side of 40 pixels is no multiple of the stride of 16
        confusion.update(predict(model, images, (40, 40), scales=(1.0,)), labels)
    np.testing.assert_array_equal(scores.iou, confusion.scores().iou)


@pytest.mark.slow
def test_every_epoch_has_crops_of_its_own(script, data, monkeypatch):
    keys = []
    load = TrainDataset.__getitem__
    monkeypatch.setattr(
        "dataset.TrainDataset.__getitem__", lambda self, key: keys.append(key) or load(self, key)
    )
    script("train.py", "--id", "mine", *SMALL, *data.flags, "--num_epoch", "2")
    assert sorted(keys) == [(epoch, index, True) for epoch in (1, 2) for index in range(6)]


@pytest.mark.slow
def test_two_trainings_with_one_seed_are_the_same(script, data, tmp_path):
    for name, workers in (("a", 0), ("b", 2)):
        options = flags(id=name, num_epoch=2, workers=workers)
        script("train.py", *SMALL, *data.flags, *options)
    a, b = (
        torch.load(tmp_path / f"here/ckpt/{name}/encoder_latest.pth", weights_only=True)
        for name in "ab"
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.slow
def test_without_a_gpu_training_says_so_once_and_goes_on(script, data, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    small = [flag for flag in SMALL if flag not in ("--device", "cpu")]
    result = script("train.py", *small, *data.flags, "--num_epoch", "1")
    assert result.code == 0 and result.out.count("No GPU found") == 1


@pytest.mark.slow
def test_eval_prints_and_writes_the_scores_of_the_whole_pictures(script, data, run, tmp_path):
    names = tmp_path / "classes.csv"
    names.write_text("index,name,r,g,b\n1,sky,1,1,1\n2,grass,2,2,2\n3,block,3,3,3\n4,ufo,4,4,4\n")
    result = script("eval.py", "--id", "run", "--list_class", names, "--workers", "0")
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "here/result/run/scores.json").read_text())
    assert [row["name"] for row in scores["classes"]] == ["sky", "grass", "block", "ufo"]
    labels = [cv2.imread(str(data.label(f"val/{i}")), cv2.IMREAD_UNCHANGED) for i in range(3)]
    labels = np.concatenate(labels)
    for row in scores["classes"]:
        share = (labels == row["index"]).sum() / (labels > 0).sum()
        assert row["share"] == pytest.approx(share)
        assert (f"{row['name']:>24}" in result.out) == (row["iou"] is not None)
    for line in ("Pixel accuracy", "Mean accuracy", "Mean IoU", "Frequency-weighted IoU"):
        assert line in result.out
    assert scores["overall"] == pytest.approx((scores["mean_iou"] + scores["pixel_accuracy"]) / 2)
    assert scores["pictures"] == 3


@pytest.mark.slow
def test_eval_scores_alike_in_batches_and_one_by_one(script, data, run, tmp_path):
    confusions = []
    for batch_size in (1, 3):
        result = script(
            "eval.py",
            *flags(
                id="run",
                amp="off",
                workers=0,
                batch_size=batch_size,
                result=tmp_path / str(batch_size),
            ),
        )
        assert result.code == 0, result.err
        scores = json.loads((tmp_path / f"{batch_size}/run/scores.json").read_text())
        confusions.append([scores["pixel_accuracy"], scores["mean_iou"]])
    assert confusions[0] == pytest.approx(confusions[1], abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ([], [(32, 40), (48, 60), (64, 80), (80, 100), (96, 120)]),
        (flags(scales=1, imgSize=48), [(48, 60)]),
    ],
)
def test_eval_shows_the_network_each_picture_at_each_scale(
    options, sizes, script, run, monkeypatch
):
    seen = []
    forward = SegmentationModel.forward
    monkeypatch.setattr(
        "models.SegmentationModel.forward",
        lambda self, images: seen.append(tuple(images.shape[-2:])) or forward(self, images),
    )
    result = script("eval.py", *flags(id="run", num_val=2, workers=0), *options)
    assert result.code == 0 and "2 pictures" in result.out, result.err
    assert [size for size in seen if size != PROBE[2:]] == sizes * 2


@pytest.mark.slow
def test_test_scales_the_short_side_to_the_size_asked_for(script, data, run, monkeypatch, tmp_path):
    seen = []
    forward = SegmentationModel.forward
    monkeypatch.setattr(
        "models.SegmentationModel.forward",
        lambda self, images: seen.append(tuple(images.shape[-2:])) or forward(self, images),
    )
    picture = data.picture("val/0")
    for size in ((), ("--imgSize", "128"), ("--imgSize", "-1", "--segSize", "32")):
        assert script("test.py", "--id", "run", "--test_img", picture, *size).code == 0
    shown = [size for size in seen if size != PROBE[2:]]
    assert shown == [(384, 480), (128, 160), (64, 80)]
    assert Image.open(tmp_path / "here/0_prediction.png").size == (40, 32)


@pytest.mark.slow
def test_eval_takes_a_plain_pair_of_weights_with_the_flags(script, data, run):
    (run / "config.json").unlink()
    options = flags(id="run", scales=1, workers=0, arch_encoder="resnet18dilated")
    result = script("eval.py", *options, *data.flags[2:])
    assert result.code == 0, result.err


@pytest.mark.slow
def test_eval_draws_the_pictures_on_demand(script, run, tmp_path):
    script("eval.py", "--id", "run", "--scales", "1", "--workers", "0")
    files = {path.name for path in (tmp_path / "here/result/run").iterdir()}
    assert files == {"scores.json", "pictures.npz"}
    script("eval.py", "--id", "run", "--scales", "1", "--workers", "0", "--visualize", "1")
    assert len(list((tmp_path / "here/result/run").glob("val_?.png"))) == 3


@pytest.mark.slow
def test_a_picture_that_is_named_again_is_scored_once(script, data, run, tmp_path):
    found = []
    for _ in range(2):
        result = script("eval.py", *flags(id="run", scales=1, workers=0))
        scores = json.loads((tmp_path / "here/result/run/scores.json").read_text())
        found.append((scores["pictures"], scores["mean_iou"]))
        with (data.folder / "val.txt").open("a") as file:
            file.write("val/0.jpg\nval/0.jpg\n")
    assert found[0] == found[1] and found[0][0] == 3
    assert "val.txt names 2 of its pictures again: each is scored once" in result.out


@pytest.mark.slow
def test_the_training_loss_is_the_mean_over_labelled_pixels(script, data):
    """Pictures without labels do not lower it."""
    names = (data.folder / "train.txt").read_text().split()
    for name in names[3:]:
        cv2.imwrite(str(data.label(name.removesuffix(".jpg"))), np.zeros((64, 80), np.uint8))
    for run, listed in (("half", names), ("labelled", names[:3])):
        (data.folder / "train.txt").write_text("\n".join(listed))
        options = flags(id=run, num_epoch=1, batch_size_per_gpu=1, lr_encoder=0, lr_decoder=0)
        result = script("train.py", *SMALL, *data.flags, *options)
        assert result.code == 0, result.err
    losses = [
        float(
            next(csv.DictReader(Path(f"ckpt/{run}/history.csv").read_text().splitlines()))[
                "train_loss"
            ]
        )
        for run in ("half", "labelled")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0] > 0.5


@pytest.mark.slow
def test_eval_may_score_at_another_size(script, data, run, tmp_path):
    result = script("eval.py", *flags(id="run", imgSize=48, segSize=32, workers=0))
    assert result.code == 0, result.err
    scores = json.loads((tmp_path / "here/result/run/scores.json").read_text())
    labels = [cv2.imread(str(data.label(f"val/{i}")), cv2.IMREAD_UNCHANGED) for i in range(3)]
    half = np.stack(labels)[:, 1::2, 1::2]  # nearest to the centres of 2 x 2 pixels
    sky = next(row for row in scores["classes"] if row["index"] == 1)
    assert sky["share"] == pytest.approx((half == 1).sum() / (half > 0).sum(), abs=0.02)


@pytest.mark.slow
def test_label_maps_hold_class_indices_from_1_at_the_pictures_size(script, data, run, tmp_path):
    options = flags(test_img=data.picture("val/0"), visualize=0, result=tmp_path / "out")
    result = script("test.py", "--id", "run", *options)
    assert result.code == 0, result.err
    (path,) = (tmp_path / "out").iterdir()
    labels = np.array(Image.open(path))
    assert path.name == "0_prediction.png" and labels.shape == (64, 80) and labels.dtype == np.uint8
    assert labels.min() >= 1 and labels.max() <= data.num_class
    index, count = max(zip(*np.unique(labels, return_counts=True), strict=True), key=lambda x: x[1])
    assert f"val/0.jpg: class {index} {count / labels.size:.1%}" in result.out


@pytest.mark.slow
def test_a_folder_or_a_glob_of_any_formats_is_segmented(script, data, run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = Image.open(data.picture("val/0"))
    for name in ("a.jpg", "a.png", "b.webp", "c.BMP"):
        image.save(folder / name)
    image.save(folder / ".partial.12ab.png")  # of a script that was killed
    (folder / "notes.txt").write_text("not a picture")
    out = tmp_path / "out"
    names = {"a", "a_png", "b", "c"}
    for where in (folder, folder, f"{folder}/*.*g*", f"{folder}/*.[bB]*"):
        # From the second time on, the folder holds results, too, which are no pictures to segment.
        result = script("test.py", "--id", "run", "--test_img", where, "--result", folder)
        assert result.code == 0, result.err
        written = {path.name for path in folder.glob("*_prediction.png")}
        assert written == {f"{name}_prediction.png" for name in names}
    result = script("test.py", "--id", "run", "--test_img", f"{folder}/[ab].*g", "--result", out)
    assert result.code == 0 and "Segmented 2 of 2" in result.out, result.err
    result = script("test.py", *flags(id="run", test_img=folder, num_val=3, result=out))
    assert "Segmented 3 of 3" in result.out


@pytest.mark.slow
def test_pictures_in_batches_get_the_labels_they_get_alone(script, data, run, tmp_path):
    for size in (1, 3):
        script(
            "test.py",
            *flags(
                id="run",
                test_img=data.folder / "images/val",
                batch_size=size,
                result=tmp_path / f"out{size}",
                visualize=0,
                amp="off",
            ),
        )
    for i in range(3):
        maps = [np.array(Image.open(tmp_path / f"out{s}/{i}_prediction.png")) for s in (1, 3)]
        assert (maps[0] == maps[1]).mean() > 0.999


@pytest.mark.slow
def test_a_bad_picture_spoils_no_other(script, data, run, tmp_path):
    folder = data.folder / "images/val"
    (folder / "1.jpg").write_text("hello")
    result = script("test.py", "--id", "run", "--test_img", folder, "--result", tmp_path / "out")
    assert result.code == 2 and "1.jpg" in result.err and result.err.count("\n") == 1
    written = {path.name for path in (tmp_path / "out").iterdir()}
    kinds = ("prediction", "panel")
    assert written == {f"{i}_{kind}.png" for i in "02" for kind in kinds} | {"index.html"}
    page = (tmp_path / "out/index.html").read_text()
    assert page.count("<img") == 2 and page.count("<li>") == 1 and "1.jpg is not a picture" in page


@pytest.mark.slow
def test_several_pictures_get_a_page_of_their_panels_and_a_single_one_does_not(
    script, data, run, tmp_path
):
    folder, out = data.folder / "images/val", tmp_path / "out"
    for where in (f"{folder}/0.jpg", folder, f"{folder}/[01].jpg", folder):
        visualize = "0" if (out / "index.html").exists() and where == folder else "1"
        options = flags(id="run", test_img=where, result=out, visualize=visualize)
        result = script("test.py", *options)
        assert result.code == 0, result.err
        if where == f"{folder}/0.jpg":
            assert not (out / "index.html").exists()
    page = (out / "index.html").read_text()  # of the last call but one
    for i in range(2):
        assert f'src="{i}_panel.png"' in page and f"<bdi>{i}.jpg</bdi>" in page
    assert page.count("<img") == 2
    line = next(line for line in result.out.splitlines() if line.startswith(f"{folder}/0.jpg: "))
    assert line.removeprefix(f"{folder}/0.jpg: ") in page
    (out / "index.html").write_text("my home page")
    result = script("test.py", "--id", "run", "--test_img", folder, "--result", out)
    assert result.code == 2 and "index.html" in result.err and result.err.count("\n") == 1
    assert (out / "index.html").read_text() == "my home page"


@pytest.mark.slow
def test_json_is_a_line_a_picture_with_shares_that_sum_to_one(script, data, run, monkeypatch):
    folder = data.folder / "images/val"
    (folder / "1.jpg").write_text("hello")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)  # which is told, too
    result = script("test.py", "--id", "run", "--test_img", folder, "--json", "1")
    assert result.code == 2 and "1.jpg" in result.err
    pictures = [json.loads(line) for line in result.out.splitlines()]
    assert [picture["picture"] for picture in pictures] == [f"{folder}/{i}.jpg" for i in (0, 2)]
    for i, picture in zip((0, 2), pictures, strict=True):
        labels = np.array(Image.open(f"{i}_prediction.png"))
        assert sum(c["share"] for c in picture["classes"]) == pytest.approx(1)
        shares = {c["index"]: c["share"] for c in picture["classes"]}
        assert shares == {index: (labels == index).mean() for index in np.unique(labels).tolist()}
        assert all(c["name"] == f"class {c['index']}" for c in picture["classes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "target"),
    [
        ("test.py", 1, "result/0_prediction.png"),
        ("test.py", 2, "result/0_panel.png"),
        ("eval.py", 2, "result/run/val_1.png"),
    ],
)
def test_a_picture_that_the_disk_has_no_room_for_leaves_the_earlier_one(
    name, number, target, script, data, run, monkeypatch
):
    save, target, calls = Image.Image.save, Path(target), count(1)

    def save_a_part(self, file, *args, **kwargs):
        if next(calls) != number:
            return save(self, file, *args, **kwargs)
        file.write(b"half of a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("PIL.Image.Image.save", save_a_part)
    target.parent.mkdir(parents=True)
    target.write_bytes(EARLIER)
    options = {
        "test.py": flags(test_img=data.picture("val/0"), imgSize=32),
        "eval.py": flags(scales=1, workers=0),
    }[name]
    result = script(name, *flags(id="run", visualize=1, result="result"), *options)
    message = f"{name}: error: cannot write {target}: No space left on device\n"
    assert result.code == 2 and result.err == message
    assert target.read_bytes() == EARLIER
    assert not [path for path in Path("result").rglob("*") if ".partial" in path.name]


@pytest.fixture
def clip(data: Data) -> Path:
    """A video of seven frames, 80 x 64, 10 a second."""
    path = data.folder / "clip.avi"
    code = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10, (80, 64))
    for i in range(7):
        writer.write(np.roll(cv2.imread(str(data.picture("val/0"))), 4 * i, axis=1))
    writer.release()
    return path


@pytest.mark.slow
def test_a_video_comes_back_with_as_many_frames_and_the_classes_over_them(script, run, clip):
    options = flags(id="run", test_img=clip, imgSize=32, batch_size=3, result="out")
    result = script("test.py", *options)
    assert result.code == 0 and "Segmented 7 frames" in result.out, result.err
    (path,) = Path("out").iterdir()
    assert path.name == "clip_panel.mp4"
    video = cv2.VideoCapture(str(path))
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    frames = [video.read()[1] for _ in range(8)]
    assert frames[7] is None and {frame.shape for frame in frames[:7]} == {(64, 80, 3)}
    result = script("test.py", *options, "--num_val", "2")
    assert "Segmented 2 frames" in result.out


@pytest.mark.slow
def test_reading_network_and_writing_overlap_beside_a_gpu(script, run, clip, data, monkeypatch):
    """What is written, and what is told of unreadable pictures, stay the same."""
    (data.folder / "images/train/1.jpg").write_text("no picture")
    found = []
    for result, free in (("apart", False), ("overlapping", True)):
        monkeypatch.setattr("common.devices.leaves_cpu_free", lambda _, free=free: free)
        outcomes = [
            script("test.py", *flags(id="run", test_img=path, imgSize=32, result=result))
            for path in (clip, data.folder / "images/train")
        ]
        files = {path.name: path.read_bytes() for path in Path(result).iterdir()}
        found.append((files, [(o.code, o.out.replace(result, ""), o.err) for o in outcomes]))
    assert found[0] == found[1] and len(found[0][0]) == 1 + 2 * 5 + 1


@pytest.mark.slow
def test_a_damaged_video_is_segmented_as_far_as_it_goes_and_told(script, run, clip):
    whole = clip.read_bytes()
    begin = whole.index(b"movi")
    frames = [begin + part.start() for part in re.finditer(b"00dc", whole[begin:])]
    middle = slice(frames[3] + 8, frames[4])  # the fourth picture's JPEG
    clip.write_bytes(whole[: middle.start] + bytes(frames[4] - middle.start) + whole[frames[4] :])
    cut = clip.with_name("cut.avi")
    cut.write_bytes(whole[: frames[4]])
    for path, left in ((clip, 6), (cut, 4)):
        result = script("test.py", *flags(id="run", test_img=path, imgSize=32, result="out"))
        assert result.code == 2 and result.err.count("\n") == 1
        assert f"{path.name} is damaged: only {left} of 7 frames can be decoded" in result.err
        written = cv2.VideoCapture(f"out/{path.stem}_panel.mp4")
        assert written.get(cv2.CAP_PROP_FRAME_COUNT) == left
    estimated = cut.rename(cut.with_suffix(".mkv"))  # by its name, of a format without a count
    result = script("test.py", *flags(id="run", test_img=estimated, imgSize=32, result="out"))
    assert result.code == 0 and result.err.count("\n") == 1
    assert "cut short, or its sound lasts longer: only 4 of 7" in result.err
    cut = estimated.rename(cut)
    limited = flags(id="run", test_img=cut, imgSize=32, result="out", num_val=3)
    assert script("test.py", *limited).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["_panel.png", "_prediction.png"])
def test_a_photo_that_is_called_as_a_result_is_a_photo(ending, script, run, data, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    photo = Image.open(data.picture("val/0"))
    photo.save(folder / "solar.jpg")
    photo.save(folder / f"roof{ending}")
    options = ("--id", "run", "--imgSize", "32", "--test_img", folder)
    for _ in range(2):  # beside the results of an earlier call, too
        result = script("test.py", *options, "--result", folder)
        assert result.code == 0 and "Segmented 2 of 2" in result.out, result.err
    photo.save(folder / f"solar{ending}")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = script("test.py", *options, "--result", folder)
    assert result.code == 2 and result.err.count("\n") == 1
    assert f"solar{ending} would be lost" in result.err and "choose another folder" in result.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    result = script("test.py", *options, "--result", "out")
    assert result.code == 0 and "Segmented 3 of 3" in result.out, result.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip_panel.mp4", "index.html"])
def test_somebody_elses_video_or_page_is_not_overwritten(name, script, run, clip, data):
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    where = clip if name.endswith("mp4") else data.folder / "images/val"
    options = flags(id="run", test_img=where, imgSize=32, result="out")
    result = script("test.py", *options)
    assert result.code == 2 and f"{name} would be lost" in result.err
    assert Path("out", name).read_text() == "mine" and len(list(Path("out").iterdir())) == 1
    Path("out", name).unlink()
    assert [script("test.py", *options).code for _ in range(2)] == [0, 0]


@pytest.mark.slow
def test_json_of_a_video_is_a_line_a_frame(script, run, clip):
    options = flags(imgSize=32, json=1, visualize=0, result="out")
    result = script("test.py", "--id", "run", "--test_img", clip, *options)
    frames = [json.loads(line) for line in result.out.splitlines()]
    assert [frame["frame"] for frame in frames] == [*range(7)]
    assert all(sum(c["share"] for c in f["classes"]) == pytest.approx(1) for f in frames)
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_video_that_cannot_be_read_is_one_line_and_leaves_nothing(script, run, clip):
    before = sorted(Path().rglob("*"))
    clip.write_bytes(clip.read_bytes()[:300])
    result = script("test.py", "--id", "run", "--test_img", clip, "--result", "out")
    assert result.code == 2 and result.err.count("\n") == 1 and "clip.avi" in result.err
    assert sorted(Path().rglob("*")) == before


@pytest.mark.slow
def test_a_video_that_the_disk_has_no_room_for_leaves_the_earlier_one(
    script, run, clip, monkeypatch
):
    # The video that is checked has more frames than were written.
    monkeypatch.setattr("visualize.video.open_video", lambda _: open_video(clip))
    target = Path("out/clip_panel.mp4")
    target.parent.mkdir()
    target.write_bytes(EARLIER)
    options = flags(test_img=clip, imgSize=32, num_val=2, result="out")
    result = script("test.py", "--id", "run", *options)
    assert result.code == 2 and result.err.count("\n") == 1 and str(target) in result.err
    assert target.read_bytes() == EARLIER and list(Path("out").iterdir()) == [target]


def spoil_list(data: Data) -> None:
    (data.folder / "train.txt").write_text("\n\n")


def spoil_names(data: Data) -> None:
    data.picture("train/1").unlink()
    data.label("train/4").unlink()


def spoil_size(data: Data) -> None:
    Image.fromarray(np.ones((64, 79), np.uint8)).save(data.label("train/1"))


def spoil_label(data: Data) -> None:
    Image.fromarray(np.full((64, 80), 77, np.uint8)).save(data.label("train/1"))


def spoil_jpeg(data: Data) -> None:
    path = data.picture("train/1")
    path.write_bytes(path.read_bytes()[:-200])


def spoil_text(data: Data) -> None:
    data.picture("train/1").write_text("I am a JPEG")


def remove_all(data: Data) -> None:
    shutil.rmtree(data.folder)


def spoil_val_label(data: Data) -> None:
    Image.fromarray(np.full((64, 80), 77, np.uint8)).save(data.label("val/2"))


def unlabel_val(data: Data) -> None:
    for i in range(3):
        Image.fromarray(np.zeros((64, 80), np.uint8)).save(data.label(f"val/{i}"))


def spoil_offset(data: Data) -> None:
    Image.fromarray(np.full((64, 80), 255, np.uint8)).save(data.label("train/1"))


BAD_TRAINING = {
    "missing data set": (remove_all, [], ["train.txt", "No such file"]),
    "empty list": (spoil_list, [], ["train.txt", "empty"]),
    "absent files": (spoil_names, [], ["2 of 12", "train/1.jpg", "train/4.png"]),
    "label of another size": (spoil_size, [], ["train/1.jpg", "80 x 64", "79 x 64"]),
    "label out of range": (spoil_label, [], ["train/1.png", "77", "--num_class 4"]),
    "label counted from 0": (spoil_offset, [], ["train/1.png", "255", "--label_offset 0"]),
    "truncated JPEG": (spoil_jpeg, [], ["train/1.jpg", "cut short"]),
    "text named .jpg": (spoil_text, [], ["train/1.jpg", "not a picture"]),
    "validation label out of range": (spoil_val_label, [], ["val/2.png", "77"]),
    "no labelled validation pixel": (unlabel_val, [], ["val.txt", "labelled"]),
    # Names are checked first: to find class weights in the labels may take minutes.
    "unknown encoder": (
        remove_all,
        ["--arch_encoder", "resnet9"],
        ["resnet9", "resnet50_dilated16"],
    ),
    "unknown decoder": (remove_all, ["--arch_decoder", "fcn"], ["fcn", "psp_bilinear"]),
    "wrong width": (None, ["--fc_dim", "2048"], ["2048", "512"]),
    "absent weights": (None, ["--weights_encoder", "gone.pth"], ["gone.pth", "no such file"]),
    "too many GPUs": (None, ["--num_gpus", "64"], ["--num_gpus 64", "GPUs"]),
    "unknown device": (None, ["--device", "tpu"], ["--device tpu"]),
    "id that holds a run": (None, ["--id", "run"], ["--id run", "holds a run"]),
    "id that is a path": (None, ["--id", "../x"], ["--id", "plain"]),
    "no such flag": (None, ["--epochs", "3"], ["--epochs"]),
    "no epochs": (None, ["--num_epoch", "0"], ["--num_epoch", "at least 1"]),
    "endless rate": (None, ["--lr_encoder", "inf"], ["--lr_encoder", "finite"]),
    "endless id": (None, ["--id", "x" * 300], ["--id", "short"]),
    "id that looks like a flag": (None, ["--id=-x"], ["--id", "plain"]),
    "part of a picture": (None, ["--imgSize", "32.5"], ["--imgSize", "whole number"]),
    "frozen noise": (None, ["--fix_bn", "1"], ["--fix_bn", "--weights_encoder none"]),
    "folder that is a file": (None, ["--ckpt", "data/ADE20K_object150_classes.csv"], ["--ckpt"]),
    "panels in a file": (None, ["--vis", "data/ADE20K_object150_classes.csv"], ["--vis"]),
    "negative workers": (None, ["--workers", "-1"], ["--workers", "at least 0"]),
    "negative rate": (None, ["--lr_encoder", "-1"], ["--lr_encoder", "at least 0"]),
    "momentum of 1": (None, ["--beta1", "1"], ["--beta1", "below 1"]),
    "seed that is no number": (None, ["--seed", "nan"], ["--seed"]),
    "no device": (None, ["--device", "meta"], ["--device meta"]),
    "a single class": (None, ["--num_class", "1"], ["--num_class 1", "give 2"]),
    "tiny crops": (None, ["--imgSize", "16"], ["--imgSize", "32"]),
    "scales the wrong way round": (
        None,
        ["--scale_min", "2"],
        ["--scale_min 2", "--scale_max 1.5"],
    ),
    "warm-up without an end": (
        None,
        ["--warmup_iters", "200"],
        ["--warmup_iters 200", "200 steps"],
    ),
    "no drop path": (None, ["--drop_path", "0.1"], ["resnet18dilated has no drop path"]),
    "more than all crops": (None, ["--classmix", "1.5"], ["--classmix", "at most 1"]),
    "an average that stands still": (None, ["--ema_decay", "1"], ["--ema_decay", "below 1"]),
    "no class table": (None, ["--list_class", "no.csv"], ["--list_class no.csv"]),
}


# What only shows when a file is decoded is met in the main process or in a worker.
DECODED = (spoil_size, spoil_label, spoil_jpeg, spoil_text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "workers"),
    [(case, 0) for case in BAD_TRAINING]
    + [(case, 1) for case, (spoil, *_) in BAD_TRAINING.items() if spoil in DECODED],
)
def test_bad_training_input_is_one_line_exit_code_2_and_leaves_nothing(
    case, workers, script, data, run, tmp_path
):
    spoil, options, culprits = BAD_TRAINING[case]
    if spoil:
        spoil(data)
    before = sorted(path for path in (tmp_path / "here").rglob("*"))
    usual = flags(id="new", workers=workers)
    result = script("train.py", *SMALL, *data.flags, *usual, *options)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert result.err.startswith("train.py: error: ")
    assert all(culprit in result.err for culprit in culprits), result.err
    assert sorted(path for path in (tmp_path / "here").rglob("*")) == before


@pytest.mark.slow
def test_a_training_that_diverges_ends_in_one_line_and_leaves_only_its_log(script, data):
    result = script("train.py", "--id", "new", *SMALL, *data.flags, "--lr_encoder", "1e30")
    assert result.code == 2 and result.err.count("\n") == 1
    assert all(culprit in result.err for culprit in ("epoch 1", "--lr_encoder", "at train/"))
    (log,) = Path("ckpt/new").iterdir()
    assert log.read_text().endswith(result.err.removeprefix("train.py: "))
    assert script("train.py", "--id", "new", *SMALL, *data.flags, "--num_epoch", "1").code == 0


BAD_USE = {
    "unknown run": (["--id", "rum"], ["--id rum", "run"]),
    "unknown suffix": (["--suffix", "_epoch_7.pth"], ["_epoch_7.pth", "_best.pth", "_latest.pth"]),
    "other encoder": (["--arch_encoder", "resnet50_dilated8"], ["encoder_best.pth", "resnet50"]),
    "other decoder": (["--arch_decoder", "psp_bilinear"], ["decoder_best.pth", "psp_bilinear"]),
    "other classes": (["--num_class", "7"], ["decoder_best.pth", "7 classes"]),
    "wrong width": (["--fc_dim", "2048"], ["2048", "512"]),
    "no scale": (["--scales", "0"], ["--scales", "at least 0.01"]),
    "results in a file": (["--result", "ckpt/run/config.json"], ["--result", "config.json"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_USE)
@pytest.mark.parametrize("name", ["eval.py", "test.py"])
def test_a_run_that_does_not_fit_is_one_line_and_exit_code_2(
    case, name, script, data, run, tmp_path
):
    options, culprits = BAD_USE[case]
    before = sorted(path for path in (tmp_path / "here").rglob("*"))
    picture = ("--test_img", data.picture("val/0")) if name == "test.py" else ()
    result = script(name, "--id", "run", *picture, *options)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert all(culprit in result.err for culprit in culprits), result.err
    assert sorted(path for path in (tmp_path / "here").rglob("*")) == before


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named(script, data, run):
    path = run / "encoder_best.pth"
    path.write_bytes(path.read_bytes()[:10_000])
    result = script("test.py", "--id", "run", "--test_img", data.picture("val/0"))
    assert result.code == 2 and "encoder_best.pth is not a whole" in result.err


@pytest.mark.parametrize(
    ("name", "value"), [("num_class", "many"), ("num_class", -3), ("arch_encoder", [1])]
)
def test_settings_of_another_kind_are_named(name, value, script, run):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, name: value}))
    result = script("eval.py", "--id", "run")
    assert result.code == 2 and result.err.count("\n") == 1 and str(value) in result.err


@pytest.mark.slow
def test_a_script_may_be_called_from_anywhere(script, data, run, tmp_path):
    Path("data").unlink()
    decoder = ModelBuilder.build_decoder()
    torch.save(decoder.state_dict(), run / "decoder_best.pth")
    options = flags(id="run", num_class=150, test_img=data.picture("val/0"))
    result = script("test.py", *options)
    assert result.code == 0, result.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 2, "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 2, "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), 2, "out of memory"),
    ],
)
def test_what_is_no_bug_ends_with_one_line(error, code, message, script, monkeypatch):
    def fail(*_):
        raise error

    monkeypatch.setattr("common.runs.find_run", fail)
    result = script("eval.py", "--id", "run")
    assert result.code == code and message in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize("name", ["train.py", "eval.py", "test.py", "prepare.py"])
def test_ctrl_c_while_modules_load_is_no_traceback(name):
    command = [sys.executable, "-X", "importtime", str(ROOT / name), "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        next(line for line in run.stderr if line.rstrip().endswith("numpy.version"))
        run.send_signal(signal.SIGINT)
        out, err = run.communicate()
    assert run.returncode == -signal.SIGINT and not out and "Traceback" not in err


def test_a_bug_is_a_traceback(script, monkeypatch):
    def fail(*_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("common.runs.find_run", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        script("eval.py", "--id", "run")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["empty", "nowhere.jpg", "empty/*.jpg"])
def test_no_picture_to_segment_is_one_line_and_exit_code_2(where, script, run):
    Path("empty").mkdir()
    result = script("test.py", "--id", "run", "--test_img", where)
    assert result.code == 2 and result.err.count("\n") == 1 and where in result.err


@pytest.mark.slow
def test_labels_counted_from_0_train_and_score_as_those_from_1_do(script, data):
    options = [*SMALL, *data.flags, "--num_epoch", "1"]
    assert script("train.py", "--id", "from_1", *options).code == 0
    for path in data.folder.glob("annotations/*/*.png"):
        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) - 1)
    wrong = script("train.py", "--id", "wrong", *options)
    assert wrong.code == 2 and "--label_offset 0" in wrong.err
    assert script("train.py", "--id", "from_0", *options, "--label_offset", "0").code == 0
    one, zero = (
        torch.load(f"ckpt/{run}/encoder_best.pth", weights_only=True)
        for run in ("from_1", "from_0")
    )
    torch.testing.assert_close(one, zero, rtol=0, atol=0)
    result = script("eval.py", "--id", "from_0", "--scales", "1")  # the run's own way to count
    assert result.code == 0, result.err
    wrong = script("train.py", "--resume", "from_0", "--label_offset", "1")
    assert wrong.code == 2 and "--label_offset would make" in wrong.err


@pytest.mark.slow
def test_a_label_out_of_range_ends_the_evaluation(script, data, run):
    Image.fromarray(np.full((64, 80), 9, np.uint8)).save(data.label("val/2"))
    result = script("eval.py", "--id", "run")
    assert result.code == 2 and "val/2.png holds the value 9" in result.err
    assert not Path("result").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train.py", "eval.py", "test.py"])
def test_help_lists_the_flags_with_their_defaults(name, script):
    result = script(name, "--help")
    assert result.code == 0 and "--num_class" in result.out
    assert "default: None" not in result.out and "default: ./ckpt" in result.out
