"""A small renderer: flat faces and painted panels in space, a sun with shadows, lamps and haze.

Every face is drawn into two views, the camera's and the sun's, each with a depth buffer. The order
of drawing therefore does not matter, a pixel has the label of the face that is seen there, and
shadows fall on all faces.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from .canvas import Ade, Canvas, Colour, Point, Points
from .view import Frame, View, normal_of

NOTHING = -1e6  # the nearness to the sun where there is nothing
SHADOW_SIZE = 768  # pixels on a side of the sun's view
SHADOW_TAPS = ((-1.0, -0.4), (0.4, -1.0), (1.0, 0.4), (-0.4, 1.0), (0.0, 0.0))
SPRITE_LIGHT = (0.95, 0.62)  # ambient and direct share of light on something round


@dataclass(frozen=True)
class Light:
    """The light of a scene: the direction to the sun (3,), colours, and the range of sight."""

    direction: np.ndarray
    sun: Colour
    ambient: Colour
    haze: Colour
    sight: float  # metres after which haze has taken 63 % of a colour
    softness: float = 1.5  # half width of a shadow's edge in pixels of the sun's view


@dataclass
class World:
    """Collects faces seen by a camera under a light, and renders them over a backdrop.

    The camera stands at `eye`, looks level in the direction `yaw` (radians, clockwise from Z), has
    its focal length in picture heights and its horizon at the height `horizon` (0 top, 1 bottom).
    """

    backdrop: Canvas  # in pixels of the supersampled picture; what is seen at infinity
    light: Light
    eye: np.ndarray
    yaw: float
    focal: float
    horizon: float
    stage: float  # metres; shadows fall in a square of this side, a third of it ahead of the eye
    lamps: list[tuple[np.ndarray, np.ndarray, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rows, columns = self.backdrop.label.shape
        self.rows = rows
        self.image, self.label = self.backdrop.image.copy(), self.backdrop.label.copy()
        self.shade = np.zeros((rows, columns, 2), np.float32)  # ambient and direct share of light
        self.right = np.array((np.cos(self.yaw), 0, -np.sin(self.yaw)))
        self.ahead = np.array((np.sin(self.yaw), 0, np.cos(self.yaw)))
        pixels = self.focal * rows
        linear = np.array(
            [
                pixels * self.right + columns / 2 * self.ahead,
                (0, -pixels, 0) + self.horizon * rows * self.ahead,
                (0, 0, 0),
                self.ahead,
            ]
        )
        shift = -linear @ self.eye
        shift[2] = 1
        self.camera = View(np.column_stack([linear, shift]), rows, columns, 0)
        self.sun = View(self._sun_matrix(), SHADOW_SIZE, SHADOW_SIZE, NOTHING)

    def _sun_matrix(self) -> np.ndarray:
        """Return the matrix of a parallel projection along the sunlight."""
        side = np.cross((0, 1, 0), self.light.direction)
        side /= np.linalg.norm(side)
        scale = SHADOW_SIZE / self.stage
        rows = np.array([side, np.cross(side, self.light.direction), self.light.direction])
        rows[:2] *= scale
        shift = -rows @ (self.eye + self.ahead * self.stage / 3)
        shift[:2] += SHADOW_SIZE / 2
        return np.vstack([np.column_stack([rows, shift]), (0, 0, 0, 1)])

    def _turned_away(self, points: np.ndarray, inside: np.ndarray) -> tuple[bool, bool]:
        """Say whether a face of a body around `inside` is turned away from camera and from sun."""
        normal = normal_of(points)
        outward = normal * np.sign(normal @ (points[0] - inside))
        return outward @ (self.eye - points[0]) < 0, outward @ self.light.direction < 0

    def _face_light(self, points: np.ndarray) -> tuple[float, float]:
        """Return the ambient and direct share of light on the side of a face that is seen."""
        normal = normal_of(points)
        normal /= np.linalg.norm(normal) + 1e-9
        if normal @ (self.eye - points[0]) < 0:
            normal = -normal
        return 0.92 + 0.08 * normal[1] ** 2, max(normal @ self.light.direction, 0)

    def sees(self, place: Point, radius: float) -> bool:
        """Say whether a ball around a place (3,) may be in the picture."""
        rows, columns = self.label.shape
        way = np.asarray(place) - self.eye
        depth = way @ self.ahead + radius
        reach = depth * columns / rows / self.focal / 2
        return depth > 0 and abs(way @ self.right) < radius + reach

    def face(
        self,
        points: Points,
        colour: Colour,
        label: Ade,
        casts: bool = True,
        inside: np.ndarray | None = None,
    ) -> None:
        """Draw a flat polygon (n, 3) in one colour.

        `inside` is a point in the convex body that the polygon bounds. With it, the polygon is left
        out where it is turned away: it could only show as a seam along the body's edges.
        """
        points = np.asarray(points, np.float64)
        hidden, dark = (False, False) if inside is None else self._turned_away(points, inside)
        if casts and not dark:
            self.sun.draw(points)
        if not hidden and (hit := self.camera.draw(points)):
            region, shows, _ = hit
            self.image[region][shows] = colour
            self.label[region][shows] = label
            self.shade[region][shows] = self._face_light(points)

    def panel(
        self,
        canvas: Canvas,
        corner: Point,
        across: Point,
        down: Point,
        casts: bool = True,
        light: tuple[float, float] | None = None,
    ) -> None:
        """Draw a canvas as a parallelogram that is transparent where the canvas has no label.

        `corner` is the place of its top left corner, `across` and `down` (3,) are its edges;
        `light` (ambient, direct) takes the place of the light on a flat face.
        """
        corner, across, down = (np.asarray(v, np.float64) for v in (corner, across, down))
        points = np.array([corner, corner + across, corner + across + down, corner + down])
        if casts:
            self.sun.draw(points, canvas)
        if hit := self.camera.draw(points, canvas):
            region, shows, seen = hit
            self.image[region][shows] = seen.image[shows]
            self.label[region][shows] = seen.label[shows]
            self.shade[region][shows] = light or self._face_light(points)

    def sprite(self, canvas: Canvas, foot: Point, height: float) -> None:
        """Stand a canvas upright on `foot` (3,), turned to the camera, `height` metres tall."""
        across = self.right * height * canvas.width / canvas.height
        corner = np.asarray(foot) - across / 2 + (0, height, 0)
        self.panel(canvas, corner, across, (0, -height, 0), light=SPRITE_LIGHT)

    def box(self, frame: Frame, low: Point, high: Point, colour: Colour, label: Ade) -> None:
        """Draw a box between two corners (3,) of a frame."""
        outline = [(low[2], low[1]), (low[2], high[1]), (high[2], high[1]), (high[2], low[1])]
        self.prism(frame, outline, low[0], high[0], colour, label)

    def prism(
        self,
        frame: Frame,
        outline: Points,
        left: float,
        right: float,
        colour: Colour,
        label: Ade,
        taper: float = 0.0,
    ) -> None:
        """Draw a convex outline of local (z, y) points, drawn out from x = `left` to x = `right`.

        Both ends move inwards by `taper` per metre above the outline's lowest point.
        """
        z, y = np.asarray(outline, np.float64).T
        inward = taper * (y - y.min())
        first = frame.at(np.column_stack([left + inward, y, z]))
        last = frame.at(np.column_stack([right - inward, y, z]))
        inside = (first.mean(0) + last.mean(0)) / 2
        sides = [np.array([first[i - 1], first[i], last[i], last[i - 1]]) for i in range(len(z))]
        for points in (first, last, *sides):
            self.face(points, colour, label, inside=inside)

    def ground(self, points: Points, height: float, colour: Colour, label: Ade) -> None:
        """Draw a level polygon of (X, Z) points."""
        self.face([(x, height, z) for x, z in points], colour, label, casts=False)

    def _locate(self, near: np.ndarray, step: int = 1) -> np.ndarray:
        """Return the places in the world (3, rows, columns) of pixels with a nearness.

        `near` (rows, columns) holds every `step`-th pixel of the picture either way.
        """
        back = np.linalg.inv(self.camera.matrix).astype(np.float32)
        x = np.arange(0, near.shape[1] * step, step, dtype=np.float32)
        y = np.arange(0, near.shape[0] * step, step, dtype=np.float32)[:, None]
        place = np.stack([x * row[0] + (y * row[1] + row[3]) + near * row[2] for row in back])
        return place[:3] / place[3]

    def _sunlit(self, near: np.ndarray) -> np.ndarray:
        """Return how much of the sun (rows, columns) reaches the pixels with a nearness."""
        place = self._locate(near[::2, ::2], step=2)  # half the resolution does: edges are soft
        matrix = self.sun.matrix.astype(np.float32)
        x, y, depth = np.tensordot(matrix[:3, :3], place, 1) + matrix[:3, 3, None, None]
        softness = self.light.softness
        depth += (1.2 + softness) * self.stage / SHADOW_SIZE  # or faces would shade themselves
        lit = np.zeros_like(depth)
        for dx, dy in SHADOW_TAPS:
            lit += depth >= cv2.remap(
                self.sun.nearness,
                x + np.float32(dx * softness),
                y + np.float32(dy * softness),
                cv2.INTER_NEAREST,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=NOTHING,
            )
        lit = cv2.GaussianBlur(lit / len(SHADOW_TAPS), (0, 0), self.rows / 600)
        return cv2.resize(lit, near.shape[::-1])

    def _crevices(self, distance: np.ndarray) -> np.ndarray:
        """Return how much (rows, columns) corners and the surroundings of objects darken.

        Where the distance is above its local mean, something nearer keeps light away.
        """
        logs = np.log(np.minimum(distance, 200))
        depth = logs - cv2.blur(logs, (self.rows // 14, self.rows // 14))
        return 1 - np.clip(0.8 * depth, 0, 0.3)

    def render(self) -> tuple[np.ndarray, np.ndarray]:
        """Light the picture; returns it (rows, columns, 3) and its labels (rows, columns)."""
        solid = self.camera.nearness > 0
        near = np.where(solid, self.camera.nearness, np.float32(1e-3))
        distance = 1 / near
        direct = (self.shade[..., 1] * self._sunlit(near))[..., None]
        ambient = (self.shade[..., 0] * self._crevices(distance))[..., None]
        sun, sky, haze = (
            np.asarray(colour, np.float32)
            for colour in (self.light.sun, self.light.ambient, self.light.haze)
        )
        light = ambient * sky + direct * sun
        if self.lamps:
            place = self._locate(near)
        for centre, colour, reach in self.lamps:
            squares = ((place - np.float32(centre)[:, None, None]) ** 2).sum(0)
            light += np.float32(colour) / (1 + squares[..., None] / reach**2) ** 2
        clear = np.exp(-distance / self.light.sight)[..., None]
        lit = self.image * light * clear + haze * (1 - clear)
        return np.where(solid[..., None], lit, self.backdrop.image), self.label
