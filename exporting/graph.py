"""A network as a file in the ONNX format: from pictures to labels, compared before it is kept."""

import argparse
import importlib
import json
import logging
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.classes import read_classes
from common.files import atomic_path, no_empty_folders
from dataset import SegmentationDataset
from exporting.engines import as_input, compared, described, engines, open_session, score
from inference import load_plain_network
from models.exported import ExportedNetwork
from models.segmentation import random_pictures
from utils import UserError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE = (2, 3, 101, 135)  # what is traced; odd sides, so that none is taken for fixed
LEAST_AGREEMENT = 0.9999  # of the labels
LEAST_OF_HALF = 0.99
MAIN = "onnxruntime"  # the engine that decides


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
        found = engines(partial, session)
        model = plain.freeze()
        report = compared(found, model, args, LEAST_OF_HALF if args.half else LEAST_AGREEMENT)
        if args.int8:
            before = score(found[MAIN], pictures, args)
            quantise(partial, calibration, args)
            session = open_session(partial)
            found = engines(partial, session)
            after = score(found[MAIN], pictures, args)
            report = compared(found, model, args)
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
