"""The ground of a street: strips of road, sidewalk, grass and water along the Z axis."""

import cv2
import numpy as np

from .canvas import Ade, Canvas, mix, noise, pigment
from .moods import StreetMood
from .world import World

CURB = 0.16  # metres from the road up to the sidewalk
FAR = 3000.0  # metres to where the ground ends
BEHIND, END = -30.0, 95.0  # metres; things stand along the road between these


def strip(side: int, near: float, far: float) -> list[tuple[float, float]]:
    """Return the (X, Z) corners of the ground between two distances from the road's middle."""
    return [(side * near, BEHIND), (side * far, BEHIND), (side * far, FAR), (side * near, FAR)]


def draw_road(world: World, rng: np.random.Generator, half: float) -> None:
    """Lay the road from X = -half to half: asphalt with grain, patches, lane marks, a crossing."""
    scale, length = world.rows / 14, END - BEHIND
    asphalt = mix((0.44, 0.44, 0.46), pigment(rng), 0.25) * rng.uniform(0.8, 1.05)
    world.ground(strip(1, -half, half), 0, asphalt, Ade.ROAD)
    canvas = Canvas(length, 2 * half, scale, asphalt, Ade.ROAD)
    for _ in range(12):
        (x, y), (long, wide) = rng.uniform(0, (length, 1.6 * half)), rng.uniform((1, 0.6), (5, 2))
        canvas.rectangle(x, y, long, wide, asphalt * rng.uniform(0.85, 1.1))
    canvas.grain(rng, 0.06, 2.0)
    canvas.grain(rng, 0.06, 0.12)
    white = mix((0.93, 0.92, 0.87), asphalt, 0.12)
    for x in np.arange(0, length, 5.0):
        canvas.rectangle(x, half - 0.08, 2.6, 0.16, white)
    for edge in (0.35, 2 * half - 0.45):
        canvas.rectangle(0, edge, length, 0.1, white * 0.95)
    if rng.random() < 0.5:
        x = rng.uniform(5, 16) - BEHIND
        for y in np.arange(0.3, 2 * half - 0.3, 1.0):
            canvas.rectangle(x, y, 3.0, 0.5, white)
    world.panel(canvas, (-half, 0, BEHIND), (0, 0, length), (2 * half, 0, 0), casts=False)


def draw_sidewalk(
    world: World, rng: np.random.Generator, side: int, near: float, far: float
) -> None:
    """Lay a paved sidewalk between two distances from the road's middle, with its curb."""
    stone = mix((0.68, 0.66, 0.62), pigment(rng, 0.3), 0.35)
    canvas = Canvas(END - BEHIND, far - near, world.rows / 14, stone, Ade.SIDEWALK)
    canvas.courses(rng, rng.uniform(0.8, 1.4), rng.uniform(0.55, 0.9), 0.07, 0.12)
    canvas.grain(rng, 0.04, 1.0)
    canvas.rectangle(0, 0, END - BEHIND, 0.22, stone * 1.12)
    for x in np.arange(0, END - BEHIND, 1.5):
        canvas.rectangle(x, 0, 0.05, 0.22, stone * 0.7)
    along, out = (0, 0, END - BEHIND), (side * (far - near), 0, 0)
    world.ground(strip(side, near, far), CURB, stone, Ade.SIDEWALK)
    world.panel(canvas, (side * near, CURB, BEHIND), along, out, casts=False)
    x = side * near
    curb = [(x, 0, BEHIND), (x, CURB, BEHIND), (x, CURB, FAR), (x, 0, FAR)]
    world.face(curb, stone * 0.85, Ade.SIDEWALK)


def draw_grass(world: World, rng: np.random.Generator, side: int, near: float, far: float) -> None:
    """Lay grass between two distances from the road's middle, with spots and small flowers."""
    green = mix(mix((0.36, 0.50, 0.20), (0.56, 0.54, 0.26), rng.random()), pigment(rng), 0.12)
    world.ground(strip(side, near, far), CURB - 0.02, green, Ade.GRASS)
    wide = min(far - near, 24.0)
    canvas = Canvas(END - BEHIND, wide, world.rows / 24, green, Ade.GRASS)
    canvas.grain(rng, 0.1, 6.0)
    canvas.grain(rng, 0.16, 0.3)
    for _ in range(120):
        x, y = rng.uniform(0, canvas.width), rng.uniform(0, wide)
        canvas.ellipse(x, y, rng.uniform(0.04, 0.1), 0.06, pigment(rng, 0.3))
    corner = (side * near, CURB - 0.02, BEHIND)
    world.panel(canvas, corner, (0, 0, END - BEHIND), (side * wide, 0, 0), casts=False)


def draw_water(
    world: World, rng: np.random.Generator, side: int, near: float, mood: StreetMood
) -> None:
    """Lay a river with ripples beyond a bank of earth and grass, and the other shore."""
    deep = mix(mix(mood.zenith, (0.16, 0.35, 0.44), 0.55), pigment(rng), 0.1)
    far = near + rng.uniform(40, 130)
    level = CURB - 0.7
    world.ground(strip(side, near, far), level, deep, Ade.WATER)
    canvas = Canvas(END - BEHIND, 40, world.rows / 40, deep, Ade.WATER)
    rows, columns = canvas.label.shape
    ripples = cv2.resize(noise(rng, rows, columns // 4, 6), (columns, rows))
    canvas.image *= 1 + 0.16 * ripples[..., None]
    for _ in range(300):
        x, y, long = rng.uniform(0, canvas.width), rng.uniform(0, 40), rng.uniform(0.4, 2.0)
        canvas.ellipse(x, y, long, 0.1, mix(deep, mood.foot, 0.6))
    along, out = (0, 0, END - BEHIND), (side * 40, 0, 0)
    world.panel(canvas, (side * near, level, BEHIND), along, out, casts=False)
    x = side * near
    bank = [(x, level, BEHIND), (x, CURB, BEHIND), (x, CURB, FAR), (x, level, FAR)]
    world.face(bank, (0.42, 0.38, 0.30), Ade.GRASS)
    shore = mix((0.33, 0.44, 0.22), mood.foot, 0.25)
    world.ground(strip(side, far, FAR), level + 0.3, shore, Ade.GRASS)


def mirror_water(
    rng: np.random.Generator, image: np.ndarray, label: np.ndarray, horizon: float
) -> None:
    """Add reflections to water, in place: the picture mirrored at the horizon, with ripples."""
    rows, columns = label.shape
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    below = np.maximum(y - horizon * rows, 0) / rows
    wave = noise(rng, rows, columns // 8, rows / 60)
    wave = cv2.resize(wave, (columns, rows)) * below * rows * 0.1
    above = 2 * horizon * rows - y + 2 * wave
    mirrored = cv2.remap(image, x + wave, above, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    water = label == Ade.WATER
    image[water] = image[water] * 0.5 + mirrored[water] * 0.5
