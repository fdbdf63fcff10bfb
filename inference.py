"""Inference: load a run's network, and label whole pictures at several scales."""

import argparse
import logging
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from common.devices import select_amp
from common.files import read_together
from common.names import locate
from common.runs import find_run, run_folder, weights_files
from models import ModelBuilder, SegmentationModel
from models.decoders import Decoder
from models.encoder import Encoder
from models.upsample import average_upsampled_probabilities, upsample_argmax
from options import MIN_SIDE, fill_from_run
from utils import UserError

logger = logging.getLogger(__name__)

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)
# The later reference (mit-semseg) evaluates at short sides of 300, 375, 450, 525 and 600 pixels, or
# at 450 alone.
REFERENCE_SIDE = 450
REFERENCE_SCALES = (2 / 3, 5 / 6, 1.0, 7 / 6, 4 / 3)
REFERENCE_LONGEST = 1000  # pixels of the long side, before both sides are rounded up

# Flags whose settings tell a run's network and classes.
OF_RUN = ("arch_encoder", "arch_decoder", "fc_dim", "num_class", "list_class")


def run_settings(ckpt: str, run_id: str, suffix: str) -> argparse.Namespace:
    """What loading a run's network takes, without any flag.

    Args:
        ckpt, run_id: as --ckpt and --id have them.
        suffix: of its weights.

    Raises:
        UserError, ModelError: there is no such run, or it cannot be downloaded.
    """
    ckpt, run_id = locate(ckpt, run_id)
    args = argparse.Namespace(ckpt=ckpt, id=run_id, suffix=suffix, **dict.fromkeys(OF_RUN))
    fill_from_run(args, find_run(ckpt, run_id, suffix))
    return args


def load_network(args: argparse.Namespace, device: torch.device) -> SegmentationModel:
    """The network of the run that the settings name, made fast for inference.

    Raises:
        UserError, ModelError: the weights cannot be read, or are of another network.
    """
    return load_plain_network(args, device).freeze()


def load_plain_network(args: argparse.Namespace, device: torch.device) -> SegmentationModel:
    """The network of the run that the settings name.

    Raises:
        UserError, ModelError: the weights cannot be read, or are of another network.
    """
    return SegmentationModel(*load_parts(args), select_amp(args.amp, device)).to(device)


def load_parts(args: argparse.Namespace) -> tuple[Encoder, Decoder]:
    """Encoder and decoder of the run that the settings name.

    Raises:
        UserError, ModelError: the weights cannot be read, or are of another network.
    """

    def build(encoder_file: Path, decoder_file: Path) -> tuple[Encoder, Decoder]:
        encoder = ModelBuilder.build_encoder(args.arch_encoder, args.fc_dim, encoder_file)
        decoder = ModelBuilder.build_decoder(
            args.arch_decoder, encoder.channels, args.num_class, weights=decoder_file
        )
        return encoder, decoder

    folder = run_folder(args.ckpt, args.id)
    return read_together(folder, weights_files(folder, args.suffix), build)


@torch.inference_mode()
def predict(
    model: SegmentationModel,
    images: Tensor,
    size: tuple[int, int],
    short_side: int = -1,
    scales: Iterable[float] = SCALES,
    flip: bool = False,
) -> Tensor:
    """Labels B x H' x W' of pictures, on the model's device.

    Args:
        model: in eval mode.
        images: B x 3 x H x W, uint8, on any device.
        size: (H', W').
        short_side: pixels that the pictures' short side is scaled to; -1 = as many as it has.
        scales: factors of that; the probabilities are averaged over all of them.
        flip: average over the mirrored pictures, too.

    Raises:
        UserError: the network's output is not finite.
    """
    images = images.to(model.mean.device, non_blocking=True).float()
    if short_side == -1:
        short_side = min(images.shape[-2:])
    return label(model, (resize(images, short_side * scale) for scale in scales), size, flip)


@torch.inference_mode()
def predict_as_reference(
    model: SegmentationModel,
    images: Tensor,
    size: tuple[int, int],
    short_side: int = REFERENCE_SIDE,
    scales: Iterable[float] = REFERENCE_SCALES,
    flip: bool = False,
) -> Tensor:
    """Labels of pictures as `predict` gives them, seen at the sizes that the reference shows.

    Args:
        model, images, size, scales, flip: as `predict` has them.
        short_side: pixels of the short side at scale 1; -1 = as many as it has.

    Raises:
        UserError: the network's output is not finite.
    """
    if short_side == -1:
        short_side = min(images.shape[-2:])
    divisor = model.encoder.coarsest_stride
    seen = (resize_as_reference(images, round(short_side * scale), divisor) for scale in scales)
    versions = (p.to(model.mean.device, non_blocking=True).float() for p in seen)
    return label(model, versions, size, flip)


def label(
    model: SegmentationModel, versions: Iterable[Tensor], size: tuple[int, int], flip: bool
) -> Tensor:
    """Labels B x H' x W' by the mean probability over some versions of pictures.

    Args:
        model: in eval mode.
        versions: each the same pictures, B x 3 x H x W in floating point, of any size.
        size: (H', W').
        flip: mirror each version as well.

    Raises:
        UserError: the network's output is not finite.
    """
    logits, extents, mirrored = [], [], []
    with torch.cuda.device_of(model.mean):  # any thread may call this, and each has its current GPU
        for scaled in versions:
            for is_mirrored in (False, True) if flip else (False,):
                logits.append(model(scaled.flip(-1) if is_mirrored else scaled))
                extents.append(model.extent(scaled))
                mirrored.append(is_mirrored)
        check_finite(*logits)
        if len(logits) == 1:
            return upsample_argmax(logits[0], size, extents[0])
        labels, _ = average_upsampled_probabilities(logits, size, extents, mirrored)
    return labels


@cache
def tell_once(message: str, *values: object) -> None:
    """Log a message the first time that it comes up."""
    logger.warning(message, *values)


def check_finite(*logits: Tensor) -> None:
    """Check the output of a network before it is turned into labels, which would look like any.

    Raises:
        UserError: some of it is not finite.
    """
    if not all(z.isfinite().all() for z in logits):
        raise UserError(
            "the network's output is not finite: half precision overflows (try --amp off), or its "
            "weights are damaged (try another --suffix)"
        )


def scaled_size(size: Sequence[int], short_side: int) -> tuple[int, int]:
    """A size (height, width), scaled so that its shorter side is `short_side`; -1 = as it is."""
    height, width = size
    if short_side == -1:
        return height, width
    scale = short_side / min(height, width)
    return round(height * scale), round(width * scale)


def resize(images: Tensor, short_side: float) -> Tensor:
    """Pictures B x 3 x H x W in floating point, scaled bilinearly and, as in training, not aliased.

    Down to a half, bilinear interpolation uses every pixel; only below is antialiasing needed. The
    side that is asked for decides, not the one it is rounded to: half of 141 pixels is a half.

    Args:
        images: B x 3 x H x W.
        short_side: pixels that the short side is to have, a fraction or not; `MIN_SIDE` at least.
    """
    if short_side < MIN_SIDE:
        tell_once(
            "Pictures whose short side would be below %d pixels are scaled to that.", MIN_SIDE
        )
        short_side = MIN_SIDE
    size = scaled_size(images.shape[-2:], round(short_side))
    if size == tuple(images.shape[-2:]):
        return images
    antialias = short_side < min(images.shape[-2:]) / 2
    return F.interpolate(images, size=size, mode="bilinear", antialias=antialias)


def resize_as_reference(images: Tensor, short_side: int, divisor: int) -> Tensor:
    """Pictures at a size that the later reference (mit-semseg) shows to a network.

    The long side has at most `REFERENCE_LONGEST` pixels. Both sides are rounded up to multiples, so
    that proportions may change a little. Pillow scales, with antialiasing.

    Args:
        images: B x 3 x H x W, uint8, on the CPU.
        short_side: pixels that the short side is to have.
        divisor: what both sides become multiples of.

    Returns:
        B x 3 x H' x W', uint8.
    """
    height, width = images.shape[-2:]
    scale = min(short_side / min(height, width), REFERENCE_LONGEST / max(height, width))
    # It cuts off before it rounds up: 33.99 pixels become 33, and these 40.
    rows, columns = (-(-int(side * scale) // divisor) * divisor for side in (height, width))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    scaled = [
        np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR))
        for picture in pictures
    ]
    return torch.from_numpy(np.stack(scaled)).permute(0, 3, 1, 2)
