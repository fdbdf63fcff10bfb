import io
import logging
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
import torchvision

from models import ModelBuilder, ModelError
from models.weights import URLS, convolutional_vgg


class Server:
    """Serves `files` by name on loopback, and 404 for all else."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                body = outer.files.get(self.path[1:])
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write((body or b"")[: outer.cut_after])

            def log_message(self, *_: object) -> None:
                pass

        self.cut_after: int | None = None
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server in the place of the published addresses; the working folder is empty."""
    server = Server()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    for source in URLS:
        for net in URLS[source]:
            monkeypatch.setitem(URLS[source], net, f"{server.url}/{net}-{source}.pth")
    yield server
    server.http.shutdown()
    server.http.server_close()


def file_of(state: dict[str, torch.Tensor]) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


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
    with pytest.raises(ModelError, match="no places365 weights for vgg16; there are: imagenet"):
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


class Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


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
