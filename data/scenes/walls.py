"""Walls of a room: wallpaper, windows, doors and paintings."""

from dataclasses import dataclass

import numpy as np

from .canvas import Ade, Canvas, mix, pigment
from .furniture import wood
from .moods import RoomMood
from .sprites import HAIRS, SKINS
from .view import Frame
from .world import World


@dataclass(frozen=True)
class Wall:
    """One wall: its frame stands at its foot in the middle and looks into the room."""

    frame: Frame
    length: float
    height: float
    canvas: Canvas

    def spot(self, x: float, off: float = 0.0) -> Frame:
        """Return a frame at the wall's foot, `off` metres from it, looking into the room."""
        x, y, z = self.frame.at((x, 0, off))
        return Frame(x, y, z, self.frame.yaw)

    def across(self, x: float, z: float) -> float:
        """Return the local x of the place on the wall that is nearest to a place in the world."""
        return float(self.frame.along((1, 0, 0)) @ (x - self.frame.x, 0, z - self.frame.z))

    def show(self, world: World) -> None:
        """Put the painted wall into the world."""
        corner = self.frame.at((self.length / 2, self.height, 0))
        across, down = self.frame.along((-self.length, 0, 0)), (0, -self.height, 0)
        world.panel(self.canvas, corner, across, down, casts=False)


def paper(rng: np.random.Generator, canvas: Canvas, style: int, colour: np.ndarray) -> None:
    """Cover a wall with stripes, dots, panels, bricks (styles 0 to 3) or paint, and trim it."""
    width, height = canvas.width, canvas.height
    match style:
        case 0:
            for x in np.arange(0, width, 0.36):
                canvas.rectangle(x, 0, 0.18, height, colour * 0.92)
        case 1:
            for i, x in enumerate(np.arange(0.15, width, 0.3)):
                for y in np.arange(0.15 + 0.15 * (i % 2), height, 0.3):
                    canvas.ellipse(x, y, 0.035, 0.06, colour * 0.86)
        case 2:
            canvas.rectangle(0, height - 1.0, width, 1.0, mix(colour, (1, 1, 1), 0.5))
            canvas.rectangle(0, height - 1.05, width, 0.06, mix(colour, (1, 1, 1), 0.7))
            for x in np.arange(0.1, width, 0.6):
                canvas.rectangle(x, height - 0.9, 0.45, 0.7, mix(colour, (1, 1, 1), 0.38))
        case 3:
            canvas.courses(rng, 0.34, 0.13, 0.02, 0.09)
    canvas.grain(rng, 0.025, 1.2)
    canvas.gradient((1.02, 1.02, 1.02), (0.95, 0.95, 0.95))
    canvas.rectangle(0, height - 0.13, width, 0.13, mix(colour, (0.97, 0.96, 0.93), 0.8))
    canvas.rectangle(0, height - 0.15, width, 0.02, colour * 0.75)
    canvas.rectangle(0, 0, width, 0.07, mix(colour, (1, 1, 1), 0.75))


def paint_window(wall: Wall, rng: np.random.Generator, x: float, mood: RoomMood) -> None:
    """Paint a window with a landscape outside around the local x of a wall."""
    half, top, tall = rng.uniform(0.6, 0.8), wall.height - 2.3, rng.uniform(1.15, 1.35)
    canvas, left = wall.canvas, wall.length / 2 - x - half
    frame = mix((0.95, 0.94, 0.9), pigment(rng), 0.25)
    canvas.rectangle(left - 0.1, top - 0.1, 2 * half + 0.2, tall + 0.2, frame * 0.9, Ade.WINDOWPANE)
    view = Canvas(2 * half, tall, canvas.scale, frame, Ade.WINDOWPANE)
    paint_landscape(view, rng)
    canvas.paste(view, left, top, mood.outside)
    bars = rng.integers(1, 3)
    for i in range(bars + 2):
        canvas.rectangle(left + i * 2 * half / (bars + 1) - 0.035, top, 0.07, tall, frame)
    canvas.rectangle(left, top + tall * rng.uniform(0.3, 0.5), 2 * half, 0.07, frame)
    canvas.rectangle(left - 0.18, top + tall + 0.08, 2 * half + 0.36, 0.07, frame * 1.05, Ade.WALL)
    canvas.rectangle(left - 0.18, top + tall + 0.15, 2 * half + 0.36, 0.04, frame * 0.6, Ade.WALL)


def paint_door(wall: Wall, rng: np.random.Generator, x: float) -> None:
    """Paint a door with panels in two columns, a handle and a frame around a local x of a wall."""
    half, tall, border = rng.uniform(0.46, 0.56), rng.uniform(2.0, 2.15), 0.14
    canvas, left, top = wall.canvas, wall.length / 2 - x - half, wall.height - tall
    colour = wood(rng)
    trim = mix(colour, (0.95, 0.94, 0.9), rng.choice((0.15, 0.8)))
    outer = left - border, top - border, 2 * (half + border), tall + border
    canvas.rectangle(*outer, trim * 0.75, Ade.DOOR)
    canvas.rectangle(left - 0.11, top - 0.11, 2 * half + 0.22, tall + 0.11, trim)
    canvas.rectangle(left - 0.03, top - 0.03, 2 * half + 0.06, tall + 0.03, colour * 0.4)
    canvas.rectangle(left, top, 2 * half, tall, colour)
    for y, high in ((0.1, 0.32), (0.52, 0.62), (1.3, tall - 1.42)):
        for u in (left + 0.11, left + half + 0.045):
            wide = half - 0.155
            canvas.rectangle(u, top + y, wide, high, colour * 0.66)
            canvas.rectangle(u + 0.05, top + y + 0.05, wide - 0.05, high - 0.05, colour * 1.08)
    handle, y = left + rng.choice((0.07, 2 * half - 0.07)), top + tall * 0.53
    canvas.rectangle(handle - 0.045, y - 0.11, 0.09, 0.22, colour * 0.35)
    canvas.ellipse(handle, y, 0.06, 0.06, (0.95, 0.82, 0.48))


def paint_painting(wall: Wall, rng: np.random.Generator, x: float) -> None:
    """Paint a framed picture around the local x of a wall: a head or shapes."""
    half, tall = rng.uniform(0.5, 0.75), rng.uniform(0.75, 1.05)
    canvas, left = wall.canvas, wall.length / 2 - x - half
    top = wall.height - 1.65 - tall / 2
    frame = wood(rng) * rng.uniform(0.5, 1.1)
    canvas.rectangle(left + 0.04, top + 0.05, 2 * half, tall, canvas.image[5, 5] * 0.6)
    canvas.rectangle(left, top, 2 * half, tall, frame, Ade.PAINTING)
    canvas.rectangle(left + 0.02, top + 0.02, 2 * half - 0.04, 0.03, frame * 1.3)
    mat = rng.choice((0.06, 0.13))
    canvas.rectangle(left + 0.06, top + 0.06, 2 * half - 0.12, tall - 0.12, (0.95, 0.93, 0.88))
    view = Canvas(2 * (half - mat), tall - 2 * mat, canvas.scale, pigment(rng), Ade.PAINTING)
    (paint_portrait if rng.random() < 0.5 else paint_shapes)(view, rng)
    canvas.paste(view, left + mat, top + mat)


def paint_landscape(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a view of sky, hills and trees over a canvas, leaving the labels."""
    width, height = canvas.width, canvas.height
    high, low = mix((0.45, 0.65, 0.9), pigment(rng), 0.25), (0.97, 0.93, 0.86)
    for share in np.linspace(0, 1, 16):
        canvas.rectangle(0, share * height * 0.6, width, height * 0.4, mix(high, low, share))
    for layer in range(3):
        tone = mix((0.36, 0.5, 0.28), pigment(rng), 0.35) * (1.15 - 0.2 * layer)
        ridge = height * (0.5 + 0.14 * layer + 0.07 * rng.standard_normal(6))
        edge = np.column_stack([np.linspace(0, width, 6), ridge])
        canvas.polygon([*edge, (width, height), (0, height)], tone)
    for _ in range(rng.integers(2, 5)):
        x, radius = width * rng.uniform(0.15, 0.85), height * rng.uniform(0.07, 0.12)
        tone = mix((0.2, 0.36, 0.2), pigment(rng), 0.15)
        canvas.ellipse(x, height * 0.72, min(radius, width * 0.13), radius * 1.3, tone)


def paint_portrait(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a head and shoulders in the middle of a canvas, leaving the labels."""
    x, unit = canvas.width / 2, min(canvas.height, canvas.width)
    skin, hair = rng.choice(SKINS), rng.choice(HAIRS)
    canvas.gradient((1.1, 1.1, 1.1), (0.7, 0.7, 0.7))
    canvas.ellipse(x, canvas.height, 0.42 * unit, 0.34 * unit, pigment(rng) * 0.8)
    canvas.ellipse(x, canvas.height - 0.5 * unit, 0.2 * unit, 0.27 * unit, hair)
    canvas.rectangle(
        x - 0.07 * unit, canvas.height - 0.45 * unit, 0.14 * unit, 0.2 * unit, skin * 0.8
    )
    canvas.ellipse(x, canvas.height - 0.48 * unit, 0.15 * unit, 0.2 * unit, skin)


def paint_shapes(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint bold blocks and ovals over a canvas, leaving the labels."""
    size = np.array((canvas.width, canvas.height))
    for _ in range(rng.integers(6, 10)):
        (x, y), (wide, high) = rng.uniform(0.1, 0.9, 2) * size, rng.uniform(0.08, 0.22, 2) * size
        if rng.random() < 0.5:
            canvas.ellipse(x, y, wide, high, pigment(rng), degrees=rng.uniform(0, 90))
        else:
            canvas.rectangle(x - wide, y - high, 2 * wide, 2 * high, pigment(rng))
