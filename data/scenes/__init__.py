"""Synthetic scenes: a seed and a number give a picture of a street or a room, and its labels."""

import cv2
import numpy as np

from .room import room_scene
from .street import street_scene

SUPERSAMPLING = 2
SPLITS = ("train", "val")


def photograph(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn light (rows, columns, 3) into an 8-bit picture as a camera does, with blur and noise."""
    rows, columns = image.shape[:2]
    y, x = np.ogrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    vignette = 1 - rng.uniform(0.04, 0.16) * (x**2 + y**2)
    balance = rng.normal(1, 0.02, 3)
    image = image * (rng.uniform(0.88, 1.12) * vignette[..., None] * balance)
    # Highlights are compressed rather than clipped.
    image = np.where(image > 0.7, 0.7 + 0.3 * np.tanh((image - 0.7) / 0.3), image)
    image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.2, 0.5))
    image = image + rng.uniform(0.003, 0.008) * rng.standard_normal((rows, columns, 1), np.float32)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def render_scene(
    seed: int, split: str, number: int, width: int, height: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render the scene `number` (from 1) of a split: odd ones are streets, even ones rooms.

    Returns the picture (height, width, 3) in RGB and the labels (height, width), both 8-bit.
    """
    rng = np.random.default_rng((seed, SPLITS.index(split), number))
    scene = street_scene if number % 2 else room_scene
    image, label = scene(rng, SUPERSAMPLING * height, SUPERSAMPLING * width)
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    return photograph(image, rng), label
