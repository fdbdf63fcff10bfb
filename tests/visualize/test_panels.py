import cv2
import numpy as np
import pytest

from common.classes import Classes, distinct_colours
from visualize.panels import (
    GAP,
    HALO,
    MAX_SIDE,
    MIN_SIDE,
    UNLABELLED,
    WRONG,
    class_shares,
    comparison,
    cut,
    difference,
    legend,
    load_font,
    overlay,
    panel,
    place_names,
    resize_labels,
    tile_size,
)

CLASSES = Classes(["wall", "sky", "tree"], distinct_colours(4))
MANY = Classes([f"a class of number {i}" for i in range(150)], distinct_colours(151))


def blobs(seed: int, size: tuple[int, int], num_class: int) -> np.ndarray:
    """Labels of smooth regions."""
    noise = np.random.default_rng(seed).normal(size=(*size, num_class))
    return cv2.GaussianBlur(noise, (0, 0), max(size) / 20).argmax(2).astype(np.uint8)


def test_a_panel_shows_the_picture_pixel_by_pixel_and_the_classes_over_it():
    picture = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    labels = blobs(0, (300, 400), 3)
    image = np.asarray(panel(picture, labels, CLASSES))[GAP : GAP + 300]
    assert (image[:, GAP : GAP + 400] == picture).all()
    over = image[:, 2 * GAP + 400 :][:, :400]
    changed = (over != overlay(picture, labels, CLASSES)).any(2)
    assert 0 < changed.mean() < 0.05  # the names


def test_an_overlay_is_the_class_colour_over_grey_with_white_borders():
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:] = 2
    image = overlay(picture, labels, CLASSES).astype(int)
    assert (image[:, 9] == 255).all() and not (image == 255).all(2)[:, 10:].any()
    for c, part in ((0, image[:, :9]), (2, image[:, 10:])):
        grey = part - 0.6 * CLASSES.palette[c + 1]
        assert np.ptp(grey, axis=2).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (5, 6), (32, 32), (32, 1), (199, 150), (480, 360)])
def test_what_is_small_is_enlarged_a_whole_number_of_times(size):
    height, width = tile_size(*size)
    factor = height // size[0]
    assert (height, width) == (factor * size[0], factor * size[1])
    assert MIN_SIDE <= max(height, width) <= MAX_SIDE
    labels = blobs(0, size, 3)
    enlarged = resize_labels(labels, (height, width))
    assert (enlarged == np.kron(labels, np.ones((factor, factor), np.uint8))).all()


@pytest.mark.parametrize("size", [(3000, 1500), (900, 3000), (3000, 1), (1, 5000), (2, 3)])
@pytest.mark.parametrize("classes", [CLASSES, MANY, Classes(["x" * 200], distinct_colours(2))])
def test_panels_of_any_size_and_any_number_of_classes_are_of_moderate_size(size, classes):
    labels = np.arange(size[0] * size[1]).reshape(size) % len(classes.names)
    picture = np.zeros((*size, 3), np.uint8)
    for image in (panel(picture, labels, classes), comparison(picture, labels, labels, classes)):
        assert max(image.size) <= 2.5 * MAX_SIDE and min(image.size) >= 40


def test_a_picture_that_is_shrunk_has_the_labels_of_its_pixels_unblended():
    labels = np.random.default_rng(0).integers(0, 3, (900, 1600))
    small = resize_labels(labels, tile_size(900, 1600))
    assert small.shape == (450, 800) and (small == labels[1::2, 1::2]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "num_class"), [(0, 3), (1, 8), (2, 30)])
def test_names_and_halos_are_within_regions_of_their_class_and_do_not_overlap(seed, num_class):
    size = (360, 480)
    labels = blobs(seed, size, num_class).astype(np.int32)
    labels[:90, :90] = -1
    font = load_font(size)
    classes = Classes([f"{i}gy" for i in range(num_class)], distinct_colours(num_class + 1))
    places = place_names(labels, classes, font)
    assert len(places) >= 5
    taken = np.zeros(size, bool)
    for x, y, name in places:
        box = font.getbbox(name, anchor="lt", stroke_width=HALO)
        left, top, right, bottom = box[0] + x, box[1] + y, box[2] + x, box[3] + y
        assert left >= 0 and top >= 0 and right <= size[1] and bottom <= size[0]
        box = np.s_[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))]
        assert (labels[box] == classes.names.index(name)).all()
        assert not taken[box].any()
        taken[box] = True


def test_a_name_is_where_its_region_is_widest():
    labels = np.zeros((300, 400), np.uint8)
    labels[:, 200:] = 1
    labels[:250, 200:340] = 2
    font = load_font((300, 400))
    centres = {
        name: (x + font.getlength(name) / 2, y) for x, y, name in place_names(labels, CLASSES, font)
    }
    assert centres["wall"][0] == pytest.approx(100, abs=50)
    assert centres["wall"][1] == pytest.approx(150, abs=60)
    assert centres["tree"][0] == pytest.approx(270, abs=5)
    assert centres["sky"] == pytest.approx((368, 270), abs=40)


def test_regions_without_room_stay_unnamed():
    font = load_font((300, 400))
    labels = np.zeros((300, 400), np.uint8)
    labels[100:110] = 1  # long enough, but too low
    labels[200:, 200:220] = 2  # high enough, but too narrow
    assert {name for *_, name in place_names(labels, CLASSES, font)} == {"wall"}
    noise = np.random.default_rng(0).integers(0, 3, (300, 400))
    assert place_names(noise, CLASSES, font) == []
    assert place_names(np.full((300, 400), 255, np.uint8), CLASSES, font) == []
    assert place_names(labels, Classes(["", "", ""], CLASSES.palette), font) == []


@pytest.mark.parametrize("unlabelled", [-1, 255])
def test_the_difference_tile_marks_exactly_the_wrong_pixels(unlabelled):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (320, 400, 3), dtype=np.uint8)
    prediction = blobs(0, (320, 400), 3)
    label = blobs(1, (320, 400), 3).astype(np.int64 if unlabelled < 0 else np.uint8)
    label[:50] = unlabelled
    image = np.asarray(comparison(picture, label, prediction, CLASSES))
    tile = image[-GAP - 320 : -GAP, 2 * GAP + 400 :][:, :400]
    wrong = (label != prediction) & (label != unlabelled)
    assert ((tile == WRONG).all(2) == wrong).all()
    assert ((tile == UNLABELLED).all(2) == (label == unlabelled)).all()
    right = tile[(label == prediction)]
    assert (right == right[:, :1]).all() and right.max() < 150  # dim and grey


def test_a_difference_may_be_of_other_sizes_than_the_picture_and_without_labels():
    picture = np.zeros((64, 64, 3), np.uint8)
    empty, some = np.full((32, 32), 255, np.uint8), np.zeros((32, 32), np.float32)
    for label in (empty, some):
        comparison(picture, label, np.zeros((32, 32), np.uint8), CLASSES)
    tile = difference(picture, np.full((64, 64), -1), np.zeros((64, 64), np.uint8))
    assert (tile == UNLABELLED).all()


def test_the_legend_names_classes_of_one_percent_and_more_largest_first():
    labels = np.zeros((100, 100), np.uint8)
    labels[:60] = 1
    labels[0, :99] = 2
    assert class_shares(labels, 3) == [(1, 0.5901), (0, 0.4), (2, 0.0099)]
    colours, names, numbers = zip(*legend(labels, CLASSES), strict=True)
    assert names == ("sky", "wall", "1 more") and numbers == ("59%", "40%", "1%")
    assert [list(colour) for colour in colours[:2]] == CLASSES.palette[[2, 1]].tolist()


@pytest.mark.parametrize("unlabelled", [-1, 255])
def test_shares_are_of_what_is_labelled(unlabelled):
    labels = np.array([[0, 0, 1, unlabelled]], np.int16)
    assert class_shares(labels, 3) == [(0, 2 / 3), (1, 1 / 3)]
    assert class_shares(np.full((2, 2), unlabelled), 3) == []


def test_a_legend_has_room_beside_small_pictures():
    classes = Classes(["a rather long name"] * 30, distinct_colours(31))
    labels = np.arange(30).reshape(5, 6)
    image = np.asarray(panel(np.zeros((5, 6, 3), np.uint8), labels, classes))
    for colour in classes.palette[1:]:
        assert (image == colour).all(2).sum() >= 100


def test_names_of_any_length_are_cut_to_a_width():
    font = load_font((300, 300))
    assert cut("sky", 100, font) == "sky"
    for width in (100, 20, 0):
        text = cut("a rather long name", width, font)
        assert text.endswith("…") and (font.getlength(text) <= width or text == "…")
