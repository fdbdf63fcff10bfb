"""A network as an ONNX file: what it computes, what is said, and what is refused."""

import argparse
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from exporting.engines import compared, engines, open_session
from exporting.graph import LEAST_AGREEMENT, traced
from inference import load_network, load_plain_network, predict, run_settings
from models import DECODERS, ENCODERS, ModelBuilder, SegmentationModel
from models.exported import ExportedNetwork
from models.segmentation import random_pictures

from .conftest import ROOT, SMALL, Data, Result, flags, make_data

pytest.importorskip("onnxscript", reason="the exporter of torch needs it")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow

OPENVINO = importlib.util.find_spec("openvino")
OF_TIMM = [  # one of each family
    "timm:test_resnet@8",
    "timm:test_convnext",
    "timm:tf_efficientnet_lite0",
    "timm:mobilenetv4_conv_small",
    "timm:test_vit",
    "timm:swin_tiny_patch4_window7_224",
    "timm:eva02_tiny_patch14_224",
]

Script = Callable[..., Result]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The flags of a run whose network has pyramid pooling, which is of the picture's size."""
    folder = tmp_path_factory.mktemp("trained")
    networks = flags(arch_encoder="timm:test_resnet", arch_decoder="psp_bilinear")
    options = [*networks, *flags(id="run", num_epoch=1)]
    command = [sys.executable, str(ROOT / "train.py"), *SMALL, *options]
    subprocess.run([*command, *make_data(folder / "data").flags], cwd=folder, check=True)
    return flags(id="run", ckpt=folder / "ckpt")


@pytest.fixture(scope="module")
def program(run: list[str]) -> object:
    """The graph of the run's network; to trace it takes most of a test's time."""
    args = run_settings(run[-1], "run", "_best.pth")
    args.amp, args.input, args.output, args.size = "off", "uint8", "labels", None
    return traced(ExportedNetwork(load_plain_network(args, torch.device("cpu"))), args)


@pytest.fixture(autouse=True)
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its threads are for a process of its own: these tests share theirs with many others."""
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture
def traced_once(program: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporting.graph.traced", lambda *_: program)


def test_the_file_labels_pictures_of_any_size_as_the_network_does(
    script: Script,
    run: list[str],
    data: Data,
    traced_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = script("export.py", *run)
    assert result.code == 0, result.err
    assert "100.0000% of the labels are the network's, of pictures of 5 sizes" in result.out
    session = onnxruntime.InferenceSession("export/run/model.onnx")
    found = session.get_modelmeta().custom_metadata_map
    assert len(json.loads(found["classes"])) == len(json.loads(found["colours"])) == 4
    args = run_settings(run[-1], "run", "_best.pth")
    args.amp = "off"
    network = load_network(args, torch.device("cpu"))
    for size in ((61, 90), (40, 33)):
        pictures = np.random.default_rng(0).integers(256, size=(2, *size, 3), dtype=np.uint8)
        (labels,) = session.run(None, {"images": pictures})
        images = torch.from_numpy(pictures).permute(0, 3, 1, 2)
        expected = predict(network, images, size, scales=(1.0,)).numpy()
        assert labels.dtype == np.uint8 and (labels == expected).mean() > 0.999
    check_client_in_python(monkeypatch, data)
    if OPENVINO and shutil.which("g++"):
        check_client_in_cpp(data)


@pytest.mark.skipif(not OPENVINO, reason="needs openvino")
def test_openvino_is_compared(run: list[str], tmp_path: Path) -> None:
    options = ["--size", "64", "96", "--result", str(tmp_path)]
    command = [sys.executable, str(ROOT / "export.py"), *run, *options]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    agreement = re.search(r"(\S+)% of the labels are the network's, of .* in OpenVINO\n", out)
    assert agreement and float(agreement[1]) >= 99.99
    assert re.search(r"\d ms in PyTorch, \d+ ms in onnxruntime, \d+ ms in OpenVINO", out)


def of_document(language: str) -> str:
    """The program of the document in a language."""
    text = (ROOT / "docs/deploy.md").read_text()
    code = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert code
    return code[1]


def check_client_in_python(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    """It labels a picture with the file, and knows the names of the classes."""
    picture = data.picture("val/0")
    monkeypatch.setattr(sys, "argv", ["client.py", "export/run/model.onnx", str(picture)])
    exec(compile(of_document("python"), "docs/deploy.md", "exec"), {})
    assert Image.open("labels.png").size == Image.open(picture).size


def check_client_in_cpp(data: Data) -> None:
    """It gives a picture the very labels of the one in Python."""
    Path("client.cpp").write_text(of_document("cpp"))
    (folder,) = OPENVINO.submodule_search_locations
    library = next(Path(folder, "libs").glob("libopenvino.so.*"))
    build = ["g++", "-std=c++17", "client.cpp", f"-I{folder}/include", str(library)]
    subprocess.run([*build, f"-Wl,-rpath,{library.parent}", "-o", "client"], check=True)
    Image.open(data.picture("val/0")).save("picture.ppm")
    files = ["export/run/model.onnx", "picture.ppm", "labels.pgm"]
    subprocess.run(["./client", *files], check=True)
    assert (np.asarray(Image.open("labels.pgm")) == np.asarray(Image.open("labels.png"))).all()
    wrong = subprocess.run(["./client", files[0], "client.cpp", files[2]], capture_output=True)
    assert wrong.returncode == 2 and b"client.cpp is no PPM" in wrong.stderr


def test_one_size_half_precision_and_probabilities(script: Script, run: list[str]) -> None:
    options = flags(output="probabilities", input="float", half=1)
    result = script("export.py", *run, *options, "--size", 64, 96)
    assert result.code == 0, result.err
    assert "images any x 3 x 64 x 96 float -> probabilities any x 4 x 64 x 96 float" in result.out
    session = onnxruntime.InferenceSession("export/run/model.onnx")
    (found,) = session.run(None, {"images": np.zeros((1, 3, 64, 96), np.float32)})
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-2)


def test_eight_bits_are_scored_before_and_after(
    script: Script, run: list[str], data: Data, traced_once: None
) -> None:
    result = script("export.py", *run, "--int8", data.folder / "train.txt")
    assert result.code == 0, result.err
    score = (
        r"mean IoU on 3 pictures of .*val.txt: \d+.\d\d% in single precision, \d+.\d\d% in 8 bits"
    )
    assert re.search(score, result.out)
    both = flags(int8=data.folder / "train.txt", half=1)
    assert script("export.py", *run, *both).code == 2


def test_a_file_that_labels_in_another_way_is_not_kept(
    script: Script, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exporting.engines.predict", lambda *args, **_: predict(*args, **_) + 1)
    result = script("export.py", *run, "--size", 64, 64)
    assert result.code == 2 and "labels 100.000% of the pixels in another way" in result.err
    assert not Path("export").exists()


def test_what_torch_cannot_export_is_one_line(
    script: Script, run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no decomposition of aten::strange\nand much more")

    monkeypatch.setattr("torch.onnx.export", fail)
    result = script("export.py", *run)
    assert result.code == 2 and result.err.count("\n") == 1
    assert "timm:test_resnet + psp_bilinear cannot be exported (no decomposition" in result.err


def test_without_the_packages_one_line_says_what_to_install(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = script("export.py", "--id", "run")
    assert result.code == 2
    assert result.err.strip().endswith("pip install onnx onnxscript onnxruntime")


@pytest.mark.parametrize("arch", ["timm:tf_efficientnet_lite0", "timm:test_resnet@8"])
def test_what_is_exported_labels_as_the_network_does(arch: str) -> None:
    """With paddings that no longer depend on the size, and before torch makes a graph of it."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(arch, weights="none")
    decoder = ModelBuilder.build_decoder("fpn", encoder.channels, num_class=5)
    model = SegmentationModel(encoder, decoder).eval()
    images = random_pictures((1, 3, 75, 101))
    labels = ExportedNetwork(model)(images.permute(0, 2, 3, 1))
    expected = predict(model, images, (75, 101), scales=(1.0,))
    assert (labels == expected).float().mean() > 0.999


@pytest.mark.stress
@pytest.mark.parametrize(
    ("arch_encoder", "arch_decoder"),
    [*zip(ENCODERS, itertools.cycle(DECODERS)), *((arch, "upernet_lite") for arch in OF_TIMM)],
)
def test_networks_are_exported(arch_encoder: str, arch_decoder: str, tmp_path: Path) -> None:
    """Each encoder, each decoder and each family of timm's, for pictures of any size."""
    torch.manual_seed(0)
    encoder = ModelBuilder.build_encoder(arch_encoder, weights="none")
    decoder = ModelBuilder.build_decoder(arch_decoder, encoder.channels, num_class=5)
    model = SegmentationModel(encoder, decoder).eval()
    args = argparse.Namespace(arch_encoder=arch_encoder, arch_decoder=arch_decoder, half=0)
    args.input, args.output, args.size = "uint8", "labels", None
    path = tmp_path / "model.onnx"
    traced(ExportedNetwork(model), args).save(str(path))
    compared(engines(path, open_session(path)), model.freeze(), args, LEAST_AGREEMENT)
