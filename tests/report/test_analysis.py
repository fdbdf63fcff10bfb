import numpy as np
import pytest

from common.files import write_atomically
from report.analysis import (
    Counts,
    bootstrap,
    by_distance,
    by_region_size,
    count_pixels,
    iou,
    read_counts,
)
from utils import UserError


def make_counts(seed: int, n: int = 40) -> Counts:
    rng = np.random.default_rng(seed)
    labelled = np.full((n, 3), 100)
    hits = rng.integers(40, 100, (n, 3))
    return Counts([f"{i}.jpg" for i in range(n)], hits, labelled, labelled)


def test_pixels_without_a_label_do_not_count():
    label = np.array([[0, 0, 1, -1]])
    prediction = np.array([[0, 1, 1, 0]])
    assert count_pixels(label, prediction, 3).tolist() == [[1, 1, 0], [2, 1, 0], [1, 2, 0]]


def test_a_class_in_neither_has_no_iou():
    found = iou(np.array([1, 0]), np.array([2, 0]), np.array([1, 0]))
    assert found[0] == 0.5 and np.isnan(found[1])


def test_regions_are_binned_by_their_own_size():
    label = np.zeros((40, 40), int)
    label[2:6, 2:6] = 1  # 16 pixels, missed
    label[20:35, 20:35] = 1  # 225 pixels, found
    prediction = np.where(label == 1, 1, 0)
    prediction[2:6, 2:6] = 0
    regions, pixels, hits, overlap = by_region_size(label, prediction)
    assert regions.tolist() == [1, 1, 1, 0, 0]
    assert pixels.tolist() == [16, 225, 1600 - 241, 0, 0]
    assert hits.tolist() == [0, 225, 1600 - 241, 0, 0]
    assert overlap == pytest.approx([0, 1, (1600 - 241) / (1600 - 225), 0, 0])


def test_pixels_are_binned_by_their_distance_from_a_boundary():
    label = np.repeat([[0] * 20 + [1] * 20], 4, axis=0)
    labelled = by_distance(label, label, 2)[1]
    assert labelled[:, 0].tolist() == [2 * 4, 2 * 4, 4 * 4, 8 * 4, 4 * 4]
    assert (labelled[:, 0] == labelled[:, 1]).all()


def test_unlabelled_pixels_bound_nothing():
    label = np.zeros((4, 30), int)
    label[:, 15] = -1
    assert by_distance(label, label, 1)[1][:, 0].tolist() == [0, 0, 0, 0, 4 * 29]


def test_a_run_does_not_differ_from_itself():
    first, second, interval = bootstrap(make_counts(0), make_counts(0))
    assert (first == second).all() and (interval == 0).all()


def test_an_interval_holds_the_difference_and_is_the_same_each_time():
    a, b = make_counts(0), make_counts(1)
    first, second, interval = bootstrap(a, b)
    assert (interval[0] < second - first).all() and (second - first < interval[1]).all()
    assert (bootstrap(a, b)[2] == interval).all()


def test_a_constant_gain_has_an_interval_of_no_width():
    a = make_counts(0)
    a = Counts(a.names, np.full_like(a.hits, 50), a.labelled, a.predicted)
    b = Counts(a.names, a.hits + 30, a.labelled, a.predicted)
    assert bootstrap(a, b)[2][:, -1] == pytest.approx([0.3, 0.3])


def test_what_few_pictures_have_a_part_in_has_no_interval():
    a, b = make_counts(0), make_counts(1)
    labelled = a.labelled.copy()
    labelled[5:, 2] = 0  # the third class is in five pictures only
    a, b = (Counts(a.names, np.minimum(x.hits, labelled), labelled, labelled) for x in (a, b))
    interval = bootstrap(a, b)[2]
    assert np.isnan(interval[:, 2]).all() and not np.isnan(interval[:, [0, 1, 3, 4]]).any()
    one = [Counts(x.names[:1], x.hits[:1], x.labelled[:1], x.predicted[:1]) for x in (a, b)]
    assert np.isnan(bootstrap(*one)[2]).all()


def test_counts_come_back_from_their_file(tmp_path):
    counts = make_counts(0)
    write_atomically(tmp_path / "pictures.npz", counts.content())
    found = read_counts(tmp_path / "pictures.npz")
    assert found.names == counts.names
    assert (found.hits == counts.hits).all() and (found.predicted == counts.predicted).all()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no counts", None])
def test_a_damaged_file_is_one_clear_line(tmp_path, content):
    path = tmp_path / "pictures.npz"
    write_atomically(path, make_counts(0).content())
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(UserError, match="holds no counts"):
        read_counts(path)
