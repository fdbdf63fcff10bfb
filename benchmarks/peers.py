"""Runs a script that also knows networks of segmentation-models-pytorch, by names of their own.

    python -m benchmarks.peers train.py --num_class 11 \\
        --arch_encoder smp_unet_resnet34 --arch_decoder smp_unet_resnet34 …
    python -m benchmarks.peers eval.py --id ID

Data, loss, optimiser and scores stay the same, and so does what tells the encoder from the decoder,
such as their learning rates: only the network differs.
"""

import runpy
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from models.builder import DECODERS, ENCODERS
from models.decoders import Decoder
from models.encoder import Block, Encoder
from models.interpolation import Extent
from utils import UserError

MULTIPLE = 32  # these networks take pictures whose sides are multiples of it
BACKBONES = {
    "resnet34": ("resnet34", "ResNet-34"),
    "lite0": ("tu-tf_efficientnet_lite0", "EfficientNet-Lite0"),
}
HEADS = {"unet": "Unet", "fpn": "FPN", "deeplabv3plus": "DeepLabV3Plus"}
NAMES = {
    f"smp_{head}_{backbone}": f"{HEADS[head]} of {BACKBONES[backbone][1]}"
    for backbone, head in product(BACKBONES, HEADS)
}


class PeerEncoder(Encoder):
    """The encoder of a peer's network; its first map is the picture itself."""

    def __init__(self, name: str):
        super().__init__()
        self.encoder = build_network(name).encoder
        self.channels = self.encoder.out_channels
        self.strides = [min(2**i, self.encoder.output_stride) for i in range(len(self.channels))]
        if hasattr(self.encoder, "model"):  # timm's, whose weights expect pictures of their own
            config = self.encoder.model.pretrained_cfg
            self.mean, self.std = config["mean"], config["std"]

    def stages(self) -> list[list[Block]]:
        """All in one: the maps come out together."""
        return [[self.encoder]]

    def maps(self, x: Tensor, num: int | None = None) -> list[Tensor]:
        """The picture, continued to sides that the network takes, and its maps."""
        height, width = x.shape[-2:]
        x = nn.functional.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        return self.compute(self.encoder, x.contiguous(memory_format=torch.channels_last))

    def load_backbone(self, state: dict[str, Tensor]) -> None:
        """Start from weights of the backbone as timm has them; it has no use for the classifier.

        Raises:
            UserError: the weights are of another backbone.
        """
        backbone = getattr(self.encoder, "model", self.encoder)
        own = backbone.state_dict()
        if any(key not in state or state[key].shape != value.shape for key, value in own.items()):
            raise UserError("--weights: they are of another backbone than those of --peers")
        backbone.load_state_dict({key: state[key] for key in own})


class PeerDecoder(Decoder):
    """The rest of a peer's network: its logits are at the positions of the first map."""

    position = 0

    def __init__(self, name: str, num_class: int, channels: Sequence[int], **head):
        super().__init__(**head)
        network = build_network(name, num_class)
        self.channels = channels
        self.decoder = network.decoder
        self.segmentation_head = network.segmentation_head

    @property
    def num_maps(self) -> int:
        """All."""
        return len(self.channels)

    def logits(self, maps: Sequence[Tensor], extents: Sequence[Extent] | None = None) -> Tensor:
        """B x num_class x H x W, without the continued sides where extents tell the picture's."""
        height, width = extents[0] if extents else maps[0].shape[-2:]
        logits = self.segmentation_head(self.decoder(maps))
        return logits[..., : int(height), : int(width)]


def build_network(name: str, num_class: int = 1) -> Any:
    """A peer's network, a module, by one of `NAMES`, with random weights.

    Raises:
        UserError: the library is not installed.
    """
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        install = "pip install -r benchmarks/requirements.txt"
        raise UserError(f"{name} needs segmentation-models-pytorch: {install}") from error
    _, head, backbone = name.split("_")
    build = getattr(smp, HEADS[head])
    return build(BACKBONES[backbone][0], encoder_weights=None, classes=num_class)


def main() -> None:
    """Register the networks, and run the script."""
    script, *flags = sys.argv[1:]
    for name in NAMES:
        ENCODERS[name] = partial(PeerEncoder, name)
        DECODERS[name] = partial(PeerDecoder, name)
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
