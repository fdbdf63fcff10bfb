"""Rooms: a box in perspective with papered walls, and furniture where there is room for it."""

from dataclasses import dataclass

import numpy as np

from .canvas import Ade, Canvas, mix, pigment
from .furniture import (
    WOODS,
    draw_bed,
    draw_cabinet,
    draw_chair,
    draw_lamp,
    draw_pendant,
    draw_table,
    wood,
)
from .moods import ROOM_MOODS, RoomMood
from .plot import Plot
from .sprites import person, plant
from .view import Frame
from .walls import Wall, paint_door, paint_painting, paint_window, paper
from .world import Light, World

BEHIND = -1.2  # metres; the Z where the room ends behind the camera, which stands at 0


def draw_shell(
    world: World, rng: np.random.Generator, width: float, depth: float, height: float
) -> list[Wall]:
    """Lay floor and ceiling, and return the left, the back and the right wall, papered."""
    half, long = width / 2, depth - BEHIND
    floor = Canvas(long, width, world.rows / 4, wood(rng), Ade.FLOOR)
    if rng.random() < 0.65:  # boards, else tiles
        floor.courses(rng, 1.6, rng.uniform(0.12, 0.22), 0.012, 0.1, stagger=0.37)
    else:
        size = rng.uniform(0.4, 0.7)
        floor.courses(rng, size, size, 0.02, 0.07, stagger=0)
    floor.grain(rng, 0.03, 0.5)

    white = mix((0.96, 0.95, 0.92), pigment(rng), rng.uniform(0.05, 0.35))
    ceiling = Canvas(long, width, world.rows / 5, white, Ade.CEILING)
    match rng.integers(3):
        case 0:  # boards
            ceiling.courses(rng, 9, 0.3, 0.02, 0.03, stagger=0)
        case 1:  # beams
            timber = mix(white, rng.choice(WOODS), 0.75)
            for x in np.arange(0.8, long, 1.4):
                ceiling.rectangle(x, 0, 0.2, width, timber)
    along, out = (0, 0, long), (width, 0, 0)
    world.panel(floor, (-half, 0, BEHIND), along, out, casts=False)
    # The windows do not light the ceiling, but light from the floor does.
    world.panel(ceiling, (-half, height, BEHIND), along, out, casts=False, light=(1.14, 0.0))

    colour, style = pigment(rng, rng.uniform(0.2, 0.65)), int(rng.integers(6))
    walls = []
    for frame, length in (
        (Frame(-half, 0, BEHIND + long / 2, np.pi / 2), long),
        (Frame(0, 0, depth, np.pi), width),
        (Frame(half, 0, BEHIND + long / 2, -np.pi / 2), long),
    ):
        canvas = Canvas(length, height, world.rows / 4, colour, Ade.WALL)
        paper(rng, canvas, style, colour)
        walls.append(Wall(frame, length, height, canvas))
    return walls


@dataclass(frozen=True)
class Room:
    """What is needed to furnish a room; `side` is where a bed may stand: 1 right, -1 left."""

    world: World
    rng: np.random.Generator
    mood: RoomMood
    walls: list[Wall]  # the left one, the back one, the right one
    plot: Plot
    side: int

    def chance(self, share: float) -> bool:
        """Say yes with a probability."""
        return self.rng.random() < share

    def find(self, radius: float, nearest: float, reach: float) -> Frame | None:
        """Look for a free square of floor from the Z `nearest` on, up to `reach` aside."""
        for _ in range(40):
            x, z = self.rng.uniform((-reach, nearest), (reach, nearest + 1))
            place = Frame(x, 0, min(z, self.walls[1].frame.z - radius))
            if self.plot.claim(place, radius, radius, radius):
                return place
        return None

    def dress_walls(self) -> None:
        """Put three things along the back wall, a window first, and one on either side wall."""
        rng, (left, back, right) = self.rng, self.walls
        depth, third = back.frame.z, back.length / 3
        places = [(back, back.across(x * self.side, depth)) for x in (third, 0, -third)]
        places += [(w, w.across(w.frame.x, depth - 1.05)) for w in (right, left)[:: self.side]]
        things = ["window", *rng.permutation(["door", "cabinet"])]
        things += list(rng.permutation(["window", "painting"]))
        if self.chance(0.25):  # the door is in the side wall across from the bed
            door = things.index("door")
            things[door], things[4] = things[4], "door"
        for (wall, x), thing in zip(places, things, strict=True):
            x += rng.uniform(-0.1, 0.1)
            match "painting" if self.chance(0.1) else thing:
                case "window":
                    paint_window(wall, rng, x, self.mood)
                case "painting":
                    paint_painting(wall, rng, x)
                case "door":
                    paint_door(wall, rng, x)
                    self.plot.claim(wall.spot(x), 0.6, 0.9)
                case "cabinet":
                    self.put_cabinet(wall, x)
        for wall in self.walls:
            wall.show(self.world)

    def put_cabinet(self, wall: Wall, x: float) -> None:
        """Put a cabinet to a wall, maybe with a lamp on it or a painting above."""
        half, deep, tall = self.rng.uniform((0.68, 0.45, 0.95), (0.82, 0.55, 1.5))
        self.plot.claim(wall.spot(x), half + 0.1, deep + 0.5)
        draw_cabinet(self.world, self.rng, wall.spot(x), half, deep, tall)
        if self.chance(0.5):
            high = self.rng.uniform(0.3, 0.4)
            draw_lamp(self.world, self.rng, wall.spot(x, deep / 2), tall, high, self.mood)
        elif tall < 1.2:
            paint_painting(wall, self.rng, x)

    def put_bed(self) -> None:
        """Put a bed on its side of the room, its head to the back wall or to the side wall."""
        half, back, side = self.rng.uniform(0.85, 1.05), self.walls[1], self.walls[1 + self.side]
        if self.chance(0.5):
            spot = back.spot(back.across(self.side * (back.length / 2 - half - 0.15), 0))
        else:
            spot = side.spot(side.across(0, back.frame.z - half - self.rng.uniform(0.3, 0.7)))
        self.plot.claim(spot, half + 0.05, 2.15)
        draw_bed(self.world, self.rng, spot, half)

    def set_table(self) -> None:
        """Put a table across from the bed, with a chair and maybe a plant or a lamp."""
        world, rng = self.world, self.rng
        place = -self.side * rng.uniform(0.55, 0.9), 0.0, rng.uniform(2.5, 2.9)
        middle = Frame(*place, rng.normal(0, 0.12))
        half, deep, tall = rng.uniform((0.7, 0.44, 0.68), (0.88, 0.54, 0.76))
        self.plot.claim(middle, half, deep, deep)
        draw_table(world, rng, middle, half, deep, tall)
        if self.chance(0.3):
            pot = middle.at((rng.uniform(-0.4, 0.4), tall, 0))
            world.sprite(plant(rng, world.rows / 3), pot, rng.uniform(0.5, 0.65))
        if self.chance(0.35):
            draw_pendant(world, rng, Frame(middle.x, self.walls[1].height, middle.z), self.mood)
        x, y, z = middle.at((-self.side * (half + 0.4), 0, -0.2))
        seat = Frame(x, y, z, self.side * 1.5)
        if self.plot.claim(seat, 0.2, 0.2, 0.2):
            draw_chair(world, seat, wood(rng), pigment(rng))

    def furnish(self) -> None:
        """Put furniture on the floor: what is large first, what is small where there is room."""
        world, rng, reach = self.world, self.rng, self.walls[1].length / 2 - 0.4
        bed = self.chance(0.72)
        if bed:
            self.put_bed()
        if not bed or self.chance(0.7):
            self.set_table()
        if self.chance(0.85) and (place := self.find(0.28, nearest=1.8, reach=1.3)):
            seat = Frame(place.x, 0, place.z, np.pi + rng.uniform(-0.9, 0.9))
            draw_chair(world, seat, wood(rng), pigment(rng))
        if self.chance(0.55) and (place := self.find(0.24, nearest=1.8, reach=1.3)):
            figure = person(rng, world.rows * 0.8)
            world.sprite(figure, place.at((0, 0, 0)), rng.uniform(1.55, 1.85))
        if self.chance(0.6) and (place := self.find(0.25, nearest=2.8, reach=reach)):
            draw_lamp(world, rng, place, 0.0, rng.uniform(1.1, 1.4), self.mood)
        if self.chance(0.6) and (place := self.find(0.3, nearest=2.8, reach=reach)):
            world.sprite(plant(rng, world.rows / 2), place.at((0, 0, 0)), rng.uniform(1.3, 1.75))


def room_scene(rng: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a room; returns the picture (rows, columns, 3) and its labels (rows, columns)."""
    mood = ROOM_MOODS[rng.integers(len(ROOM_MOODS))]
    width, depth, height = rng.uniform((4.8, 4.3, 2.5), (5.6, 5.1, 2.8))
    eye = np.array((rng.uniform(-0.12, 0.12) * width, rng.uniform(1.4, 1.75), 0.0))
    yaw = -np.sign(eye[0]) * rng.uniform(-0.05, 0.25)
    focal, horizon = rng.uniform((0.74, 0.38), (0.88, 0.48))
    # The light comes from above, behind the camera and one side, as through windows there.
    direction = np.array((rng.choice((-0.5, 0.5)), 1.0, rng.uniform(-0.7, -0.1)))
    direction /= np.linalg.norm(direction)
    haze = mix(mood.ambient, mood.sun, 0.3)
    light = Light(direction, mood.sun, mood.ambient, haze, sight=60, softness=7)
    backdrop = Canvas(columns / rows, 1, rows, mood.ambient, Ade.WALL)
    world = World(backdrop, light, eye, yaw, focal, horizon, stage=9.0)

    plot = Plot()
    plot.claim(Frame(eye[0], 0, 0, yaw), half=0.6, front=1.3, back=1.0)
    walls = draw_shell(world, rng, width, depth, height)
    room = Room(world, rng, mood, walls, plot, side=int(rng.choice((-1, 1))))
    room.dress_walls()
    room.furnish()
    return world.render()
