"""Networks in other engines: time, size, and what their labels are worth.

    python -m benchmarks.engines --ids ID ID …

Each run is exported twice, as a user would, the second time to 8 bits with ranges from its training
pictures. Labels are those of its validation pictures, at their own size and one scale.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import Job, Row, Tables, compare, main, validation_pictures
from common.devices import select_amp
from common.metrics import ConfusionMatrix
from common.runs import find_run, run_folder, weights_files
from exporting.engines import as_input, engines, open_session, smooth_pictures
from inference import load_network, predict, run_settings

EXPORT = Path(__file__).parent.parent / "export.py"
SUFFIX = "_best.pth"
SIZE = (384, 512)

Labels = Callable[[Tensor], np.ndarray]  # of a picture 1 x 3 x H x W, uint8


def by_network(ckpt: str, run_id: str, amp: str) -> Labels:
    """As `test.py --imgSize -1` labels at one scale."""
    args = run_settings(ckpt, run_id, SUFFIX)
    args.amp = amp
    model = load_network(args, torch.device("cpu"))

    def labels(picture: Tensor) -> np.ndarray:
        height, width = picture.shape[-2:]
        return predict(model, picture, (height, width), scales=(1.0,)).numpy()

    return labels


def by_file(path: Path, engine: str) -> Labels:
    """As an exported file labels in an engine."""
    run = engines(path, open_session(path))[engine]
    return lambda picture: run(as_input(picture, "uint8"))


def job(build: Callable[[], Labels]) -> Job:
    """To label one picture."""
    return partial(build(), smooth_pictures(*SIZE))


def export(ckpt: str, run_id: str, folder: Path, *flags: str) -> Path:
    """The file that `export.py` makes of a run."""
    command = [sys.executable, str(EXPORT), "--id", run_id, "--ckpt", ckpt, *flags]
    subprocess.run([*command, "--result", str(folder)], check=True)
    return folder / run_id / "model.onnx"


def ways(ckpt: str, run_id: str, list_train: str, folder: Path) -> dict[str, tuple[partial, float]]:
    """All that can label pictures here, by name: what builds it, and the MB of its files."""
    weights = run_folder(ckpt, run_id)
    size = sum((weights / name).stat().st_size for name in weights_files(weights, SUFFIX))
    found = {"PyTorch, single precision": (partial(by_network, ckpt, run_id, "off"), size)}
    if select_amp("auto", torch.device("cpu")):
        found["PyTorch, bfloat16"] = (partial(by_network, ckpt, run_id, "bf16"), size)
    single = export(ckpt, run_id, folder / "single")
    eight = export(ckpt, run_id, folder / "eight", "--int8", list_train)
    for path, title in ((single, ""), (eight, ", 8 bits")):
        for engine in engines(path, open_session(path)):
            found[engine + title] = (partial(by_file, path, engine), path.stat().st_size)
    return {name: (build, size / 1e6) for name, (build, size) in found.items()}


def rows(ckpt: str, run_id: str, config: dict, rounds: int) -> list[Row]:
    """What each engine takes, and what its labels are worth; labels are compared with the first's.

    Args:
        ckpt, run_id: the run.
        config: its settings.
        rounds: counted turns of each engine.
    """
    pictures = validation_pictures(config)
    items = [pictures[i] for i in range(len(pictures))]
    with tempfile.TemporaryDirectory() as folder:
        found = ways(ckpt, run_id, config["list_train"], Path(folder))
        timed = compare({n: partial(job, build) for n, (build, _) in found.items()}, rounds)
        labels = {}
        for name, (build, _) in found.items():
            run = build()
            labels[name] = [run(picture[None])[0] for picture, _, _ in items]
    expected = next(iter(labels.values()))
    result: list[Row] = []
    for row in timed:
        name = str(row["contender"])
        confusion = ConfusionMatrix(config["num_class"])
        for ours, (_, label, _) in zip(labels[name], items, strict=True):
            confusion.update(torch.from_numpy(ours).int(), label)
        same = [(a == b).ravel() for a, b in zip(labels[name], expected, strict=True)]
        result.append(
            {
                "engine": name,
                f"ms a picture of {SIZE[0]} x {SIZE[1]}": row["median ms"],
                "MB": found[name][1],
                "labels as the first row's": f"{np.concatenate(same).mean():.3%}",
                "mean IoU": f"{confusion.scores().mean_iou:.2%}",
            }
        )
    return result


def tables(args: argparse.Namespace) -> Tables:
    """A table for each run."""
    results: Tables = {}
    for run_id in args.ids:
        config = find_run(args.ckpt, run_id, SUFFIX)
        title = f"{config['arch_encoder']} + {config['arch_decoder']}"
        results[title] = rows(args.ckpt, run_id, config, args.rounds)
    return results


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        ids={"nargs": "+", "required": True, "help": "trained runs"},
        ckpt={"default": "./ckpt", "help": "folder of the runs"},
    )
