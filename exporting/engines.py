"""Engines that run an ONNX file: onnxruntime, and OpenVINO where it is installed; compared."""

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from common.metrics import ConfusionMatrix
from dataset import SegmentationDataset
from inference import predict
from models import SegmentationModel
from models.segmentation import random_pictures
from utils import UserError

if TYPE_CHECKING:
    import onnxruntime

SIZES = ((64, 64), (97, 131), (120, 90), (256, 341), (384, 512))  # that are compared
TIMED = 3  # turns

Engine = Callable[[dict[str, np.ndarray]], np.ndarray]  # from inputs by name to the output

logger = logging.getLogger(__name__)


def engines(path: Path, session: "onnxruntime.InferenceSession") -> dict[str, Engine]:
    """What can run a file here, on the CPU, by name; onnxruntime's session of it is the first."""
    found: dict[str, Engine] = {"onnxruntime": lambda inputs: session.run(None, inputs)[0]}
    try:
        import openvino
    except ImportError:
        return found
    core = openvino.Core()
    precisions = {"OpenVINO": "f32"}
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        precisions["OpenVINO in bfloat16"] = "bf16"  # its default on such a CPU
    for name, precision in precisions.items():
        try:
            model = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": precision})
        except RuntimeError as error:
            logger.warning("%s cannot run it: %s", name, str(error).strip().splitlines()[-1])
        else:
            found[name] = partial(first_output, model)
    return found


def first_output(
    model: Callable[[dict[str, np.ndarray]], Mapping[int, np.ndarray]],
    inputs: dict[str, np.ndarray],
) -> np.ndarray:
    """What a model of OpenVINO's gives for inputs."""
    return model(inputs)[0]


def open_session(path: Path) -> "onnxruntime.InferenceSession":
    """A file's graph, to be run on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def described(session: "onnxruntime.InferenceSession") -> str:
    """A graph's input and output in words."""
    parts = []
    for end in (*session.get_inputs(), *session.get_outputs()):
        shape = " x ".join(str(n) if isinstance(n, int) else "any" for n in end.shape)
        parts.append(f"{end.name} {shape} {end.type.removeprefix('tensor(').rstrip(')')}")
    return " -> ".join(parts)


def as_input(images: Tensor, inputs: str) -> dict[str, np.ndarray]:
    """Pictures N x 3 x H x W, uint8, as a graph takes them."""
    images = images.permute(0, 2, 3, 1).contiguous() if inputs == "uint8" else images.float()
    return {"images": images.numpy()}


def score(
    engine: Engine,
    pictures: SegmentationDataset,
    args: argparse.Namespace,
) -> float:
    """The mean IoU of a graph's labels of pictures, as they are."""
    confusion = ConfusionMatrix(args.num_class)
    for picture, label, _ in (pictures[i] for i in range(len(pictures))):
        found = torch.from_numpy(labels_of(engine, picture[None], args))
        confusion.update(found[0].int(), label)
    return confusion.scores().mean_iou


def compared(
    found: Mapping[str, Engine],
    model: SegmentationModel,
    args: argparse.Namespace,
    least: float = 0.0,
) -> list[str]:
    """How a graph in each engine agrees with the network itself, and how long all take, in words.

    Raises:
        UserError: less than so much of the labels agree, in the first engine.
    """
    sizes = [tuple(args.size)] if args.size else SIZES
    pictures = [smooth_pictures(*size) for size in sizes]
    expected = [own_labels(model, images, args.output) for images in pictures]
    seconds = {"PyTorch": median_seconds(lambda: own_labels(model, pictures[-1], args.output))}
    lines: list[str] = []
    for name, engine in found.items():
        labels = [labels_of(engine, images, args) for images in pictures]
        equal = [ours == theirs for ours, theirs in zip(labels, expected, strict=True)]
        agreement = float(np.concatenate([part.ravel() for part in equal]).mean())
        if not lines and agreement < least:
            raise UserError(
                f"exported, the network labels {1 - agreement:.3%} of the pixels in another way; "
                f"the file is not kept{'; leave out --half' if args.half else ''}"
            )
        lines.append(
            f"{agreement:.4%} of the labels are the network's, of pictures of {len(sizes)} sizes, "
            f"in {name}"
        )
        seconds[name] = median_seconds(partial(labels_of, engine, pictures[-1], args))
    times = ", ".join(f"{1e3 * value:.0f} ms in {name}" for name, value in seconds.items())
    height, width = sizes[-1]
    return [*lines, f"a picture of {height} x {width}: {times}"]


def smooth_pictures(height: int, width: int) -> Tensor:
    """A picture 1 x 3 x H x W, uint8, as smooth as photographs are."""
    coarse = random_pictures((1, 3, height // 16, width // 16)).float()
    return (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        .clamp_(0, 255)
        .byte()
    )


def labels_of(engine: Engine, images: Tensor, args: argparse.Namespace) -> np.ndarray:
    """The labels that a graph gives pictures 1 x 3 x H x W, uint8."""
    output = engine(as_input(images, args.input))
    return output.argmax(axis=1) if args.output == "probabilities" else output


@torch.inference_mode()
def own_labels(model: SegmentationModel, images: Tensor, output: str) -> np.ndarray:
    """The labels that the network gives pictures 1 x 3 x H x W, at their size or its logits'."""
    if output == "coarse_labels":
        return model(images).argmax(dim=1).numpy()
    height, width = images.shape[-2:]
    return predict(model, images, (height, width), scales=(1.0,)).numpy()


def median_seconds(run: Callable[[], object]) -> float:
    """How long something takes."""
    seconds = []
    for _ in range(TIMED):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
