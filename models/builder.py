"""`ModelBuilder`: names of encoders and decoders become modules with their weights."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from .decoders import C1, PPM, C1Bilinear, C1DeepSup, Decoder, PPMDeepSup, PSPBilinear
from .encoder import Encoder
from .fpn import FPN
from .hrnet import HRNetV2
from .initial_weights import initialise_encoder
from .layers import accept_single_values
from .mobilenet import MobileNetV2
from .resnet import ResNet
from .timm_encoder import PREFIX, build_timm, parse
from .upernet import UPerNet
from .vgg import vgg16, vgg19
from .weights import ModelError, load_file

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "vgg16_dilated8": vgg16,
    "vgg19_dilated8": vgg19,
    "resnet34_dilated16": partial(ResNet, 34, output_stride=16, stem_dim=64),
    "resnet34_dilated8": partial(ResNet, 34, output_stride=8, stem_dim=64),
    "resnet50_dilated16": partial(ResNet, 50, output_stride=16, stem_dim=64),
    "resnet50_dilated8": partial(ResNet, 50, output_stride=8, stem_dim=64),
    "resnet18": partial(ResNet, 18, output_stride=32, stem_dim=128),
    "resnet18dilated": partial(ResNet, 18, output_stride=8, stem_dim=128),
    "resnet34": partial(ResNet, 34, output_stride=32, stem_dim=64),
    "resnet50": partial(ResNet, 50, output_stride=32, stem_dim=128),
    "resnet50dilated": partial(ResNet, 50, output_stride=8, stem_dim=128),
    "resnet101": partial(ResNet, 101, output_stride=32, stem_dim=128),
    "resnet101dilated": partial(ResNet, 101, output_stride=8, stem_dim=128),
    "mobilenetv2dilated": MobileNetV2,
    "hrnetv2": HRNetV2,
}
DECODERS: dict[str, Callable[..., Decoder]] = {
    "c1_bilinear": C1Bilinear,
    "psp_bilinear": PSPBilinear,
    "c1": C1,
    "c1_deepsup": C1DeepSup,
    "ppm": PPM,
    "ppm_deepsup": PPMDeepSup,
    "upernet": UPerNet,
    "upernet_lite": partial(UPerNet, dim=256),
    "fpn": FPN,
}
MIN_MAPS = {"c1_deepsup": 2, "ppm_deepsup": 2, "upernet": 2, "upernet_lite": 2, "fpn": 2}  # else 1


class ModelBuilder:
    """Builds encoders and decoders by name; call it on the class or on an instance."""

    @staticmethod
    def build_encoder(
        arch: str = "resnet34_dilated8",
        fc_dim: int | None = None,
        weights: str | Path = "",
        drop_path: float = 0.0,
    ) -> Encoder:
        """An encoder: pictures B x 3 x H x W to maps B x channels[i] x H/strides[i] x W/strides[i].

        Args:
            arch: a key of `ENCODERS`, or "timm:NAME" with any of timm's names: see `TimmEncoder`.
            fc_dim: number of channels of the last map; another than the encoder's is an error.
            weights: "" (pretrained), "places365", "imagenet", "none" or a file.
            drop_path: the share of residual branches that training leaves out at random, rising
                from 0 to this from the first to the last; timm's encoders alone have it.

        Returns:
            The module; `channels` are its maps' widths, `fc_dim` is the last one's, and
            `weights_source` tells where its weights are from.

        Raises:
            ModelError: unknown architecture, another width, no drop path, or weights that cannot be
                had.
        """
        if arch.startswith(PREFIX):
            encoder: Encoder = build_timm(arch, weights, drop_path)
        elif drop_path:
            raise ModelError(f"{arch} has no drop path (--drop_path); encoders of timm's have")
        else:
            encoder = build_own(arch, weights)
        if fc_dim not in (None, encoder.fc_dim):
            raise ModelError(
                f"fc_dim {fc_dim} does not fit {arch}, whose features have {encoder.fc_dim}"
            )
        accept_single_values(encoder)
        return encoder

    @staticmethod
    def build_decoder(
        arch: str = "c1_bilinear",
        fc_dim: int | Sequence[int] = 512,
        num_class: int = 150,
        segSize: int | tuple[int, int] = 384,
        weights: str | Path = "",
        use_softmax: bool = False,
    ) -> Decoder:
        """A decoder: maps B x fc_dim[i] x h_i x w_i to log-probabilities B x num_class x segSize.

        Args:
            arch: a key of `DECODERS`.
            fc_dim: number of channels of the last map, or those of all maps.
            num_class: number of classes.
            segSize: default output size in pixels, a side or (height, width).
            weights: "" (random) or a file.
            use_softmax: give probabilities rather than log-probabilities.

        Raises:
            ModelError: unknown architecture, too few maps, or weights that cannot be read or do not
                fit.
        """
        check_decoder(arch)
        channels = (fc_dim,) if isinstance(fc_dim, int) else tuple(fc_dim)
        if len(channels) < MIN_MAPS.get(arch, 1):
            fitting = ", ".join(name for name in DECODERS if MIN_MAPS.get(name, 1) <= len(channels))
            raise ModelError(
                f"decoder {arch} needs {MIN_MAPS[arch]} maps of features or more, and the encoder "
                f"gives {len(channels)}; decoders that do with them: {fitting}"
            )
        decoder = DECODERS[arch](num_class, channels, segSize=segSize, use_softmax=use_softmax)
        accept_single_values(decoder)
        if weights:
            load_file(decoder, f"{arch} with {num_class} classes", weights)
        return decoder


def build_own(arch: str, weights: str | Path) -> Encoder:
    """One of `ENCODERS` with its initial weights.

    Raises:
        ModelError: unknown architecture, or weights that cannot be had.
    """
    check_encoder(arch)
    encoder = ENCODERS[arch]()
    encoder.weights_source = initialise_encoder(encoder, arch, weights)
    return encoder


def check_encoder(arch: str) -> None:
    """Check that there is such an encoder, without building it.

    Raises:
        ModelError: there is none.
    """
    if arch.startswith(PREFIX):
        parse(arch)
    elif arch not in ENCODERS:
        raise ModelError(unknown("encoder", arch, [*ENCODERS, f"{PREFIX}NAME"]))


def check_decoder(arch: str) -> None:
    """Check that there is such a decoder, without building it.

    Raises:
        ModelError: there is none.
    """
    if arch not in DECODERS:
        raise ModelError(unknown("decoder", arch, DECODERS))


def unknown(kind: str, arch: str, known: Iterable[str]) -> str:
    """The complaint about an unknown name, with the nearest known one."""
    nearest = difflib.get_close_matches(arch, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"unknown {kind} {arch!r}; {hint}known: {', '.join(known)}"
