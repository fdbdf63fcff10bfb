"""The arithmetic of a network."""

import copy

import torch
from torch.utils.flop_counter import FlopCounterMode

from .decoders import Decoder
from .encoder import Encoder


def giga_macs(encoder: Encoder, decoder: Decoder, side: int) -> float:
    """Multiply-accumulate operations, in 10^9, for a picture of side x side pixels."""
    encoder, decoder = copy.deepcopy((encoder, decoder))
    encoder.to("meta").eval()
    decoder.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        decoder.logits(encoder.maps(torch.empty(1, 3, side, side, device="meta")))
    return counter.get_total_flops() / 2e9
