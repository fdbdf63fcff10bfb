"""Changes of crops beyond place and mirroring."""

import random

import cv2
import numpy as np
import pytest

from common.augmentation import is_varied, jitter_colours, mix_classes


@pytest.fixture
def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.integers(0, 256, (40, 50, 3), np.uint8), (9, 9), 4)


def test_colours_of_no_strength_are_as_they_were(picture):
    assert (jitter_colours(picture, 0, random.Random(0)) == picture).all()


def test_colours_are_changed_more_the_greater_the_strength(picture):
    def change(strength: float) -> float:
        changed = [jitter_colours(picture, strength, random.Random(i)) for i in range(30)]
        assert all(x.dtype == np.uint8 and x.shape == picture.shape for x in changed)
        return float(np.mean([np.abs(x.astype(int) - picture).mean() for x in changed]))

    assert 1 < change(0.2) < change(0.5) < change(1)


@pytest.mark.parametrize("strength", [0.5, 1])
def test_greys_stay_grey_in_the_order_of_their_brightness(strength):
    """Whatever hue and saturation do: only colours have them."""
    greys = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    for seed in range(30):
        changed = jitter_colours(greys, strength, random.Random(seed)).astype(int)
        assert np.ptp(changed, axis=2).max() <= 1
        assert (np.diff(changed[0, :, 0]) >= 0).all()


def test_hues_are_turned_by_their_bounds_at_most():
    """And are seen turned both ways: of a pure colour, at the strength of 1."""
    red = np.full((1, 1, 3), (200, 60, 60), np.uint8)
    hues = []
    for seed in range(200):
        changed = jitter_colours(red, 1, random.Random(seed))
        hue = int(cv2.cvtColor(changed, cv2.COLOR_RGB2HSV)[0, 0, 0])  # of 180
        hues.append((hue + 90) % 180 - 90)
    assert min(hues) < -10 and max(hues) > 10 and max(np.abs(hues)) <= 24


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
def test_mixing_pastes_half_of_the_other_ones_classes(dtype):
    label = np.zeros((8, 8), dtype)
    other_label = np.array([[1, 1, 2, 2, 3, 3, -1, -1]] * 8).astype(dtype)  # -1 is 255 in uint8
    picture, other_picture = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    seen = set()
    for seed in range(20):
        mixed, mixed_label = mix_classes(
            picture, label, other_picture, other_label, random.Random(seed)
        )
        pasted = mixed_label != 0
        classes = np.unique(mixed_label[pasted]).tolist()
        assert len(classes) == 2 and set(classes) < {1, 2, 3} and mixed_label.dtype == dtype
        assert (mixed_label[pasted] == other_label[pasted]).all()
        assert ((mixed == 9).all(2) == pasted).all() and ((mixed == 0).all(2) == ~pasted).all()
        seen.add(tuple(classes))
    assert len(seen) == 3


def test_labels_and_pictures_of_different_sizes_are_mixed_alike():
    label, other_label = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    other_label[:, :2] = 2
    mixed, mixed_label = mix_classes(
        np.zeros((8, 8, 3), np.uint8),
        label,
        np.full((8, 8, 3), 9, np.uint8),
        other_label,
        random.Random(0),
    )
    assert (mixed[::2, ::2, 0] > 0).tolist() == (mixed_label > 0).tolist()
    assert 0 < (mixed > 0).sum() < mixed.size


def test_a_crop_without_labels_adds_nothing():
    picture, label = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    mixed, mixed_label = mix_classes(picture, label, picture + 9, label + 255, random.Random(0))
    assert (mixed == picture).all() and (mixed_label == label).all()


@pytest.mark.parametrize(
    ("counts", "ratio", "varied"),
    [((50, 50), 0.5, True), ((60, 40), 0.5, False), ((100, 0), 0.99, False), ((0, 0), 0.5, False)],
)
def test_a_crop_is_varied_if_no_class_fills_more_than_the_ratio_of_its_labels(
    counts, ratio, varied
):
    label = np.repeat(np.array([0, 3, 255], np.uint8), [*counts, 100])[None]
    assert is_varied(label, ratio) == varied
