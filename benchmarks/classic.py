"""The classic recipe, in plain code: the baseline of all benchmarks.

NCHW in single precision. Data: PIL decodes and scales the whole picture, then crops. Loss:
full-size logits, log-softmax, negative log-likelihood. Evaluation: SciPy scales the picture; the
softmax at full size is averaged over the scales.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import scipy.ndimage
import torch
from PIL import Image
from torch import Tensor, nn

from models.decoders import Decoder, PSPBilinear
from models.encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder
from models.interpolation import Extent
from models.upsample import upsample
from models.winograd import Conv3x3

Network = TypeVar("Network", bound=nn.Module)


def classic_network(module: Network) -> Network:
    """The module itself, changed in place so that all convolutions are PyTorch's own."""
    for part in module.modules():
        if isinstance(part, Conv3x3):
            part.__class__ = nn.Conv2d  # type: ignore[assignment]
    return module


def classic_logits(
    encoder: Encoder,
    decoder: Decoder,
    images: Tensor,
    extents: Sequence[Extent] | None = None,
) -> Tensor:
    """Logits B x C x h x w of normalised pictures B x 3 x H x W.

    Maps are stretched over each other, unless their extents are given.
    """
    maps = encoder.maps(images, decoder.num_maps)
    if not isinstance(decoder, PSPBilinear):
        return decoder.logits(maps, extents)
    features = maps[-1]
    pools = [upsampled(pool(features), features.shape[-2:]) for pool in decoder.psp]
    conv, *rest = decoder.conv_last
    assert isinstance(conv, nn.Conv2d)
    x = nn.functional.conv2d(torch.cat([features, *pools], dim=1), conv.weight, padding=1)
    for module in rest:
        x = module(x)
    return x


def classic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of logits B x C x h x w for labels B x H x W, -1 = unlabelled."""
    log_p = upsampled(logits, labels.shape[-2:]).log_softmax(dim=1)
    return nn.functional.nll_loss(log_p, labels, ignore_index=-1)


def upsampled(x: Tensor, size: Sequence[int]) -> Tensor:
    """B x C x height x width of B x C x h x w, interpolated bilinearly to the size given."""
    return nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)


def classic_item(
    path_img: Path, path_seg: Path, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A random crop, normalised 3 x side x side, and its label side x side, -1 = unlabelled."""
    image = Image.open(path_img).convert("RGB")
    scale = max(rng.uniform(0.5, 1.5), side / min(image.size))
    width, height = (round(n * scale) for n in image.size)
    x, y = (int(rng.integers(n - side + 1)) for n in (width, height))
    box = (x, y, x + side, y + side)
    scaled = image.resize((width, height), Image.Resampling.BILINEAR)
    scaled_label = Image.open(path_seg).resize((width, height), Image.Resampling.NEAREST)
    picture, label = np.asarray(scaled.crop(box)), np.asarray(scaled_label.crop(box))
    if rng.random() < 0.5:
        picture, label = picture[:, ::-1], label[:, ::-1]
    return normalised(picture), torch.from_numpy(label.astype(np.int64) - 1)


def normalised(
    picture: np.ndarray,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """A picture H x W x 3 in 0…255 as 3 x H x W, normalised by mean and deviation in 0…1."""
    centre, scale = np.array(mean, np.float32), np.array(std, np.float32)
    picture = (picture.astype(np.float32) / 255 - centre) / scale
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


@torch.no_grad()
def classic_prediction(
    encoder: Encoder,
    decoder: Decoder,
    picture: np.ndarray,
    scales: Sequence[float],
    stretch: bool = True,
) -> Tensor:
    """Labels H x W of a picture H x W x 3, uint8.

    Features are stretched over the picture, whatever its size; without `stretch`, each covers the
    encoder's stride, as in `models.upsample`.
    """
    total = torch.zeros(())
    for scale in scales:
        scaled = scipy.ndimage.zoom(
            picture, (scale, scale, 1), order=1, grid_mode=True, mode="nearest"
        )
        images = normalised(scaled, encoder.mean, encoder.std)[None]
        extents = None if stretch else encoder.extents(images)
        logits = classic_logits(encoder, decoder, images, extents)
        extent = extents[decoder.position] if extents else None
        total = total + upsample(logits, picture.shape[:2], extent).softmax(dim=1) / len(scales)
    return total.argmax(dim=1)[0]
