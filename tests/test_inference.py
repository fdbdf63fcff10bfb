from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.images import read_picture
from inference import (
    REFERENCE_LONGEST,
    REFERENCE_SCALES,
    REFERENCE_SIDE,
    predict,
    predict_as_reference,
    resize,
    resize_as_reference,
    scaled_size,
)
from models import ModelBuilder, SegmentationModel
from models.decoders import C1Bilinear
from models.encoder import Encoder


@pytest.fixture(scope="module")
def model() -> SegmentationModel:
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    return SegmentationModel(encoder, ModelBuilder.build_decoder(num_class=5)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 80), dtype=torch.uint8)


@pytest.mark.slow
def test_one_scale_is_the_argmax_of_the_upsampled_logits(model, images):
    with torch.no_grad():
        expected = F.interpolate(model(images), (50, 70), mode="bilinear").argmax(1)
    assert (predict(model, images, (50, 70), scales=(1.0,)) == expected).all()


def test_several_scales_are_averaged_as_probabilities(model, images):
    with torch.no_grad():
        probabilities = [
            F.interpolate(model(x), (64, 80), mode="bilinear").softmax(1)
            for x in (images, resize(images.float(), 128))
        ]
    expected = sum(probabilities).argmax(1)
    assert (predict(model, images, (64, 80), scales=(1.0, 2.0)) == expected).all()


def test_flipping_averages_over_the_mirrored_picture(model, images):
    with torch.no_grad():
        probabilities = [
            F.interpolate(z, (64, 80), mode="bilinear").softmax(1)
            for z in (model(images), model(images.flip(-1)).flip(-1))
        ]
    labels = predict(model, images, (64, 80), scales=(1.0,), flip=True)
    assert (labels == sum(probabilities).argmax(1)).float().mean() > 0.999
    mirrored = predict(model, images.flip(-1), (64, 80), scales=(0.75, 1.0), flip=True)
    straight = predict(model, images, (64, 80), scales=(0.75, 1.0), flip=True)
    assert (mirrored.flip(-1) == straight).float().mean() > 0.999


@pytest.mark.slow
def test_the_short_side_sets_the_size_the_network_sees(model, images):
    seen = []
    hook = model.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape[-2:])))
    predict(model, images, (64, 80), short_side=128, scales=(0.5, 1.0))
    predict(model, images, (64, 80), short_side=-1, scales=(0.25, 1.0))
    hook.remove()
    assert seen == [(64, 80), (128, 160), (32, 40), (64, 80)]


def test_pictures_of_a_few_pixels_are_segmented(model):
    images = torch.randint(0, 256, (1, 3, 5, 9), dtype=torch.uint8)
    assert predict(model, images, (5, 9)).shape == (1, 5, 9)


def test_sizes_keep_their_proportion():
    assert scaled_size((480, 640), 384) == (384, 512)
    assert scaled_size((640, 480), 384) == (512, 384)
    assert scaled_size((7, 9), -1) == (7, 9)


def test_shrinking_a_picture_does_not_alias():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::2] = 255
    assert resize(stripes, 16).std() < 10


@pytest.mark.parametrize("height", [140, 141, 142])
def test_half_a_side_is_a_half_whatever_it_is_rounded_to(height):
    torch.manual_seed(0)
    images = torch.rand(1, 3, height, height)
    size = (round(height / 2), round(height / 2))
    plain = F.interpolate(images, size, mode="bilinear")
    torch.testing.assert_close(resize(images, height * 0.5), plain)
    assert (resize(images, height * 0.499) - plain).abs().max() > 0.01


class Cells(Encoder):
    """The mean colour of each cell of 8 x 8 pixels: features that depend on nothing around."""

    channels, strides = (3,), (8,)

    def stages(self) -> list[list[nn.Module]]:
        return [[nn.AvgPool2d(8, ceil_mode=True)]]


@pytest.mark.parametrize("cut", range(8))
def test_cutting_pixels_off_a_picture_changes_no_label_of_the_others(cut):
    torch.manual_seed(0)
    model = SegmentationModel(Cells(), C1Bilinear(6, (3,))).eval()
    cells = torch.randint(0, 256, (1, 3, 6, 9), dtype=torch.uint8)
    images = cells.repeat_interleave(8, 2).repeat_interleave(8, 3)
    whole = predict(model, images, (48, 72), scales=(1.0,))
    for scales in ((1.0,), (1.0, 1.0)):
        part = images[..., : 48 - cut, : 72 - cut]
        labels = predict(model, part, part.shape[-2:], scales=scales)
        assert (labels == whole[:, : 48 - cut, : 72 - cut]).all()


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_loss_and_decoder_know_the_extent_of_the_picture(cut):
    torch.manual_seed(0)
    model = SegmentationModel(Cells(), C1Bilinear(6, (3,))).eval()
    images = torch.randint(0, 256, (2, 3, 48 - cut, 72), dtype=torch.uint8)
    labels = torch.randint(0, 6, (2, 2 * (48 - cut), 144))
    extents = model.encoder.extents(images)
    assert extents == [((48 - cut) / 8, 9)]
    log_p = model.decoder(model.maps(images), labels.shape[-2:], extents)
    torch.testing.assert_close(model(images, labels), F.nll_loss(log_p, labels))


SIDES = [round(REFERENCE_SIDE * scale) for scale in REFERENCE_SCALES]
# Landscape and portrait, small and large, and so long that the long side decides.
SIZES = [(64, 80), (80, 64), (300, 300), (299, 401), (512, 683), (683, 512), (1201, 801)]
SIZES += [(200, 1999), (1500, 300), (33, 47)]


def test_the_references_sizes_are_those_of_its_evaluation():
    assert SIDES == [300, 375, 450, 525, 600]


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_pictures_are_read_and_scaled_as_the_reference_does(size, tmp_path):
    """Against its own data set, to the last bit."""
    dataset = pytest.importorskip(
        "mit_semseg.dataset", reason="mit-semseg, the reference, is not installed"
    )
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "x.jpg"), cv2.resize(small, size[::-1]))
    cv2.imwrite(str(tmp_path / "label.png"), np.ones(size, np.uint8))
    record = {"fpath_img": "x.jpg", "fpath_segm": "label.png"}
    picture = torch.from_numpy(read_picture(tmp_path / "x.jpg")).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (Encoder.mean, Encoder.std))
    for divisor in (8, 32):
        options = SimpleNamespace(
            imgSizes=SIDES, imgMaxSize=REFERENCE_LONGEST, padding_constant=divisor
        )
        item = dataset.ValDataset(str(tmp_path), [record], options)[0]
        for side, expected in zip(SIDES, item["img_data"], strict=True):
            seen = resize_as_reference(picture, side, divisor)
            assert torch.equal(seen.float(), ((expected * std + mean) * 255).round())
        assert item["seg_label"].shape[1:] == size  # scored at the label's own size


@pytest.mark.parametrize(
    ("arch", "stride"),
    [("resnet18dilated", 8), ("mobilenetv2dilated", 8), ("resnet18", 32), ("hrnetv2", 32)],
)
def test_sides_are_multiples_of_an_encoders_coarsest_stride(arch, stride):
    with torch.device("meta"):
        assert ModelBuilder.build_encoder(arch, weights="none").coarsest_stride == stride


def test_predicting_as_the_reference_averages_probabilities_over_its_sizes():
    torch.manual_seed(0)
    model = SegmentationModel(Cells(), C1Bilinear(6, (3,))).eval()
    images = torch.randint(0, 256, (2, 3, 50, 70), dtype=torch.uint8)
    seen = [resize_as_reference(images, side, 8).float() for side in (40, 60)]
    assert [tuple(x.shape[-2:]) for x in seen] == [(40, 56), (64, 88)]
    with torch.no_grad():
        probabilities = [
            F.interpolate(model(x), (50, 70), mode="bilinear").softmax(1) for x in seen
        ]
    labels = predict_as_reference(model, images, (50, 70), 60, (2 / 3, 1.0))
    assert (labels == sum(probabilities).argmax(1)).all()
