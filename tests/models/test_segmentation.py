import copy
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import ModelBuilder, SegmentationModel
from models.decoders import C1Bilinear
from models.encoder import Encoder
from models.loss import CrossEntropy, upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax

from ..conftest import ROOT
from .conftest import fill


class Pictures(Encoder):
    """An encoder that hands on what it gets."""

    channels, strides = (3,), (1,)

    def stages(self):
        return [[nn.Identity()]]


def test_pictures_are_normalised_on_the_way_in():
    model = SegmentationModel(Pictures(), C1Bilinear(3, (3,)))
    model.decoder.conv_last.weight.data = torch.eye(3).view(3, 3, 1, 1)
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    torch.testing.assert_close(model(images), (images / 255 - mean) / std)


def test_labels_turn_the_logits_into_the_loss():
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    model = SegmentationModel(encoder, ModelBuilder.build_decoder(num_class=7)).eval()
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    labels = torch.randint(0, 7, (2, 64, 48), dtype=torch.uint8)
    loss, logits = model(images, labels), model(images)
    assert loss.shape == () and logits.shape == (2, 7, 4, 3)
    torch.testing.assert_close(loss, upsample_cross_entropy(logits, labels))
    weight = torch.rand(7)
    criterion = CrossEntropy(weight)
    weighted = SegmentationModel(model.encoder, model.decoder, loss=criterion).eval()
    expected = upsample_cross_entropy(logits, labels, weight=weight)
    torch.testing.assert_close(weighted(images, labels), expected)
    assert abs(expected - loss) > 1e-3 and weighted.state_dict().keys() == model.state_dict().keys()


def test_half_precision_changes_the_logits_by_rounding_only():
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    decoder = ModelBuilder.build_decoder(num_class=7)
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    exact = SegmentationModel(encoder, decoder).eval()(images)
    half = SegmentationModel(encoder, decoder, amp=torch.bfloat16).eval()(images)
    assert exact.dtype == torch.float32 and half.dtype == torch.bfloat16
    assert 0 < (half - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_state_dict_holds_the_two_parts_and_nothing_else():
    encoder = ModelBuilder.build_encoder(weights="none")
    model = SegmentationModel(encoder, ModelBuilder.build_decoder())
    assert {key.split(".")[0] for key in model.state_dict()} == {"encoder", "decoder"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "decoder", "kept"),  # BatchNorm of which no convolution is right before it
    [
        ("vgg16_dilated8", "c1_bilinear", 0),
        ("resnet34_dilated8", "psp_bilinear", 0),
        ("resnet50_dilated16", "upernet_lite", 3),
        ("mobilenetv2dilated", "c1_deepsup", 1),
        ("hrnetv2", "c1", 0),
    ],
)
def test_freezing_changes_the_logits_by_rounding_only(encoder, decoder, kept):
    torch.manual_seed(0)
    encoder = fill(ModelBuilder.build_encoder(encoder, weights="none"))
    decoder = fill(ModelBuilder.build_decoder(decoder, encoder.channels, num_class=7))
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    model = SegmentationModel(encoder, decoder).eval()
    expected = model(images).detach()
    frozen = model.freeze()
    assert frozen is model
    assert sum(isinstance(module, nn.BatchNorm2d) for module in frozen.modules()) == kept
    atol = 1e-5 * float(expected.abs().max())
    torch.testing.assert_close(frozen(images), expected, rtol=1e-3, atol=max(atol, 1e-4))


@pytest.mark.slow
def test_a_frozen_network_holds_its_weights_in_half_precision():
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    model = SegmentationModel(encoder, ModelBuilder.build_decoder(num_class=7), torch.bfloat16)
    images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    expected = model.eval()(images)
    frozen = model.freeze()
    assert {value.dtype for value in frozen.parameters()} == {torch.bfloat16}
    logits = frozen(images)
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.slow
def test_a_compiled_network_computes_the_same_and_its_copies_are_not_compiled():
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    decoder = ModelBuilder.build_decoder("psp_bilinear", encoder.channels, num_class=7)
    model = SegmentationModel(encoder, decoder).eval()
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    labels = torch.randint(-1, 7, (2, 64, 96))
    expected = model(images, labels)
    traced = []

    def backend(graph: torch.fx.GraphModule, _: list) -> torch.fx.GraphModule:
        traced.append(graph)
        return graph

    model.compile(backend=backend)
    torch.testing.assert_close(model(images, labels), expected)
    assert len(traced) == 1  # graph without a break
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    torch.testing.assert_close(copied(images, labels), expected)


def test_importing_the_network_does_not_import_the_compiler():
    code = "import models, sys; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


class SinglePrecision(TorchDispatchMode):
    """A context in which the device gets nothing in double precision; it is torch's "meta"."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            assert not (isinstance(x, Tensor) and x.is_meta and x.dtype == torch.float64), func
        return result


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [
        ("resnet34_dilated8", "psp_bilinear"),
        ("resnet18dilated", "ppm_deepsup"),
        ("hrnetv2", "c1"),
        ("resnet18", "upernet"),
        ("resnet18", "fpn"),
    ],
)
def test_nothing_is_in_double_precision_which_some_gpus_lack_nor_waited_for(encoder, decoder):
    """Apple's have none. A value that the CPU asks for is an error on the device "meta"."""
    encoder = ModelBuilder.build_encoder(encoder, weights="none")
    decoder = ModelBuilder.build_decoder(decoder, encoder.channels, num_class=7)
    loss = CrossEntropy(torch.rand(7), label_smoothing=0.1, ohem_thresh=0.7)
    model = SegmentationModel(encoder, decoder, loss=loss).to("meta")
    images = torch.empty(2, 3, 64, 96, dtype=torch.uint8, device="meta")
    labels = torch.empty(2, 64, 96, dtype=torch.uint8, device="meta")
    with SinglePrecision():
        model.train()(images, labels, count_correct=True)[0].backward()
        model.eval()
        with torch.inference_mode():
            seen = images, images[..., :64]
            logits, extents = [model(x) for x in seen], [model.extent(x) for x in seen]
            upsample_argmax(logits[0], (60, 91), extents[0])
            average_upsampled_probabilities(logits, (60, 91), extents, [False, True])
