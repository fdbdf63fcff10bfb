"""Geometry: places and headings in the world, and views of it with a depth buffer.

World coordinates are in metres: X to the right, Y up, Z forward.
"""

from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np

from .canvas import SUBPIXEL_BITS, Canvas, Point, Points

NEAR = 0.25  # metres; faces are cut off where they come closer to the eye
TIE = 0.998  # a later face wins where an earlier one is nearer by less than this ratio
Region = tuple[slice, slice]  # rows and columns of a picture


@dataclass(frozen=True)
class Frame:
    """A place and a heading: local x to the right, y up, z ahead, turned by `yaw` radians."""

    x: float
    y: float
    z: float
    yaw: float = 0.0

    def at(self, points: Point | Points) -> np.ndarray:
        """Map local points (..., 3) to the world."""
        points = np.asarray(points, np.float64)
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        turn = np.array([(cosine, 0, -sine), (0, 1, 0), (sine, 0, cosine)])
        return points @ turn + (self.x, self.y, self.z)

    def along(self, vector: Point) -> np.ndarray:
        """Turn a local direction (3,) to the world."""
        return self.at(vector) - (self.x, self.y, self.z)


def normal_of(points: np.ndarray) -> np.ndarray:
    """Return a vector (3,) at right angles to a flat polygon (n, 3), twice its area long."""
    (x0, y0, z0), (x1, y1, z1) = (points[:-1] - points[0]).T, (points[1:] - points[0]).T
    return np.array((y0 @ z1 - z0 @ y1, z0 @ x1 - x0 @ z1, x0 @ y1 - y0 @ x1))


class View:
    """A camera with a depth buffer.

    `matrix` (4, 4) maps (X, Y, Z, 1) to (x s, y s, n s, s): pixel x, y and nearness n, which grows
    towards the eye. Planes of the world remain planes in (x, y, n), in perspective (n is one over
    the distance) as in the parallel light of the sun.
    """

    def __init__(self, matrix: np.ndarray, rows: int, columns: int, farthest: float) -> None:
        self.matrix = matrix
        self.nearness = np.full((rows, columns), farthest, np.float32)

    def _project(self, points: np.ndarray) -> np.ndarray:
        """Map points (n, 3) to (x, y, nearness) rows; the part behind the eye is cut off."""
        points = np.column_stack([points, np.ones(len(points))]) @ self.matrix.T
        inside = points[:, 3] >= NEAR
        if not inside.all():
            kept = []
            for i, point in enumerate(points):
                previous = points[i - 1]
                if inside[i] != inside[i - 1]:
                    share = (NEAR - previous[3]) / (point[3] - previous[3])
                    kept.append(previous + share * (point - previous))
                if inside[i]:
                    kept.append(point)
            points = np.array(kept).reshape(-1, 4)
        return points[:, :3] / points[:, 3:]

    @overload
    def draw(self, points: np.ndarray) -> tuple[Region, np.ndarray, None] | None: ...

    @overload
    def draw(
        self, points: np.ndarray, canvas: Canvas
    ) -> tuple[Region, np.ndarray, Canvas] | None: ...

    def draw(
        self, points: np.ndarray, canvas: Canvas | None = None
    ) -> tuple[Region, np.ndarray, Canvas | None] | None:
        """Put a flat polygon (n, 3) into the depth buffer where nothing nearer is.

        With a canvas, the polygon is a parallelogram, given by its four corners clockwise from the
        top left, and it is open where the canvas has no label.

        Returns:
            The polygon's region of the picture, the mask of where it shows in that region, and the
            canvas as it is seen there; None if the polygon is outside of the picture.
        """
        corners = self._project(points)
        if len(corners) < 3:
            return None
        rows, columns = self.nearness.shape
        low, high = corners[:, :2].min(0), corners[:, :2].max(0)
        left, top = np.maximum(np.floor(low), 0).astype(int)
        right, bottom = np.minimum(np.ceil(high) + 1, (columns, rows)).astype(int)
        if left >= right or top >= bottom:
            return None
        normal = normal_of(corners)
        if abs(normal[2]) < 1e-9:
            return None
        region = slice(top, bottom), slice(left, right)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        outline = np.round((corners[:, :2] - (left, top)) * 2**SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(mask, [outline], 1, shift=SUBPIXEL_BITS)
        across = (np.arange(left, right) - corners[0, 0]) * (normal[0] / normal[2])
        along = (np.arange(top, bottom) - corners[0, 1]) * (normal[1] / normal[2])
        near = (corners[0, 2] - across[None] - along[:, None]).astype(np.float32)
        # At its rim the mask is a pixel wider than the polygon: do not extrapolate the plane there.
        np.clip(near, corners[:, 2].min(), corners[:, 2].max(), out=near)
        hidden = self.nearness[region]
        shows = (mask > 0) & (near >= hidden - (1 - TIE) * np.abs(hidden))
        seen = canvas and self._warp(canvas, points, region)
        if seen:
            shows &= seen.label > 0
        hidden[shows] = near[shows]
        return region, shows, seen

    def _warp(self, canvas: Canvas, points: np.ndarray, region: Region) -> Canvas:
        """Return what is seen in a region of a canvas with the given corners in the world."""
        rows, columns = region[0].stop - region[0].start, region[1].stop - region[1].start
        while canvas.label.size > 6 * rows * columns and min(canvas.label.shape) > 8:
            canvas = canvas.half
        height, width = canvas.label.shape
        across, down = (points[1] - points[0]) / width, (points[3] - points[0]) / height
        plane = np.column_stack([across, down, points[0]])
        texture = (self.matrix @ np.vstack([plane, (0, 0, 1)]))[[0, 1, 3]]
        shift = np.array([(1, 0, -region[1].start), (0, 1, -region[0].start), (0, 0, 1)])
        seen = Canvas(columns, rows, 1, (0, 0, 0))
        lens = {"M": shift @ texture, "dsize": (columns, rows), "borderMode": cv2.BORDER_REPLICATE}
        seen.image = cv2.warpPerspective(canvas.image, flags=cv2.INTER_LINEAR, **lens)
        seen.label = cv2.warpPerspective(canvas.label, flags=cv2.INTER_NEAREST, **lens)
        return seen
