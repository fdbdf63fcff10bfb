"""Tell classes' own values from those that interpolation or lossy storage made.

Scaled with interpolation, two areas have values in between along their edge. Stored as JPEG, an
area has a few values beside its own. Where classes' values are far apart, such as 0 and 255, these
can be told; where they are class indices, each may be that of another class.
"""

from collections.abc import Sequence

import numpy as np

from preparation.survey import Tally

INSIDE = 0.2  # share of a code's pixels that are inside, below which only edges have it
LEAST_GAP = 16  # between values, which interpolation cannot bridge unseen
OWN_SHARE = 0.5  # of the pixels of all values near one, which that has itself


def own_values(tallies: dict[int, Tally], given: Sequence[int] = ()) -> list[int]:
    """The values of classes, ascending; none if they cannot be told.

    Args:
        tallies: of all values.
        given: the classes' values, if a table tells.
    """
    own: list[int] = [value for value in given if value in tallies]
    for value in sorted(tallies, key=lambda value: -tallies[value].pixels):
        is_apart = all(abs(value - other) >= LEAST_GAP for other in own)
        if not given and is_apart and tallies[value].inside >= INSIDE * tallies[value].pixels:
            own.append(value)
    own.sort()
    if len(own) < 2 or min(np.diff(own)) < LEAST_GAP:
        return []
    pixels = dict.fromkeys(own, 0)
    for value, tally in tallies.items():
        if (nearest := nearest_value(value, own)) is not None:
            pixels[nearest] += tally.pixels
    clear = all(tallies[value].pixels >= OWN_SHARE * pixels[value] for value in own)
    return own if clear else []


def nearest_value(value: int, own: Sequence[int]) -> int | None:
    """The one of two classes' values that another is nearest to; of more, only one that is near.

    In between it says nothing: between the values of two classes there may be that of a third.
    """
    nearest = min(own, key=lambda other: abs(other - value))
    return nearest if len(own) == 2 or 4 * abs(nearest - value) <= min(np.diff(own)) else None
