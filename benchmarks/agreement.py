"""A run's labels beside those of the classic recipe, on the run's validation pictures.

    make demo
    python -m benchmarks.agreement --id demo

The first table has the share of pixels that both label alike, where the classic recipe does not
stretch features. The second has the classic recipe's scores at one scale, on pictures without their
last k columns and rows: with features that are stretched over a picture whose sides are no
multiples of the stride, and with features that each cover the stride.
"""

import argparse

import torch
from torch import Tensor

from benchmarks.classic import classic_network, classic_prediction
from benchmarks.common import Row, Tables, main, validation_pictures
from common.devices import select_amp
from common.metrics import ConfusionMatrix
from common.runs import find_run
from inference import SCALES, load_parts, predict, run_settings
from models import SegmentationModel
from models.decoders import Decoder
from models.encoder import Encoder

CUTS = (0, 3, 7, 8, 15)

Network = tuple[Encoder, Decoder]
Pair = tuple[Tensor, Tensor]  # picture 3 x H x W and label H x W, as the data set has them


def agreement(ours: SegmentationModel, network: Network, pairs: list[Pair]) -> list[Row]:
    """The share of pixels that `ours` and the classic recipe with the same network label alike."""
    rows: list[Row] = []
    for scales in ((1.0,), SCALES):
        same = []
        for picture, label in pairs:
            height, width = label.shape
            found = predict(ours, picture[None], (height, width), scales=scales)[0]
            same.append((found == classic(network, picture, scales)).flatten())
        share = torch.cat(same).float().mean().item()
        rows.append({"scales": ", ".join(map(str, scales)), "same labels": f"{share:.3%}"})
    return rows


def scores_of_cut(network: Network, pairs: list[Pair], num_class: int) -> list[Row]:
    """The classic recipe's scores on pictures without their last k columns and rows."""
    rows: list[Row] = []
    for k in CUTS:
        row: Row = {"k": str(k)}
        for name, stretch in (("stretched", True), ("exact", False)):
            matrix = ConfusionMatrix(num_class)
            for picture, label in pairs:
                height, width = (side - k for side in label.shape)
                kept = picture[:, :height, :width]
                matrix.update(classic(network, kept, (1.0,), stretch), label[:height, :width])
            scores = matrix.scores()
            row[f"{name}: pixel accuracy"] = f"{scores.pixel_accuracy:.2%}"
            row[f"{name}: mean IoU"] = f"{scores.mean_iou:.2%}"
        rows.append(row)
    return rows


def classic(
    network: Network, picture: Tensor, scales: tuple[float, ...], stretch: bool = False
) -> Tensor:
    """The classic recipe's labels H x W of a picture 3 x H x W."""
    return classic_prediction(*network, picture.permute(1, 2, 0).numpy(), scales, stretch)


def tables(args: argparse.Namespace) -> Tables:
    """The agreement of labels, and the scores on cut pictures."""
    settings = run_settings(args.ckpt, args.id, "_best.pth")
    config = find_run(settings.ckpt, settings.id, "_best.pth")
    data = validation_pictures(config, args.pictures)
    pairs = [data[i][:2] for i in range(len(data))]
    amp = select_amp("auto", torch.device("cpu"))
    ours = SegmentationModel(*load_parts(settings), amp).freeze()
    network = load_parts(settings)
    for part in network:
        classic_network(part).eval()
    return {
        "Labels that agree with the classic recipe's": agreement(ours, network, pairs),
        "Scores of cut pictures": scores_of_cut(network, pairs, settings.num_class),
    }


if __name__ == "__main__":
    main(
        __doc__.splitlines()[0],
        tables,
        id={"required": True, "help": "a trained run"},
        ckpt={"default": "./ckpt", "help": "folder of the runs"},
        pictures={"type": int, "default": 8, "help": "number of validation pictures; -1 = all"},
    )
