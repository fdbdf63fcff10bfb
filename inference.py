"""Inference: load a run's network, and label whole pictures at several scales."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from common.devices import select_amp
from models import ModelBuilder, SegmentationModel
from models.upsample import average_upsampled_probabilities, upsample_argmax

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
MIN_SIDE = 32  # pixels; below that the features of a picture shrink to less than 2 x 2


def load_network(
    args: argparse.Namespace, weights: Sequence[Path], device: torch.device
) -> SegmentationModel:
    """The network with these settings and weights (the encoder's, the decoder's), for inference.

    Raises:
        ModelError: the weights cannot be read, or are of another network.
    """
    encoder_file, decoder_file = weights
    encoder = ModelBuilder.build_encoder(args.arch_encoder, args.fc_dim, encoder_file)
    decoder = ModelBuilder.build_decoder(
        args.arch_decoder, encoder.fc_dim, args.num_class, weights=decoder_file
    )
    model = SegmentationModel(encoder, decoder, select_amp(args.amp, device))
    return model.freeze().to(device)


@torch.inference_mode()
def predict(
    model: SegmentationModel,
    images: Tensor,
    size: tuple[int, int],
    short_side: int = -1,
    scales: Iterable[float] = SCALES,
) -> Tensor:
    """Labels B x H' x W' of pictures, on the model's device.

    Args:
        model: in eval mode.
        images: B x 3 x H x W, uint8, on any device.
        size: (H', W').
        short_side: pixels that the pictures' short side is scaled to; -1 = as many as it has.
        scales: factors of that; the probabilities are averaged over all of them.
    """
    images = images.to(model.mean.device).float()
    height, width = images.shape[-2:]
    if short_side == -1:
        short_side = min(height, width)
    logits = [
        model(resize(images, scaled_size((height, width), max(round(short_side * s), MIN_SIDE))))
        for s in scales
    ]
    if len(logits) == 1:
        return upsample_argmax(logits[0], size)
    labels, _ = average_upsampled_probabilities(logits, size)
    return labels


def scaled_size(size: Sequence[int], short_side: int) -> tuple[int, int]:
    """A size (height, width), scaled so that its shorter side is `short_side`; -1 = as it is."""
    height, width = size
    if short_side == -1:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures B x 3 x H x W in floating point, scaled bilinearly and, as in training, not aliased.

    Down to a half, bilinear interpolation uses every pixel; only below is antialiasing needed.
    """
    if size == tuple(images.shape[-2:]):
        return images
    antialias = images.shape[-2] > 2 * size[0]
    return F.interpolate(images, size=size, mode="bilinear", antialias=antialias)
