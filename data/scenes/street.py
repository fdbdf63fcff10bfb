"""Streets: a road between sidewalks, with a town, houses, a park or a river on either side."""

import numpy as np

from .backdrop import draw_mountains, draw_sky
from .buildings import draw_building, draw_house
from .canvas import Ade, Canvas
from .cars import draw_car
from .ground import CURB, END, FAR, draw_grass, draw_road, draw_sidewalk, draw_water, mirror_water
from .moods import STREET_MOODS, StreetMood
from .plot import Plot
from .sprites import person, tree
from .view import Frame
from .world import Light, World

SIDES = {"town": 0.27, "houses": 0.18, "park": 0.13, "river": 0.42}  # how often each occurs
# Metres from tree to tree, and from the sidewalk's far edge to the nearest and farthest of them.
TREES = {
    "town": (13.0, -0.7, -0.7),
    "houses": (13.0, 1.5, 1.5),
    "park": (5.5, 1.0, 14.0),
    "river": (13.0, 0.8, 0.8),
}


def draw_side(
    world: World, rng: np.random.Generator, side: int, edge: float, kind: str, mood: StreetMood
) -> None:
    """Fill what lies beyond the sidewalk, which ends `edge` metres from the road's middle."""
    bank = edge + rng.uniform(1.2, 2.8) if kind == "river" else FAR
    draw_grass(world, rng, side, edge, bank)
    if kind == "river":
        draw_water(world, rng, side, bank, mood)
    elif kind == "town":
        x, z = side * (edge + 0.1), rng.uniform(-17, -12)
        while z < END:
            length, gap = rng.uniform(8, 16), rng.choice((0.0, 0.0, 0.0, 4.0, 12.0))
            if world.sees((x, 0, z + length / 2), length):
                draw_building(world, rng, (x, z), length, side, mood)
            z += length + gap
    elif kind == "houses":
        for z in np.arange(-6.0, END - 20, 16.0) + rng.uniform(0, 5):
            frame = Frame(side * (edge + rng.uniform(2.5, 6)), CURB, z, -side * np.pi / 2)
            if world.sees(frame.at((0, 0, -4)), 10):
                draw_house(world, rng, frame, mood)


def draw_trees(
    world: World, rng: np.random.Generator, plot: Plot, side: int, edge: float, kind: str
) -> None:
    """Put trees along one side of the road, none of them right before the eye."""
    kinds = [tree(rng, world.rows * 0.7) for _ in range(2)]
    spacing, nearest, farthest = TREES[kind]
    for z in np.arange(rng.uniform(0, 5), END - 15, spacing):
        z += rng.uniform(-1.5, 1.5)
        x = side * (edge + rng.uniform(nearest, farthest))
        clear = np.hypot(x - world.eye[0], z - world.eye[2]) > 4
        if rng.random() < 0.75 and clear and world.sees((x, 0, z), 6):
            plot.claim(Frame(x, 0, z), half=0.4, front=0.4, back=0.4)
            world.sprite(kinds[rng.integers(2)], (x, CURB - 0.03, z), rng.uniform(4.5, 8.5))


def draw_traffic(world: World, rng: np.random.Generator, plot: Plot, half: float) -> None:
    """Put cars at the curbs and in the lanes, none of them too near to the eye or too far."""
    for side in (-1, 1):
        for z in np.arange(rng.uniform(-6, -3), 60, 6.2):
            parked = rng.random() < 0.5
            x = side * (half - 1.1 if parked else half * 0.42)
            fits = 5.5 < np.hypot(x - world.eye[0], z - world.eye[2]) < 45
            if rng.random() < 0.5 and fits and world.sees((x, 0, z), 3):
                heading = (0 if side > 0 else np.pi) + rng.normal(0, 0.03)
                plot.claim(Frame(x, 0, z), half=0.9, front=2.4, back=2.4)
                draw_car(world, rng, Frame(x, 0, z, heading))


def draw_people(
    world: World, rng: np.random.Generator, plot: Plot, half: float, edge: float
) -> None:
    """Put one or two people before the camera where there is room, out to `edge` either way."""
    reach = world.backdrop.width / world.focal / 2
    wanted = rng.choice((0, 1, 2), p=(0.06, 0.44, 0.5))
    for _ in range(30):
        tall = rng.uniform(1.6, 1.85)
        depth = world.focal * tall / rng.uniform(0.4, 0.62)
        aside = depth * reach * rng.uniform(-0.7, 0.7)
        x, _, z = world.eye + world.ahead * depth + world.right * aside
        foot = world.horizon + world.focal * world.eye[1] / depth  # where in the picture
        place = Frame(x, 0 if abs(x) < half else CURB, z)
        if wanted and foot < 1 and abs(x) < edge - 0.3 and plot.claim(place, 0.4, 0.4, 0.4):
            world.sprite(person(rng, world.rows * 0.7), place.at((0, 0, 0)), tall)
            wanted -= 1


def street_scene(
    rng: np.random.Generator, rows: int, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Render a street; returns the picture (rows, columns, 3) and its labels (rows, columns)."""
    mood = STREET_MOODS[rng.integers(len(STREET_MOODS))]
    half, walk = rng.uniform(3.4, 4.8), rng.uniform(1.8, 3.2)
    horizon, focal = rng.uniform(0.34, 0.52), rng.uniform(0.75, 1.1)
    across = rng.random() < 0.35  # looking over the road rather than along it
    looks = rng.choice((-1, 1))
    yaw = looks * rng.uniform(0.8, 1.3) if across else rng.uniform(-0.35, 0.35)
    x = -looks * (half + rng.uniform(0.3, walk)) if across else rng.uniform(-half, half) * 1.3
    eye = np.array((x, rng.uniform(1.5, 2.3), 0.0))

    backdrop = Canvas(columns / rows, 1, rows, mood.foot, Ade.SKY)
    draw_sky(backdrop, rng, mood, horizon)
    if rng.random() < 0.75:
        draw_mountains(backdrop, rng, mood, horizon)
    backdrop.rectangle(0, horizon, backdrop.width, 1, mood.foot, Ade.GRASS)

    azimuth, lift = yaw + rng.uniform(0.7, 2.4) * rng.choice((-1, 1)), rng.uniform(*mood.height)
    level = np.sqrt(1 - lift**2)
    direction = np.array((np.sin(azimuth) * level, lift, np.cos(azimuth) * level))
    light = Light(direction, mood.sun, mood.ambient, mood.foot, rng.uniform(*mood.sight))
    world = World(backdrop, light, eye, yaw, focal, horizon, stage=44.0)

    plot, edge = Plot(), half + walk
    draw_road(world, rng, half)
    for side in (-1, 1):
        kind = rng.choice(list(SIDES), p=list(SIDES.values()))
        draw_sidewalk(world, rng, side, half, edge)
        draw_side(world, rng, side, edge, kind, mood)
        draw_trees(world, rng, plot, side, edge, kind)
    draw_traffic(world, rng, plot, half)
    draw_people(world, rng, plot, half, edge)
    image, label = world.render()
    mirror_water(rng, image, label, horizon)
    return image, label
