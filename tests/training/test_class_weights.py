"""Weights of the classes: what is counted, what is kept, and what they make of the loss."""

import cv2
import numpy as np
import pytest
import torch

from common.distributed import World
from common.metrics import class_pixels
from dataset import SegmentationDataset
from training.class_weights import ClassWeights, find_class_weights, median_frequency, read_weights
from utils import UserError

from ..conftest import SMALL, flags

NAMES = ["sky", 'a "grey", high wall', "block", "ufo"]
ALONE = World("cpu")


def find(data, source="median", list_file="train.txt", labels="annotations", **changes):
    """The weights that a training with the data set `data` would have."""
    folders = (data.folder / "images", data.folder / labels)
    settings = dict(num_class=data.num_class) | changes
    pictures = SegmentationDataset(str(data.folder / list_file), *folders, **settings)
    names = [*NAMES, "cat"][: pictures.num_class]
    return find_class_weights(source, pictures, names, 0, ALONE)


def counted(data, names):
    """Pixels of each class and of the labels that it occurs in, one label after the other."""
    pixels, area = np.zeros((2, data.num_class), np.int64)
    for name in names:
        label = cv2.imread(str(data.label(name)), cv2.IMREAD_UNCHANGED)
        for c in range(data.num_class):
            pixels[c] += (label == c + 1).sum()
            area[c] += label.size if (label == c + 1).any() else 0
    return pixels, area


@pytest.fixture
def counts(monkeypatch):
    """Whether the labels were counted, one entry each time."""
    calls = []

    def median(*args):
        calls.append(args)
        return median_frequency(*args)

    monkeypatch.setattr("training.class_weights.median_frequency", median)
    return calls


def test_weights_are_the_median_frequency_over_the_frequency_where_a_class_occurs():
    """Frequencies 1/2, 1/8, 1/20 and 1/200; the third class never occurs."""
    pixels, area = np.array([500, 50, 0, 5, 5]), np.array([1000, 400, 0, 100, 1000])
    weight = median_frequency(pixels, area)
    assert weight == pytest.approx(np.array([0.175, 0.7, 1, 1.75, 17.5]))


def test_labels_are_counted_whole_and_what_cannot_be_read_is_left_out(data, counts):
    cv2.imwrite(str(data.label("train/1")), np.full((64, 80), 2, np.uint8))
    content = data.label("train/0").read_bytes()
    data.label("train/0").write_bytes(content[: len(content) // 2])
    weight = find(data).weight
    expected = counted(data, [f"train/{i}" for i in range(1, 6)])
    assert len({*expected[1]}) == 3  # all, all but one, and none of the labels
    np.testing.assert_array_equal(counts[0], expected)
    np.testing.assert_array_equal(weight, median_frequency(*expected))


def test_what_was_counted_is_kept_until_list_settings_or_labels_change(data, counts):
    weight = find(data).weight
    assert (find(data).weight == weight).all() and len(counts) == 1

    list_file, label = data.folder / "train.txt", data.label("train/3")
    (data.folder / "copy").symlink_to("annotations")
    changes = {
        "list": lambda: list_file.write_text("train/0.jpg\ntrain/1.jpg\ntrain/2.jpg\n"),
        "order": lambda: list_file.write_text("train/3.jpg\ntrain/1.jpg\ntrain/2.jpg\n"),
        "label": lambda: cv2.imwrite(str(label), np.full((64, 80), 3, np.uint8)),
    }
    for n, (what, change) in enumerate(changes.items()):
        change()
        find(data)
        assert len(counts) == n + 2, what
    for settings in (dict(num_class=5), dict(num_class=5, label_offset=0), dict(labels="copy")):
        find(data, **settings)
    assert len(counts) == 7
    assert not (find(data).weight == weight).all()


@pytest.mark.parametrize("spoil", ["cut", "edited", "no text", "none", "folder"])
def test_kept_weights_that_are_no_use_are_counted_anew(spoil, data, counts, caplog):
    weight = find(data).weight
    kept = data.folder / "train.txt.class_weight.csv"
    content = kept.read_bytes()
    kept.unlink()
    if spoil == "folder":
        kept.mkdir()
    elif spoil != "none":
        damaged = {"cut": content[:90], "edited": content + b"5,x,1\n", "no text": b"\xff\xfe"}
        kept.write_bytes(damaged[spoil])
    assert (find(data).weight == weight).all() and len(counts) == 2
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    if spoil == "folder":  # what cannot be kept is told
        assert len(warned) == 1 and str(kept) in warned[0].getMessage()
    else:
        assert not warned and kept.read_bytes() == content


def test_square_roots_are_taken_of_the_same_counts(data, counts):
    weight = find(data).weight
    assert (find(data, "sqrt").weight == np.sqrt(weight)).all()
    assert (find(data).weight == weight).all() and len(counts) == 1


def test_labels_without_a_class_have_no_median(data):
    for path in data.folder.glob("annotations/train/*"):
        cv2.imwrite(str(path), np.zeros((64, 80), np.uint8))
    with pytest.raises(UserError, match="train.txt: no label has a pixel of a class"):
        find(data)


def test_a_table_gives_the_very_weights_that_it_was_made_of(tmp_path):
    weights = ClassWeights(NAMES, np.array([1 / 3, 0, 7e-5, 1e30]))
    assert str(weights) == '0 (a "grey", high wall) to 1e+30 (ufo)'
    for heading in ("", "# some words\n", "\ufeff"):
        (tmp_path / "weights.csv").write_text(heading + weights.table(), encoding="utf-8")
        assert (read_weights(tmp_path / "weights.csv", 4) == weights.weight).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_the_weights_of_all_labelled_pixels_are_added_up(dtype):
    labels = torch.tensor([[[0, 0, 2], [-1, 3, -1]]]).to(dtype)
    assert ClassWeights(NAMES, np.array([0.5, 9, 0.25, 2])).total(class_pixels(labels, 4)) == 3.25


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("index,weight\n1,1\n", "does not list the classes 1…2 in order"),
        ("index,weight\n1,1\n2,1\n3,1\n", "does not list the classes 1…2 in order"),
        ("index,weight\n2,1\n1,1\n", "does not list the classes 1…2 in order"),
        ("", "does not list the classes 1…2 in order"),
        ("index,name\n1,a\n2,b\n", "not a table of index,weight"),
        ("index,weight\n1,1\n2,\n", "not a table of index,weight"),
        ("index,weight\n1,1\n2,x\n", "not a table of index,weight"),
        (b"\xff\xfe\0", "not a table of index,weight"),
        ("index,weight\n1,1\n2,-1\n", "class 2 has the weight -1.0"),
        ("index,weight\n1,nan\n2,1\n", "class 1 has the weight nan"),
        ("index,weight\n1,1\n2,inf\n", "class 2 has the weight inf"),
        ("index,weight\n1,1\n2,1e39\n", "class 2 has the weight 1e[+]39"),
        ("index,weight\n1,0\n2,1e-99\n", "all weights are 0"),
        (None, "No such file or directory; give none, median, sqrt or a table"),
    ],
)
def test_a_table_of_another_kind_is_refused(content, complaint, tmp_path):
    path = tmp_path / "weights.csv"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=f"--class_weight .*weights.csv.*{complaint}"):
        read_weights(path, 2)


def test_a_mistake_in_the_weights_is_one_line_and_leaves_nothing(script, data, tmp_path):
    result = script("train.py", "--id", "run", *SMALL, *data.flags, "--class_weight", "medium")
    assert result.code == 2 and result.err.count("\n") == 1 and "median" in result.err
    assert not (tmp_path / "here/ckpt").exists()


@pytest.mark.parametrize("source", ["none", "weights.csv"])
def test_logits_are_not_adjusted_without_weights_of_all_classes(source, script, data, tmp_path):
    (tmp_path / "here").mkdir(exist_ok=True)
    (tmp_path / "here/weights.csv").write_text("index,weight\n1,1\n2,1\n3,0\n4,1\n")
    options = flags(id="run", class_weight=source, logit_adjust=1)
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "--logit_adjust needs a --class_weight" in result.err
    assert not (tmp_path / "here/ckpt").exists()


@pytest.mark.slow
def test_a_training_keeps_its_weights_and_another_may_take_them(script, data, tmp_path):
    networks = []
    for run, source in (("a", "median"), ("b", "ckpt/a/class_weight.csv"), ("c", "none")):
        options = flags(id=run, num_epoch=1, class_weight=source)
        result = script("train.py", *SMALL, *data.flags, *options)
        assert result.code == 0, result.err
        assert ("Class weights: " in result.out) == (run != "c")
        networks.append(torch.load(f"ckpt/{run}/decoder_latest.pth", weights_only=True))
    weight = read_weights("ckpt/a/class_weight.csv", data.num_class)
    assert (weight == median_frequency(*counted(data, [f"train/{i}" for i in range(6)]))).all()
    kept = [tmp_path / f"here/ckpt/{run}/class_weight.csv" for run in "abc"]
    assert kept[0].read_text() == kept[1].read_text() and not kept[2].exists()
    weighted, same, plain = (network["conv_last.weight"] for network in networks)
    assert torch.equal(weighted, same) and not torch.equal(weighted, plain)


@pytest.mark.slow
def test_weights_that_are_alike_change_nothing(script, data, tmp_path):
    """But for rounding: any common weight cancels out."""
    (tmp_path / "alike.csv").write_text("index,weight\n" + "".join(f"{i},3\n" for i in range(1, 5)))
    networks = []
    for run, source in (("plain", "none"), ("alike", tmp_path / "alike.csv")):
        options = flags(id=run, num_epoch=1, class_weight=source)
        result = script("train.py", *SMALL, *data.flags, *options)
        assert result.code == 0, result.err
        networks.append(torch.load(f"ckpt/{run}/decoder_latest.pth", weights_only=True))
    torch.testing.assert_close(*networks, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_pictures_without_any_weight_teach_nothing(script, data, tmp_path):
    """All weight is that of a class which does not occur."""
    (tmp_path / "weights.csv").write_text("index,weight\n1,0\n2,0\n3,0\n4,1\n")
    torch.manual_seed(0)
    decoder = torch.nn.Conv2d(512, 4, 1, bias=False).state_dict()
    torch.save({"conv_last.weight": decoder["weight"]}, tmp_path / "decoder.pth")
    options = flags(
        id="run",
        num_epoch=1,
        class_weight=tmp_path / "weights.csv",
        weight_decay=0,
        weights_decoder=tmp_path / "decoder.pth",
    )
    result = script("train.py", *SMALL, *data.flags, *options)
    assert result.code == 0 and "Loss: none so far" in result.out, result.err
    trained = torch.load("ckpt/run/decoder_latest.pth", weights_only=True)
    assert torch.equal(trained["conv_last.weight"], decoder["weight"])


def test_on_a_terminal_a_bar_counts_the_labels(data, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    find(data)
    assert "Labels" in capsys.readouterr().err
    find(data)
    assert capsys.readouterr().err == ""
