"""The classic recipe, written once and plainly: what everybody runs, and the thing to beat.

NCHW in single precision. Data: PIL decodes, scales the whole picture, crops then. Loss: logits
upsampled whole, log-softmax, negative log-likelihood. Evaluation: SciPy scales the picture, softmax
at full resolution, averaged over the scales.
"""

from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from models.decoders import PSPBilinear
from models.winograd import Conv3x3

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


def classic_network(module: nn.Module) -> nn.Module:
    """An encoder or decoder whose convolutions are all PyTorch's own."""
    for part in module.modules():
        if isinstance(part, Conv3x3):
            part.__class__ = nn.Conv2d
    return module


def classic_logits(encoder: nn.Module, decoder: nn.Module, images: Tensor) -> Tensor:
    """Logits B x C x h x w of normalised pictures B x 3 x H x W."""
    features = encoder(images)
    if not isinstance(decoder, PSPBilinear):
        return decoder.logits(features)
    pools = [upsampled(pool(features), features.shape[-2:]) for pool in decoder.psp]
    return decoder.conv_last(torch.cat([features, *pools], dim=1))


def classic_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of logits B x C x h x w for labels B x H x W, -1 = unlabelled."""
    log_p = F.log_softmax(upsampled(logits, labels.shape[-2:]), dim=1)
    return F.nll_loss(log_p, labels, ignore_index=-1)


def upsampled(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def classic_item(
    path_img: Path, path_seg: Path, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A random crop, normalised 3 x side x side, and its label side x side, -1 = unlabelled."""
    picture, label = Image.open(path_img).convert("RGB"), Image.open(path_seg)
    scale = max(rng.uniform(0.5, 1.5), side / min(picture.size))
    size = [round(n * scale) for n in picture.size]
    picture, label = picture.resize(size, Image.BILINEAR), label.resize(size, Image.NEAREST)
    x, y = (int(rng.integers(n - side + 1)) for n in size)
    box = (x, y, x + side, y + side)
    picture, label = np.asarray(picture.crop(box)), np.asarray(label.crop(box))
    if rng.random() < 0.5:
        picture, label = picture[:, ::-1], label[:, ::-1]
    return normalised(picture), torch.from_numpy(label.astype(np.int64) - 1)


def normalised(picture: np.ndarray) -> Tensor:
    """3 x H x W of H x W x 3 in 0…255."""
    picture = (picture.astype(np.float32) / 255 - MEAN) / STD
    return torch.from_numpy(picture.transpose(2, 0, 1).copy())


@torch.no_grad()
def classic_prediction(
    encoder: nn.Module, decoder: nn.Module, picture: np.ndarray, scales: tuple[float, ...]
) -> Tensor:
    """Labels H x W of a picture H x W x 3, uint8."""
    total = 0
    for scale in scales:
        scaled = scipy.ndimage.zoom(
            picture, (scale, scale, 1), order=1, grid_mode=True, mode="nearest"
        )
        logits = classic_logits(encoder, decoder, normalised(scaled)[None])
        total = total + F.softmax(upsampled(logits, picture.shape[:2]), dim=1) / len(scales)
    return total.argmax(dim=1)[0]
