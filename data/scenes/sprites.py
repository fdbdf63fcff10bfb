"""Flat figures that stand upright, turned to the camera: people, trees and potted plants."""

import numpy as np

from .canvas import Ade, Canvas, mix, pigment

LEAVES = ((0.42, 0.50, 0.20), (0.15, 0.34, 0.24), (0.72, 0.46, 0.16), (0.55, 0.55, 0.25))
SKINS = np.array([(0.95, 0.78, 0.66), (0.84, 0.62, 0.47), (0.62, 0.42, 0.30), (0.40, 0.27, 0.20)])
HAIRS = np.array([(0.13, 0.10, 0.09), (0.33, 0.21, 0.13), (0.75, 0.56, 0.30), (0.62, 0.60, 0.58)])
MIDDLE = 0.3  # x of a person's middle on a canvas of twice that width and of height 1


def person(rng: np.random.Generator, pixels: float) -> Canvas:
    """Paint a standing or walking person on a canvas 0.6 wide and 1 high, `pixels` tall."""
    canvas = Canvas(2 * MIDDLE, 1.0, pixels, (0.4, 0.35, 0.33))
    skin, hair = rng.choice(SKINS), rng.choice(HAIRS)
    cloth = pigment(rng, unlike=skin)  # clothes must not pass for bare skin
    dress = rng.random() < 0.45
    paint_legs(canvas, rng, skin if dress else pigment(rng) * 0.7)
    if dress or rng.random() < 0.3:  # long hair falls behind the shoulders
        canvas.ellipse(MIDDLE, 0.15, 0.105, 0.14, hair * 0.8, Ade.PERSON)
    paint_arms(canvas, rng, skin, cloth)
    (paint_dress if dress else paint_coat)(canvas, rng, cloth)
    paint_head(canvas, rng, skin, hair)
    canvas.gradient((1.12, 1.1, 1.05), (0.78, 0.8, 0.85), vertical=False)
    return canvas


def paint_legs(canvas: Canvas, rng: np.random.Generator, colour: np.ndarray) -> None:
    """Paint a person's legs, one before the other, and shoes."""
    shoes, stride = pigment(rng) * 0.5, rng.uniform(0.01, 0.06)
    for side, shade in ((-1, 0.78), (1, 1.0)):
        hip, ankle = MIDDLE + side * 0.06, MIDDLE + side * (0.065 + stride)
        canvas.line([(hip, 0.55), (ankle, 0.93)], 0.1, colour * shade, Ade.PERSON)
        canvas.ellipse(ankle + side * 0.02, 0.965, 0.072, 0.034, shoes * shade, Ade.PERSON)


def paint_arms(
    canvas: Canvas, rng: np.random.Generator, skin: np.ndarray, cloth: np.ndarray
) -> None:
    """Paint a person's arms in sleeves, with hands, and the neck."""
    for side in (-1, 1):
        shoulder = MIDDLE + side * 0.115
        elbow = shoulder + side * rng.uniform(0.045, 0.08)
        hand = elbow + side * rng.uniform(-0.05, 0.03), rng.uniform(0.49, 0.56)
        canvas.ellipse(*hand, 0.038, 0.042, skin, Ade.PERSON)
        sleeve = [(shoulder, 0.27), (elbow, 0.39), (hand[0], hand[1] - 0.05)]
        canvas.line(sleeve, 0.085, cloth * (0.8 if side < 0 else 0.9), Ade.PERSON)
    canvas.rectangle(MIDDLE - 0.04, 0.16, 0.08, 0.08, skin * 0.8, Ade.PERSON)


def paint_dress(canvas: Canvas, rng: np.random.Generator, cloth: np.ndarray) -> None:
    """Paint a wide dress with pleats, a belt and maybe a striped hem."""
    hem, wide, second = rng.uniform(0.72, 0.82), rng.uniform(0.17, 0.22), pigment(rng, 0.3)
    right = [(0.05, 0.21), (0.14, 0.24), (0.1, 0.44), (wide, hem)]
    left = [(-x, y) for x, y in reversed(right)]
    canvas.polygon(np.array(right + left) + (MIDDLE, 0), cloth, Ade.PERSON)
    for share in (-0.6, -0.2, 0.2, 0.6):
        pleat = [(MIDDLE + share * 0.1, 0.47), (MIDDLE + share * wide, hem - 0.01)]
        canvas.line(pleat, 0.012, cloth * 0.72)
    if rng.random() < 0.5:
        for up in (0.03, 0.09):
            reach = wide - 0.3 * up - 0.02
            canvas.rectangle(MIDDLE - reach, hem - up - 0.02, 2 * reach, 0.025, second)
    canvas.rectangle(MIDDLE - 0.1, 0.425, 0.2, 0.04, second * 0.7)


def paint_coat(canvas: Canvas, rng: np.random.Generator, cloth: np.ndarray) -> None:
    """Paint a coat or a pullover: open over a shirt, striped, or buttoned and with a bag."""
    hem, wide = rng.uniform(0.58, 0.74), rng.uniform(0.13, 0.16)
    right = [(0.05, 0.205), (0.15, 0.245), (wide - 0.01, 0.45), (wide + 0.01, hem)]
    left = [(-x, y) for x, y in reversed(right)]
    canvas.polygon(np.array(right + left) + (MIDDLE, 0), cloth, Ade.PERSON)
    match rng.integers(3):
        case 0:  # open
            shirt = [(-0.04, 0.21), (0.04, 0.21), (0.035, hem), (-0.055, hem)]
            canvas.polygon(np.array(shirt) + (MIDDLE, 0), pigment(rng, 0.5))
        case 1:  # stripes
            stripe = pigment(rng, 0.3)
            for y in np.arange(0.28, hem - 0.03, 0.07):
                canvas.rectangle(MIDDLE - 0.12, y, 0.24, 0.03, stripe)
        case _:  # buttons, a bag and its strap
            leather = pigment(rng) * 0.6
            canvas.line([(MIDDLE, 0.23), (MIDDLE, hem)], 0.012, cloth * 0.7)
            canvas.line([(MIDDLE - 0.1, 0.24), (MIDDLE + 0.13, 0.5)], 0.026, leather)
            canvas.rectangle(MIDDLE + 0.07, 0.48, 0.15, 0.14, leather, Ade.PERSON)


def paint_head(
    canvas: Canvas, rng: np.random.Generator, skin: np.ndarray, hair: np.ndarray
) -> None:
    """Paint a person's face and hair, now and then a hat."""
    canvas.ellipse(MIDDLE, 0.12, 0.074, 0.088, skin, Ade.PERSON)
    for side in (-1, 1):
        canvas.ellipse(MIDDLE + side * 0.028, 0.122, 0.008, 0.011, skin * 0.25)
        canvas.ellipse(MIDDLE + side * 0.045, 0.15, 0.016, 0.011, mix(skin, (0.9, 0.35, 0.3), 0.3))
    smile = [(MIDDLE - 0.024, 0.16), (MIDDLE, 0.169), (MIDDLE + 0.024, 0.16)]
    canvas.line(smile, 0.008, skin * 0.65)
    canvas.ellipse(MIDDLE, 0.062, 0.08, 0.05, hair, Ade.PERSON)
    if rng.random() < 0.25:
        hat = pigment(rng)
        canvas.ellipse(MIDDLE, 0.07, 0.12, 0.02, hat * 0.8, Ade.PERSON)
        canvas.ellipse(MIDDLE, 0.05, 0.072, 0.042, hat, Ade.PERSON)


def tree(rng: np.random.Generator, pixels: float) -> Canvas:
    """Paint a tree on a canvas 0.8 wide and 1 high, `pixels` tall: a trunk and its leaves."""
    leaf = mix((0.29, 0.45, 0.2), rng.choice(LEAVES), rng.uniform(0, 0.8)) * rng.uniform(0.85, 1.15)
    canvas = Canvas(0.8, 1.0, pixels, leaf * 0.7)
    bark = mix((0.33, 0.25, 0.19), pigment(rng), 0.25)
    fork = rng.uniform(0.5, 0.62)
    canvas.polygon([(0.37, 1), (0.385, fork), (0.415, fork), (0.44, 1)], bark, Ade.TREE)
    canvas.polygon([(0.41, 1), (0.4, fork), (0.415, fork), (0.44, 1)], bark * 0.65)
    for side in (-1, 1):
        canvas.line([(0.4, fork + 0.12), (0.4 + side * 0.17, fork - 0.12)], 0.018, bark, Ade.TREE)
    count, conifer = 180, rng.random() < 0.25
    lobes = rng.uniform((0.2, 0.2), (0.6, 0.52), (7, 2))
    # From the dark inside to the bright leaves at the top left, each layer smaller than the last.
    layers = (0.6, 0.02, 1.0), (0.82, 0.0, 0.92), (1.05, -0.02, 0.8), (1.32, -0.045, 0.6)
    for tone, shift, share in layers:
        if conifer:
            y = rng.uniform(0.04, 0.86, count)
            reach = (0.05 + 0.3 * y) * (0.75 + 0.25 * np.sin(y * 34)) * share
            x = 0.4 + shift + rng.uniform(-reach, reach)
            radii = rng.uniform((0.012, 0.008), (0.03, 0.016), (count, 2))
        else:
            angle = rng.uniform(0, 2 * np.pi, count)
            far = np.sqrt(rng.random(count)) * 0.145 * share
            x, y = lobes[rng.integers(len(lobes), size=count)].T + shift
            x, y = x + far * np.cos(angle), y + 0.02 + far * np.sin(angle)
            radii = rng.uniform(0.01, 0.028, (count, 2)) * (0.5 + share / 2)
        colours = leaf * tone * rng.uniform(0.85, 1.15, (count, 1))
        turns = rng.uniform(0, 180, count)
        for u, v, (wide, high), colour, turn in zip(x, y, radii, colours, turns, strict=True):
            canvas.ellipse(u, v, wide, high, colour, Ade.TREE, turn)
    return canvas


def plant(rng: np.random.Generator, pixels: float) -> Canvas:
    """Paint a plant in a pot on a canvas 0.8 wide and 1 high, `pixels` tall."""
    green = mix((0.24, 0.45, 0.2), rng.choice([(0.45, 0.55, 0.22), (0.14, 0.36, 0.28)]), 0.6)
    canvas = Canvas(0.8, 1, pixels, green * 0.7)
    broad, spread = rng.uniform(0.02, 0.06), rng.uniform(0.2, 0.34)
    for tone in (0.6, 0.85, 1.1, 1.35):
        for _ in range(14):
            lean = rng.uniform(-1, 1)
            tip = np.array((0.4 + lean * spread, 0.1 + 0.42 * abs(lean) * rng.random() + 0.05))
            tip[1] += (1.35 - tone) * 0.2
            stem = np.array((0.4 + lean * 0.04, 0.76))
            colour = green * tone * rng.uniform(0.85, 1.15)
            canvas.line([stem, tip], 0.012, colour * 0.7, Ade.PLANT)
            for share in (0.55, 0.75, 0.93):
                x, y = stem + share * (tip - stem) + rng.normal(0, 0.02, 2)
                canvas.ellipse(x, y, broad * 1.7, broad, colour, Ade.PLANT, rng.uniform(-70, 70))
    pot = pigment(rng)
    canvas.polygon([(0.24, 0.72), (0.56, 0.72), (0.52, 1), (0.28, 1)], pot, Ade.PLANT)
    canvas.polygon([(0.47, 0.72), (0.56, 0.72), (0.52, 1), (0.45, 1)], pot * 0.72)
    canvas.rectangle(0.22, 0.7, 0.36, 0.07, pot * 1.08, Ade.PLANT)
    return canvas
