import cv2
import numpy as np
import pytest
import torch

from common.augmentation import Augmentation
from common.loader import make_loader
from dataset import EpochSampler, SegmentationDataset, TrainDataset, ValDataset
from utils import UserError

from .conftest import Data


def dataset(data: Data, kind=SegmentationDataset, part="train", **kwargs):
    folders = (data.folder / "images", data.folder / "annotations")
    return kind(data.folder / f"{part}.txt", *folders, num_class=data.num_class, **kwargs)


def training(data: Data, seed=1, imgSize=32, segSize=32, **augmentation) -> TrainDataset:
    sizes = {"imgSize": imgSize, "segSize": segSize}
    return dataset(
        data, TrainDataset, seed=seed, augmentation=Augmentation(**augmentation), **sizes
    )


def test_an_item_is_a_whole_picture_with_classes_counted_from_0(data):
    image, label, name = dataset(data)[2]
    raw = cv2.imread(str(data.label("train/2")), cv2.IMREAD_UNCHANGED)
    assert image.shape == (3, 64, 80) and image.dtype == torch.uint8
    assert label.dtype == torch.uint8 and name == "train/2.jpg"
    assert (label.numpy()[raw == 0] == 255).all()
    assert (label.numpy()[raw > 0] == raw[raw > 0] - 1).all()


def test_a_crop_has_a_pixel_at_any_scale(data):
    image, label, *_ = training(data, scale_min=99, scale_max=100)[1, 0, True]
    assert image.shape == (3, 32, 32) and len(label.unique()) == 1


def test_a_limit_takes_the_first(data):
    assert list(dataset(data, limit=2).names) == ["train/0.jpg", "train/1.jpg"]
    assert len(dataset(data, limit=-1)) == len(dataset(data, limit=99)) == 6


def test_pictures_of_one_size_are_put_together(data):
    for name, shape in (("train/1", (40, 64)), ("train/3", (64, 40)), ("train/4", (40, 64))):
        cv2.imwrite(str(data.label(name)), np.ones(shape, np.uint8))
    data.label("train/5").write_bytes(b"no PNG")
    whole = dataset(data)
    data.label("train/2").unlink()  # whoever reads it will tell
    assert whole.by_size(range(6)) == [0, 1, 4, 3, 2, 5]


AUGMENTED = {"cat_max_ratio": 0.5, "color_jitter": 1, "classmix": 0.5, "scale_max": 3}


@pytest.mark.parametrize("augmentation", [{}, AUGMENTED], ids=["plain", "augmented"])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_items_depend_on_seed_epoch_and_index_alone(data, workers, augmentation):
    alone = training(data, **augmentation)
    sampler = EpochSampler(6, batch_size=4, seed=1)
    loader = make_loader(training(data, **augmentation), workers, batch_sampler=sampler)
    for epoch in (1, 2):
        sampler.epoch = epoch
        seen = []
        for images, labels, _, names, _ in loader:
            for image, label, name in zip(images, labels, names, strict=True):
                index = alone.names.index(name)
                expected = alone[epoch, index, True]
                assert torch.equal(image, expected[0]) and torch.equal(label, expected[1])
                seen.append(index)
        assert sorted(seen) == list(range(6))


def test_epochs_and_seeds_differ(data):
    items = [training(data, seed)[epoch, 0, True] for seed, epoch in ((1, 1), (1, 2), (2, 1))]
    assert not torch.equal(items[0][0], items[1][0])
    assert not torch.equal(items[0][0], items[2][0])
    orders = [list(EpochSampler(50, 8, seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 6, 7, 11])
def test_processes_share_an_epoch_so_that_each_picture_counts_once(world, length):
    samplers = [EpochSampler(length, 2, 1, rank, world) for rank in range(world)]
    assert len({len(list(sampler)) for sampler in samplers}) == 1  # all take as many steps
    keys = [key for sampler in samplers for batch in sampler for key in batch]
    assert sorted(index for _, index, counts in keys if counts) == list(range(length))
    # Whatever the number of processes, a step sees the same pictures as one of a single process.
    steps = [
        {index for batch in batches for _, index, _ in batch}
        for batches in zip(*samplers, strict=True)
    ]
    alone = [{index for _, index, _ in batch} for batch in EpochSampler(length, 2 * world, 1)]
    assert steps == alone


def test_an_epoch_goes_on_where_it_was_left():
    sampler = EpochSampler(11, 2, seed=1)
    whole = list(sampler)
    sampler.start = 4
    assert list(sampler) == whole[2:] and len(sampler) == 4


def test_a_picture_that_does_not_count_has_no_labels(data):
    assert (training(data)[1, 0, False][1] == 255).all()


def test_an_unreadable_picture_is_replaced_by_another_of_the_epoch(data):
    data.picture("train/1").write_bytes(b"no picture")
    crops = training(data)
    items = [crops[1, i, True] for i in range(6)]
    assert [bool(defect) for *_, defect in items] == [False, True] + 4 * [False]
    assert "train/1.jpg is not a picture" in items[1][-1]
    assert items[1][-2] != "train/1.jpg" and items[1][-2] in crops.names
    assert torch.equal(items[1][0], training(data)[1, 1, True][0])


def test_one_picture_that_can_be_read_stands_in_for_all_others(data):
    for i in (0, 1, 2, 4, 5):
        data.picture(f"train/{i}").write_bytes(b"no picture")
    crops = training(data)
    for index in range(6):
        *_, name, defect = crops[1, index, True]
        assert name == "train/3.jpg"
        assert bool(defect) == (index != 3) and f"train/{index}.jpg" in (defect or "train/3.jpg")


def test_a_picture_that_does_not_count_reports_no_defect(data):
    """Each process without pictures of its own reads it."""
    data.picture("train/1").write_bytes(b"no picture")
    *_, defect = training(data)[1, 1, False]
    assert defect == ""


def test_pictures_that_are_all_unreadable_are_no_epoch(data):
    for i in range(6):
        data.picture(f"train/{i}").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not a picture"):
        training(data)[1, 0, True]


@pytest.mark.slow
def test_crops_are_scaled_by_a_half_to_one_and_a_half_placed_anywhere_and_mirrored(tmp_path):
    """Recovers scale, place and flip from pictures whose colours are their coordinates."""
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
    y, x = np.mgrid[:120, :200]
    picture = np.stack([np.zeros_like(x), y, x], 2).astype(np.uint8)  # BGR: green = y, red = x
    cv2.imwrite(str(tmp_path / "images/a.png"), picture)
    cv2.imwrite(str(tmp_path / "annotations/a.png"), np.ones((120, 200), np.uint8))
    (tmp_path / "list.txt").write_text("a.png\n")
    folders = (tmp_path / "images", tmp_path / "annotations")
    crops = TrainDataset(
        tmp_path / "list.txt", *folders, num_class=1, imgSize=40, segSize=40, seed=0
    )
    sides, lefts, tops, flips = [], [], [], []
    for epoch in range(400):
        _, green, red = reversed(crops[epoch, 0, True][0].float().unbind())
        span = red[0, -1] - red[0, 0]
        flips.append(span < 0)
        sides.append(abs(span).item() / 39 * 40)
        lefts.append(red.min().item() / (200 - sides[-1]))
        tops.append(green.min().item() / (120 - sides[-1]))
    scales = 40 / np.array(sides)
    assert 0.48 < scales.min() < 0.53 and 1.4 < scales.max() < 1.6
    np.testing.assert_allclose(np.quantile(scales, [0.25, 0.5, 0.75]), [0.75, 1, 1.25], atol=0.08)
    for places in (lefts, tops):
        np.testing.assert_allclose(np.quantile(places, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.1)
    assert 0.42 < np.mean(flips) < 0.58


def test_a_crop_is_never_larger_than_the_picture(data):
    images = torch.stack(
        [training(data, imgSize=128, segSize=128)[e, 0, True][0] for e in range(20)]
    )
    assert images.shape == (20, 3, 128, 128)


def test_picture_and_label_are_cropped_alike(data):
    """The block of class 3 is white: after any crop, label and picture still agree."""
    crops = training(data, imgSize=96, segSize=96)
    for epoch in range(10):
        image, label, *_ = crops[epoch, 0, True]
        white = image.float().mean(0) > 190
        assert ((label == 2) == white).float().mean() > 0.93


def test_crops_of_mixed_classes_and_changed_colours_still_agree_with_their_labels(data):
    crops = training(data, imgSize=96, segSize=96, classmix=1, color_jitter=0.3)
    plain = training(data, imgSize=96, segSize=96)
    changed = 0
    for epoch in range(20):
        image, label, *_ = crops[epoch, 0, True]
        brightness = image.float().mean(0)
        block = label == 2
        if block.any():
            assert brightness[block].quantile(0.2) > brightness[label == 1].quantile(0.8)
        changed += not torch.equal(label, plain[epoch, 0, True][1])
    assert changed > 10


def test_crops_that_one_class_fills_are_drawn_again(data):
    def filled(**augmentation) -> int:
        crops = training(data, imgSize=64, segSize=64, scale_min=2, scale_max=4, **augmentation)
        labels = [crops[epoch, i, True][1] for epoch in range(10) for i in range(6)]
        return sum(label.flatten().bincount().max() > 0.8 * label.numel() for label in labels)

    assert filled(cat_max_ratio=0.8) < filled() / 3


def test_an_unreadable_picture_that_would_be_mixed_in_is_told(data):
    data.picture("train/1").write_bytes(b"no picture")
    crops = training(data, classmix=1)
    items = [crops[epoch, 0, True] for epoch in range(30)]
    assert 0 < sum("train/1.jpg is not a picture" in item[-1] for item in items) < 30


def test_labels_may_have_a_size_of_their_own(data):
    image, label, *_ = training(data, imgSize=64, segSize=16)[1, 0, True]
    assert image.shape == (3, 64, 64) and label.shape == (16, 16)


@pytest.mark.parametrize("epoch", range(4))
def test_labels_may_be_a_single_pixel(epoch, data):
    assert training(data, segSize=1)[epoch, 0, True][1].shape == (1, 1)


def test_validation_takes_the_central_square(data):
    whole, label, _ = dataset(data)[0]
    image, central, _ = dataset(data, ValDataset, imgSize=64, segSize=64)[0]
    assert torch.equal(image, whole[:, :, 8:72]) and torch.equal(central, label[:, 8:72])
    assert dataset(data, ValDataset, imgSize=96, segSize=48)[0][0].shape == (3, 96, 96)


def test_of_a_very_long_list_a_part_is_looked_up(data, monkeypatch):
    monkeypatch.setattr("dataset.MAX_LOOKED_UP", 3)
    data.picture("train/1").unlink()
    assert len(dataset(data)) == 6
    data.picture("train/2").unlink()
    with pytest.raises(UserError, match="1 of 6 files .* absent"):
        dataset(data)


@pytest.mark.parametrize("line", ["/etc/a.jpg", "../a.jpg", "b/../../a.jpg"])
def test_lists_name_nothing_outside_their_folder(line, data):
    (data.folder / "train.txt").write_text(line)
    with pytest.raises(UserError, match=f"train.txt names {line}"):
        dataset(data)


@pytest.mark.parametrize("line", [".", "x" * 5000, "a\0b.jpg", "train"])
def test_lines_that_name_no_file_are_absent_files(line, data):
    (data.folder / "train.txt").write_text(line)
    with pytest.raises(UserError, match="2 of 2 files"):
        dataset(data)


@pytest.mark.parametrize(
    ("line", "there"),
    [
        ("train/0", "0.jpg is there: a list has whole names"),
        ("train/0.PNG", "0.jpg is there"),
        ("train/x.jpg", "images/train has 6 .jpg"),
        ("dev/0.jpg", "there is no folder"),
    ],
)
def test_what_is_there_in_place_of_an_absent_file_is_told(line, there, data):
    (data.folder / "train.txt").write_text(line)
    with pytest.raises(UserError) as error:
        dataset(data)
    assert there in str(error.value) and "ADE20K" not in str(error.value)


def test_absent_files_are_counted_and_the_first_five_named(data):
    for i in range(6):
        data.picture(f"train/{i}").unlink()
    data.label("train/0").unlink()
    with pytest.raises(UserError) as error:
        dataset(data)
    message = str(error.value)
    assert "7 of 12 files" in message and message.count(str(data.folder / "images")) == 5
    assert str(data.label("train/0")) in message and "train/4" not in message
