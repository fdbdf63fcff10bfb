"""Furniture: beds, tables, chairs, cabinets and lamps, built from boxes and cloth."""

import numpy as np

from .canvas import Ade, Canvas, mix, pigment
from .moods import RoomMood
from .view import Frame
from .world import World

WOODS = np.array([(0.72, 0.53, 0.34), (0.52, 0.35, 0.22), (0.36, 0.24, 0.17), (0.83, 0.70, 0.52)])
# A chair's padding on the seat, on the back and behind it: the local (y, z) where it begins, and
# how far it reaches.
CHAIR_PADS = (
    ((0.503, -0.19), (0.0, 0.49)),
    ((1.1, -0.284), (-0.6, 0.089)),
    ((1.1, -0.38), (-0.66, 0.086)),
)
LAMPLIGHT = np.array((1.0, 0.78, 0.48))


def wood(rng: np.random.Generator) -> np.ndarray:
    """Draw the colour (3,) of a piece of furniture: mostly wood, else painted."""
    return rng.choice(WOODS) * rng.uniform(0.85, 1.1) if rng.random() < 0.6 else pigment(rng)


def fabric(
    rng: np.random.Generator, width: float, height: float, scale: float, label: Ade, style: int
) -> Canvas:
    """Weave a cloth in two pigments on a canvas: striped, dotted or checked (styles 0 to 2)."""
    base = pigment(rng, 0.15)
    second = pigment(rng, 0.15, unlike=base)
    canvas = Canvas(width, height, scale, base, label)
    step = rng.uniform(0.2, 0.34)
    match style:
        case 0:
            for y in np.arange(0, height, step):
                canvas.rectangle(0, y, width, step / 2, second)
        case 1:
            for i, y in enumerate(np.arange(step / 2, height, step)):
                for x in np.arange(step / 2 * (1 + i % 2), width, step):
                    canvas.ellipse(x, y, step / 4, step / 4, second)
        case _:
            rows, columns = canvas.label.shape
            threads = [np.arange(n) / scale % step < step / 2 for n in (rows, columns)]
            woven = (0.5 * threads[0][:, None] + 0.5 * threads[1])[..., None]
            canvas.image[:] = (1 - woven) * base + woven * mix(second, (1, 1, 1), 0.3)
    canvas.grain(rng, 0.03, 0.3)
    return canvas


def draw_bed(world: World, rng: np.random.Generator, frame: Frame, half: float) -> None:
    """Put a bed with its head at the frame's origin: headboard, mattress, blanket, pillows."""
    timber, linen = wood(rng), mix((0.95, 0.94, 0.92), pigment(rng), 0.2)
    head = rng.uniform(0.85, 1.1)
    world.box(frame, (-half - 0.05, 0, 0), (half + 0.05, head, 0.09), timber, Ade.BED)
    for x in (-half * 0.62, half * 0.02):
        low, high = (x, head * 0.62, 0.09), (x + half * 0.6, head * 0.92, 0.11)
        world.box(frame, low, high, timber * 0.82, Ade.BED)
    world.box(frame, (-half, 0.08, 0.09), (half, 0.32, 2.05), timber * 0.9, Ade.BED)
    world.box(frame, (-half + 0.02, 0.3, 0.1), (half - 0.02, 0.52, 2.03), linen, Ade.BED)
    fold, edge, top = rng.uniform(0.65, 0.95), half + 0.03, 0.57
    cloth = fabric(rng, 2 * edge, 2.1 - fold, world.rows / 3, Ade.BED, int(rng.integers(2)))
    cloth.rectangle(0, 0, 2 * edge, 0.22, mix(linen, cloth.image[-1, -1], 0.3))
    across, back = frame.along((2 * edge, 0, 0)), frame.along((0, 0, 2.1 - fold))
    world.panel(cloth, frame.at((-edge, top, fold)), across, back)
    drop = (0, -0.36, 0)
    world.panel(cloth, frame.at((-edge, top, 2.1)), across, drop)
    for x in (-edge, edge):
        world.panel(cloth, frame.at((x, top, fold)), back, drop)
    for x in (-half * 0.5, half * 0.5):
        wide = half * 0.4
        outline = [(0.14, 0.5), (0.13, 0.6), (0.22, 0.68), (0.45, 0.66), (0.55, 0.56), (0.54, 0.5)]
        world.prism(frame, outline, x - wide, x + wide, linen * 1.05, Ade.BED, taper=0.3)


def draw_table(
    world: World, rng: np.random.Generator, frame: Frame, half: float, deep: float, tall: float
) -> None:
    """Put a table around a frame's origin: legs, an apron, a thick top, maybe a tablecloth."""
    timber, thick = wood(rng), 0.11
    for x in (-half + 0.03, half - 0.03 - thick):
        for z in (-deep + 0.03, deep - 0.03 - thick):
            leg = (x, 0, z), (x + thick, tall, z + thick)
            world.box(frame, *leg, timber * 0.8, Ade.TABLE)
    apron = (-half + 0.05, tall - 0.22, -deep + 0.05), (half - 0.05, tall - 0.06, deep - 0.05)
    world.box(frame, *apron, timber * 0.82, Ade.TABLE)
    world.box(frame, (-half, tall - 0.07, -deep), (half, tall, deep), timber, Ade.TABLE)
    top = Canvas(2 * half, 2 * deep, world.rows / 4, timber * 0.78, Ade.TABLE)
    for edge, shade in ((0.06, 1.15), (0.11, 0.78), (0.14, 1.05)):  # an inlaid border
        top.rectangle(edge, edge, 2 * (half - edge), 2 * (deep - edge), timber * shade)
    if rng.random() < 0.55:
        top = fabric(rng, 2 * half, 2 * deep, top.scale, Ade.TABLE, 2)
        drop = (0, -rng.uniform(0.25, 0.45), 0)
        x, y, z = frame.at((0, 0, 0))
        for turn, long, out in ((0, half, deep), (1, deep, half), (2, half, deep), (3, deep, half)):
            side = Frame(x, y, z, frame.yaw + turn * np.pi / 2)
            corner = side.at((-long, tall + 0.004, out + 0.01))
            world.panel(top, corner, side.along((2 * long, 0, 0)), drop)
    corner = frame.at((-half, tall + 0.004, -deep))
    world.panel(top, corner, frame.along((2 * half, 0, 0)), frame.along((0, 0, 2 * deep)))


def draw_chair(world: World, frame: Frame, timber: np.ndarray, cloth: np.ndarray) -> None:
    """Put a chair on a frame, looking ahead: thick legs, a seat and a back padded in ribs."""
    half, thick = 0.31, 0.1
    for x in (-half, half - thick):
        for z in (-0.28, 0.28 - thick):
            world.box(frame, (x, 0, z), (x + thick, 0.36, z + thick), timber * 0.8, Ade.CHAIR)
    world.box(frame, (-half, 0.28, -0.28), (half, 0.4, 0.28), timber * 0.92, Ade.CHAIR)
    back = [(-0.28, 0.36), (-0.38, 1.14), (-0.29, 1.17), (-0.18, 0.36)]
    world.prism(frame, back, -half, half, timber, Ade.CHAIR)
    world.box(frame, (-half, 0.4, -0.2), (half, 0.5, 0.3), cloth * 0.9, Ade.CHAIR)
    ribs = Canvas(1, 1, 40, cloth * 1.05, Ade.CHAIR)
    for x in np.arange(5) / 5:
        ribs.rectangle(x, 0, 0.07, 1, cloth * 0.6)
    across = frame.along((2 * half - 0.12, 0, 0))
    for (y, z), reach in CHAIR_PADS:
        corner = frame.at((0.06 - half, y, z))
        world.panel(ribs, corner, across, frame.along((0, *reach)), casts=False)


def paint_drawers(
    rng: np.random.Generator, width: float, height: float, scale: float, timber: np.ndarray
) -> Canvas:
    """Paint the front of a cabinet: two columns of wide drawers with knobs."""
    front = Canvas(width, height, scale, timber * 0.42, Ade.CABINET)
    knob = np.array((0.92, 0.8, 0.52)) if timber.mean() < 0.6 else timber * 0.3
    rows, wide = round(height / 0.34), width / 2
    high = height / rows
    for x in (0, wide):
        for y in np.arange(rows) * high:
            front.rectangle(x + 0.025, y + 0.025, wide - 0.05, high - 0.05, timber)
            front.rectangle(x + 0.08, y + 0.07, wide - 0.16, high - 0.14, timber * 0.72)
            front.rectangle(x + 0.105, y + 0.095, wide - 0.21, high - 0.19, timber * 1.08)
            front.ellipse(x + wide / 2, y + high / 2, 0.06, 0.06, timber * 0.4)
            front.ellipse(x + wide / 2, y + high / 2, 0.046, 0.046, knob)
    front.grain(rng, 0.03, 0.4)
    return front


def draw_cabinet(
    world: World, rng: np.random.Generator, frame: Frame, half: float, deep: float, tall: float
) -> None:
    """Put a cabinet with its back at the frame's origin, on a plinth and under a cornice."""
    timber = wood(rng)
    world.box(frame, (-half, 0.06, 0), (half, tall, deep), timber * 0.92, Ade.CABINET)
    plinth = (-half + 0.04, 0, 0.04), (half - 0.04, 0.07, deep - 0.04)
    world.box(frame, *plinth, timber * 0.4, Ade.CABINET)
    rim = (-half - 0.05, tall - 0.06, 0), (half + 0.05, tall, deep + 0.05)
    world.box(frame, *rim, timber * 1.05, Ade.CABINET)
    front = paint_drawers(rng, 2 * half, tall - 0.13, world.rows / 3, timber)
    corner = frame.at((-half, tall - 0.06, deep + 0.004))
    world.panel(front, corner, frame.along((2 * half, 0, 0)), (0, -front.height, 0))


def draw_shade(
    world: World, rng: np.random.Generator, frame: Frame, y: float, size: float, mood: RoomMood
) -> None:
    """Put a lampshade, `size` metres wide and lit from inside, with its foot at height y."""
    turn = np.linspace(0, 2 * np.pi, 15)
    narrow, tall = rng.uniform(0.45, 0.8), size * rng.uniform(0.55, 0.75)
    cloth = mix(LAMPLIGHT * 1.35, pigment(rng, 0.3), 0.35) * (0.85 + 0.9 * mood.lamps)
    rings = [
        np.column_stack([r * np.cos(turn), np.full(15, h), r * np.sin(turn)])
        for r, h in ((size / 2, y), (narrow * size / 2, y + tall))
    ]
    low, high = (frame.at(ring) for ring in rings)
    for i in range(14):
        quad = [low[i], low[i + 1], high[i + 1], high[i]]
        world.face(quad, cloth * (0.94 + 0.06 * (i % 2)), Ade.LAMP)
    world.face(low, cloth * 1.15, Ade.LAMP)
    world.face(high, cloth * 1.15, Ade.LAMP)
    world.lamps.append((frame.at((0, y + tall / 2, 0)), LAMPLIGHT * mood.lamps, 1.3))


def draw_lamp(
    world: World, rng: np.random.Generator, frame: Frame, foot: float, tall: float, mood: RoomMood
) -> None:
    """Put a lamp with its base at height `foot`, `tall` metres up to its shade."""
    metal, size = pigment(rng) * 0.6, rng.uniform(0.55, 0.75)
    world.box(frame, (-0.12, foot, -0.12), (0.12, foot + 0.04, 0.12), metal, Ade.LAMP)
    thick = 0.025 if tall > 0.8 else 0.07
    pole = (-thick, foot, -thick), (thick, foot + tall + 0.1, thick)
    world.box(frame, *pole, metal * 1.2, Ade.LAMP)
    draw_shade(world, rng, frame, foot + tall, size, mood)


def draw_pendant(world: World, rng: np.random.Generator, frame: Frame, mood: RoomMood) -> None:
    """Hang a lamp on a cord from a frame in the ceiling."""
    drop, thin = -rng.uniform(0.8, 1.05), 0.006
    world.box(frame, (-thin, drop + 0.2, -thin), (thin, 0, thin), (0.2, 0.2, 0.2), Ade.LAMP)
    draw_shade(world, rng, frame, drop, rng.uniform(0.6, 0.85), mood)
