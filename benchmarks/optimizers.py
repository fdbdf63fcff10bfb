"""A training step with Muon and with AdamW.

    python -m benchmarks.optimizers

A step goes from two pictures of 384 x 384 pixels and 150 classes to updated weights, in half
precision if train.py uses it on this machine.
"""

import argparse
from functools import partial

import torch
from torch.optim import AdamW

from benchmarks.common import Tables, compare, main
from benchmarks.step import ours
from common.devices import select_amp
from training.muon import Muon

NETWORKS = [
    ("timm:tf_efficientnet_lite0", "fpn"),
    ("timm:resnet18", "fpn"),
    ("resnet34_dilated8", "c1_bilinear"),
]


def tables(args: argparse.Namespace) -> Tables:
    """A comparison for each network."""
    amp = select_amp("auto", torch.device("cpu"))
    return {
        f"Training step, {' + '.join(arch)}": compare(
            {
                f"`--optim {kind.__name__}`": partial(
                    ours, *arch, amp, make_optimizer=partial(kind, fused=True)
                )
                for kind in (AdamW, Muon)
            },
            args.rounds,
        )
        for arch in NETWORKS
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
