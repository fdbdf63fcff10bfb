"""Cars: bodies extruded from a profile, with windows, wheels, lamps and number plates."""

import numpy as np

from .canvas import Ade, Colour, Point, Points, pigment
from .view import Frame
from .world import World

# Two outlines of (z, y) points in metres with the nose at +z: the body, and the cabin on top of it
# from the foot of the rear window over the roof to the foot of the windscreen.
SHAPES = (
    (  # saloon
        [(-2.2, 0.3), (-2.25, 0.75), (-2.1, 0.95), (1.0, 0.95), (2.1, 0.78), (2.2, 0.3)],
        [(-1.75, 0.93), (-1.1, 1.45), (0.2, 1.47), (1.05, 0.93)],
    ),
    (  # hatchback
        [(-1.9, 0.3), (-1.95, 0.95), (0.95, 0.98), (1.8, 0.82), (1.9, 0.3)],
        [(-1.9, 0.93), (-1.55, 1.5), (0.1, 1.55), (1.0, 0.95)],
    ),
    (  # van
        [(-2.4, 0.3), (-2.4, 1.15), (1.7, 1.15), (2.3, 0.95), (2.4, 0.3)],
        [(-2.4, 1.1), (-2.3, 2.1), (0.9, 2.1), (1.75, 1.12)],
    ),
    (  # off-roader
        [(-2.1, 0.4), (-2.15, 1.1), (1.0, 1.12), (2.05, 1.02), (2.15, 0.4)],
        [(-2.1, 1.08), (-1.9, 1.75), (0.2, 1.78), (0.95, 1.1)],
    ),
)
TAPER = 0.2  # metres that a cabin's sides lean in per metre of height
RUBBER = (0.07, 0.07, 0.08)
GLASS = np.array((0.13, 0.17, 0.21))
HEADLAMP, REAR_LAMP, PLATE = (1.4, 1.35, 1.15), (0.8, 0.1, 0.08), (0.92, 0.92, 0.88)


def draw_car(world: World, rng: np.random.Generator, frame: Frame) -> None:
    """Put a car on a frame, its nose ahead."""
    body, cabin = SHAPES[rng.integers(len(SHAPES))]
    paint, half = pigment(rng), rng.uniform(0.84, 0.92)
    z, y = np.array(body).T
    nose, tail, floor = z.max(), z.min(), y.min()
    world.prism(frame, body, -half, half, paint, Ade.CAR)
    sill = (-half, floor - 0.12, tail + 0.1), (half, floor + 0.06, nose - 0.1)
    world.box(frame, *sill, RUBBER, Ade.CAR)
    world.prism(frame, cabin, -half, half, paint, Ade.CAR, TAPER)
    draw_windows(world, frame, cabin, half, paint, rng.uniform(0.35, 0.6))
    for side in (-1, 1):
        for axle in (tail + 0.75, nose - 0.8):
            draw_wheel(world, frame, side * (half + 0.015), axle)
    for end, lamp in ((nose + 0.02, HEADLAMP), (tail - 0.06, REAR_LAMP)):
        for x in (-half * 0.92, half * 0.55):
            draw_plate(world, frame, (x, 0.62, end), half * 0.37, 0.16, lamp)
        draw_plate(world, frame, (-0.26, 0.42, end), 0.52, 0.13, PLATE)


def draw_windows(
    world: World, frame: Frame, cabin: Points, half: float, paint: np.ndarray, pillar: float
) -> None:
    """Put glass on the four sides of a cabin; `pillar` is where along its roof the doors meet."""
    z, y = np.array(cabin).T
    base, centre = y.min(), np.array((z.mean(), (y.min() + y.max()) / 2))

    def decal(points: Points, colour: Colour, side: int, across: float = 1.012) -> None:
        """Stick (z, y) points to a side of the cabin, which leans."""
        lean = [(side * (half * across - TAPER * max(v - base, 0)), v, u) for u, v in points]
        world.face(frame.at(lean), colour, Ade.CAR, casts=False)

    post = z[1] + (z[2] - z[1]) * pillar
    for side in (-1, 1):
        decal(centre + 0.82 * (np.column_stack([z, y]) - centre), GLASS, side)
        decal([(post, y[1]), (post + 0.1, y[1]), (post + 0.1, base), (post, base)], paint, side)
        seam = [(post, base), (post + 0.03, base), (post + 0.03, 0.45), (post, 0.45)]
        decal(seam, paint * 0.6, side)
    for low, high in ((0, 1), (3, 2)):  # the rear window and the windscreen, a little outside
        out = 0.02 * np.sign(z[low] - z.mean())
        corners = []
        for share, side in ((0.12, -1), (0.12, 1), (0.86, 1), (0.86, -1)):
            u, v = z[low] + share * (z[high] - z[low]), y[low] + share * (y[high] - y[low])
            corners.append((side * 0.88 * (half - TAPER * (v - base)), v + 0.01, u + out))
        world.face(frame.at(corners), GLASS * 1.3, Ade.CAR, casts=False)


def draw_plate(
    world: World, frame: Frame, corner: Point, width: float, height: float, colour: Colour
) -> None:
    """Put a small upright rectangle on the nose or tail of a car, from its lower left corner."""
    x, y, z = corner
    right, top = x + width, y + height
    points = [(x, y, z), (right, y, z), (right, top, z), (x, top, z)]
    world.face(frame.at(points), colour, Ade.CAR, casts=False)


def draw_wheel(world: World, frame: Frame, x: float, z: float) -> None:
    """Put a wheel at the side of a car: a tyre with a bright hub, its axle at the local (x, z)."""
    turn = np.linspace(0, 2 * np.pi, 17)[:-1]
    for radius, colour, out in ((0.34, RUBBER, 1.0), (0.19, (0.62, 0.63, 0.65), 1.01)):
        rim = [(x * out, 0.34 + radius * np.sin(a), z + radius * np.cos(a)) for a in turn]
        world.face(frame.at(rim), colour, Ade.CAR, casts=False)
