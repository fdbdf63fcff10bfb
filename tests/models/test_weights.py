import hashlib
import logging
import pickle
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from models import ModelBuilder, ModelError
from models import initial_weights as tables
from models.initial_weights import (
    InitialWeights,
    convolutional_vgg,
    has_initial_weights,
    initial_weights,
    load_initial_weights,
    stem_of_three,
)
from models.weights import read_state, without

from ..conftest import Malicious, Server, file_of


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A server in the place of the published addresses."""

    def served(row: InitialWeights) -> InitialWeights:
        *_, name = row.url.split("/")
        if "_" in row.arch:  # a ResNet-34, or an architecture of the first reference
            name = f"{re.match(r'[a-z]+[0-9]+', row.arch)[0]}-{row.source}.pth"
        return replace(row, url=f"{server.url}/{name}")

    monkeypatch.setattr(tables, "INITIAL_WEIGHTS", tuple(map(served, tables.INITIAL_WEIGHTS)))
    return server


def imagenet_resnet34() -> dict[str, torch.Tensor]:
    return torchvision.models.resnet34().state_dict()


def places365_resnet34() -> dict[str, torch.Tensor]:
    state = ModelBuilder.build_encoder("resnet34_dilated8", weights="none").state_dict()
    return {**state, "fc.weight": torch.zeros(365, 512), "fc.bias": torch.zeros(365)}


def assert_contains(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    own = module.state_dict()
    for key, value in state.items():
        assert torch.equal(own[key], value), key


@pytest.mark.slow
def test_pretrained_means_places365_for_a_resnet(server):
    state = places365_resnet34()
    server.files["resnet34-places365.pth"] = file_of(state)
    encoder = ModelBuilder.build_encoder("resnet34_dilated8")
    assert encoder.weights_source == "places365"
    assert_contains(encoder, {k: v for k, v in state.items() if not k.startswith("fc.")})


@pytest.mark.slow
def test_a_download_is_kept_and_not_repeated(server):
    server.files["resnet34-places365.pth"] = file_of(places365_resnet34())
    for _ in range(2):
        ModelBuilder.build_encoder("resnet34_dilated16", weights="places365")
    assert server.requests == ["/resnet34-places365.pth"]
    assert [path.name for path in Path("pretrained").iterdir()] == ["resnet34-places365.pth"]


@pytest.mark.slow
def test_a_dead_places365_address_falls_back_to_imagenet_with_one_loud_warning(server, caplog):
    state = imagenet_resnet34()
    server.files["resnet34-imagenet.pth"] = file_of(state)
    with caplog.at_level(logging.WARNING):
        encoder = ModelBuilder.build_encoder("resnet34_dilated8")
    assert encoder.weights_source == "imagenet"
    assert_contains(encoder, {k: v for k, v in state.items() if k.startswith("layer")})
    assert len(caplog.records) == 1
    assert "WARNING" in caplog.text and "404" in caplog.text and "imagenet" in caplog.text


@pytest.mark.slow
def test_a_damaged_file_in_the_place_of_a_download_is_an_error_and_no_reason_to_fall_back(server):
    server.files["resnet34-imagenet.pth"] = file_of(imagenet_resnet34())
    Path("pretrained").mkdir()
    Path("pretrained/resnet34-places365.pth").write_text("half a download")
    with pytest.raises(ModelError, match="pretrained/resnet34-places365.pth is not a whole"):
        ModelBuilder.build_encoder("resnet34_dilated8")


@pytest.mark.slow
@pytest.mark.parametrize("net", ["vgg16", "resnet50"])
def test_a_foreign_file_in_the_place_of_a_download_is_an_error(net, server):
    Path("pretrained").mkdir()
    Path(f"pretrained/{net}-imagenet.pth").write_bytes(file_of({"weight": torch.ones(3)}))
    with pytest.raises(ModelError, match=f"{net}-imagenet.pth does not fit {net}"):
        ModelBuilder.build_encoder(f"{net}_dilated8", weights="imagenet")


@pytest.mark.slow
def test_checkpoints_from_before_batchnorm_counted_its_batches_load(tmp_path):
    torch.manual_seed(0)
    state = ModelBuilder.build_encoder("resnet34_dilated8", weights="none").state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    encoder = ModelBuilder.build_encoder("resnet34_dilated8", weights=str(tmp_path / "old.pth"))
    assert_contains(encoder, state)


@pytest.mark.slow
def test_weights_named_outright_never_fall_back(server):
    server.files["resnet34-imagenet.pth"] = file_of(imagenet_resnet34())
    with pytest.raises(ModelError, match="resnet34-places365.pth"):
        ModelBuilder.build_encoder("resnet34_dilated8", weights="places365")


def test_without_any_address_one_line_lists_the_choices(server):
    with pytest.raises(ModelError) as error:
        ModelBuilder.build_encoder("resnet50_dilated8")
    message = str(error.value)
    assert "\n" not in message
    assert all(word in message for word in ("none", "places365", "imagenet", "file"))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 1000, -1000])
def test_a_download_cut_short_leaves_nothing(server, kept):
    server.files["resnet34-imagenet.pth"] = file_of(imagenet_resnet34())
    server.cut_after = kept
    with pytest.raises(ModelError, match="resnet34-imagenet.pth"):
        ModelBuilder.build_encoder("resnet34_dilated8", weights="imagenet")
    assert not Path("pretrained").exists()


def test_a_web_page_in_the_place_of_weights_is_not_kept(server):
    server.files["resnet34-imagenet.pth"] = b"<html>We have moved</html>"
    with pytest.raises(ModelError, match="not a whole PyTorch weights file"):
        ModelBuilder.build_encoder("resnet34_dilated8", weights="imagenet")
    assert not Path("pretrained").exists()


@pytest.mark.slow
def test_vgg_has_no_places365_weights(server):
    with pytest.raises(
        ModelError, match="no places365 weights for vgg16_dilated8; there are: imagenet"
    ):
        ModelBuilder.build_encoder("vgg16_dilated8", weights="places365")


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_the_fully_connected_layers_of_vgg_become_convolutions(name):
    with torch.device("meta"):
        encoder = ModelBuilder.build_encoder(f"{name}_dilated8", weights="none")
        theirs = getattr(torchvision.models, name)().state_dict()
    numbered = {
        key: torch.tensor(float(i)).expand(value.shape)
        for i, (key, value) in enumerate(theirs.items())
    }
    position = torch.arange(25088.0).expand(4096, -1)
    numbered["classifier.0.weight"] = position
    state = convolutional_vgg(encoder, numbered)
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }
    # Layers in the order of the network; what was flattened channel by channel is unfolded again.
    order = [value.flatten()[0].item() for key, value in state.items() if "conv6.weight" not in key]
    assert order == sorted(order)
    assert state["conv6.weight"][0, 3, 2, 1] == 3 * 49 + 2 * 7 + 1


@pytest.mark.slow
def test_a_file_of_ones_own_is_loaded_and_named_as_the_source(tmp_path):
    state = ModelBuilder.build_encoder("resnet34_dilated8", weights="none").state_dict()
    path = tmp_path / "mine.pth"
    torch.save(state, path)
    encoder = ModelBuilder.build_encoder("resnet34_dilated8", weights=str(path))
    assert encoder.weights_source == str(path)
    assert_contains(encoder, state)


def test_a_file_of_another_network_is_refused_with_the_first_difference(tmp_path):
    path = tmp_path / "decoder.pth"
    torch.save(ModelBuilder.build_decoder(num_class=11).state_dict(), path)
    with pytest.raises(ModelError, match=r"decoder.pth .*150 classes.*\(11, 512, 1, 1\).*\(150,"):
        ModelBuilder.build_decoder(num_class=150, weights=str(path))
    with pytest.raises(ModelError, match="resnet50_dilated8: conv1.weight is absent there"):
        ModelBuilder.build_encoder("resnet50_dilated8", weights=str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        pickle.dumps({"conv1.weight": Malicious()}),
        file_of({"x": torch.ones(9)})[:-50],
    ],
    ids=["empty", "text", "malicious", "truncated"],
)
def test_a_file_that_holds_no_weights_is_refused_and_runs_nothing(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bad.pth").write_bytes(content)
    with pytest.raises(ModelError, match="bad.pth is not a whole PyTorch weights file"):
        ModelBuilder.build_encoder(weights="bad.pth")
    assert not Path("harm").exists()


def test_a_checkpoint_of_other_things_than_tensors_is_refused(tmp_path):
    path = tmp_path / "state.pth"
    torch.save({"epoch": 3, "state_dict": {}}, path)
    with pytest.raises(ModelError, match="not a state dict"):
        ModelBuilder.build_decoder(weights=str(path))


def test_an_absent_file_is_named():
    with pytest.raises(ModelError, match="nowhere.pth: no such file"):
        ModelBuilder.build_encoder(weights="nowhere.pth")


def sources(arch: str) -> list[str]:
    return [row.url.rsplit("/", 1)[-1] for row in initial_weights(arch)]


def test_each_encoder_has_its_sources_in_order():
    for arch in ("resnet50", "resnet50dilated"):
        assert sources(arch) == ["resnet50-imagenet.pth", "gluon_resnet50_v1s-1762acc0.pth"]
    assert sources("resnet18dilated") == ["resnet18-imagenet.pth"]
    assert sources("resnet50_dilated8") == ["resnet50-places365.pth", "resnet50-0676ba61.pth"]
    assert sources("mobilenetv2dilated") == ["mobilenet_v2.pth.tar", "mobilenet_v2-b0353104.pth"]
    assert sources("hrnetv2") == ["hrnetv2_w48-imagenet.pth"]


def test_weights_of_the_later_encoders_fill_the_stem_too():
    for arch, filled in (("resnet50dilated", True), ("resnet50_dilated8", False)):
        assert has_initial_weights("bn1", arch, "imagenet") is filled
        assert has_initial_weights("layer1.0.bn1", arch, "imagenet")
        assert has_initial_weights("bn1", arch, "mine.pth")
        assert not has_initial_weights("layer1.0.bn1", arch, "none")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arch"), [("resnet50s", "resnet50"), ("resnet101s", "resnet101")])
def test_timms_networks_have_the_encoders_names_and_their_published_address(name, arch):
    timm = pytest.importorskip("timm", reason="timm, whose networks these are, is not installed")
    with torch.device("meta"):
        encoder = ModelBuilder.build_encoder(arch, weights="none")
        theirs = timm.create_model(name).state_dict()
    state = without(stem_of_three(encoder, theirs), r"fc\.")
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in encoder.state_dict().items()
    }
    published = timm.models.get_pretrained_cfg(f"{name}.gluon_in1k")
    assert initial_weights(arch)[-1].url == published.url
    assert tuple(published.mean) == encoder.mean and tuple(published.std) == encoder.std


@pytest.mark.slow
def test_timms_weights_give_timms_features():
    timm = pytest.importorskip("timm", reason="timm, whose networks these are, is not installed")
    torch.manual_seed(0)
    theirs = timm.create_model("resnet50s").eval()
    encoder = ModelBuilder.build_encoder("resnet50", weights="none").eval()
    state = without(stem_of_three(encoder, theirs.state_dict()), r"fc\.")
    encoder.load_state_dict(state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), theirs.forward_features(images))


def test_torchvisions_mobilenet_serves_where_the_references_address_is_dead(
    server, monkeypatch, caplog
):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().eval()
    content = file_of(theirs.state_dict())
    name = f"mobilenet_v2-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    row = replace(initial_weights("mobilenetv2dilated")[-1], url=f"{server.url}/{name}")
    rows = (*initial_weights("mobilenetv2dilated")[:1], row)
    monkeypatch.setattr(tables, "INITIAL_WEIGHTS", rows)
    server.files[name] = content
    with caplog.at_level(logging.WARNING):
        encoder = ModelBuilder.build_encoder("mobilenetv2dilated").eval()
    assert encoder.weights_source == "imagenet" and len(caplog.records) == 1
    assert "404" in caplog.text and name in caplog.text and "stem" not in caplog.text
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():  # beyond a stride of 8, only the encoder is dilated
        expected = theirs.features[:5](images)
        torch.testing.assert_close(encoder.maps(images)[1], expected)


def test_a_download_whose_hash_is_another_than_its_name_says_is_refused(server):
    server.files["mobilenet_v2-b0353104.pth"] = file_of({"x": torch.ones(3)})
    with pytest.raises(ModelError, match="invalid hash value"):
        ModelBuilder.build_encoder("mobilenetv2dilated")
    assert not Path("pretrained").exists()


@pytest.fixture
def linear() -> nn.Module:
    """A stand-in for an encoder."""
    return nn.Sequential(nn.Linear(3, 4))


@pytest.mark.parametrize(
    ("arch", "head"),
    [
        ("resnet18", "fc.weight"),
        ("hrnetv2", "incre_modules.0.0.conv1.weight"),
        ("hrnetv2", "final_layer.0.bias"),
        ("mobilenetv2dilated", "features.18.0.weight"),
        ("mobilenetv2dilated", "classifier.1.weight"),
    ],
)
def test_the_classifier_of_a_published_file_is_left_out_and_nothing_else(
    arch, head, linear, server
):
    row = initial_weights(arch)[0]
    name = row.url.rsplit("/", 1)[-1]
    own = {key: torch.randn_like(value) for key, value in linear.state_dict().items()}
    server.files[name] = file_of({"epoch": 3, "state_dict": {**own, head: torch.ones(2)}})
    load_initial_weights(linear, arch, row)
    assert_contains(linear, own)
    Path("pretrained", name).unlink()
    server.files[name] = file_of({**own, "layer9.weight": torch.ones(2)})
    with pytest.raises(ModelError, match="layer9.weight is .* absent in the network"):
        load_initial_weights(linear, arch, row)
    Path("pretrained", name).unlink()
    server.files[name] = file_of({"0.weight": own["0.weight"], head: torch.ones(2)})
    with pytest.raises(ModelError, match="0.bias is absent there"):
        load_initial_weights(linear, arch, row)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_that_a_wrapper_made_longer_are_taken(prefix, tmp_path, caplog):
    state = ModelBuilder.build_decoder(num_class=3, fc_dim=4).state_dict()
    path = tmp_path / "wrapped.pth"
    torch.save({prefix + key: value for key, value in state.items()}, path)
    with caplog.at_level(logging.INFO):
        assert_contains(ModelBuilder.build_decoder(num_class=3, fc_dim=4, weights=path), state)
    assert "wrapped.pth: leaving out the 'module.'" in caplog.text or prefix == "_orig_mod."


def test_names_of_which_only_some_have_a_prefix_stay_as_they_are(tmp_path):
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "mixed.pth")
    assert sorted(read_state(tmp_path / "mixed.pth")) == ["b", "module.a"]


def test_a_state_dict_within_a_checkpoint_is_taken_if_it_is_the_only_one(tmp_path, caplog):
    path, state = tmp_path / "checkpoint.pth", {"x": torch.ones(2)}
    torch.save({"epoch": 3, "model": state, "optimizer": {"state": {}}}, path)
    with caplog.at_level(logging.INFO):
        assert torch.equal(read_state(path)["x"], state["x"])
    assert "checkpoint.pth: taking its 'model'" in caplog.text
    torch.save({"model": state, "ema": state}, path)
    with pytest.raises(ModelError, match=r"checkpoint.pth holds several .*\(model, ema\)"):
        read_state(path)


@pytest.mark.parametrize("arch", ["c1_bilinear", "c1_deepsup", "ppm"])
def test_a_file_of_another_number_of_classes_says_how_many_it_has(arch, tmp_path):
    path, channels = tmp_path / "decoder.pth", (8, 16)
    torch.save(ModelBuilder.build_decoder(arch, channels, num_class=11).state_dict(), path)
    with pytest.raises(ModelError, match="the file has 11 classes: give --num_class 11"):
        ModelBuilder.build_decoder(arch, channels, num_class=7, weights=path)
    with pytest.raises(ModelError) as error:  # it is of other features, too
        ModelBuilder.build_decoder(arch, (8, 32), num_class=7, weights=path)
    assert "the file has" not in str(error.value)


def test_safetensors_are_read_as_other_files_are(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors, an optional package, is absent")
    from safetensors.torch import save_file

    state = ModelBuilder.build_decoder(num_class=3, fc_dim=4).state_dict()
    path = tmp_path / "decoder.safetensors"
    save_file(state, path)
    assert_contains(ModelBuilder.build_decoder(num_class=3, fc_dim=4, weights=path), state)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ModelError, match="decoder.safetensors is not a whole PyTorch weights file"):
        read_state(path)


def test_without_safetensors_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match="x.safetensors needs .* pip install safetensors"):
        read_state(tmp_path / "x.safetensors")


def test_files_of_2018s_baselines_are_refused_and_others_of_that_name_are_not(tmp_path):
    """Networks of 2017, and runs without an --id, have names that begin with baseline-, too."""
    folder = tmp_path / "baseline-resnet50dilated-c1"
    folder.mkdir()
    path = folder / "decoder_epoch_20.pth"
    torch.save(ModelBuilder.build_decoder("c1", 8, 3).state_dict(), path)
    with pytest.raises(ModelError, match=r"decoder_epoch_20.pth: .*BGR .*102.9801, 115.9465, 122"):
        ModelBuilder.build_decoder("c1", 8, 3, weights=path)
    (folder / "config.json").write_text("{}")
    ModelBuilder.build_decoder("c1", 8, 3, weights=path)
    (folder / "config.json").unlink()
    torch.save(ModelBuilder.build_decoder("c1_bilinear", 8, 3).state_dict(), path)
    ModelBuilder.build_decoder("c1_bilinear", 8, 3, weights=path)


def test_addresses_of_torchvision_are_those_that_it_has_now():
    """They are written down: importing torchvision takes as long as importing torch."""
    table = [row.url for row in tables.INITIAL_WEIGHTS if row.url.startswith(tables.TORCHVISION)]
    names = ("resnet34", "resnet50", "vgg16", "vgg19", "mobilenet_v2")
    theirs = [torchvision.models.get_model_weights(name).IMAGENET1K_V1.url for name in names]
    assert table == theirs
