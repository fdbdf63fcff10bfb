"""What each network is and costs: renews the tables of docs/networks.md.

python -m benchmarks.networks
"""

import argparse
from pathlib import Path

import torch

from benchmarks.common import Row, Tables, main, renew
from common.published import PUBLISHED
from models import DECODERS, ENCODERS, ModelBuilder
from models.cost import giga_macs, training_bytes
from models.decoders import Decoder
from models.encoder import Encoder
from models.initial_weights import initial_weights

DOCUMENT = Path(__file__).parent.parent / "docs/networks.md"
CLASSES, SIDE = 150, 384
SMALLEST_DECODER, WITH_ALL_MAPS = "c1_bilinear", "resnet50dilated"


def build(arch_encoder: str, arch_decoder: str) -> tuple[Encoder, Decoder]:
    """A network without values."""
    with torch.device("meta"):
        encoder = ModelBuilder.build_encoder(arch_encoder, weights="none")
        return encoder, ModelBuilder.build_decoder(arch_decoder, encoder.channels, CLASSES)


def costs(arch_encoder: str, arch_decoder: str) -> Row:
    """What a pair costs."""
    encoder, decoder = build(arch_encoder, arch_decoder)
    parameters = sum(p.numel() for part in (encoder, decoder) for p in part.parameters())
    return {
        "million parameters": parameters / 1e6,
        "GMACs": giga_macs(encoder, decoder, SIDE),
        "MB a picture": training_bytes(encoder, decoder, SIDE, torch.bfloat16) / 2**20,
    }


def encoders() -> list[Row]:
    """Each encoder, with the smallest decoder."""
    rows: list[Row] = []
    for arch in ENCODERS:
        encoder, _ = build(arch, SMALLEST_DECODER)
        maps = zip(encoder.channels, encoder.strides, strict=True)
        sources = dict.fromkeys(weights.source for weights in initial_weights(arch))
        rows.append(
            {
                f"encoder, with `{SMALLEST_DECODER}`": f"`{arch}`",
                "maps: channels at stride": ", ".join(f"{c} at {s}" for c, s in maps),
                "initial weights": ", ".join(sources),
                **costs(arch, SMALLEST_DECODER),
            }
        )
    return rows


def decoders() -> list[Row]:
    """Each decoder, with an encoder that has all maps."""
    rows: list[Row] = []
    for arch in DECODERS:
        encoder, decoder = build(WITH_ALL_MAPS, arch)
        row: Row = {
            f"decoder, with `{WITH_ALL_MAPS}`": f"`{arch}`",
            "maps in use": str(decoder.train().num_maps),
            "logits at stride": str(encoder.strides[decoder.position]),
        }
        rows.append(row | costs(WITH_ALL_MAPS, arch))
    return rows


def published() -> list[Row]:
    """The networks that come trained."""
    return [
        {
            "network": f"`{network.id}`",
            **costs(network.encoder, network.decoder),
            "mean IoU, one scale": f"{network.one_scale[0]:.2f} %",
            "five scales": f"{network.five_scales[0]:.2f} %",
            "pixel accuracy, one scale": f"{network.one_scale[1]:.2f} %",
            "five scales ": f"{network.five_scales[1]:.2f} %",
        }
        for network in PUBLISHED.values()
    ]


def tables(args: argparse.Namespace) -> Tables:
    """All tables; the document is renewed with them."""
    results = {
        "Encoders": encoders(),
        "Decoders": decoders(),
        "Networks that come trained": published(),
    }
    renew(DOCUMENT, results)
    return results


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
