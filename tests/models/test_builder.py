import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import DECODERS, ENCODERS, ModelBuilder, ModelError, SegmentationModel
from models.decoders import BilinearDecoder

from .conftest import fill


def shapes(module: torch.nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ENCODERS)
def test_encoder_has_the_reference_state_dict(arch, reference_keys):
    assert shapes(ModelBuilder.build_encoder(arch, weights="none")) == reference_keys[arch]


@pytest.mark.parametrize("fc_dim", [512, 2048, 4096])
@pytest.mark.parametrize("arch", DECODERS)
def test_decoder_has_the_reference_state_dict(arch, fc_dim, reference_keys):
    assert shapes(ModelBuilder.build_decoder(arch, fc_dim)) == reference_keys[f"{arch}@{fc_dim}"]


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
@pytest.mark.parametrize("encoder_arch", ENCODERS)
def test_every_pair_trains_a_step_and_predicts(encoder_arch):
    """Each encoder with each decoder: one picture, whose sides are no multiple of 8."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(encoder_arch, weights="none")
    stride = 16 if encoder_arch.endswith("16") else 8
    images = torch.randint(0, 256, (1, 3, 43, 70), dtype=torch.uint8)
    labels = torch.randint(0, 5, (1, 43, 70), dtype=torch.uint8)
    for decoder_arch in DECODERS:
        decoder = ModelBuilder.build_decoder(decoder_arch, encoder.fc_dim, num_class=5)
        model = SegmentationModel(encoder, decoder)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = [p.detach().clone() for p in decoder.parameters()]
        loss = model(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        assert all((p != b).any() for p, b in zip(decoder.parameters(), before, strict=True))

        with torch.no_grad():
            logits = model.eval()(images)
        assert logits.shape[:2] == (1, 5)
        for have, side in zip(logits.shape[2:], (43, 70), strict=True):
            assert have in (side // stride, -(-side // stride))
        model.train()


@pytest.mark.slow
@pytest.mark.parametrize("encoder_arch", ENCODERS)
def test_the_smallest_picture_works(encoder_arch):
    encoder = ModelBuilder.build_encoder(encoder_arch, weights="none").eval()
    with torch.no_grad():
        features = encoder(torch.zeros(1, 3, 32, 32))
    side = 32 // (16 if encoder_arch.endswith("16") else 8)
    assert features.shape == (1, encoder.fc_dim, side, side)


@pytest.mark.parametrize("arch", DECODERS)
def test_decoder_gives_probabilities_of_the_size_asked_for(arch):
    features = torch.rand(2, 512, 5, 7)
    log = ModelBuilder.build_decoder(arch, num_class=3, segSize=24).eval()
    soft = ModelBuilder.build_decoder(arch, num_class=3, use_softmax=True).eval()
    soft.load_state_dict(log.state_dict())
    assert isinstance(log, BilinearDecoder)
    with torch.no_grad():
        assert log(features).shape == (2, 3, 24, 24)
        assert log(features, segSize=9).shape == (2, 3, 9, 9)
        probabilities = soft(features, segSize=(20, 31))
        torch.testing.assert_close(probabilities.log(), log(features, segSize=(20, 31)))
        torch.testing.assert_close(probabilities.sum(1), torch.ones(2, 20, 31))
        upsampled = F.interpolate(log.logits(features), size=(20, 31), mode="bilinear")
        torch.testing.assert_close(probabilities, upsampled.softmax(1))


def test_unknown_architectures_are_refused_with_the_known():
    with pytest.raises(ModelError, match="resnet18.*resnet34_dilated8"):
        ModelBuilder.build_encoder("resnet18")
    with pytest.raises(ModelError, match="unet.*psp_bilinear"):
        ModelBuilder.build_decoder("unet")
    with pytest.raises(ModelError, match="did you mean resnet50_dilated8"):
        ModelBuilder.build_encoder("resnet50_dilate8")


def test_a_width_that_disagrees_is_refused():
    assert ModelBuilder.build_encoder("resnet34_dilated8", 512, "none").fc_dim == 512
    with pytest.raises(ModelError, match="2048.*resnet34_dilated8.*512"):
        ModelBuilder.build_encoder("resnet34_dilated8", 2048, "none")
