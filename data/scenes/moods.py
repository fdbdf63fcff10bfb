"""Times of day: the colours of the sky and of the light, in the street and in a room."""

from dataclasses import dataclass

from .canvas import Colour


@dataclass(frozen=True)
class StreetMood:
    """A time of day: colours of the sky's top and its foot, of the light, and the sun's height."""

    zenith: Colour
    foot: Colour
    sun: Colour
    ambient: Colour
    height: tuple[float, float]  # sine of the sun's elevation, from and to
    sight: tuple[float, float]  # metres
    lit_windows: float


STREET_MOODS = (
    StreetMood(  # noon
        zenith=(0.32, 0.56, 0.86),
        foot=(0.80, 0.89, 0.95),
        sun=(0.92, 0.86, 0.74),
        ambient=(0.56, 0.60, 0.68),
        height=(0.6, 0.9),
        sight=(260, 600),
        lit_windows=0.0,
    ),
    StreetMood(  # afternoon
        zenith=(0.42, 0.62, 0.84),
        foot=(0.98, 0.90, 0.78),
        sun=(1.02, 0.84, 0.58),
        ambient=(0.57, 0.59, 0.67),
        height=(0.4, 0.6),
        sight=(160, 400),
        lit_windows=0.05,
    ),
    StreetMood(  # sunset
        zenith=(0.44, 0.50, 0.74),
        foot=(1.00, 0.76, 0.55),
        sun=(1.02, 0.76, 0.52),
        ambient=(0.62, 0.59, 0.66),
        height=(0.25, 0.4),
        sight=(140, 320),
        lit_windows=0.25,
    ),
    StreetMood(  # overcast
        zenith=(0.66, 0.71, 0.76),
        foot=(0.86, 0.87, 0.87),
        sun=(0.32, 0.32, 0.31),
        ambient=(0.74, 0.76, 0.79),
        height=(0.7, 0.95),
        sight=(110, 260),
        lit_windows=0.1,
    ),
    StreetMood(  # dusk
        zenith=(0.22, 0.27, 0.48),
        foot=(0.86, 0.60, 0.56),
        sun=(0.38, 0.34, 0.36),
        ambient=(0.63, 0.61, 0.70),
        height=(0.4, 0.6),
        sight=(140, 320),
        lit_windows=0.55,
    ),
)


@dataclass(frozen=True)
class RoomMood:
    """The light in a room: the sun's and the ambient colour, how strongly lamps shine, the sky."""

    sun: Colour
    ambient: Colour
    lamps: float
    outside: float


ROOM_MOODS = (
    RoomMood((0.44, 0.41, 0.35), (0.78, 0.78, 0.80), 0.1, 1.4),
    RoomMood((0.52, 0.42, 0.28), (0.76, 0.71, 0.65), 0.25, 1.35),
    RoomMood((0.30, 0.32, 0.38), (0.74, 0.78, 0.84), 0.2, 1.25),
    RoomMood((0.24, 0.21, 0.19), (0.70, 0.66, 0.66), 0.65, 0.7),
)
