"""The networks of the later reference against `mit-semseg` itself, with the same weights."""

import pytest
import torch
from torch import Tensor, nn

from models import ModelBuilder
from models.decoders import Decoder
from models.encoder import Encoder

from .conftest import fill

pytest.importorskip("mit_semseg", reason="pip install --no-deps mit-semseg")
from mit_semseg.models import hrnet, mobilenet, models, resnet

OF_SYNC_BN = ("_tmp_running_mean", "_tmp_running_var", "_running_iter")


def strided(depth: int) -> nn.Module:
    return models.Resnet(getattr(resnet, f"resnet{depth}")(pretrained=False))


def dilated(depth: int) -> nn.Module:
    return models.ResnetDilated(getattr(resnet, f"resnet{depth}")(pretrained=False))


ENCODERS = {
    "resnet18": lambda: strided(18),
    "resnet18dilated": lambda: dilated(18),
    "resnet50": lambda: strided(50),
    "resnet50dilated": lambda: dilated(50),
    "resnet101": lambda: strided(101),
    "resnet101dilated": lambda: dilated(101),
    "mobilenetv2dilated": lambda: models.MobileNetV2Dilated(mobilenet.mobilenetv2()),
    "hrnetv2": lambda: hrnet.HRNetV2(n_class=1),
}
DECODERS = {
    "c1": models.C1,
    "c1_deepsup": models.C1DeepSup,
    "ppm": models.PPM,
    "ppm_deepsup": models.PPMDeepsup,
}
PAIRS = {
    "resnet18": ["upernet", "upernet_lite"],
    "resnet18dilated": ["c1", "c1_deepsup", "ppm", "ppm_deepsup"],
    "resnet50": ["upernet"],
    "hrnetv2": ["c1"],
}


def decoder_of(arch: str, encoder: Encoder) -> nn.Module:
    """Theirs, with log-probabilities at the size of the logits, as in training."""
    if arch in DECODERS:
        return DECODERS[arch](fc_dim=encoder.fc_dim)
    dim = 256 if arch == "upernet_lite" else 512
    channels = tuple(encoder.channels)
    return models.UPerNet(fc_dim=encoder.fc_dim, fpn_inplanes=channels, fpn_dim=dim)


def with_weights_of(ours: nn.Module, theirs: nn.Module) -> None:
    """Load their weights strictly, but for buffers that only their training needs."""
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith(OF_SYNC_BN)}
    ours.load_state_dict(state)
    ours.eval()


@pytest.mark.slow
@pytest.mark.parametrize("arch", ENCODERS)
@torch.no_grad()
def test_networks_compute_what_theirs_do(arch: str) -> None:
    theirs = fill(ENCODERS[arch]())
    ours = ModelBuilder.build_encoder(arch, weights="none")
    with_weights_of(ours, theirs)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps, expected = ours.maps(images), theirs(images, return_feature_maps=True)
    for features, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(features, reference, rtol=1e-4, atol=1e-4)
    for decoder in PAIRS.get(arch, []):
        compare_decoders(decoder, ours, expected)


def compare_decoders(arch: str, encoder: Encoder, maps: list[Tensor]) -> None:
    """Logits, their auxiliary ones, and probabilities at another size."""
    theirs = fill(decoder_of(arch, encoder))
    ours = ModelBuilder.build_decoder(arch, encoder.channels)
    assert isinstance(ours, Decoder)
    with_weights_of(ours, theirs)
    expected = theirs(maps)
    found = [ours.logits(maps), ours.auxiliary_logits(maps)]
    expected = expected if isinstance(expected, tuple) else (expected, None)
    for logits, log_p in zip(found, expected, strict=True):
        assert (logits is None) == (log_p is None)
        if logits is not None:
            torch.testing.assert_close(logits.log_softmax(1), log_p, rtol=1e-4, atol=1e-3)
    ours.use_softmax = theirs.use_softmax = True
    probabilities = theirs(maps, segSize=(51, 70))
    torch.testing.assert_close(ours(maps, (51, 70)), probabilities, rtol=0, atol=1e-4)
