"""Buildings and houses: painted fronts with windows, doors and shops, on boxes with roofs."""

from dataclasses import dataclass

import numpy as np

from .canvas import Ade, Canvas, mix, pigment
from .moods import StreetMood
from .view import Frame
from .world import World

WINDOW_LIGHT = np.array((1.9, 1.45, 0.8))
GROUND_FLOOR = 2.9  # metres; the height of a shop


@dataclass(frozen=True)
class Style:
    """What the fronts of one building share: colours (3,), masonry, measures in metres."""

    wall: np.ndarray
    trim: np.ndarray
    glass: np.ndarray
    masonry: int  # 0 bricks, 1 blocks, 2 plaster
    storey: float
    bay: float  # from one window to the next
    pane: tuple[float, float]  # width and height of a window
    lit: float  # the share of windows with light in them


def draw_style(rng: np.random.Generator, mood: StreetMood) -> Style:
    """Draw the style of a building."""
    wall = pigment(rng, rng.uniform(0, 0.35))
    return Style(
        wall=wall,
        trim=mix(wall, pigment(rng, 0.6), 0.7),
        glass=mix((0.2, 0.26, 0.33), mood.zenith, 0.25),
        masonry=int(rng.integers(3)),
        storey=rng.uniform(2.7, 3.3),
        bay=rng.uniform(1.9, 3.0),
        pane=tuple(rng.uniform((0.9, 1.3), (1.3, 1.8))),
        lit=mood.lit_windows,
    )


def paint_masonry(canvas: Canvas, rng: np.random.Generator, style: Style) -> None:
    """Turn a canvas in the wall's colour into bricks, blocks or stained plaster."""
    canvas.grain(rng, 0.05, 2.5)
    if style.masonry == 0:
        canvas.courses(rng, 0.75, 0.3, 0.06, 0.12)
    elif style.masonry == 1:
        canvas.courses(rng, 1.6, 0.6, 0.05, 0.05)


def paint_front(
    rng: np.random.Generator, width: float, height: float, scale: float, style: Style, shop: bool
) -> Canvas:
    """Paint the front of a building: rows of windows over a shop or a door, under a cornice."""
    canvas = Canvas(width, height, scale, style.wall, Ade.BUILDING)
    paint_masonry(canvas, rng, style)
    columns, rows = max(int(width / style.bay), 1), max(int((height - 0.6) / style.storey), 1)
    middles = (np.arange(columns) + 0.5) * width / columns
    entrance = columns // 2
    for row in range(rows):
        top = height - (row + 1) * style.storey + 0.5
        for column, middle in enumerate(middles):
            if row or not (shop or column == entrance):
                paint_pane(canvas, rng, middle - style.pane[0] / 2, top, style)
        if row:
            canvas.rectangle(0, top + style.storey - 0.75, width, 0.1, style.wall * 0.82)
    if shop:
        paint_shops(canvas, rng, style)
    else:
        paint_entrance(canvas, rng, middles[entrance], style)
    canvas.rectangle(0, height - 0.4, width, 0.4, style.wall * 0.7)
    canvas.rectangle(0, 0, width, 0.35, style.trim)
    canvas.rectangle(0, 0.35, width, 0.12, style.wall * 0.6)
    return canvas


def paint_pane(canvas: Canvas, rng: np.random.Generator, x: float, y: float, style: Style) -> None:
    """Paint a window with its top left corner at (x, y): frame, glass, glazing bars, sill."""
    (width, height), trim = style.pane, style.trim
    canvas.rectangle(x - 0.12, y - 0.12, width + 0.24, height + 0.24, trim)
    lit = rng.random() < style.lit
    inside = WINDOW_LIGHT * rng.uniform(0.7, 1) if lit else style.glass
    canvas.rectangle(x, y, width, height, inside)
    canvas.rectangle(x, y, width, 0.2, inside * 0.6)
    if rng.random() < 0.5:  # a blind or curtain
        canvas.rectangle(x, y, width, height * rng.uniform(0.2, 0.6), mix(inside, trim, 0.55))
    else:  # what the glass reflects
        shape = [(x, y + height * 0.7), (x + width * 0.8, y), (x + width, y), (x, y + height)]
        canvas.polygon(shape, mix(inside, (0.85, 0.92, 1), 0.22))
    canvas.rectangle(x + width / 2 - 0.04, y, 0.08, height, trim)
    canvas.rectangle(x, y + height * 0.4, width, 0.08, trim)
    canvas.rectangle(x - 0.2, y + height + 0.1, width + 0.4, 0.12, trim * 1.05)
    canvas.rectangle(x - 0.2, y + height + 0.22, width + 0.4, 0.1, trim * 0.55)


def paint_entrance(canvas: Canvas, rng: np.random.Generator, x: float, style: Style) -> None:
    """Paint a house door with its middle at x."""
    foot = canvas.height
    canvas.rectangle(x - 0.75, foot - 2.5, 1.5, 2.5, style.trim)
    canvas.rectangle(x - 0.6, foot - 2.35, 1.2, 2.35, pigment(rng) * 0.7)
    canvas.rectangle(x - 0.4, foot - 2.1, 0.8, 0.7, style.glass)


def paint_shops(canvas: Canvas, rng: np.random.Generator, style: Style) -> None:
    """Paint shop windows with goods, under striped awnings, along the foot of a front."""
    top, count, stripes = canvas.height - GROUND_FLOOR, max(int(canvas.width / 3.5), 1), 8
    wood, cloth = pigment(rng) * 0.6, (mix(style.trim, (1, 1, 1), 0.5), pigment(rng))
    warm = mix(style.glass, (1.5, 1.2, 0.75), min(0.25 + style.lit, 1))
    canvas.rectangle(0, top, canvas.width, GROUND_FLOOR, wood)
    bay = canvas.width / count
    wide = 0.84 * bay
    for x in (np.arange(count) + 0.08) * bay:
        canvas.rectangle(x, top + 0.5, wide, 2.0, warm)
        for _ in range(6):
            share, high = rng.uniform((0.05, 0.5), (0.85, 1.2))
            goods = mix(warm, pigment(rng), 0.6)
            canvas.rectangle(x + share * wide, top + 2.5 - high, wide * 0.1, high, goods)
        canvas.rectangle(x + wide * 0.66, top + 0.5, 0.1, 2.0, wood)
        for k in range(stripes):
            stripe = x + k * wide / stripes
            canvas.rectangle(stripe, top + 0.4, wide / stripes, 0.7, cloth[k % 2])
        canvas.rectangle(x, top + 1.1, wide, 0.14, warm * 0.45)


def draw_building(
    world: World,
    rng: np.random.Generator,
    corner: tuple[float, float],
    length: float,
    side: int,
    mood: StreetMood,
) -> None:
    """Put up a building with a flat roof.

    Its front runs from the `corner` (X, Z) along Z. The building is to the right of it if `side` is
    1, to the left if it is -1.
    """
    (x, z), tall, deep = corner, rng.uniform(6.5, 19), side * rng.uniform(8, 12)
    scale, style = world.rows / 16, draw_style(rng, mood)
    front = paint_front(rng, length, tall, scale, style, shop=rng.random() < 0.55)
    end = paint_front(rng, abs(deep), tall, scale, style, shop=False)
    world.panel(front, (x, tall, z), (0, 0, length), (0, -tall, 0))
    for place in (z, z + length):
        world.panel(end, (x, tall, place), (deep, 0, 0), (0, -tall, 0))
    top, roof = Frame(x, tall, z), sorted((0, deep))
    world.box(top, (roof[0], -0.3, 0), (roof[1], -0.1, length), style.wall * 0.8, Ade.BUILDING)
    world.box(top, (-0.35, -0.35, 0), (0.35, 0.05, length), style.trim, Ade.BUILDING)


def draw_house(world: World, rng: np.random.Generator, frame: Frame, mood: StreetMood) -> None:
    """Put a house with a pitched roof and a chimney on a frame, its front looking ahead."""
    width, deep, tall, rise = rng.uniform((7, 6, 3.2, 2.2), (10, 8, 5.8, 3.4))
    scale, style, half = world.rows / 14, draw_style(rng, mood), width / 2
    front = paint_front(rng, width, tall, scale, style, shop=False)
    side = paint_front(rng, deep, tall, scale, style, shop=False)
    down, back = (0, -tall, 0), frame.along((0, 0, -deep))
    world.panel(front, frame.at((-half, tall, 0)), frame.along((width, 0, 0)), down)
    for x in (-half, half):
        world.panel(side, frame.at((x, tall, 0)), back, down)
        gable = [(x, tall, 0), (x, tall + rise, -deep / 2), (x, tall, -deep)]
        world.face(frame.at(gable), style.wall, Ade.BUILDING)

    eaves = 1.12  # how far the roof reaches down past the walls
    run, drop, length = eaves * deep / 2, eaves * rise, width + 0.8
    slope = Canvas(length, np.hypot(run, drop), scale, pigment(rng) * 0.8, Ade.BUILDING)
    slope.courses(rng, 0.4, 0.34, 0.06, 0.13)
    ridge = frame.at((-length / 2, tall + rise, -deep / 2))
    for way in (-run, run):
        world.panel(slope, ridge, frame.along((length, 0, 0)), frame.along((0, -drop, way)))
    x, z = rng.uniform(-0.3, 0.3) * width, -deep * 0.45
    chimney = (x, tall + rise * 0.4, z), (x + 0.7, tall + rise + 0.7, z + 0.7)
    world.box(frame, *chimney, pigment(rng) * 0.8, Ade.BUILDING)
