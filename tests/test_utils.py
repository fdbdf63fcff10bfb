import numpy as np
import pytest
import scipy.io
import torch

from utils import (
    ADE20K_CLASSES,
    AverageMeter,
    ConfusionMatrix,
    UserError,
    colour_code,
    distinct_colours,
    read_classes,
    result_names,
    select_amp,
    select_device,
)

from .conftest import ROOT


def test_average_meter_weighs_numbers_and_tensors_by_their_count():
    meter = AverageMeter()
    meter.update(1.0, 3)
    meter.update(torch.tensor(5.0), 1)
    assert meter.average == 2
    assert AverageMeter().average == 0


def test_scores_are_those_of_the_definitions():
    """Against sums over sets of pixels, class by class."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(-1, 4, (2, 9, 11)), rng.integers(0, 4, (2, 9, 11))
    confusion = ConfusionMatrix(6)
    for label, prediction in zip(labels, predictions, strict=True):
        confusion.update(torch.as_tensor(prediction), torch.as_tensor(label))
    scores = confusion.scores()
    predictions = predictions[labels >= 0]
    labels = labels[labels >= 0]
    for k in range(4):
        is_label, is_prediction = labels == k, predictions == k
        assert scores.iou[k] == (is_label & is_prediction).sum() / (is_label | is_prediction).sum()
        assert scores.accuracy[k] == (is_label & is_prediction).sum() / is_label.sum()
        assert scores.share[k] == is_label.mean()
    assert scores.pixel_accuracy == (labels == predictions).mean()
    assert scores.mean_iou == pytest.approx(scores.iou[:4].mean())
    assert scores.mean_accuracy == pytest.approx(scores.accuracy[:4].mean())
    assert scores.frequency_weighted_iou == pytest.approx((scores.share * scores.iou)[:4].sum())
    assert scores.overall == pytest.approx((scores.mean_iou + scores.pixel_accuracy) / 2)
    assert scores.absent == 2


def test_a_class_that_is_only_predicted_counts_as_missed_but_has_no_accuracy():
    confusion = ConfusionMatrix(3)
    confusion.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    scores = confusion.scores()
    assert scores.iou[:2].tolist() == [0.5, 0] and np.isnan(scores.iou[2])
    assert scores.mean_iou == 0.25 and scores.mean_accuracy == 0.5 and scores.absent == 1


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.float32])
def test_unlabelled_pixels_do_not_count(dtype):
    unlabelled = 255 if dtype == torch.uint8 else -1
    confusion = ConfusionMatrix(255)
    confusion.update(torch.tensor([254, 3]), torch.tensor([254, unlabelled], dtype=dtype))
    assert confusion.counts.sum() == 1 and confusion.counts[254, 254] == 1


def test_nothing_labelled_is_an_error_and_no_nan():
    with pytest.raises(UserError, match="nothing to score"):
        ConfusionMatrix(3).scores()


def test_the_table_of_ade20k_is_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    classes = read_classes(ADE20K_CLASSES, 150)
    assert (classes.names[0], classes.names[2], classes.names[149]) == ("wall", "sky", "flag")
    assert classes.palette[:4].tolist() == [[0, 0, 0], [120] * 3, [180, 120, 120], [6, 230, 230]]


def test_other_numbers_of_classes_get_names_and_distinct_colours():
    classes = read_classes(ADE20K_CLASSES, 300)
    assert classes.names[0] == "class 1" and len(classes.names) == 300
    assert len(np.unique(classes.palette, axis=0)) == 301
    assert distinct_colours(22)[[0, 1, 2, 15]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
    ]


def test_a_matlab_palette_changes_the_colours_and_keeps_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = str(tmp_path / "color150.mat")
    colours = np.random.default_rng(0).integers(0, 256, (150, 3)).astype(np.uint8)
    scipy.io.savemat(path, {"colors": colours})
    classes = read_classes(path, 150)
    assert classes.names[2] == "sky" and (classes.palette[1:] == colours).all()
    with pytest.raises(UserError, match="150 classes, not 11"):
        read_classes(path, 11)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("index,name\n1,a\n", "not a table"),
        ("index,name,r,g,b\n1,a,0,0,x\n", "not a table"),
        ("index,name,r,g,b\n1,a,0,0,300\n", "not a table"),
        ("index,name,r,g,b\n2,a,0,0,0\n", "1…1 in order"),
        ("index,name,r,g,b\n1,a,0,0,0\n2,b,1,1,1\n", "1…1 in order"),
        ("", "1…1 in order"),
    ],
)
def test_a_table_of_another_kind_is_refused(text, complaint, tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=f"classes.csv.*{complaint}"):
        read_classes(str(path), 1)


def test_a_table_may_begin_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "classes.csv"
    path.write_text("index,name,r,g,b\n1,été,1,2,3\n", encoding="utf-8-sig")
    assert read_classes(str(path), 1).names == ["été"]


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"hello" * 99])
def test_a_damaged_matlab_file_is_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = tmp_path / "color150.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match="color150.mat"):
        read_classes(str(path), 150)


def test_absent_tables_are_named(tmp_path):
    for name in ("classes.csv", "classes.mat"):
        with pytest.raises(UserError, match=name):
            read_classes(str(tmp_path / name), 3)


def test_unlabelled_pixels_are_black_in_any_type():
    palette = np.arange(12, dtype=np.uint8).reshape(4, 3)
    palette[0] = 0
    for labels in (np.array([[0, 2, 255]], np.uint8), np.array([[0, 2, -1]], np.int32)):
        assert colour_code(labels, palette).tolist() == [[[3, 4, 5], [9, 10, 11], [0, 0, 0]]]


def test_a_device_that_is_not_there_is_refused():
    assert select_device("cpu") == torch.device("cpu")
    for name in ("tpu", "cuda:99", "meta"):
        with pytest.raises(UserError, match=f"--device {name}"):
            select_device(name)


@pytest.mark.parametrize(
    ("capable", "expected"),
    [({}, None), ({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16)],
)
def test_half_precision_is_automatic_where_the_cpu_is_fast_at_it(capable, expected, monkeypatch):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: capable, raising=False)
    assert select_amp("auto", torch.device("cpu")) == expected


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_half_precision_is_bfloat16_on_gpus_that_have_it(native, expected, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert select_amp("auto", torch.device("cuda")) == expected


def test_half_precision_is_what_was_asked_for():
    choices = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    assert {name: select_amp(name, torch.device("cpu")) for name in choices} == choices


def test_names_of_results_are_flat_and_unlike_each_other():
    names = ["training/a.b.jpg", "x/0.jpg", "x/0.png", "x_0.png", "x_0_png.webp", "../../etc/x.jpg"]
    results = result_names([*names, names[0]])
    assert list(results) == names
    assert results["training/a.b.jpg"] == "training_a.b"
    assert [results[name] for name in names[1:4]] == ["x_0", "x_0_png", "x_0_png2"]
    assert len(set(results.values())) == len(names)
    assert not any("/" in result for result in results.values())
