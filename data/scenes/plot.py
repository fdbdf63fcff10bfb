"""The ground of a scene: which parts of it are taken."""

from .view import Frame


class Plot:
    """The ground, and the upright rectangles (x, z, x, z in metres) of it that are taken."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float, float, float]] = []

    def claim(self, frame: Frame, half: float, front: float, back: float = 0.0) -> bool:
        """Take the ground from -half to half and from -back to front of a frame, if it is free."""
        corners = frame.at([(x, 0, z) for x in (-half, half) for z in (-back, front)])
        (left, _, near), (right, _, far) = corners.min(0), corners.max(0)
        free = all(
            right < x0 or left > x1 or far < z0 or near > z1 for x0, z0, x1, z1 in self.taken
        )
        if free:
            self.taken.append((left, near, right, far))
        return free
