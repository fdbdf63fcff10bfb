"""Networks of segmentation-models-pytorch under names of ours: the scripts train and score them.

    python -m benchmarks.peers train.py --num_class 11 \\
        --arch_encoder smp_unet_resnet34 --arch_decoder as_it_is …
    python -m benchmarks.peers eval.py --num_class 11 --id ID

Data, loss, optimiser and scores are then the very same; what differs is the network alone.
"""

import runpy
import sys
from collections.abc import Callable
from functools import partial

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.builder import DECODERS, ENCODERS
from models.decoders import BilinearDecoder
from models.encoder import Encoder

MULTIPLE = 32  # of which these networks want their pictures' sides to be


class WholeNetwork(Encoder):
    """A network whose features are its logits, at the size of the picture."""

    output_stride = 1

    def __init__(self, build: Callable[..., nn.Module], num_class: int):
        super().__init__()
        self.fc_dim = num_class
        self.network = build("resnet34", encoder_weights=None, classes=num_class)

    def blocks(self) -> list[Callable[[Tensor], Tensor]]:
        return [self.logits]

    def logits(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % MULTIPLE, 0, -height % MULTIPLE), mode="replicate")
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network(x)[..., :height, :width]


class AsItIs(BilinearDecoder):
    """Nothing is left to decode."""

    def __init__(self, num_class: int, fc_dim: int, **head):
        super().__init__(**head)

    def logits(self, features: Tensor) -> Tensor:
        return features


def main() -> None:
    script, *flags = sys.argv[1:]
    num_class = int(flags[flags.index("--num_class") + 1])
    ENCODERS["smp_unet_resnet34"] = partial(WholeNetwork, smp.Unet, num_class)
    ENCODERS["smp_deeplabv3plus_resnet34"] = partial(WholeNetwork, smp.DeepLabV3Plus, num_class)
    DECODERS["as_it_is"] = AsItIs
    sys.argv = [script, *flags]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
