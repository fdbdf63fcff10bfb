"""Five-scale evaluation and large photographs, against the classic recipe.

    python -m benchmarks.evaluation

The first tables are about a picture of 512 x 683 pixels and 150 classes. The next one has time and
memory as pixels or classes double four times, the last one what `test.py --imgSize -1` needs for a
photograph of 24 megapixels.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.classic import classic_network, classic_prediction, normalised, upsampled
from benchmarks.common import Job, Row, Tables, against_classic, compare, main, measure
from benchmarks.contenders import COMPARED, Builder, compared
from common.devices import select_amp
from common.files import tensors, write_atomically
from inference import SCALES, predict
from models import ModelBuilder, SegmentationModel
from models.decoders import Decoder
from models.encoder import Encoder
from utils import keep_freed_memory

SIZE = (512, 683)
MULTIPLE = 32  # the sides that networks of other libraries take are multiples of it
TEST = Path(__file__).parent.parent / "test.py"


def random_picture(height: int, width: int) -> np.ndarray:
    """A picture height x width x 3, uint8, smooth as photographs are."""
    coarse = np.random.default_rng(0).integers(256, size=(height // 16, width // 16, 3))
    return cv2.resize(coarse.astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def build(arch_encoder: str, arch_decoder: str, num_class: int = 150) -> tuple[Encoder, Decoder]:
    """An encoder and a decoder with random weights, in evaluation mode."""
    encoder = ModelBuilder.build_encoder(arch_encoder, weights="none").eval()
    return encoder, ModelBuilder.build_decoder(arch_decoder, encoder.channels, num_class).eval()


def classic(arch_encoder: str, arch_decoder: str) -> Job:
    """The classic recipe."""
    encoder, decoder = build(arch_encoder, arch_decoder)
    for network in (encoder, decoder):
        classic_network(network)
    return partial(classic_prediction, encoder, decoder, random_picture(*SIZE), SCALES)


def ours(
    arch_encoder: str,
    arch_decoder: str,
    amp: torch.dtype | None = None,
    size: tuple[int, int] = SIZE,
    num_class: int = 150,
) -> Job:
    """What eval.py does with its defaults, or with --amp."""
    keep_freed_memory()
    model = SegmentationModel(*build(arch_encoder, arch_decoder, num_class), amp).freeze()
    picture = torch.from_numpy(random_picture(*size)).permute(2, 0, 1)[None]
    return partial(predict, model, picture, size)


@torch.inference_mode()
def peer_prediction(
    forward: Callable[[Tensor], list[Tensor]], amp: torch.dtype | None, picture: np.ndarray
) -> Tensor:
    """Labels H x W of a picture H x W x 3 by the network of another library, at its best settings.

    Scaled pictures are padded to what the network can take; probabilities are averaged.
    """
    height, width = picture.shape[:2]
    image = normalised(picture)[None]
    total = torch.zeros(())
    for scale in SCALES:
        scaled = nn.functional.interpolate(image, scale_factor=scale, mode="bilinear")
        h, w = scaled.shape[-2:]
        padded = nn.functional.pad(scaled, (0, -w % MULTIPLE, 0, -h % MULTIPLE))
        padded = padded.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=amp) if amp else nullcontext():
            logits = forward(padded)[0][..., :h, :w]
        total = total + upsampled(logits.float(), (height, width)).softmax(dim=1)
    return total.argmax(dim=1)[0]


def peer(build_peer: Builder, amp: torch.dtype | None) -> Job:
    """The network of another library."""
    model, forward = build_peer(150)
    model.eval().to(memory_format=torch.channels_last)
    return partial(peer_prediction, forward, amp, random_picture(*SIZE))


def growth() -> list[Row]:
    """Time and memory of five scales as pixels, and then classes, double four times."""
    sizes = [(128, 192), (256, 192), (256, 384), (512, 384), (512, 768)]
    cases = [(150, size) for size in sizes] + [(150 * 2**i, sizes[0]) for i in range(1, 5)]
    rows: list[Row] = []
    for classes, size in cases:
        job = ours("resnet34_dilated8", "c1_bilinear", size=size, num_class=classes)
        milliseconds, megabytes = measure(job)
        pixels = size[0] * size[1]
        rows.append(
            {
                "pixels and classes": f"{size[0]} x {size[1]}, {classes} classes",
                "ms": milliseconds,
                "microseconds a pixel": 1e3 * milliseconds / pixels,
                "extra MB": megabytes,
                "MB of probabilities at full size": classes * pixels * 4 / 2**20,
            }
        )
    return rows


def photograph() -> list[Row]:
    """Time and memory of `test.py` with one photograph."""
    with tempfile.TemporaryDirectory() as name:
        folder, arch, decoder = Path(name), "resnet34_dilated8", "c1_bilinear"
        for part, network in zip(("encoder", "decoder"), build(arch, decoder), strict=True):
            write_atomically(folder / f"run/{part}_best.pth", tensors(network.state_dict()))
        cv2.imwrite(str(folder / "photograph.jpg"), random_picture(4000, 6000))
        flags = ["--id", "run", "--ckpt", name, "--imgSize", "-1", "--result", name]
        command = [sys.executable, str(TEST), *flags, "--test_img", f"{name}/photograph.jpg"]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return [{"": "4000 x 6000, 150 classes", "s": seconds, "GB in all at most": peak}]


def tables(args: argparse.Namespace) -> Tables:
    """Comparisons, growth, and a photograph."""
    amp = select_amp("auto", torch.device("cpu"))
    r34c1, r50psp = ("resnet34_dilated8", "c1_bilinear"), ("resnet50_dilated8", "psp_bilinear")
    results: Tables = {}
    for arch in (r34c1, *COMPARED):
        contenders = compared(arch, peer)
        if arch in (r34c1, r50psp):
            contenders = against_classic("eval.py", classic, ours, arch) | contenders
        else:  # the first is what the others are compared with
            contenders |= {"`eval.py`": partial(ours, *arch, amp)}
        title = f"Five scales of a 512 x 683 picture, {' + '.join(arch)}"
        results[title] = compare(contenders, args.rounds)
    results["Growth of five-scale evaluation"] = growth()
    results["`test.py --imgSize -1`, resnet34_dilated8 + c1_bilinear"] = photograph()
    return results


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
