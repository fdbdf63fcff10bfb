import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import DECODERS, ENCODERS, ModelBuilder, ModelError, SegmentationModel
from models.builder import MIN_MAPS
from models.decoders import Decoder
from models.encoder import Encoder

from ..conftest import ROOT
from .conftest import fill


def encoder_on_meta(arch: str) -> Encoder:
    with torch.device("meta"):
        return ModelBuilder.build_encoder(arch, weights="none")


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.parametrize("arch", ENCODERS)
def test_encoder_has_the_reference_state_dict(arch, reference_keys):
    name = {"resnet34": "resnet34_dilated16"}.get(arch, arch)  # dilation changes no shape
    assert shapes(encoder_on_meta(arch)) == reference_keys[name]


def test_decoders_have_the_reference_state_dicts(reference_keys):
    seen = set()
    for name, expected in reference_keys.items():
        arch, at, of = name.partition("@")
        if at:
            channels = int(of) if of.isdecimal() else encoder_on_meta(of).channels
            assert shapes(ModelBuilder.build_decoder(arch, channels)) == expected
            seen.add(arch)
    assert seen == {*DECODERS} - {"fpn"}  # which no reference has


def test_the_readme_counts_them():
    assert f"of {len(ENCODERS)} and {len(DECODERS)} |" in (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_encoder_gives_the_reference_output(reference_outputs):
    encoder = fill(ModelBuilder().build_encoder("resnet34_dilated8", weights="none"))
    images = np.random.default_rng(1).standard_normal((1, 3, 97, 130))
    with torch.no_grad():
        features = encoder(torch.as_tensor(images, dtype=torch.float32))
    np.testing.assert_allclose(features[:, ::16], reference_outputs["resnet34_dilated8"], atol=1e-4)


@pytest.mark.parametrize(
    ("arch", "kind"), [("c1_bilinear", "log"), ("psp_bilinear", "log"), ("psp_bilinear", "soft")]
)
def test_decoder_gives_the_reference_output(arch, kind, reference_outputs):
    decoder = fill(ModelBuilder().build_decoder(arch, use_softmax=kind == "soft"))
    features = np.abs(np.random.default_rng(512).standard_normal((1, 512, 13, 17)))
    with torch.no_grad():
        output = decoder(torch.as_tensor(features, dtype=torch.float32), segSize=(97, 130))
    np.testing.assert_allclose(
        output[:, ::10, ::5, ::5], reference_outputs[f"{arch}@512/{kind}"], atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder_arch", "decoder_arch"),
    [("mobilenetv2dilated", "c1_deepsup"), ("resnet50dilated", "ppm_deepsup")],
)
def test_pairs_of_the_later_reference_give_its_outputs(
    encoder_arch, decoder_arch, reference_outputs
):
    images = np.random.default_rng(1).standard_normal((1, 3, 96, 128))
    encoder = fill(ModelBuilder.build_encoder(encoder_arch, weights="none"))
    decoder = fill(ModelBuilder.build_decoder(decoder_arch, encoder.channels, use_softmax=True))
    with torch.no_grad():
        maps = encoder.maps(torch.as_tensor(images, dtype=torch.float32))
        probabilities = decoder(maps, (96, 128))
        auxiliary = decoder.auxiliary_logits(maps).log_softmax(1)
    for i, features in enumerate(maps):
        expected = reference_outputs[f"{encoder_arch}/map{i}"]
        step = max(1, features.shape[1] // 32)
        np.testing.assert_allclose(features[:, ::step], expected, atol=1e-4)
    pair = f"{encoder_arch}+{decoder_arch}"
    expected = reference_outputs[f"{pair}/probabilities"]
    np.testing.assert_allclose(probabilities[:, ::5, ::4, ::4], expected, atol=1e-4)
    np.testing.assert_allclose(
        auxiliary[:, ::5], reference_outputs[f"{pair}/deepsup_log"], atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("encoder_arch", ENCODERS)
def test_every_pair_has_gradients_and_predicts(encoder_arch):
    """Each encoder with each decoder: one picture, whose sides are no multiple of 8."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(encoder_arch, weights="none")
    images = torch.randint(0, 256, (1, 3, 35, 42), dtype=torch.uint8)
    labels = torch.randint(0, 5, (1, 35, 42), dtype=torch.uint8)
    for decoder_arch in DECODERS:
        if MIN_MAPS.get(decoder_arch, 1) > len(encoder.channels):
            with pytest.raises(ModelError, match=f"{decoder_arch} needs 2 maps.*c1_bilinear"):
                ModelBuilder.build_decoder(decoder_arch, encoder.channels, num_class=5)
            continue
        decoder = ModelBuilder.build_decoder(decoder_arch, encoder.channels, num_class=5)
        model = SegmentationModel(encoder, decoder).train()
        # Of the encoder's gradients only the last is taken: it passes through all others.
        weights = [*decoder.parameters(), next(encoder.parameters())]
        gradients = torch.autograd.grad(model(images, labels), weights)
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)

        with torch.no_grad():
            logits = model.eval()(images)
        assert logits.shape[:2] == (1, 5)
        stride = encoder.strides[decoder.position]
        for have, side in zip(logits.shape[2:], (35, 42), strict=True):
            assert have in (side // stride, -(-side // stride))


@pytest.mark.slow
@pytest.mark.parametrize("encoder_arch", ENCODERS)
def test_the_smallest_picture_works(encoder_arch):
    encoder = ModelBuilder.build_encoder(encoder_arch, weights="none").eval()
    with torch.no_grad():
        maps = encoder.maps(torch.zeros(1, 3, 32, 32))
    expected = zip(encoder.channels, encoder.strides, strict=True)
    assert [x.shape for x in maps] == [(1, c, 32 // s, 32 // s) for c, s in expected]


@pytest.mark.parametrize("arch", ["c1_bilinear", "psp_bilinear", "c1", "ppm"])
def test_decoder_gives_probabilities_of_the_size_asked_for(arch):
    features = torch.rand(2, 512, 5, 7)
    log = ModelBuilder.build_decoder(arch, num_class=3, segSize=24).eval()
    soft = ModelBuilder.build_decoder(arch, num_class=3, use_softmax=True).eval()
    soft.load_state_dict(log.state_dict())
    assert isinstance(log, Decoder)
    with torch.no_grad():
        assert log(features).shape == (2, 3, 24, 24)
        assert log(features, segSize=9).shape == (2, 3, 9, 9)
        probabilities = soft(features, segSize=(20, 31))
        torch.testing.assert_close(probabilities.log(), log(features, segSize=(20, 31)))
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 20, 31))
        upsampled = F.interpolate(log.logits([features]), size=(20, 31), mode="bilinear")
        torch.testing.assert_close(probabilities, upsampled.softmax(1))


def test_unknown_architectures_are_refused_with_the_known():
    with pytest.raises(ModelError, match="resnet19.*resnet34_dilated8"):
        ModelBuilder.build_encoder("resnet19")
    with pytest.raises(ModelError, match="unet.*psp_bilinear"):
        ModelBuilder.build_decoder("unet")
    with pytest.raises(ModelError, match="did you mean resnet50_dilated8"):
        ModelBuilder.build_encoder("resnet50_dilate8")


def test_a_width_that_disagrees_is_refused():
    assert ModelBuilder.build_encoder("resnet34_dilated8", 512, "none").fc_dim == 512
    with pytest.raises(ModelError, match="2048.*resnet34_dilated8.*512"):
        ModelBuilder.build_encoder("resnet34_dilated8", 2048, "none")
