"""A run's network, and its prediction of whole pictures at several scales."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from models import ModelBuilder, SegmentationModel
from models.upsample import average_upsampled_probabilities, upsample_argmax
from utils import select_amp

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
MIN_SIDE = 32  # pixels; below that the features of a picture shrink to less than 2 x 2


def load_network(
    args: argparse.Namespace, encoder_file: Path, decoder_file: Path, device: torch.device
) -> SegmentationModel:
    """The network of those settings and weights, ready to predict.

    Raises:
        ModelError: the weights cannot be read, or are of another network.
    """
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
        model(resize(images, scaled_size(height, width, max(round(short_side * s), MIN_SIDE))))
        for s in scales
    ]
    if len(logits) == 1:
        return upsample_argmax(logits[0], size)
    labels, _ = average_upsampled_probabilities(logits, size)
    return labels


def scaled_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """(height, width) in proportion, the smaller of them `short_side`; -1 = as they are."""
    if short_side == -1:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures B x 3 x H x W in floating point, bilinearly and, as in training, without aliasing.

    Down to a half, the neighbours that are interpolated between are all the pixels there are.
    """
    if size == tuple(images.shape[-2:]):
        return images
    antialias = images.shape[-2] > 2 * size[0]
    return F.interpolate(images, size=size, mode="bilinear", antialias=antialias)


def batch_by_size(items: Iterable[tuple], batch_size: int) -> Iterator[list[tuple]]:
    """Up to `batch_size` successive items whose first parts, the pictures, are of one size."""
    for _, group in groupby(items, key=lambda item: item[0].shape):
        while batch := list(islice(group, batch_size)):
            yield batch
