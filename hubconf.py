"""Networks for Python, with `torch.hub.load` or without: see docs/deploy.md."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.classes import ADE20K, Classes, read_classes
from common.published import PUBLISHED, SUFFIX, Published
from inference import load_parts, predict, run_settings
from models import ModelBuilder, SegmentationModel
from models.decoders import Decoder
from models.encoder import Encoder

dependencies = ["cv2", "numpy", "PIL", "torch"]


class HubModel(SegmentationModel):
    """A network that labels pictures.

    Attributes:
        classes: names and colours of its classes.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, classes: Classes):
        super().__init__(encoder, decoder)
        self.classes = classes
        self.eval()

    def predict(self, images: Tensor, scales: Sequence[float] = (1.0,)) -> Tensor:
        """Labels B x H x W, class indices from 0, of pictures B x 3 x H x W, RGB uint8.

        Args:
            images: on any device.
            scales: factors of the pictures' size, over which probabilities are averaged.
        """
        height, width = images.shape[-2:]
        return predict(self, images, (height, width), scales=scales)


def run(id: str, ckpt: str = "./ckpt", suffix: str = SUFFIX) -> HubModel:
    """The network of a run: one's own, a published one, or one that others share.

    Args:
        id: its name in `ckpt`, the path of its folder, or hf:OWNER/NAME.
        ckpt: folder of the runs; what is downloaded goes there.
        suffix: which weights.

    Raises:
        UserError, ModelError: there is no such run.
    """
    settings = run_settings(ckpt, id, suffix)
    classes = read_classes(settings.list_class, settings.num_class)
    return HubModel(*load_parts(settings), classes)


def load(network: Published, pretrained: bool = True) -> HubModel:
    """A published network in eval mode; `pretrained` downloads its weights once, into hub's folder.

    Raises:
        ModelError: they cannot be had.
    """
    if not pretrained:
        encoder = ModelBuilder.build_encoder(network.encoder, weights="none")
        classes = read_classes(ADE20K["list_class"], ADE20K["num_class"])
        decoder = ModelBuilder.build_decoder(network.decoder, encoder.channels, ADE20K["num_class"])
        return HubModel(encoder, decoder, classes)
    return run(network.id, str(Path(torch.hub.get_dir()) / "segmentation"))


def entry(network: Published) -> Callable[..., HubModel]:
    """What `torch.hub.load` calls for a network; its help has the scores."""
    function = partial(load, network)
    function.__doc__ = (  # type: ignore[attr-defined]
        f"{network.encoder} + {network.decoder} for ADE20K's 150 classes; mean IoU as published: "
        f"{network.one_scale[0]} % at one scale, {network.five_scales[0]} % at five."
    )
    return function


globals().update({f"{n.encoder}_{n.decoder}": entry(n) for n in PUBLISHED.values()})
