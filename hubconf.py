"""The published networks for `torch.hub.load`, without a clone: see docs/deploy.md."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.classes import ADE20K
from common.published import PUBLISHED, SUFFIX, Published
from common.runs import find_run
from inference import load_parts, predict
from models import ModelBuilder, SegmentationModel

dependencies = ["cv2", "numpy", "PIL", "torch"]


class HubModel(SegmentationModel):
    """A network that labels pictures."""

    def predict(self, images: Tensor, scales: Sequence[float] = (1.0,)) -> Tensor:
        """Labels B x H x W, class indices from 0, of pictures B x 3 x H x W, RGB uint8.

        Args:
            images: on any device.
            scales: factors of the pictures' size, over which probabilities are averaged.
        """
        height, width = images.shape[-2:]
        return predict(self, images, (height, width), scales=scales)


def load(network: Published, pretrained: bool = True) -> HubModel:
    """A published network in eval mode; `pretrained` downloads its weights once, into hub's folder.

    Raises:
        ModelError: they cannot be had.
    """
    if not pretrained:
        encoder = ModelBuilder.build_encoder(network.encoder, weights="none")
        classes = ADE20K["num_class"]
        decoder = ModelBuilder.build_decoder(network.decoder, encoder.channels, classes)
        return HubModel(encoder, decoder).eval()
    ckpt = Path(torch.hub.get_dir()) / "segmentation"
    config = find_run(ckpt, network.id, SUFFIX)
    settings = argparse.Namespace(**config | {"ckpt": ckpt, "suffix": SUFFIX})
    return HubModel(*load_parts(settings)).eval()


def entry(network: Published) -> Callable[..., HubModel]:
    """What `torch.hub.load` calls for a network; its help has the scores."""
    function = partial(load, network)
    function.__doc__ = (  # type: ignore[attr-defined]
        f"{network.encoder} + {network.decoder} for ADE20K's 150 classes; mean IoU as published: "
        f"{network.one_scale[0]} % at one scale, {network.five_scales[0]} % at five."
    )
    return function


globals().update({f"{n.encoder}_{n.decoder}": entry(n) for n in PUBLISHED.values()})
