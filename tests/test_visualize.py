import numpy as np
import torch
from PIL import Image

from utils import Classes, distinct_colours
from visualize import MAX_SIDE, class_shares, comparison, legend, panel, plot_history

CLASSES = Classes(["wall", "sky", "tree"], distinct_colours(4))


def test_a_panel_shows_its_tiles_pixel_by_pixel():
    tiles = [np.full((40, 60, 3), value, np.uint8) for value in (10, 200)]
    image = np.asarray(panel(tiles))
    for value in (10, 200):
        assert (image == value).all(2).sum() == 40 * 60


def test_a_legend_has_room_beside_small_pictures():
    tile = np.zeros((10, 10, 3), np.uint8)
    colours = distinct_colours(30)[1:]
    image = np.asarray(panel([tile], [(colour, "a rather long name") for colour in colours]))
    for colour in colours:
        assert (image == colour).all(2).sum() >= 100


def test_huge_pictures_are_shown_smaller():
    image = panel([np.zeros((3000, 1500, 3), np.uint8)])
    assert max(image.size) < MAX_SIDE + 50


def test_the_legend_names_classes_of_one_percent_and_more_largest_first():
    labels = np.zeros((100, 100), np.uint8)
    labels[:60] = 1
    labels[0, :99] = 2
    assert class_shares(labels) == [(1, 0.5901), (0, 0.4), (2, 0.0099)]
    colours, texts = zip(*legend(labels, CLASSES), strict=True)
    assert texts == ("sky  59%", "wall  40%")
    assert (np.array(colours) == CLASSES.palette[[2, 1]]).all()


def test_a_comparison_shows_picture_label_and_prediction():
    image = torch.full((3, 32, 32), 77, dtype=torch.uint8)
    label, prediction = torch.full((32, 32), 255), torch.ones(32, 32)
    pixels = np.asarray(comparison(image, label, prediction, CLASSES))
    for colour in ([77] * 3, CLASSES.palette[0], CLASSES.palette[2]):
        assert (pixels == colour).all(2).sum() >= 32 * 32


def test_curves_are_drawn_even_where_epochs_were_not_validated(tmp_path):
    history = [{"epoch": e, "train_loss": 1 / e} for e in (1, 2, 3)]
    history[2] |= {"val_loss": 0.5, "pixel_accuracy": 0.7, "mean_iou": 0.4}
    plot_history(history[:1], tmp_path)
    plot_history(history, tmp_path)
    for name in ("loss.png", "accuracy.png"):
        assert Image.open(tmp_path / name).size == (720, 480)
