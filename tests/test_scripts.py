"""The three scripts as a user runs them, on a tiny data set: results, and what bad input gets."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from models import ModelBuilder

from .conftest import Data

# A real network on small pictures, without worker processes.
SMALL = [
    *("--arch_encoder", "resnet34_dilated16", "--weights_encoder", "none", "--device", "cpu"),
    *("--amp", "off"),
    *("--imgSize", "32", "--segSize", "32", "--batch_size_per_gpu", "3", "--workers", "0"),
]


@pytest.fixture
def run(data: Data) -> Path:
    """A run of untrained networks: CKPT/run with its settings, as train.py leaves it."""
    folder = data.folder.parent / "here/ckpt/run"
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    for suffix in ("_best.pth", "_latest.pth"):
        encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
        decoder = ModelBuilder.build_decoder(num_class=data.num_class)
        torch.save(encoder.state_dict(), folder / f"encoder{suffix}")
        torch.save(decoder.state_dict(), folder / f"decoder{suffix}")
    config = {
        "arch_encoder": "resnet34_dilated16",
        "arch_decoder": "c1_bilinear",
        "num_class": data.num_class,
        "list_val": str(data.folder / "val.txt"),
        "root_img": str(data.folder / "images"),
        "root_seg": str(data.folder / "annotations"),
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_train_leaves_a_run_that_eval_and_test_understand(script, data, tmp_path):
    here = tmp_path / "here"
    result = script(
        *("train.py", "--id", "mine", *SMALL, *data.flags),
        *("--num_epoch", "3", "--ckpt_epoch", "2", "--eval_epoch", "2", "--disp_iter", "1"),
    )
    assert result.code == 0, result.err
    assert len(re.findall(r"^Epoch: \[\d\]\[\d/2\], Time: .*Loss: \d", result.out, re.M)) == 6

    folder = here / "ckpt/mine"
    kinds = ("latest", "best", "epoch_2")
    expected = {f"{part}_{kind}.pth" for part in ("encoder", "decoder") for kind in kinds}
    expected |= {"config.json", "history.csv", "loss.png", "accuracy.png"}
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
    assert sorted(path.name for path in here.glob("0_*")) == ["0_labels.png", "0_panel.png"]


def test_the_id_is_composed_from_the_settings_unless_given(script, data, tmp_path):
    result = script("train.py", *SMALL, *data.flags, "--num_epoch", "1")
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "here/ckpt").iterdir()
    assert folder.name == (
        "baseline-resnet34_dilated16-c1_bilinear-ngpus1-batchSize3-imgSize32-segSize32"
        "-lr_encoder0.001-lr_decoder0.01-epoch1-decay0.0001"
    )


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_half_precision_trains_evaluates_and_segments(script, data, amp):
    flags = ("--num_epoch", "2", "--amp", amp)
    result = script("train.py", "--id", "half", *SMALL, *data.flags, *flags)
    assert result.code == 0, result.err
    losses = [float(loss) for loss in re.findall(r"Loss: (\S+)$", result.out, re.M)]
    assert all(np.isfinite(losses))
    assert script("eval.py", "--id", "half", "--amp", amp, "--workers", "0").code == 0
    result = script("test.py", "--id", "half", "--test_img", data.picture("val/0"), "--amp", amp)
    assert result.code == 0, result.err


@pytest.mark.parametrize("optim", ["SGD", "Adam", "AdamW"])
def test_every_optimiser_lowers_the_loss(script, data, tmp_path, optim):
    rates = ("--lr_encoder", "0.001", "--lr_decoder", "0.02")
    result = script(
        *("train.py", "--id", "mine", *SMALL, *data.flags, *rates),
        *("--optim", optim, "--num_epoch", "8", "--eval_epoch", "8"),
    )
    assert result.code == 0, result.err
    with (tmp_path / "here/ckpt/mine/history.csv").open() as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert min(losses[-2:]) < 0.8 * losses[0]


def test_learning_rates_decay_every_iteration(script, data):
    result = script(
        *("train.py", "--id", "mine", *SMALL, *data.flags),
        *("--num_epoch", "2", "--disp_iter", "1", "--lr_pow", "0.5"),
    )
    rates = [float(rate) for rate in re.findall(r"lr_decoder: ([\d.]+)", result.out)]
    assert rates == pytest.approx([0.01 * (1 - step / 4) ** 0.5 for step in range(4)], abs=1e-6)


def test_fix_bn_freezes_batchnorm_and_nothing_else(script, data, tmp_path):
    initial = tmp_path / "initial.pth"
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    torch.save(encoder.state_dict(), initial)
    result = script(
        *("train.py", "--id", "mine", *SMALL, *data.flags, "--weights_encoder", initial),
        *("--num_epoch", "1", "--fix_bn", "1", "--lr_encoder", "0.1"),
    )
    assert result.code == 0, result.err
    trained = torch.load(tmp_path / "here/ckpt/mine/encoder_latest.pth", weights_only=True)
    for key, value in encoder.state_dict().items():
        of_batchnorm = "bn" in key or "downsample.1" in key
        assert torch.equal(trained[key], value) == of_batchnorm, key


def test_two_trainings_with_one_seed_are_the_same(script, data, tmp_path):
    for name, workers in (("a", "0"), ("b", "2")):
        script(
            *("train.py", "--id", name, *SMALL, *data.flags),
            *("--num_epoch", "2", "--workers", workers),
        )
    a, b = (
        torch.load(tmp_path / f"here/ckpt/{name}/encoder_latest.pth", weights_only=True)
        for name in "ab"
    )
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_without_a_gpu_training_says_so_once_and_goes_on(script, data, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    flags = [flag for flag in SMALL if flag not in ("--device", "cpu")]
    result = script("train.py", *flags, *data.flags, "--num_epoch", "1")
    assert result.code == 0 and (result.out + result.err).count("No GPU") == 1


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


def test_eval_scores_alike_in_batches_and_one_by_one(script, data, run, tmp_path):
    confusions = []
    for batch_size in (1, 3):
        script(
            *("eval.py", "--id", "run", "--amp", "off", "--workers", "0"),
            *("--batch_size", batch_size),
        )
        scores = json.loads((tmp_path / "here/result/run/scores.json").read_text())
        confusions.append([scores["pixel_accuracy"], scores["mean_iou"]])
    assert confusions[0] == pytest.approx(confusions[1], abs=1e-3)


def test_eval_takes_a_plain_pair_of_weights_with_the_flags(script, data, run):
    (run / "config.json").unlink()
    flags = ("--arch_encoder", "resnet34_dilated16", *data.flags[2:])
    result = script("eval.py", "--id", "run", "--scales", "1", "--workers", "0", *flags)
    assert result.code == 0, result.err


def test_eval_draws_the_pictures_on_demand(script, run, tmp_path):
    script("eval.py", "--id", "run", "--scales", "1", "--workers", "0")
    assert [path.name for path in (tmp_path / "here/result/run").iterdir()] == ["scores.json"]
    script("eval.py", "--id", "run", "--scales", "1", "--workers", "0", "--visualize", "1")
    assert len(list((tmp_path / "here/result/run").glob("val_?.png"))) == 3


def test_eval_may_score_at_another_size(script, run, tmp_path):
    result = script(
        "eval.py", "--id", "run", "--imgSize", "48", "--segSize", "32", "--workers", "0"
    )
    assert result.code == 0, result.err


def test_label_maps_hold_class_indices_from_1_at_the_pictures_size(script, data, run, tmp_path):
    result = script(
        *("test.py", "--id", "run", "--test_img", data.picture("val/0"), "--visualize", "0"),
        *("--result", tmp_path / "out"),
    )
    assert result.code == 0, result.err
    (path,) = (tmp_path / "out").iterdir()
    labels = np.array(Image.open(path))
    assert path.name == "0_labels.png" and labels.shape == (64, 80) and labels.dtype == np.uint8
    assert labels.min() >= 1 and labels.max() <= data.num_class
    index, count = max(zip(*np.unique(labels, return_counts=True), strict=True), key=lambda x: x[1])
    assert f"val/0.jpg: class {index} {count / labels.size:.1%}" in result.out


def test_a_folder_or_a_glob_of_any_formats_is_segmented(script, data, run, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = Image.open(data.picture("val/0"))
    for name in ("a.jpg", "a.png", "b.webp", "c.BMP"):
        image.save(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    out = tmp_path / "out"
    labels = {"a_jpg", "a_png", "b", "c"}
    for _ in range(2):  # the second time the folder holds results too
        result = script("test.py", "--id", "run", "--test_img", folder, "--result", folder)
        assert result.code == 0 and "4 pictures" in result.out, result.err
        assert {p.name.removesuffix("_labels.png") for p in folder.glob("*_labels.png")} == labels
    result = script("test.py", "--id", "run", "--test_img", f"{folder}/[ab].*g", "--result", out)
    assert result.code == 0 and "2 pictures" in result.out, result.err
    result = script(
        "test.py", "--id", "run", "--test_img", folder, "--num_val", "3", "--result", out
    )
    assert "3 pictures" in result.out


def test_pictures_in_batches_get_the_labels_they_get_alone(script, data, run, tmp_path):
    for size in (1, 3):
        script(
            *("test.py", "--id", "run", "--test_img", data.folder / "images/val"),
            *("--batch_size", size, "--result", tmp_path / f"out{size}", "--visualize", "0"),
            *("--amp", "off"),
        )
    for i in range(3):
        maps = [np.array(Image.open(tmp_path / f"out{s}/{i}_labels.png")) for s in (1, 3)]
        assert (maps[0] == maps[1]).mean() > 0.999


def test_a_bad_picture_spoils_no_other(script, data, run, tmp_path):
    folder = data.folder / "images/val"
    (folder / "1.jpg").write_text("hello")
    result = script("test.py", "--id", "run", "--test_img", folder, "--result", tmp_path / "out")
    assert result.code == 2 and "1.jpg" in result.err and result.err.count("\n") == 1
    assert {path.name[0] for path in (tmp_path / "out").iterdir()} == {"0", "2"}


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


BAD_TRAINING = {
    "missing data set": (remove_all, [], ["train.txt", "./download_ADE20K.sh", "make demo"]),
    "empty list": (spoil_list, [], ["train.txt", "empty"]),
    "absent files": (spoil_names, [], ["2 of 12", "train/1.jpg", "train/4.png"]),
    "label of another size": (spoil_size, [], ["train/1.jpg", "80 x 64", "79 x 64"]),
    "label out of range": (spoil_label, [], ["train/1.png", "77", "--num_class 4"]),
    "truncated JPEG": (spoil_jpeg, [], ["train/1.jpg", "cut short"]),
    "text named .jpg": (spoil_text, [], ["train/1.jpg", "not a picture"]),
    "unknown encoder": (None, ["--arch_encoder", "resnet9"], ["resnet9", "resnet50_dilated16"]),
    "unknown decoder": (None, ["--arch_decoder", "fcn"], ["fcn", "psp_bilinear"]),
    "wrong width": (None, ["--fc_dim", "2048"], ["2048", "512"]),
    "absent weights": (None, ["--weights_encoder", "gone.pth"], ["gone.pth", "no such file"]),
    "too many GPUs": (None, ["--num_gpus", "64"], ["--num_gpus 64", "GPUs"]),
    "unknown device": (None, ["--device", "tpu"], ["--device tpu"]),
    "id that holds a run": (None, ["--id", "run"], ["--id run", "holds a run"]),
    "id that is a path": (None, ["--id", "../x"], ["--id", "plain name"]),
    "no such flag": (None, ["--epochs", "3"], ["--epochs"]),
    "no epochs": (None, ["--num_epoch", "0"], ["--num_epoch", "at least 1"]),
    "tiny crops": (None, ["--imgSize", "16"], ["--imgSize", "32"]),
    "no class table": (None, ["--list_class", "no.csv"], ["--list_class no.csv"]),
}


# What only shows when a file is decoded is met in the main process or in a worker.
DECODED = (spoil_size, spoil_label, spoil_jpeg, spoil_text)


@pytest.mark.parametrize(
    ("case", "workers"),
    [(case, 0) for case in BAD_TRAINING]
    + [(case, 1) for case, (spoil, *_) in BAD_TRAINING.items() if spoil in DECODED],
)
def test_bad_training_input_is_one_line_exit_code_2_and_leaves_nothing(
    case, workers, script, data, run, tmp_path
):
    spoil, flags, culprits = BAD_TRAINING[case]
    if spoil:
        spoil(data)
    before = sorted(path for path in (tmp_path / "here").rglob("*"))
    result = script("train.py", "--id", "new", *SMALL, *data.flags, "--workers", workers, *flags)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert result.err.startswith("train.py: error: ")
    assert all(culprit in result.err for culprit in culprits), result.err
    assert sorted(path for path in (tmp_path / "here").rglob("*")) == before


BAD_USE = {
    "unknown run": (["--id", "rum"], ["--id rum", "run"]),
    "unknown suffix": (["--suffix", "_epoch_7.pth"], ["_epoch_7.pth", "_best.pth", "_latest.pth"]),
    "other encoder": (["--arch_encoder", "resnet50_dilated8"], ["encoder_best.pth", "resnet50"]),
    "other decoder": (["--arch_decoder", "psp_bilinear"], ["decoder_best.pth", "psp_bilinear"]),
    "other classes": (["--num_class", "7"], ["decoder_best.pth", "7 classes"]),
    "wrong width": (["--fc_dim", "2048"], ["2048", "512"]),
}


@pytest.mark.parametrize("case", BAD_USE)
@pytest.mark.parametrize("name", ["eval.py", "test.py"])
def test_a_run_that_does_not_fit_is_one_line_and_exit_code_2(
    case, name, script, data, run, tmp_path
):
    flags, culprits = BAD_USE[case]
    before = sorted(path for path in (tmp_path / "here").rglob("*"))
    picture = ("--test_img", data.picture("val/0")) if name == "test.py" else ()
    result = script(name, "--id", "run", *picture, *flags)
    assert result.code == 2 and result.err.count("\n") == 1, result.err
    assert all(culprit in result.err for culprit in culprits), result.err
    assert sorted(path for path in (tmp_path / "here").rglob("*")) == before


def test_a_damaged_checkpoint_is_named(script, data, run):
    path = run / "encoder_best.pth"
    path.write_bytes(path.read_bytes()[:10_000])
    result = script("test.py", "--id", "run", "--test_img", data.picture("val/0"))
    assert result.code == 2 and "encoder_best.pth is not a whole" in result.err


@pytest.mark.parametrize("where", ["empty", "nowhere.jpg", "empty/*.jpg"])
def test_no_picture_to_segment_is_one_line_and_exit_code_2(where, script, run):
    Path("empty").mkdir()
    result = script("test.py", "--id", "run", "--test_img", where)
    assert result.code == 2 and result.err.count("\n") == 1 and where in result.err


def test_a_label_out_of_range_ends_the_evaluation(script, data, run):
    Image.fromarray(np.full((64, 80), 9, np.uint8)).save(data.label("val/2"))
    result = script("eval.py", "--id", "run")
    assert result.code == 2 and "val/2.png holds the value 9" in result.err
    assert not Path("result").exists()


@pytest.mark.parametrize("name", ["train.py", "eval.py", "test.py"])
def test_help_lists_the_flags_with_their_defaults(name, script):
    result = script(name, "--help")
    assert result.code == 0 and "--num_class" in result.out
    assert "default: None" not in result.out and "default: ./ckpt" in result.out
