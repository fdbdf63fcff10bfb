"""The pictures of a data set: a chart of its classes and a sheet of its pictures."""

import numpy as np
import pytest

from common.classes import Classes, distinct_colours
from preparation.overview import contact_sheet, share_chart

CLASSES = Classes(["wall", "sky", "tree"], distinct_colours(4))


@pytest.mark.slow
@pytest.mark.parametrize("num_class", [1, 3, 60, 400])
def test_a_chart_has_a_bar_for_each_class_largest_first(num_class):
    names = [f"${i}$" for i in range(num_class)]
    shares = np.arange(num_class) ** 4.0 + (num_class == 1)
    shares /= shares.sum()
    classes = Classes(names, distinct_colours(num_class + 1))
    figure = share_chart({"train": shares, "val": shares[::-1]}, classes, 0.001)
    figure.canvas.draw()
    drawn = [text.get_text() for axes in figure.axes for text in axes.get_yticklabels()]
    assert drawn == names[::-1][: len(drawn)] and len(drawn) == min(num_class, 150)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_sheet_shows_pictures_of_any_size_and_what_is_unlabelled(count):
    sizes = [(20, 30), (600, 20), (2, 1), (50, 700)]
    items = []
    for i in range(count):
        size = sizes[i % 4]
        label = np.full(size, i % 3, np.uint8)
        label[0] = 255
        items.append((f"{'deep/' * 30}{i}.jpg", np.full((*size, 3), 90, np.uint8), label))
    sheet = contact_sheet(items, CLASSES)
    for colour in CLASSES.palette[: 1 + min(count, 3)]:
        assert (np.asarray(sheet) == colour).all(2).any()
    assert max(sheet.size) < 2000
