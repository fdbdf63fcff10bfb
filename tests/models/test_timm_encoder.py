"""`models/timm_encoder.py`: timm's models as encoders."""

import ast
import copy
import sys
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models import ModelBuilder, ModelError, SegmentationModel
from models.cost import giga_macs
from models.decoders import Decoder
from models.timm_encoder import TimmEncoder, choose_maps, computed_by
from models.windows import Windows, encode_in_windows

from ..conftest import ROOT

# The smallest of each family: convolutions, a transformer; then windows, patches of 14 pixels, and
# pictures that have to be multiples of 160.
SMALL = [
    "timm:test_resnet",
    "timm:test_resnet@8",
    "timm:test_convnext",
    "timm:tf_efficientnet_lite0",
    "timm:mobilenetv4_conv_small",
    "timm:test_vit",
]
ARCHS = [
    *SMALL,
    "timm:swin_tiny_patch4_window7_224",
    "timm:eva02_tiny_patch14_224",
    "timm:test_maxvit",
]
NUM_CLASS = 5


@cache
def built(arch: str) -> TimmEncoder:
    """An encoder with random weights and statistics; not to be changed."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(arch, weights="none")
    assert isinstance(encoder, TimmEncoder)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder.eval()


def decoder_for(encoder: TimmEncoder, arch: str) -> Decoder:
    torch.manual_seed(0)
    return ModelBuilder.build_decoder(arch, encoder.channels, NUM_CLASS)


def pictures(height: int, width: int, num: int = 1) -> Tensor:
    values = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, 3, height, width), dtype=torch.uint8, generator=values)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_maps_are_those_of_timm(arch, tmp_path):
    """With the weights of a file of timm's; those of a ViT go through its last norm."""
    name, _, stride = arch.removeprefix("timm:").partition("@")
    options = {"output_stride": int(stride)} if stride else {}
    whole = timm.create_model(name, **options).eval()
    file = tmp_path / "timm.pth"
    torch.save(whole.state_dict(), file)
    encoder = ModelBuilder.build_encoder(arch, weights=file).eval()
    if encoder.norm or "swin" in name:
        options["dynamic_img_size"] = True
    timms = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file)},
        features_only=True,
        out_indices=encoder.indices,
        **options,
    ).eval()
    x = torch.randn(1, 3, 2 * encoder.grid, encoder.grid)
    with torch.no_grad():
        expected = timms(x)
        if getattr(timms, "output_fmt", "NCHW") == "NHWC":
            expected = [features.permute(0, 3, 1, 2) for features in expected]
        if encoder.norm:
            expected = [whole.norm(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for m in expected]
        maps = encoder.maps(x)
    assert len(maps) == 4
    torch.testing.assert_close(maps, [*expected], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_pictures_of_any_size_have_the_promised_maps(arch):
    encoder = built(arch)
    assert min(encoder.strides) >= 4 and all(a <= b for a, b in pairwise(encoder.strides))
    for height, width in ((32, 32), (61, 93)):
        x = torch.randn(2, 3, height, width)
        with torch.no_grad():
            maps = encoder.maps(x)
            fewer = encoder.maps(x, 2)
        assert [m.shape for m in maps] == [
            (2, dim, -(-height // stride), -(-width // stride))
            for dim, stride in zip(encoder.channels, encoder.strides, strict=True)
        ]
        torch.testing.assert_close(fewer, maps[-2:])


def test_pictures_are_continued_by_their_last_pixels():
    encoder = built("timm:test_convnext")
    x = torch.randn(1, 3, 40, 64)
    continued = torch.cat([x, x[:, :, -1:].expand(-1, -1, 24, -1)], dim=2)
    with torch.no_grad():
        maps, whole = encoder.maps(x), encoder.maps(continued)
    for features, expected in zip(maps, whole, strict=True):
        torch.testing.assert_close(features, expected[:, :, : features.shape[2]])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_networks_have_gradients_and_predict(arch):
    images = pictures(61, 93, num=2)
    labels = images[:, 0] % NUM_CLASS
    for decoder_arch in ("c1_bilinear", "upernet_lite"):
        encoder = copy.deepcopy(built(arch))
        model = SegmentationModel(encoder, decoder_for(encoder, decoder_arch)).train()
        # Nothing is without a gradient: that would raise.
        gradients = torch.autograd.grad(model(images, labels), [*model.parameters()])
        assert all(g.isfinite().all() for g in gradients)
        with torch.no_grad():
            logits = model.eval()(images)
        assert logits.isfinite().all()
        sizes = [-(-n // encoder.strides[model.decoder.position]) for n in (61, 93)]
        assert logits.shape == (2, NUM_CLASS, *sizes)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SMALL)
def test_computing_twice_changes_neither_gradients_nor_statistics_and_remembers_less(arch):
    results, remembered = [], []
    x = torch.randn(2, 3, 64, 64)
    for grad_checkpoint in (False, True):
        encoder = copy.deepcopy(built(arch)).train()
        encoder.grad_checkpoint = grad_checkpoint
        weights = {value.data_ptr() for value in encoder.parameters()}
        kept: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor, kept=kept: kept.update({tensor.data_ptr(): tensor.nbytes}) or tensor,
            lambda tensor: tensor,
        ):
            torch.manual_seed(0)
            maps = encoder.maps(x)
        torch.stack([features.square().mean() for features in maps]).sum().backward()
        gradients = {name: value.grad for name, value in encoder.named_parameters()}
        results.append((maps, gradients, encoder.state_dict()))
        remembered.append(sum(size for at, size in kept.items() if at not in weights))
    torch.testing.assert_close(*results)
    assert remembered[1] < 0.8 * remembered[0]
    assert not any("forward" in vars(module) for module in encoder.modules())


def test_computing_twice_takes_the_same_list_of_inputs():
    """HRNet changes it within a block, RDNet after it."""

    class Changing(nn.Linear):
        def forward(self, maps: list[Tensor]) -> Tensor:
            maps[0] = super().forward(maps[0])
            return (maps[0] * sum(maps)).sum()

    block, encoder = Changing(3, 3), copy.copy(built("timm:test_vit"))
    inputs = [torch.randn(2, 3), torch.randn(2, 3)]
    gradients = []
    for encoder.grad_checkpoint in (False, True):
        maps = [*inputs]
        with computed_by(encoder.compute, block):
            output = block(maps)
        maps.append(torch.randn(2, 3))
        gradients.append(torch.autograd.grad(output, [*block.parameters()]))
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "amp"),
    [
        *((arch, None) for arch in SMALL),
        ("timm:tf_efficientnet_lite0", torch.bfloat16),
        ("timm:test_vit", torch.bfloat16),
    ],
)
def test_a_frozen_network_gives_the_same_output(arch, amp, caplog):
    """EfficientNet's norms are activations as well, and must not be folded."""
    encoder = copy.deepcopy(built(arch))
    model = SegmentationModel(encoder, decoder_for(encoder, "c1_bilinear"), amp).eval()
    images = pictures(61, 93)
    with torch.no_grad():
        expected = model(images).float()
        frozen = model.freeze()
        output = frozen(images).float()
    assert not caplog.messages
    assert (output - expected).norm() / expected.norm() < (0.1 if amp else 1e-4)


@pytest.mark.parametrize("arch", ["timm:test_resnet@8", "timm:test_vit", "timm:test_maxvit"])
def test_large_pictures_have_as_many_features_in_windows_as_at_once(arch):
    encoder = copy.deepcopy(built(arch)).to("meta")
    images = torch.empty(1, 3, 97, 131, device="meta")
    maps = encode_in_windows(encoder.maps, images, encoder.strides, Windows(64, 16, 32))
    assert [x.shape for x in maps] == [x.shape for x in encoder.maps(images)]


def test_multiplications_are_counted():
    """Of a ViT's linear layers, at least, for each of its 16 patches."""
    encoder = built("timm:test_vit")
    linear = [m for m in encoder.model.blocks.modules() if isinstance(m, nn.Linear)]
    least = sum(layer.weight.numel() for layer in linear) * 16 / 1e9
    assert least < giga_macs(encoder, decoder_for(encoder, "c1_bilinear"), 64) < 2 * least


def test_pictures_are_normalised_as_timm_says():
    encoder = built("timm:test_vit")
    assert encoder.mean == (0.5, 0.5, 0.5) == timm.get_pretrained_cfg("test_vit").mean
    model = SegmentationModel(encoder, decoder_for(encoder, "c1_bilinear"))
    assert model.mean.flatten().tolist() == [127.5] * 3


def test_maps_are_the_last_four_or_evenly_spaced():
    assert choose_maps([1, 2, 4, 8, 16, 32]) == [2, 3, 4, 5]
    assert choose_maps([2, 4, 8, 8, 8]) == [1, 2, 3, 4]
    assert choose_maps([8, 16, 32]) == [0, 1, 2]
    assert choose_maps([16] * 12) == [2, 5, 8, 11]
    assert choose_maps([16] * 3) == [0, 1, 2]


@pytest.mark.parametrize("kind", ["own", "timm.pth", "timm.safetensors"])
def test_weights_may_be_from_a_file_of_ours_or_of_timms(kind, tmp_path, caplog):
    file = tmp_path / kind
    if kind == "own":
        state = built("timm:test_vit").state_dict()
        torch.save(state, file)
    else:
        whole = timm.create_model("test_vit").state_dict()
        (save_file if file.suffix == ".safetensors" else torch.save)(whole, file)
        state = {f"model.{key}": whole[key] for key in whole if not key.startswith("head.")}
    with caplog.at_level("INFO"):
        encoder = ModelBuilder.build_encoder("timm:test_vit", weights=file)
    torch.testing.assert_close(dict(encoder.state_dict()), dict(state), rtol=0, atol=0)
    assert encoder.weights_source == str(file)
    assert ("an encoder has no use: head.bias, head.weight" in caplog.text) == (kind != "own")


def test_a_file_that_timm_converts_is_converted(tmp_path):
    """Old files of ViTs have the embedding of patches as a matrix."""
    whole = timm.create_model("test_vit").state_dict()
    embedding = whole["patch_embed.proj.weight"]
    torch.save(whole | {"patch_embed.proj.weight": embedding.flatten(1)}, tmp_path / "old.pth")
    encoder = ModelBuilder.build_encoder("timm:test_vit", weights=tmp_path / "old.pth")
    expected = {f"model.{key}": whole[key] for key in whole if not key.startswith("head.")}
    torch.testing.assert_close(dict(encoder.state_dict()), expected, rtol=0, atol=0)
    assert not any(isinstance(value, dict) for value in encoder.model.pretrained_cfg.values())


def test_a_file_of_another_model_is_refused(tmp_path):
    file = tmp_path / "other.pth"
    torch.save(timm.create_model("test_vit2").state_dict(), file)
    with pytest.raises(ModelError, match=r"other\.pth does not fit timm:test_vit: model\."):
        ModelBuilder.build_encoder("timm:test_vit", weights=file)
    (tmp_path / "x.safetensors").write_text("damaged")
    with pytest.raises(ModelError, match="x.safetensors is not a whole"):
        ModelBuilder.build_encoder("timm:test_vit", weights=tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("arch", "reason"),
    [
        ("rasnet18", "has no model 'rasnet18'; did you mean timm:resnet18?"),
        ("test_vit.of_nobody", "has no model 'test_vit.of_nobody'; did you mean timm:test_vit"),
        ("hf-hub:timm/test_vit", "has no model 'hf-hub:timm/test_vit'"),
        ("test_vit@8", "cannot have such a stride .*; leave out @"),
        ("test_resnet@5", "timm:test_resnet@5: this model cannot have such a stride"),
        ("test_resnet@eight", "comes a stride in pixels, as in timm:test_resnet@8"),
        ("test_vit_relpos", r"any size: Input height \(32\) doesn't match model \(160\)"),
        ("legacy_xception", r"any size: maps of 32 x 32 pixels .* \[\(128, 7, 7\)"),
    ],
)
def test_what_cannot_be_an_encoder_is_refused_with_the_reason(arch, reason):
    with pytest.raises(ModelError, match=reason) as error:
        ModelBuilder.build_encoder(f"timm:{arch}", weights="none")
    assert "\n" not in str(error.value)


def test_the_width_and_foreign_weights_are_checked():
    with pytest.raises(ModelError, match="fc_dim 5 does not fit timm:test_vit, whose .* 64"):
        ModelBuilder.build_encoder("timm:test_vit", 5, "none")
    with pytest.raises(ModelError, match="--weights_encoder places365 is not for timm:test_vit"):
        ModelBuilder.build_encoder("timm:test_vit", weights="places365")


def test_without_timm_the_way_out_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match="timm:test_vit needs timm: pip install timm"):
        ModelBuilder.build_encoder("timm:test_vit")


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """Neither a connection nor weights from an earlier time; returns the calls for a connection."""
    calls = []

    def fail(*args, **_):
        calls.append(args)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.getaddrinfo", fail)
    return calls


def test_without_a_connection_the_way_out_is_told_at_once(no_hub):
    with pytest.raises(ModelError, match="no weights for timm:test_vit.*none.* or a file") as error:
        ModelBuilder.build_encoder("timm:test_vit")
    assert "https://huggingface.co/timm/test_vit.r160_in1k: " in str(error.value)
    assert "\n" not in str(error.value)
    assert len(no_hub) <= 2  # the hub's own download would ask a dozen times


def test_nothing_is_downloaded_where_weights_are_at_hand(no_hub, tmp_path):
    encoder = ModelBuilder.build_encoder("timm:test_vit", weights="none")
    assert encoder.weights_source == "none"
    torch.save(encoder.state_dict(), tmp_path / "own.pth")
    ModelBuilder.build_encoder("timm:test_vit", weights=Path(tmp_path / "own.pth"))
    assert not no_hub


def test_weights_that_are_at_hand_need_no_connection(no_hub, monkeypatch, tmp_path):
    """As the hub keeps them; `weights_source` names them in full."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    whole = timm.create_model("test_vit").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: whole)
    encoder = ModelBuilder.build_encoder("timm:test_vit")
    assert encoder.weights_source == "timm:test_vit.r160_in1k" and not no_hub
    torch.testing.assert_close(
        encoder.model.patch_embed.proj.weight, whole["patch_embed.proj.weight"]
    )


def test_the_network_classes_load_without_timm():
    optional = {"timm", "safetensors", "huggingface_hub"}
    for file in (ROOT / "models").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:  # not within functions
            names = [alias.name for alias in getattr(node, "names", [])]
            names.append(getattr(node, "module", None) or "")
            assert not {name.split(".")[0] for name in names} & optional, file


@pytest.mark.parametrize(("arch", "has"), [("timm:test_vit", True), ("timm:vgg11", False)])
def test_drop_path_is_timms_or_refused(arch, has):
    if not has:
        with pytest.raises(ModelError, match="timm:vgg11 has no drop path"):
            ModelBuilder.build_encoder(arch, weights="none", drop_path=0.5)
        return
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(arch, weights="none", drop_path=0.5)
    plain = ModelBuilder.build_encoder(arch, weights="none")
    plain.load_state_dict(encoder.state_dict())
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(encoder.eval()(x), plain.eval()(x))
    assert not torch.equal(encoder.train()(x), encoder(x))
    assert torch.equal(plain.train()(x), plain(x))
