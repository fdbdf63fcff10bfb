"""What is seen at infinity: the sky with its clouds, and mountains."""

import cv2
import numpy as np

from .canvas import Ade, Canvas, mix, noise, pigment
from .moods import StreetMood


def draw_sky(canvas: Canvas, rng: np.random.Generator, mood: StreetMood, horizon: float) -> None:
    """Paint the sky down to the horizon (in canvas units), with clouds lit from above."""
    sky = canvas.image[: round(horizon * canvas.scale) + 1]
    rows, columns = sky.shape[:2]
    share = np.linspace(0, 1, rows, dtype=np.float32)[:, None] ** 1.4
    sky[:] = mix(mood.zenith, mood.foot, share)[:, None]
    # Clouds are flat noise in perspective: the lower in the picture, the farther and flatter.
    cell = rows * rng.uniform(0.4, 0.9)
    stretch = np.linspace(0, 1, rows, dtype=np.float32) ** 0.55 * rows
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), stretch)
    flat = noise(rng, rows, columns, cell)
    cover = cv2.remap(flat, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    cover = cv2.GaussianBlur(cover, (0, 0), rows / 125)
    amount = np.clip((cover - rng.uniform(0.1, 1.0)) * 1.6, 0, 1)[..., None]
    body = np.clip((cover - np.roll(cover, -rows // 20, axis=0)) * 0.9 + 0.65, 0, 1)[..., None]
    bright = mix(mood.foot, (1, 1, 1), 0.6)
    cloud = mix(mix(mood.zenith, mood.foot, 0.55) * 0.92, bright, body)
    sky[:] = sky * (1 - 0.9 * amount) + cloud * 0.9 * amount


def draw_mountains(
    canvas: Canvas, rng: np.random.Generator, mood: StreetMood, horizon: float
) -> None:
    """Paint one to three ridges behind each other, the far ones paler, lit from one side."""
    ridges = rng.integers(1, 4)
    sunny_side, x = rng.choice((-1, 1)), np.linspace(0, canvas.width, 160)
    for k in range(ridges):
        tall = horizon * rng.uniform(0.4, 0.75) * (1 - 0.28 * k)
        centre, slope = rng.uniform(0, canvas.width), rng.uniform(0.35, 0.8)
        rough = np.zeros_like(x)
        for octave in range(1, 6):
            knots = np.linspace(0, canvas.width, 3 * 2**octave)
            rough += np.interp(x, knots, rng.uniform(-1, 1, len(knots))) / 1.9**octave
        height = tall * (1.15 - slope * np.abs(x - centre) / canvas.width + 0.35 * rough)
        height = np.maximum(height, 0.12 * tall)
        rock = mix(mix((0.34, 0.40, 0.42), pigment(rng), 0.3), mood.foot, 0.55 - 0.2 * k)
        edge = np.column_stack([x, horizon - height])
        canvas.polygon([*edge, (x[-1], horizon), (x[0], horizon)], rock, Ade.MOUNTAIN)
        snow = tall * rng.uniform(0.6, 1.3)
        for i in range(0, len(x) - 4, 4):  # facets that hang down from the ridge line
            peak, foot = edge[i : i + 5], horizon - 0.25 * height[i]
            facing = sunny_side * (height[i + 4] - height[i]) > 0
            lean = (x[4] - x[0]) * rng.uniform(0.5, 2.5) * sunny_side
            bottom = peak[:, 1] + (foot - peak[:, 1]) * rng.uniform(0.25, 0.8)
            facet = [*peak, (peak[-1, 0] + lean, bottom[-1]), (peak[0, 0] + lean, bottom[0])]
            canvas.polygon(facet, rock * (1.1 if facing else 0.86))
            if height[i] > snow:
                cap = np.minimum(0.5 * (height[i : i + 5] - snow), 0.5 * tall)[:, None]
                white = mix((1, 1, 1) if facing else (0.74, 0.78, 0.88), mood.foot, 0.15)
                low = peak + (0, 1) * np.maximum(cap, 0) * rng.uniform(0.6, 1.3, (5, 1))
                canvas.polygon([*peak, *low[::-1]], white)
    # Mist at the foot hides where the ridges end and joins them to the hazy ground.
    above = horizon - np.arange(canvas.label.shape[0]) / canvas.scale
    mist = 0.85 * np.exp(-np.maximum(above, 0) / (0.22 * horizon))[:, None, None]
    misty = canvas.image * (1 - mist) + mist * np.asarray(mood.foot)
    canvas.image[:] = np.where((canvas.label == Ade.MOUNTAIN)[..., None], misty, canvas.image)
