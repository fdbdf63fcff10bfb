"""`ModelBuilder`: names of encoders and decoders become modules with their weights."""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from .decoders import BilinearDecoder, C1Bilinear, PSPBilinear
from .encoder import Encoder
from .resnet import resnet34, resnet50
from .vgg import vgg16, vgg19
from .weights import ModelError, initialise_encoder, load_file

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "vgg16_dilated8": vgg16,
    "vgg19_dilated8": vgg19,
    "resnet34_dilated16": partial(resnet34, output_stride=16),
    "resnet34_dilated8": partial(resnet34, output_stride=8),
    "resnet50_dilated16": partial(resnet50, output_stride=16),
    "resnet50_dilated8": partial(resnet50, output_stride=8),
}
DECODERS: dict[str, Callable[..., BilinearDecoder]] = {
    "c1_bilinear": C1Bilinear,
    "psp_bilinear": PSPBilinear,
}


class ModelBuilder:
    """Builds encoders and decoders by name; call it on the class or on an instance."""

    @staticmethod
    def build_encoder(
        arch: str = "resnet34_dilated8", fc_dim: int | None = None, weights: str | Path = ""
    ) -> Encoder:
        """An encoder: pictures B x 3 x H x W to features B x fc_dim x H/s x W/s, s = 8 or 16.

        Args:
            arch: a key of `ENCODERS`; the number at its end is s.
            fc_dim: number of channels of the features; another than the encoder's is an error.
            weights: "" (pretrained), "places365", "imagenet", "none" or a file.

        Returns:
            The module; `fc_dim` is its width, `weights_source` tells where its weights are from.

        Raises:
            ModelError: unknown architecture, another width, or weights that cannot be had.
        """
        if arch not in ENCODERS:
            raise ModelError(unknown("encoder", arch, ENCODERS))
        encoder = ENCODERS[arch]()
        if fc_dim not in (None, encoder.fc_dim):
            raise ModelError(
                f"fc_dim {fc_dim} does not fit {arch}, whose features have {encoder.fc_dim}"
            )
        encoder.weights_source = initialise_encoder(encoder, arch, weights)
        return encoder

    @staticmethod
    def build_decoder(
        arch: str = "c1_bilinear",
        fc_dim: int = 512,
        num_class: int = 150,
        segSize: int | tuple[int, int] = 384,
        weights: str | Path = "",
        use_softmax: bool = False,
    ) -> BilinearDecoder:
        """A decoder: features B x fc_dim x h x w to log-probabilities B x num_class x segSize.

        Args:
            arch: a key of `DECODERS`.
            fc_dim: number of channels of the features.
            num_class: number of classes.
            segSize: default output size in pixels, a side or (height, width).
            weights: "" (random) or a file.
            use_softmax: give probabilities rather than log-probabilities.

        Raises:
            ModelError: unknown architecture, or weights that cannot be read or do not fit.
        """
        if arch not in DECODERS:
            raise ModelError(unknown("decoder", arch, DECODERS))
        decoder = DECODERS[arch](num_class, fc_dim, segSize=segSize, use_softmax=use_softmax)
        if weights:
            load_file(decoder, f"{arch} with {num_class} classes", weights)
        return decoder


def unknown(kind: str, arch: str, known: Iterable[str]) -> str:
    """The complaint about an unknown name, with the nearest known one."""
    nearest = difflib.get_close_matches(arch, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    return f"unknown {kind} {arch!r}; {hint}known: {', '.join(known)}"
