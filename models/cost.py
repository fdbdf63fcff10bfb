"""What a network costs: arithmetic, and memory in training. Both are found without any data."""

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .decoders import Decoder
from .encoder import Encoder

T = TypeVar("T")


def giga_macs(encoder: Encoder, decoder: Decoder, side: int) -> float:
    """Multiply-accumulate operations, in 10^9, for a picture of side x side pixels."""
    encoder, decoder = copy.deepcopy((encoder, decoder))
    encoder.to("meta").eval()
    decoder.to("meta").eval()
    images = torch.empty(1, 3, side, side, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.logits(encoder.maps(images, decoder.num_maps))
    return counter.get_total_flops() / 2e9


def training_bytes(encoder: Encoder, decoder: Decoder, side: int, dtype: torch.dtype) -> int:
    """Bytes that training keeps of a picture of side x side pixels until the backward pass."""
    network = copy.deepcopy(nn.ModuleList([encoder, decoder])).to("meta", dtype).train()
    encoder, decoder = network  # type: ignore[assignment]
    images = torch.empty(1, 3, side, side, dtype=dtype, device="meta")

    def run() -> list[Tensor | None]:
        maps = encoder.maps(images, decoder.num_maps)
        return [decoder.logits(maps), decoder.auxiliary_logits(maps)]

    _, kept = kept_tensors(run, network)
    return sum(tensor.nbytes for tensor in kept.values())


def kept_tensors(run: Callable[[], T], network: nn.Module) -> tuple[T, dict[int, Tensor]]:
    """What `run` gives, and the tensors that autograd keeps of it.

    Args:
        run: a computation with a network.
        network: its weights are left out.

    Returns:
        The output, and one tensor of each storage, by the storage.
    """
    weights = {storage(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if storage(tensor) not in weights:
            kept.setdefault(storage(tensor), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        return run(), kept


def storage(tensor: Tensor) -> int:
    """What tensors have in common that share memory, on the meta device, too."""
    return tensor.untyped_storage()._cdata
