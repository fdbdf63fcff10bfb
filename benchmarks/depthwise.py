"""A training step in bfloat16, with depthwise convolutions as torch has them and as train.py does.

    python -m benchmarks.depthwise

A step goes from 8 pictures of 256 x 256 pixels and 11 classes to updated weights.
"""

import argparse
from functools import partial

import torch

from benchmarks.common import Job, Tables, compare, main
from benchmarks.step import Crops, build, our_step
from models import SegmentationModel
from models.depthwise import speed_up_gradients

CROPS = Crops(8, 256, 11)
NETWORKS = [
    ("mobilenetv2dilated", "c1_bilinear"),
    ("timm:tf_efficientnet_lite0", "fpn"),
    ("timm:convnext_atto", "fpn"),
]


def job(arch_encoder: str, arch_decoder: str, fast: bool) -> Job:
    """A step of a network, with torch's gradients or the fast ones."""
    encoder, decoder = build(arch_encoder, arch_decoder, CROPS.classes)
    model = SegmentationModel(encoder, decoder, torch.bfloat16)
    if fast:
        speed_up_gradients(model)
    return our_step(model, CROPS)


def tables(args: argparse.Namespace) -> Tables:
    """A comparison for each network."""
    return {
        f"Training step, {' + '.join(arch)}, `--amp bf16`": compare(
            {
                "`torch`'s gradients": partial(job, *arch, fast=False),
                "`train.py`": partial(job, *arch, fast=True),
            },
            args.rounds,
        )
        for arch in NETWORKS
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
