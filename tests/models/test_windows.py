"""`models/windows.py`: features of large pictures."""

import pytest
import torch
from torch import Tensor, nn

from models import ModelBuilder, SegmentationModel, segmentation
from models.decoders import C1Bilinear
from models.encoder import Encoder
from models.windows import Windows, encode_in_windows, spans


def convolutions(stride: int) -> nn.Sequential:
    """An encoder whose features depend on pixels that are less than 32 away."""
    strides = [2] * stride.bit_length()
    strides[-1] = 1
    layers = [nn.Conv2d(3, 3, 3, s, padding=1) for s in strides]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("size", [(96, 96), (97, 250), (301, 64), (40, 40)])
def test_features_are_those_of_the_whole_picture_if_windows_overlap_enough(
    stride: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    encoder, images = convolutions(stride), torch.randn(2, 3, *size)
    sizes = []

    def encode(window: Tensor) -> list[Tensor]:
        sizes.append(max(window.shape[-2:]))
        return [encoder(window)]

    (features,) = encode_in_windows(encode, images, [stride], Windows(64, 32, stride))
    torch.testing.assert_close(features, encoder(images))
    assert max(sizes) <= 128


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vgg16_dilated8", "resnet34_dilated16", "resnet50_dilated8"])
def test_every_encoder_has_as_many_features_in_windows_as_at_once(arch: str) -> None:
    with torch.device("meta"):
        encoder = ModelBuilder.build_encoder(arch, weights="none").eval()
    for size in ((97, 131), (80, 120), (127, 144)):
        images = torch.zeros(1, 3, *size, device="meta")
        maps = encode_in_windows(encoder.maps, images, encoder.strides, Windows(64, 16, 16))
        assert [x.shape for x in maps] == [x.shape for x in encoder.maps(images)]


class CoarseInside(Encoder):
    """A map at a stride of 4 that holds the means of cells of 32 x 32 pixels."""

    channels, strides = (3,), (4,)
    coarsest_stride = 32

    def stages(self) -> list[list[nn.Module]]:
        return [[nn.AvgPool2d(32, ceil_mode=True), nn.UpsamplingNearest2d(scale_factor=8)]]


def test_windows_begin_where_the_coarsest_features_do(monkeypatch) -> None:
    model = SegmentationModel(CoarseInside(), C1Bilinear(5, (3,))).eval()
    images = torch.randint(0, 256, (1, 3, 192, 256), dtype=torch.uint8)
    whole = model(images)
    monkeypatch.setattr(segmentation, "WHOLE_PIXELS", 1)
    monkeypatch.setattr(segmentation, "WINDOW", 100)
    monkeypatch.setattr(segmentation, "OVERLAP", 20)
    torch.testing.assert_close(model(images), whole)


@pytest.mark.parametrize("length", [1, 16, 63, 64, 65, 1000])
def test_spans_are_even_and_cover_everything_once(length: int) -> None:
    pieces = list(spans(length, 64, 16))
    assert [p for start, stop in pieces for p in range(start, stop)] == list(range(length))
    assert all(0 < stop - start <= 64 for start, stop in pieces)
    assert all(start % 16 == 0 for start, _ in pieces)


@pytest.mark.slow
def test_large_pictures_are_encoded_in_windows_but_not_in_training(monkeypatch) -> None:
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    decoder = ModelBuilder.build_decoder("psp_bilinear", encoder.channels, num_class=7)
    model = SegmentationModel(encoder, decoder).eval()
    images = torch.randint(0, 256, (1, 3, 160, 224), dtype=torch.uint8)
    with torch.no_grad():
        whole = model(images)
        monkeypatch.setattr(segmentation, "WHOLE_PIXELS", 128 * 128)
        monkeypatch.setattr(segmentation, "WINDOW", 64)
        monkeypatch.setattr(segmentation, "OVERLAP", 64)
        seen = []
        encoder.conv1.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].shape[-2:].numel())
        )
        windows = model(images)
    assert len(seen) > 1 and max(seen) < 160 * 224
    assert windows.shape == whole.shape
    seen.clear()
    model.train()(images)
    assert seen == [160 * 224]
