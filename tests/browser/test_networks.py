import argparse
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from browser.networks import Networks, buttons, draw, segment
from common.images import read_picture
from common.published import PUBLISHED
from inference import predict
from utils import UserError
from visualize.panels import load_font, named

from ..conftest import SMALL


@pytest.fixture
def run(script, data):
    """A run `mine` of one epoch; returns the settings of the page."""
    result = script("train.py", "--id", "mine", *SMALL, *data.flags, "--num_epoch", "1")
    assert result.code == 0, result.err
    return argparse.Namespace(
        ckpt="./ckpt", suffix="_best.pth", device="cpu", amp="off", id=None, imgSize=384
    )


@pytest.mark.slow
def test_a_photo_gets_the_labels_of_test_py(script, data, run, tmp_path):
    path = data.picture("val/0")
    settings = ["--imgSize", -1, "--device", "cpu", "--amp", "off"]
    result = script("test.py", "--id", "mine", "--test_img", path, *settings)
    assert result.code == 0, result.err
    photo = tmp_path / "photos/0.jpg"
    photo.parent.mkdir()
    photo.write_bytes(path.read_bytes())
    network = Networks(run).load("mine")
    segmented = segment(photo, network, -1, (1.0,))
    for kind, file in (("prediction", segmented.label_map), ("panel", segmented.panel)):
        assert file.read_bytes()
        assert (cv2.imread(f"0_{kind}.png", -1) == cv2.imread(str(file), -1)).all()
    assert sum(share for _, share in segmented.shares) == pytest.approx(1)
    folder = segmented.label_map.parent
    del segmented
    assert not folder.exists()
    assert list(photo.parent.iterdir()) == [photo]


@pytest.mark.slow
def test_all_classes_are_drawn_or_one_alone(data, run):
    path = data.picture("val/0")
    model, classes = Networks(run).load("mine")
    segmented = segment(path, (model, classes), -1, (1.0,))
    picture = read_picture(path)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None]
    labels = predict(model, images, picture.shape[:2], scales=(1.0,))[0].numpy()
    # A small picture is enlarged, by a whole factor.
    factor = segmented.picture.shape[0] // picture.shape[0]
    assert (segmented.labels == labels.repeat(factor, 0).repeat(factor, 1)).all()
    font = load_font(segmented.labels.shape)
    expected = named(segmented.picture, segmented.labels, classes, font, 0.3)
    assert (draw(segmented, 0.3, None) == np.asarray(expected)).all()

    largest = segmented.shares[0][0]
    alone = draw(segmented, 1.0, largest)
    inside = segmented.labels == largest
    colour = classes.palette[largest + 1]
    assert (alone[inside] == colour).all(axis=1).mean() > 0.5  # but for names and borders
    assert not (alone[~inside] == colour).all(axis=1).any()
    shown = buttons(segmented, largest)
    assert [button["index"] for button in shown] == [i for i, _ in segmented.shares]
    assert [button["alone"] for button in shown] == ["true"] + ["false"] * (len(shown) - 1)


@pytest.mark.slow
def test_runs_come_before_published_networks_and_are_loaded_anew_once_saved(script, data, run):
    networks = Networks(run)
    assert networks.names == ["mine", *PUBLISHED]
    assert networks.is_here("mine") and not networks.is_here(networks.names[1])
    first = networks.load("mine")
    assert networks.load("mine")[0] is first[0]
    weights = Path("ckpt/mine/encoder_best.pth")
    state = torch.load(weights, weights_only=True)
    torch.save({name: value * 0 for name, value in state.items()}, weights)
    model, _ = networks.load("mine")
    assert model is not first[0]
    assert not any(p.any() for p in model.encoder.parameters() if p.dim() == 4)
    with pytest.raises(UserError, match="no such run"):
        networks.load("other")
