import numpy as np
import pytest
from PIL import Image

from classes import Classes, distinct_colours
from visualize import GAP, MAX_SIDE, class_shares, history_figures, legend, panel

CLASSES = Classes(["wall", "sky", "tree"], distinct_colours(4))


def test_a_panel_shows_the_picture_and_coloured_maps_pixel_by_pixel():
    picture = np.full((40, 60, 3), 77, np.uint8)
    maps = [np.full((40, 60), 255, np.uint8), np.full((40, 60), 1, np.uint8)]
    image = np.asarray(panel(picture, maps, CLASSES))
    for colour in ([77] * 3, CLASSES.palette[0], CLASSES.palette[2]):
        assert (image == colour).all(2).sum() >= 40 * 60


def test_a_legend_has_room_beside_small_pictures():
    classes = Classes(["a rather long name"] * 30, distinct_colours(31))
    labels = np.arange(30).reshape(5, 6)
    image = np.asarray(panel(np.zeros((5, 6, 3), np.uint8), [labels], classes))
    for colour in classes.palette[1:]:
        assert (image == colour).all(2).sum() >= 100


@pytest.mark.parametrize("size", [(3000, 1500), (3000, 1), (1, 5000)])
def test_huge_pictures_are_shown_smaller_and_colours_are_not_blended(size):
    labels = np.random.default_rng(0).integers(0, 3, size).astype(np.uint8)
    image = panel(np.zeros((*size, 3), np.uint8), [labels], CLASSES)
    assert max(image.size) < 2 * MAX_SIDE + 200
    left = round(size[1] * min(1, MAX_SIDE / max(size))) + 2 * GAP
    map_width = max(1, round(size[1] * min(1, MAX_SIDE / max(size))))
    tile = np.asarray(image)[GAP:-GAP, left : left + map_width].reshape(-1, 3)
    colours = {tuple(colour) for colour in tile.tolist()}
    assert colours <= {(255, 255, 255), *map(tuple, CLASSES.palette[1:].tolist())}


def test_the_legend_names_classes_of_one_percent_and_more_largest_first():
    labels = np.zeros((100, 100), np.uint8)
    labels[:60] = 1
    labels[0, :99] = 2
    assert class_shares(labels) == [(1, 0.5901), (0, 0.4), (2, 0.0099)]
    colours, texts = zip(*legend(labels, CLASSES), strict=True)
    assert texts == ("sky  59%", "wall  40%")
    assert (np.array(colours) == CLASSES.palette[[2, 1]]).all()


def test_curves_are_drawn_even_where_epochs_were_not_validated(tmp_path):
    history = [{"epoch": e, "train_loss": 1 / e} for e in (1, 2, 3)]
    history[2] |= {"val_loss": 0.5, "pixel_accuracy": 0.7, "mean_iou": 0.4}
    for rows in (history[:1], history):
        for name, figure in history_figures(rows).items():
            figure.savefig(tmp_path / name)
            assert name in ("loss.png", "accuracy.png")
            assert Image.open(tmp_path / name).size == (720, 480)
