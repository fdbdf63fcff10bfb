"""A network as a file in the ONNX format: from pictures to labels, compared before it is kept."""

import argparse
import importlib
import json
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from common.classes import read_classes
from common.files import atomic_path, no_empty_folders
from common.metrics import ConfusionMatrix
from dataset import SegmentationDataset
from inference import load_plain_network, predict
from models import SegmentationModel
from models.exported import ExportedNetwork
from models.segmentation import random_pictures
from utils import UserError

if TYPE_CHECKING:
    import onnxruntime

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = (
    2,
    3,
    101,
    135,
)  # the picture that is traced; an odd size, so that none is taken for fixed
SIZES = ((64, 64), (97, 131), (120, 90), (256, 341), (384, 512))  # that are compared
LEAST_AGREEMENT = 0.9999  # of the labels
LEAST_OF_HALF = 0.99
TIMED = 3  # turns


def export_graph(args: argparse.Namespace, folder: Path) -> list[str]:
    """Write `model.onnx` of the run that the settings name into a folder.

    Returns:
        What to print: the file, and how it compares with the network.

    Raises:
        UserError, ModelError: it cannot be made, or labels in another way.
    """
    args.amp = "off"
    if args.int8:
        files = args.root_img, args.root_seg, args.num_class
        pictures = SegmentationDataset(args.list_val, *files, args.num_val, args.label_offset)
        calibration = SegmentationDataset(args.int8, *files, label_offset=args.label_offset)
    plain = load_plain_network(args, torch.device("cpu"))
    network = ExportedNetwork(plain, args.input, args.output)
    path = folder / "model.onnx"
    with no_empty_folders(folder), atomic_path(path) as partial:
        folder.mkdir(parents=True, exist_ok=True)
        program = traced(network, args)
        program.model.metadata_props.update(metadata(args))
        program.save(str(partial))
        if args.half:
            make_half(partial)
        session = open_session(partial)
        model = plain.freeze()
        report = compared(session, model, args, LEAST_OF_HALF if args.half else LEAST_AGREEMENT)
        if args.int8:
            before = score(session, pictures, args)
            quantise(partial, calibration, args)
            session = open_session(partial)
            after = score(session, pictures, args)
            report = compared(session, model, args)
            report.append(
                f"mean IoU on {len(pictures)} pictures of {args.list_val}: {before:.2%} in single "
                f"precision, {after:.2%} in 8 bits"
            )
    return [f"{path}: {path.stat().st_size / 1e6:.1f} MB; {described(session)}", *report]


def import_packages() -> None:
    """Import what not every user has.

    Raises:
        UserError: a package is not installed.
    """
    try:
        for name in PACKAGES:
            importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"export.py needs packages: pip install {' '.join(PACKAGES)}") from error


def open_session(path: Path) -> "onnxruntime.InferenceSession":
    """A file's graph, to be run on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def as_input(images: Tensor, inputs: str) -> dict[str, np.ndarray]:
    """Pictures N x 3 x H x W, uint8, as a graph takes them."""
    images = images.permute(0, 2, 3, 1).contiguous() if inputs == "uint8" else images.float()
    return {"images": images.numpy()}


def traced(network: ExportedNetwork, args: argparse.Namespace) -> Any:
    """The network as a graph.

    Raises:
        UserError: torch cannot export it.
    """
    images = random_pictures((*EXAMPLE[:2], *(args.size or EXAMPLE[2:])))
    inputs = {name: torch.from_numpy(x) for name, x in as_input(images, args.input).items()}
    axes = (1, 2) if network.inputs == "uint8" else (2, 3)
    free = torch.export.Dim.DYNAMIC
    shapes = {0: free} | ({} if args.size else dict.fromkeys(axes, free))
    try:
        with quiet():
            return torch.onnx.export(
                network,
                kwargs=inputs,
                dynamo=True,
                dynamic_shapes={"images": shapes},
                input_names=["images"],
                output_names=[args.output],
                verbose=False,
            )
    except Exception as error:  # the exporter has many of its own
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        fixed = "" if args.size else "; a fixed --size may do"
        raise UserError(
            f"{args.arch_encoder} + {args.arch_decoder} cannot be exported ({reason}){fixed}"
        ) from error


@contextmanager
def quiet():
    """A context without the exporter's warnings and progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(args: argparse.Namespace) -> dict[str, str]:
    """What a program that uses the file may want to know."""
    classes = read_classes(args.list_class, args.num_class)
    return {
        "classes": json.dumps(list(classes.names), ensure_ascii=False),
        "colours": json.dumps(classes.palette[1:].tolist()),
        "network": f"{args.arch_encoder} + {args.arch_decoder}",
        "run": args.id,
    }


def make_half(path: Path) -> None:
    """Let a file's graph compute in half precision; its input and output stay as they are."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with quiet():
        onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), path)


def quantise(path: Path, pictures: SegmentationDataset, args: argparse.Namespace) -> None:
    """Let a file's convolutions compute in 8 bits.

    Args:
        path: of the file, which is changed.
        pictures: the ranges of all activations are those that these lead to.
        args: the settings.
    """
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    inputs = (as_input(pictures[i][0][None], args.input) for i in range(len(pictures)))

    class Reader(CalibrationDataReader):
        """Hands over the pictures one by one."""

        def get_next(self) -> dict[str, np.ndarray] | None:
            """The next picture, or None after the last."""
            return next(inputs, None)

    with quiet():
        quantize_static(path, path, Reader(), per_channel=True, op_types_to_quantize=["Conv"])


def score(
    session: "onnxruntime.InferenceSession",
    pictures: SegmentationDataset,
    args: argparse.Namespace,
) -> float:
    """The mean IoU of a graph's labels of pictures, as they are."""
    confusion = ConfusionMatrix(args.num_class)
    for picture, label, _ in (pictures[i] for i in range(len(pictures))):
        found = torch.from_numpy(labels_of(session, picture[None], args))
        confusion.update(found[0].int(), label)
    return confusion.scores().mean_iou


def described(session: "onnxruntime.InferenceSession") -> str:
    """A graph's input and output in words."""
    parts = []
    for end in (*session.get_inputs(), *session.get_outputs()):
        shape = " x ".join(str(n) if isinstance(n, int) else "any" for n in end.shape)
        parts.append(f"{end.name} {shape} {end.type.removeprefix('tensor(').rstrip(')')}")
    return " -> ".join(parts)


def compared(
    session: "onnxruntime.InferenceSession",
    model: SegmentationModel,
    args: argparse.Namespace,
    least: float = 0.0,
) -> list[str]:
    """How a graph agrees with the network itself, and how long both take, in words.

    Raises:
        UserError: less than so much of the labels agree.
    """
    sizes = [tuple(args.size)] if args.size else SIZES
    equal = total = 0
    for size in sizes:
        images = smooth_pictures(*size)
        found, expected = labels_of(session, images, args), own_labels(model, images, args.output)
        equal += int((found == expected).sum())
        total += expected.size
    agreement = equal / total
    if agreement < least:
        raise UserError(
            f"exported, the network labels {1 - agreement:.3%} of the pixels in another way; "
            f"the file is not kept{'; leave out --half' if args.half else ''}"
        )
    images = smooth_pictures(*sizes[-1])
    ours = median_seconds(lambda: own_labels(model, images, args.output))
    theirs = median_seconds(lambda: labels_of(session, images, args))
    height, width = sizes[-1]
    return [
        f"{agreement:.4%} of the labels are the network's, of pictures of {len(sizes)} sizes",
        f"a picture of {height} x {width}: {1e3 * theirs:.0f} ms in onnxruntime, "
        f"{1e3 * ours:.0f} ms in PyTorch",
    ]


def smooth_pictures(height: int, width: int) -> Tensor:
    """A picture 1 x 3 x H x W, uint8, as smooth as photographs are."""
    coarse = random_pictures((1, 3, height // 16, width // 16)).float()
    return (
        torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        .clamp_(0, 255)
        .byte()
    )


def labels_of(
    session: "onnxruntime.InferenceSession", images: Tensor, args: argparse.Namespace
) -> np.ndarray:
    """The labels that a graph gives pictures 1 x 3 x H x W, uint8."""
    (output,) = session.run(None, as_input(images, args.input))
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
