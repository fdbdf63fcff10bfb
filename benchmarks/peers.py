"""Runs a script that also knows networks of segmentation-models-pytorch, by names of their own.

    python -m benchmarks.peers train.py --num_class 11 \\
        --arch_encoder smp_unet_resnet34 --arch_decoder as_it_is …
    python -m benchmarks.peers eval.py --num_class 11 --id ID

Data, loss, optimiser and scores stay the same: only the network differs.
"""

import runpy
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product

import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn

from models.builder import DECODERS, ENCODERS
from models.decoders import Decoder
from models.encoder import Block, Encoder
from models.interpolation import Extent

MULTIPLE = 32  # these networks take pictures whose sides are multiples of it
AS_IT_IS = "as_it_is"
BACKBONES = {
    "resnet34": ("resnet34", "ResNet-34"),
    "lite0": ("tu-tf_efficientnet_lite0", "EfficientNet-Lite0"),
}
HEADS = {"unet": smp.Unet, "fpn": smp.FPN, "deeplabv3plus": smp.DeepLabV3Plus}
NAMES = {
    f"smp_{head}_{backbone}": f"{HEADS[head].__name__} of {BACKBONES[backbone][1]}"
    for backbone, head in product(BACKBONES, HEADS)
}


class WholeNetwork(Encoder):
    """A whole network as an encoder: its features are its logits, at the size of the picture."""

    strides = (1,)

    def __init__(self, network: nn.Module, num_class: int):
        super().__init__()
        self.channels = (num_class,)
        self.network = network

    def stages(self) -> list[list[Block]]:
        """The network as a single block."""
        return [[self.logits]]

    def logits(self, x: Tensor) -> Tensor:
        """Logits B x num_class x H x W of pictures B x 3 x H x W."""
        height, width = x.shape[-2:]
        x = nn.functional.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network(x)[..., :height, :width]

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Start from weights of the backbone as timm has them; it has no use for the classifier."""
        backbone = self.network.get_submodule("encoder.model")
        backbone.load_state_dict({key: state[key] for key in backbone.state_dict()})


class AsItIs(Decoder):
    """The decoder of a `WholeNetwork`: its features are the logits already."""

    def __init__(self, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        self.register_buffer("weights", torch.zeros(0))  # a file of weights has to have some

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """The features as they are."""
        return maps[-1]


def build_peer(name: str, num_class: int) -> WholeNetwork:
    """A peer's network, by one of `NAMES`, with random weights."""
    _, head, backbone = name.split("_")
    encoder, _ = BACKBONES[backbone]
    network = WholeNetwork(HEADS[head](encoder, encoder_weights=None, classes=num_class), num_class)
    if encoder.startswith("tu-"):  # timm's, whose weights expect pictures of their own
        config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        assert config is not None
        network.mean, network.std = config.mean, config.std
    return network


def main() -> None:
    """Register the networks, and run the script."""
    script, *flags = sys.argv[1:]
    num_class = int(flags[flags.index("--num_class") + 1])
    for name in NAMES:
        ENCODERS[name] = partial(build_peer, name, num_class)
    DECODERS[AS_IT_IS] = AsItIs
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
