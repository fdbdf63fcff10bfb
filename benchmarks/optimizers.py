"""A training step with Muon and with AdamW.

    python -m benchmarks.optimizers

A step goes from crops and their labels to updated weights, in half precision if train.py uses it on
this machine.
"""

import argparse
from functools import partial

import torch
from torch.optim import AdamW

from benchmarks.common import Job, Tables, compare, main
from benchmarks.step import Crops, build, our_step
from common.devices import select_amp
from models import SegmentationModel
from models.depthwise import speed_up_gradients
from training.muon import Muon

STEPS = [
    ("timm:tf_efficientnet_lite0", "fpn", Crops(8, 256, 11)),
    ("timm:resnet18", "fpn", Crops(4, 256, 11)),
    ("resnet34_dilated8", "c1_bilinear", Crops(2, 384, 150)),
]


def job(
    arch_encoder: str,
    arch_decoder: str,
    crops: Crops,
    kind: type[AdamW],
    amp: torch.dtype | None,
) -> Job:
    """A step of a network with an optimiser."""
    model = SegmentationModel(*build(arch_encoder, arch_decoder, crops.classes), amp)
    speed_up_gradients(model)
    return our_step(model, crops, partial(kind, fused=True))


def tables(args: argparse.Namespace) -> Tables:
    """A comparison for each network."""
    amp = select_amp("auto", torch.device("cpu"))
    return {
        f"Training step of {crops.number} crops of {crops.side}, {encoder} + {decoder}": compare(
            {
                f"`--optim {kind.__name__}`": partial(job, encoder, decoder, crops, kind, amp)
                for kind in (AdamW, Muon)
            },
            args.rounds,
        )
        for encoder, decoder, crops in STEPS
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
