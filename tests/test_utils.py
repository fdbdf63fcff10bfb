import numpy as np
import pytest
import torch

from utils import (
    AverageMeter,
    ConfusionMatrix,
    UserError,
    result_names,
    select_amp,
    select_device,
)


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


def test_counts_are_exact_however_many():
    confusion = ConfusionMatrix(2)
    confusion.counts[1, 1] = 10**12
    confusion.update(torch.tensor([1, 0]), torch.tensor([1, 1]))
    assert confusion.counts.tolist() == [[0, 0], [1, 10**12 + 1]]
    assert confusion.scores().iou[1] == (10**12 + 1) / (10**12 + 2)


def test_nothing_labelled_is_an_error_and_no_nan():
    with pytest.raises(UserError, match="nothing to score"):
        ConfusionMatrix(3).scores()


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
