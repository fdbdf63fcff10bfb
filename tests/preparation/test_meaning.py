"""What values and colours mean is decided by looking, told, or asked; never guessed in silence."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from common.data_file import load_data
from common.images import read_label

from .sources import (
    COLOURS,
    NAMES,
    in_colours,
    label,
    numbered,
    pairs,
    picture,
    save,
    table_of_colours,
    table_of_names,
    write,
    yolo,
)

FOLDERS = ("{split}/images/{n}.jpg", "{split}/masks/{n}.png")


def prepare(script, source, *flags):
    return script("prepare.py", source, "--data", "mine", "--workers", 0, *flags)


def labels_of_mine() -> list[np.ndarray]:
    """The labels of the prepared data set by the pictures' numbers; -1 is unlabelled."""
    content = load_data("mine")
    read = []
    for split, n in numbered():
        path = f"mine/annotations/{split}/images/{n}.png"
        read.append(read_label(path, content["num_class"], content["label_offset"]).astype(np.int8))
    return read


def names_of_mine() -> list[str]:
    with open("mine/classes.csv") as file:
        return [line.split(",")[1] for line in file.read().splitlines()[1:]]


def assert_asked(result, *texts: str) -> None:
    """A question was asked, with these texts in it, and nothing was written."""
    assert result.code == 1, result.out + result.err
    asked = result.out.partition("To mend:\n")[2]
    assert asked.startswith("1. ") and "ready" not in result.out
    for text in texts:
        assert text in asked, asked


def assert_labels(truth) -> None:
    """The labels are those that `truth` makes of the source's; -1 is unlabelled."""
    for (_, n), values in zip(numbered(), labels_of_mine(), strict=True):
        assert (values == truth(label(n))).all()


def test_zero_and_255_become_two_classes_when_that_is_accepted(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, lambda v: ((v > 1) * 255).astype(np.uint8))
    assert_asked(prepare(script, tmp_path / "s"), "0, 255", "--yes", "--ignore")
    assert_asked(prepare(script, tmp_path / "s", "--ignore", 255), "nothing to tell apart")
    result = prepare(script, tmp_path / "s", "--yes")
    assert result.code == 0 and names_of_mine() == ["value 0", "value 255"]
    assert_labels(lambda v: v > 1)


@pytest.mark.parametrize("factor", [50, 20000])
def test_values_far_apart_become_classes_in_their_order(factor, script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, lambda v: v.astype(np.uint16) * factor)
    assert_asked(prepare(script, tmp_path / "s"), f"0, {factor}, {2 * factor}", "--yes")
    assert prepare(script, tmp_path / "s", "--yes", "--background", "unlabelled").code == 0
    assert_labels(lambda v: v.astype(int) - 1)


def test_whether_0_is_a_class_is_asked_where_nothing_tells(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS)
    assert_asked(prepare(script, tmp_path / "s"), "--background class", "--background unlabelled")
    assert prepare(script, tmp_path / "s", "--background", "unlabelled").code == 0
    assert_labels(lambda v: v.astype(int) - 1)


def test_0_is_a_class_where_255_is_unlabelled(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, lambda v: np.where(v == 2, 255, v).astype(np.uint8))
    result = prepare(script, tmp_path / "s", "--yes")
    assert result.code == 0 and "255 is unlabelled" in result.out
    assert_labels(lambda v: np.where(v == 2, -1, v.astype(int)))


def test_0_is_unlabelled_beside_255_where_the_user_says_so(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, lambda v: np.where(v == 3, 255, v).astype(np.uint8))
    result = prepare(script, tmp_path / "s", "--background", "unlabelled")
    assert result.code == 0 and names_of_mine() == ["class 1", "class 2"]
    assert_labels(lambda v: np.where(v == 3, -1, v.astype(int) - 1))


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        (["sky", "tree", "car"], None),  # or is 3 unlabelled?
        (["background", "sky", "tree", "car"], 0),
        (["ground", "sky", "tree", "car"], 0),
        (["index,name,r,g,b", "1,sky,0,0,1", "2,tree,0,0,2", "3,car,0,0,3"], 1),
        (["index,name,r,g,b", "1,a,0,0,1", "2,b,0,0,2", "3,c,0,0,3", "4,d,0,0,4"], None),
        (["a", "b", "c", "d", "e"], None),
        (["value,name", "1,sky", "2,tree", "3,car"], 1),
        (["value,name", "0,void", "1,sky", "2,tree", "3,car"], 1),
    ],
)
def test_a_table_tells_whether_0_is_a_class_or_it_is_asked(rows, first, script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS)
    write(tmp_path / "s/classes.csv", "\n".join(rows))
    result = prepare(script, tmp_path / "s")
    if first is None:
        assert_asked(result, "--background class", "--background unlabelled")
        return
    assert result.code == 0, result.out + result.err
    assert_labels(lambda v: v.astype(int) - first)


def test_void_as_the_highest_value_is_asked_about_and_can_be_ignored(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS)
    table_of_names(tmp_path / "s")
    write(tmp_path / "s/classes.txt", "ground\nsky\ntree")
    assert_asked(prepare(script, tmp_path / "s"), "is 3 unlabelled (--ignore 3)")
    assert prepare(script, tmp_path / "s", "--ignore", 3).code == 0
    assert_labels(lambda v: np.where(v == 3, -1, v.astype(int)))


def test_a_row_that_is_called_void_is_no_class(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS)
    write(tmp_path / "s/classes.txt", "ground\nsky\ntree\nvoid")
    assert prepare(script, tmp_path / "s").code == 0
    assert names_of_mine() == ["ground", "sky", "tree"]
    assert_labels(lambda v: np.where(v == 3, -1, v.astype(int)))


def test_a_value_of_no_class_is_named_with_its_pixels(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS)
    write(tmp_path / "s/classes.csv", "value,name\n0,ground\n1,sky\n2,tree\n")
    assert_asked(prepare(script, tmp_path / "s"), "3 (2,184 pixels in 8 labels", "--ignore 3")
    assert prepare(script, tmp_path / "s", "--ignore", 3).code == 0


@pytest.mark.parametrize("factor", [1, 80])
def test_labels_scaled_with_interpolation_are_never_ready(factor, script, tmp_path):
    def blurred(values):
        small = cv2.resize(values * factor, (80, 60), interpolation=cv2.INTER_LINEAR)
        return small.astype(np.uint8)

    pairs(tmp_path / "s", *FOLDERS, blurred)
    for split, n in numbered():
        save(picture(n).resize((80, 60)), tmp_path / "s" / FOLDERS[0].format(split=split, n=n))
    table = "\n".join(f"{v * factor},{name}" for v, name in enumerate(NAMES))
    write(tmp_path / "s/classes.csv", f"value,name\n{table}")
    result = prepare(script, tmp_path / "s")
    if factor == 1:
        assert_asked(result, "interpolation", "nearest pixel")
        result = prepare(script, tmp_path / "s", "--yes")
        assert "8 labels look scaled with interpolation" in result.out  # said, where accepted
        return
    assert_asked(result, "beside 0, 80, 160, 240 come of", "--yes")
    result = prepare(script, tmp_path / "s", "--yes")
    assert result.code == 0, result.out
    for (_, n), values in zip(numbered(), labels_of_mine(), strict=True):
        truth = cv2.resize(label(n), (80, 60), interpolation=cv2.INTER_NEAREST)
        assert (values >= 0).mean() > 0.95 and (values != truth)[values >= 0].mean() < 0.015


def test_a_jpeg_mask_is_read_and_warned_of(script, tmp_path):
    mask = FOLDERS[1].replace("png", "jpg")
    pairs(tmp_path / "s", FOLDERS[0], mask, lambda v: ((v > 1) * 255).astype(np.uint8))
    assert_asked(prepare(script, tmp_path / "s"), "beside 0, 255 come of", "% of the pixels")
    result = prepare(script, tmp_path / "s", "--yes")
    assert result.code == 0 and "JPEGs, which lose" in result.out
    assert_labels(lambda v: v > 1)


def test_class_indices_stored_as_jpeg_are_never_ready(script, tmp_path):
    pairs(tmp_path / "s", FOLDERS[0], FOLDERS[1].replace("png", "jpg"))
    table_of_names(tmp_path / "s")
    assert_asked(prepare(script, tmp_path / "s", "--yes"), "stored with loss", "PNG")


def test_numbers_of_objects_are_no_classes(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, lambda v: v.astype(np.uint16) * 8000 + 1001)
    for split, n in numbered():
        values = np.kron(
            np.arange(3000 + 90 * n, 3000 + 90 * n + 48).reshape(6, 8), np.ones((8, 8))
        )
        save(values.astype(np.uint16), tmp_path / "s" / FOLDERS[1].format(split=split, n=n))
    assert_asked(prepare(script, tmp_path / "s"), "numbers of objects")
    assert_asked(prepare(script, tmp_path / "s", "--yes"), "numbers of objects")


def permuted(values: np.ndarray) -> Image.Image:
    """A label with a palette whose order depends on the label."""
    order = np.random.default_rng(int((values == 2).any(0).argmax())).permutation(len(COLOURS))
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[values]).convert("P")
    image.putpalette([c for i in order for c in COLOURS[i]])
    return image


def test_palettes_in_another_order_in_each_file_go_by_their_colours(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, permuted)
    assert_asked(prepare(script, tmp_path / "s"), "--list_class")
    table_of_colours(tmp_path / "s")
    result = prepare(script, tmp_path / "s")
    assert result.code == 0, result.out
    assert_labels(lambda v: v)


def test_smoothed_colours_become_the_nearest_when_that_is_accepted(script, tmp_path):
    def smoothed(values):
        colours = in_colours(values).astype(int)
        colours[10, ::5] += 3
        return colours.clip(0, 255).astype(np.uint8)

    pairs(tmp_path / "s", *FOLDERS, smoothed)
    table_of_colours(tmp_path / "s")
    assert_asked(prepare(script, tmp_path / "s"), "near a class's", "% of the pixels", "--yes")
    assert prepare(script, tmp_path / "s", "--yes").code == 0
    assert_labels(lambda v: v)


def test_a_colour_of_no_class_is_named_and_black_is_unlabelled(script, tmp_path):
    def other(values):
        colours = in_colours(values)
        colours[:5] = 0
        return colours

    pairs(tmp_path / "s", *FOLDERS, other)
    rows = ["ground,#0a0a0a", "sky,#8080ff", "tree,#008000"]
    write(tmp_path / "s/classes.csv", "\n".join(["name,color", *rows]))
    assert_asked(prepare(script, tmp_path / "s"), "#c80064 (200, 0, 100) 2,184 pixels in 8 labels")
    table_of_colours(tmp_path / "s")
    (tmp_path / "s/classes.csv").unlink()
    result = prepare(script, tmp_path / "s")
    assert result.code == 0 and "black is the colour of no class: unlabelled" in result.out
    assert_labels(lambda v: np.where(np.arange(48)[:, None] < 5, -1, v.astype(int)))


def test_two_classes_of_one_colour_are_told_apart_by_values_alone(script, tmp_path):
    table = "\n".join(f"{v},{name},9,9,9" for v, name in enumerate(NAMES))
    for folder, change in (("values", lambda values: values), ("colours", in_colours)):
        pairs(tmp_path / folder, *FOLDERS, change)
        write(tmp_path / folder / "classes.csv", f"value,name,r,g,b\n{table}")
    assert_asked(prepare(script, tmp_path / "colours"), "ground and sky have the same colour")
    assert prepare(script, tmp_path / "values").code == 0
    assert_labels(lambda v: v)


def test_colours_without_a_table_are_listed_and_may_be_classes(script, tmp_path):
    pairs(tmp_path / "s", *FOLDERS, in_colours)
    assert_asked(prepare(script, tmp_path / "s"), "4 colours", "#8080ff", "--list_class", "--yes")
    assert prepare(script, tmp_path / "s", "--yes").code == 0
    assert names_of_mine() == ["#008000", "#0a0a0a", "#8080ff", "#c80064"]
    assert_labels(lambda v: np.array([1, 2, 0, 3])[v])


@pytest.mark.parametrize("orientation", [3, 6])
def test_yolos_shares_are_of_the_sides_of_pictures_as_shown(orientation, script, tmp_path):
    yolo(tmp_path / "s")
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for split, n in numbered():
        stored = picture(n).transpose(back)
        stored.save(tmp_path / f"s/images/{split}/{n}.jpg", quality=95, exif=exif)
    result = prepare(script, tmp_path / "s", "--exif", "stored")
    assert result.code == 0, result.out
    assert "--exif stored: not for 8 labels, which surely lie the other way" in result.out
    content, found = load_data("mine"), sorted(Path("mine/annotations").rglob("*.png"))
    assert len(found) == 8
    for path in found:
        values = read_label(path, content["num_class"], content["label_offset"])
        assert (values == label(int(path.stem))).all()


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("lie", ["stored", "turned"])
def test_labels_of_pictures_that_exif_turns(orientation, lie, script, tmp_path):
    """Turned by 180 degrees, size tells nothing, and edges do."""
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270}[orientation]
    back = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[orientation]
    for split, n in numbered():
        seen = {"images": picture(n), "masks": Image.fromarray(label(n))}
        stored = {name: image.transpose(back) for name, image in seen.items()}
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / "s" / FOLDERS[0].format(split=split, n=n)
        path.parent.mkdir(parents=True, exist_ok=True)
        stored["images"].save(path, quality=95, exif=exif)
        mask = stored["masks"] if lie == "stored" else stored["masks"].transpose(turn)
        save(mask, tmp_path / "s" / FOLDERS[1].format(split=split, n=n))
    table_of_names(tmp_path / "s")
    result = prepare(script, tmp_path / "s")
    assert result.code == 0, result.out
    assert f"8 pictures are turned by their EXIF data: {8 * (lie == 'stored')} of" in result.out
    assert_labels(lambda v: v)
