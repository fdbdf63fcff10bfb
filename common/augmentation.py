"""Random changes of training crops beyond their place and mirroring: colours, mixed classes.

All draw from the generator that they are given, and work on uint8.
"""

import random
from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601


@dataclass(frozen=True)
class Augmentation:
    """How training crops are drawn and changed.

    Attributes:
        scale_min, scale_max: bounds of the pictures' scale in a crop.
        cat_max_ratio: the largest share of a crop that one class may fill, if that can be had.
        color_jitter: strength of `jitter_colours`; 0 = none.
        classmix: the share of the crops that become one of `mix_classes`.
    """

    scale_min: float = 0.5
    scale_max: float = 1.5
    cat_max_ratio: float = 1.0
    color_jitter: float = 0.0
    classmix: float = 0.0


def is_varied(label: np.ndarray, cat_max_ratio: float) -> bool:
    """Whether no class fills more than a share of a label's labelled pixels, of which it has some.

    Args:
        label: H x W, as `SegmentationDataset` has it.
        cat_max_ratio: the share.
    """
    counts = np.bincount(label[label != unlabelled(label)])
    return counts.sum() > 0 and counts.max() <= cat_max_ratio * counts.sum()


def jitter_colours(picture: np.ndarray, strength: float, rng: random.Random) -> np.ndarray:
    """A picture in another light: H x W x 3, RGB uint8.

    With a strength of 1, gamma is between 1/2 and 2, contrast and saturation are changed by up to a
    half, brightness by up to an eighth of the range, and hues are turned by up to 36 degrees. These
    are about the bounds of Liu et al., "SSD", 2016, which has no gamma.
    """
    gamma = 2 ** (strength * rng.uniform(-1, 1))
    contrast, saturation = (1 + strength * rng.uniform(-0.5, 0.5) for _ in range(2))
    brightness = strength * rng.uniform(-32, 32)
    hue = strength * np.radians(rng.uniform(-36, 36))

    table = (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
    picture = cv2.LUT(picture, table)
    # Colours are turned around the axis of greys, and what differs from a pixel's grey is scaled.
    axis = np.ones(3) / np.sqrt(3)
    turned, _ = cv2.Rodrigues(hue * axis)
    grey = np.tile(LUMA, (3, 1))
    matrix = contrast * (grey + saturation * turned @ (np.eye(3) - grey))
    mean = LUMA @ cv2.mean(picture)[:3]
    offset = (1 - contrast) * mean + brightness
    return cv2.transform(picture, np.c_[matrix, np.full(3, offset)])


def mix_classes(
    picture: np.ndarray,
    label: np.ndarray,
    other_picture: np.ndarray,
    other_label: np.ndarray,
    rng: random.Random,
) -> tuple[np.ndarray, np.ndarray]:
    """A crop with half of another one's classes on top: Olsson et al., "ClassMix", 2021.

    Args:
        picture, other_picture: N x N x 3.
        label, other_label: M x M; M may differ from N.
        rng: draws the classes.
    """
    classes = np.unique(other_label[other_label != unlabelled(other_label)]).tolist()
    taken = rng.sample(classes, (len(classes) + 1) // 2)
    mask = np.isin(other_label, taken)
    size = picture.shape[1::-1]
    wide = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT)
    return (
        np.where(wide[..., None] > 0, other_picture, picture),
        np.where(mask, other_label, label),
    )


def unlabelled(label: np.ndarray) -> int:
    """The value of unlabelled pixels: 255 in uint8, -1 in other types."""
    return 255 if label.dtype == np.uint8 else -1
