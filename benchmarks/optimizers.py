"""A training step with Muon and with AdamW.

    python -m benchmarks.optimizers

A step goes from crops and their labels to updated weights, in half precision if train.py uses it on
this machine.
"""

import argparse
from functools import partial

import torch
from torch.optim import AdamW

from benchmarks.common import Tables, compare, main
from benchmarks.step import CROPS, Crops, ours
from common.devices import select_amp
from training.muon import Muon

STEPS = [
    (("timm:tf_efficientnet_lite0", "fpn"), Crops(8, 256, 11)),
    (("timm:resnet18", "fpn"), Crops(4, 256, 11)),
    (("resnet34_dilated8", "c1_bilinear"), CROPS),
]


def tables(args: argparse.Namespace) -> Tables:
    """A comparison for each network."""
    amp = select_amp("auto", torch.device("cpu"))
    return {
        f"Training step of {crops.number} crops of {crops.side}, {' + '.join(arch)}": compare(
            {
                f"`--optim {kind.__name__}`": partial(
                    ours, *arch, amp, crops=crops, make_optimizer=partial(kind, fused=True)
                )
                for kind in (AdamW, Muon)
            },
            args.rounds,
        )
        for arch, crops in STEPS
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
