import pytest
import torch
from torch.nn import functional as F

from inference import predict, resize, scaled_size
from models import ModelBuilder, SegmentationModel


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
            for x in (images, resize(images.float(), (96, 120)))
        ]
    expected = sum(probabilities).argmax(1)
    assert (predict(model, images, (64, 80), scales=(1.0, 1.5)) == expected).all()


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
    assert resize(stripes, (16, 16)).std() < 10
