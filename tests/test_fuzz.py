"""Input that nobody meant: it works, or is refused in one line that names the file or the flag."""

import copy
import io
import itertools
import json
import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from common.classes import read_classes
from common.devices import select_device
from common.images import MAX_PIXELS, promised_pixels, read_label, read_picture
from common.lists import read_list
from common.runs import find_run, read_config
from dataset import SegmentationDataset
from models import ModelBuilder, ModelError
from models.weights import read_state
from options import SHARED, fill_from_run
from stress.damaged_files import Reader, encode, interlaced_png, run
from utils import LONGEST_ERROR, UserError, result_names

from .conftest import Data, Result, flags

FIXTURES = [HealthCheck.function_scoped_fixture]  # each example writes its files anew


def examples(count: int) -> settings:
    """The same examples in every run of the tests."""
    return settings(
        derandomize=True, deadline=None, max_examples=count, suppress_health_check=FIXTURES
    )


@contextmanager
def working_or_refused(culprit: object) -> Iterator[None]:
    """Lets pass what works and what is refused in a line that names the culprit."""
    try:
        yield
    except (UserError, ModelError) as error:
        line = str(UserError(str(error)))  # as a script prints it
        assert line.isprintable() and str(culprit) in line and len(line) <= LONGEST_ERROR


@pytest.fixture
def foreign_run(data: Data) -> Path:
    """A run whose weights are none, so that no script gets past loading them."""
    folder = data.folder.parent / "here/ckpt/run"
    folder.mkdir(parents=True)
    for part in ("encoder", "decoder"):
        (folder / f"{part}_best.pth").write_text("foreign")
    return folder


def assert_refused(result: Result, *culprits: str) -> None:
    """One line and exit code 2."""
    assert result.code == 2 and result.err[-1] == "\n" and result.err[:-1].isprintable()
    assert len(result.err) < LONGEST_ERROR + 20
    assert all(culprit in result.err for culprit in culprits), result.err


ODD_NAMES = [
    "../a.jpg",
    "/etc/passwd",
    "a/../../b.jpg",
    "..",
    ".",
    "~",
    "~/a.jpg",
    "./val/0.jpg",
    "val/0.jpg",
    "val//0.jpg",
    "val/0.jpg/",
    "val",
    "\\..\\a.jpg",
    "x" * 5000,
    "-",
    "*",
    "a\0b.jpg",
    "a\rb.jpg",
    "a\x1b[2Jb.jpg",
    "\u202egpj.a",
    "e\u0301.jpg",
    "a" * 255,
    "..jpg",
    "...",
    "val/.jpg",
    "UserError: a.jpg",
    "%s{0}",
    "file:///etc/passwd",
]
NAMES = st.one_of(st.sampled_from(ODD_NAMES), st.text(max_size=30))


@pytest.mark.slow
@examples(200)
@given(content=st.one_of(st.binary(max_size=200), st.lists(NAMES, max_size=4)))
def test_a_list_of_anything_names_files_within_the_folder_or_is_refused(content, data):
    path = data.folder / "list.txt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text("\n".join(content), encoding="utf-8")
    with working_or_refused(path):
        assert all(name.encode().strip() == name.encode() != b"" for name in read_list(path))
        folders = data.folder / "images", data.folder / "annotations"
        dataset = SegmentationDataset(path, *folders, data.num_class)
        for index in range(len(dataset)):
            for file, folder in zip(dataset.paths(index), folders, strict=True):
                assert file.resolve().is_relative_to(folder) and file.is_file()


@pytest.mark.slow
@examples(300)
@given(names=st.lists(NAMES, min_size=1, max_size=6, unique=True))
def test_results_stay_in_their_folder_however_names_are_spelt(names):
    # What SegmentationDataset lets pass; it has seen that there are files of these names.
    names = [
        n for n in names if not os.path.isabs(n) and ".." not in Path(n).parts and Path(n).name
    ]
    results = result_names(names)
    assert len(set(results.values())) == len(set(names))
    for result in results.values():
        folder, file = os.path.split(os.path.normpath(f"/results/{result}.png"))
        assert folder == "/results" and os.path.splitext(file) == (result, ".png")


@pytest.mark.slow
def test_nothing_is_written_outside_of_the_results(script, data, foreign_run, monkeypatch):
    """Odd names of pictures that are there, through the whole of eval.py and test.py."""
    names = ["..jpg", "....jpg", ".hidden/..a.jpg", "a b/\u202eé\t.jpg", "'$(x)'.jpg", "-v.jpg"]
    for name in names:
        for folder, source in (("images", "picture"), ("annotations", "label")):
            path = data.folder / folder / name
            if folder == "annotations":
                path = Path(f"{os.path.splitext(path)[0]}.png")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(getattr(data, source)("val/0").read_bytes())
    (data.folder / "val.txt").write_text("\n".join(names))
    encoder = ModelBuilder.build_encoder("resnet34_dilated16", weights="none")
    decoder = ModelBuilder.build_decoder(num_class=data.num_class)
    monkeypatch.setattr(ModelBuilder, "build_encoder", lambda *_: copy.deepcopy(encoder))
    monkeypatch.setattr(ModelBuilder, "build_decoder", lambda *_, **__: copy.deepcopy(decoder))
    # A name that is no text can be no line of a list, but a file in a folder.
    no_text = data.folder / "images" / os.fsdecode(b"caf\xe9.jpg")
    no_text.write_bytes(data.picture("val/0").read_bytes())
    before = {path for path in data.folder.parent.rglob("*") if "result" not in path.parts}
    options = flags(id="run", workers=0, scales=1, visualize=1)
    result = script("eval.py", *options, *data.flags[2:])
    assert result.code == 0, result.err
    options = flags(id="run", num_class=4, imgSize=32, result="result")
    result = script("test.py", *options, "--test_img", f"{data.folder}/images/**/*.jpg")
    assert result.code == 0, result.err
    after = {path for path in data.folder.parent.rglob("*") if "result" not in path.parts}
    assert after == before
    assert len(list(Path("result/run").glob("*.png"))) == 6


CELLS = st.one_of(
    st.sampled_from(["1", "2", "-1", "256", "1e3", str(10**12), "9" * 5000, "", "x", '"', "\0"]),
    st.text(max_size=10),
)


@pytest.mark.slow
@examples(200)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(CELLS, min_size=4, max_size=6), max_size=3),
        st.just([[str(i), "a", "0", "0", "0"] for i in range(1, 20_000)]),
        st.sampled_from(
            [["1", name, "1", "2", "3"] for name in ("a\nb", "x" * 10**5, "", "é")]
        ).map(lambda row: [row]),
    )
)
def test_a_table_of_anything_names_the_classes_or_is_refused(content, tmp_path):
    path = tmp_path / "classes.csv"
    if not isinstance(content, bytes):
        rows = [",".join(f'"{c}"' if "\n" in c else c for c in row) for row in content]
        content = "\n".join(["index,r,g,b,name" if len(rows) == 2 else "index,name,r,g,b", *rows])
        content = content.encode()
    path.write_bytes(content)
    with working_or_refused(path):
        classes = read_classes(str(path), 1)
        assert classes.palette.shape == (2, 3) and classes.palette.dtype == np.uint8
        (name,) = classes.names
        assert isinstance(name, str) and name.isprintable()


def mat_file(colours: object) -> bytes:
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"colors": colours})
    return buffer.getvalue()


COLOURS = np.arange(6, dtype=np.uint8).reshape(2, 3)


@pytest.mark.slow
@examples(30)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.sampled_from(
            [
                COLOURS,
                COLOURS.astype(float),
                COLOURS * 1j,
                COLOURS - 1.0,
                COLOURS * np.nan,
                COLOURS + 1e300,
                COLOURS.astype(object),
                COLOURS[:, :0],
                np.array(["abc", "def"]),
                {"a": COLOURS},
                scipy.sparse.csc_matrix(COLOURS),
            ]
        ).map(mat_file),
    )
)
def test_a_matlab_file_of_anything_has_colours_or_is_refused(content, tmp_path):
    path = tmp_path / "colours.mat"
    path.write_bytes(content)
    with working_or_refused(path):
        palette = read_classes(str(path), 2).palette
        assert palette.shape == (3, 3) and palette.dtype == np.uint8


def test_a_matlab_file_that_crashes_scipy_is_refused(tmp_path, capfd):
    path = tmp_path / "colours.mat"
    content = bytearray(mat_file(COLOURS))
    content[content.index(b"colors") + 8] = 255  # the type of the numbers
    path.write_bytes(content)
    with pytest.raises(UserError, match="colours.mat: no MATLAB file"):
        read_classes(str(path), 2)
    assert not capfd.readouterr().err


SIGNATURES = st.sampled_from(
    [
        b"",
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"BM",
        b"RIFF\0\0\0\0WEBPVP8X",
        b"P6 9 9 255\n",
    ]
)


@pytest.mark.slow
@examples(300)
@given(head=SIGNATURES, tail=st.binary(max_size=100))
def test_bytes_that_are_no_picture_are_refused(head, tail, tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(head + tail)
    for read in (read_picture, lambda path: read_label(path, 4)):
        with working_or_refused(path):
            assert read(path).size <= 3 * MAX_PIXELS


@examples(60)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    kind=st.sampled_from(["JPEG", "PNG", "BMP", "WEBP"]),
    mode=st.sampled_from(["L", "RGB"]),
)
def test_a_header_promises_the_pixels_that_there_are(size, kind, mode):
    exif = Image.Exif()
    exif[0x010F] = "maker \xff\xc0"  # makes a WebP an extended one
    content = encode(Image.new(mode, size), kind, **({} if kind == "BMP" else {"exif": exif}))
    assert promised_pixels(content) == size[0] * size[1]
    for end in range(30):
        assert promised_pixels(content[:end]) <= size[0] * size[1]


@pytest.mark.parametrize("sides", [(100_000, 100_000), (2**14, 2**14 + 1), (-(2**14), 2**14 + 1)])
def test_more_pixels_than_the_bound_are_refused_with_their_number(sides, tmp_path):
    path = tmp_path / "huge.bmp"
    content = bytearray(encode(Image.new("L", (2, 2)), "BMP"))
    struct.pack_into("<ii", content, 18, *sides)
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"huge.bmp promises {abs(sides[0] * sides[1]):,} pixels"):
        read_picture(path)


def test_a_file_of_a_terabyte_is_refused_unread(tmp_path):
    path = tmp_path / "huge.png"
    path.touch()
    os.truncate(path, 2**40)
    for read in (read_picture, lambda path: read_label(path, 4)):
        with pytest.raises(UserError, match="huge.png has more than"):
            read(path)


def test_interlaced_labels_hold_their_values(tmp_path):
    path = tmp_path / "label.png"
    for height, width in itertools.product((1, 2, 5, 16, 33), repeat=2):
        label = np.random.default_rng(0).integers(0, 21, (height, width), dtype=np.uint8)
        path.write_bytes(interlaced_png(label))
        assert (read_label(path, 20) == label - 1).all()


@pytest.mark.slow
def test_no_damage_to_a_file_is_lost():
    rows = run(300, seed=0)
    assert sum(injected for _, injected, _, _ in rows) == 300
    assert [row for row in rows if row[3]] == []


@pytest.mark.slow
def test_the_death_of_a_reader_is_told_and_outlived(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(b"")
    with Reader() as reader:
        reader.process.kill()
        assert reader.read(path) == "the process ended with -9"
        assert reader.read(path) == "refused"


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SETTINGS = [
    "arch_encoder",
    "arch_decoder",
    "list_val",
    "root_img",
    "root_seg",
    "num_class",
    "list_class",
]


@pytest.mark.slow
@examples(200)
@given(
    content=st.one_of(
        st.binary(max_size=50),
        st.dictionaries(st.sampled_from(SETTINGS), JSON).map(json.dumps).map(str.encode),
        st.sampled_from([b"[" * 100_000, b'{"num_class":' + b"9" * 5000 + b"}", b"null", b"NaN"]),
    )
)
def test_settings_of_anything_are_what_flags_may_be_or_are_refused(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    args = SimpleNamespace(**dict.fromkeys(SETTINGS))
    with working_or_refused("config.json"):
        fill_from_run(args, read_config(tmp_path))
        assert 0 < args.num_class < 2**16
        assert all(isinstance(getattr(args, name), str) for name in SETTINGS if name != "num_class")


@pytest.mark.slow
@examples(60)
@given(
    name=st.sampled_from(SETTINGS),
    value=st.sampled_from(["", "a\0b", "\ud800", "a\nb", "x" * 5000, 2**31 - 1, 2**16, {}, ["a"]]),
)
def test_settings_of_anything_end_a_script_in_one_line(name, value, script, data, foreign_run):
    config = {"root_img": f"{data.folder}/images", "root_seg": f"{data.folder}/annotations"}
    config |= {"list_val": f"{data.folder}/val.txt", name: value}
    (foreign_run / "config.json").write_text(json.dumps(config))
    assert_refused(script("eval.py", "--id", "run"))


class RunsCode:
    """Unpickled, it would make the folder it names."""

    def __init__(self, folder: Path):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("kind", ["zip", "before zip", "pickle"])
def test_weights_that_would_run_code_are_refused_and_do_not(
    kind, script, data, foreign_run, recwarn
):
    state = {"conv1.weight": RunsCode(foreign_run / "made")}
    path = foreign_run / "encoder_best.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    result = script("test.py", "--id", "run", "--test_img", data.picture("val/0"))
    assert_refused(result, "encoder_best.pth is not a whole PyTorch weights file", "code")
    assert not (foreign_run / "made").exists() and not list(recwarn)


# State dicts of a single tensor, and what is almost one.
WEIGHTS = [
    {"a": torch.ones(3)},
    [torch.ones(3)],
    {"a": 1},
    {"a": {"b": torch.ones(3)}},
    {1: torch.ones(3)},
    {"a": torch.ones(3, device="meta")},
]


@examples(100)
@given(
    state=st.sampled_from(WEIGHTS),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
    end=st.one_of(st.none(), st.integers(0, 2000)),
)
def test_weights_of_anything_are_tensors_or_are_refused(state, changes, end, tmp_path):
    path = tmp_path / "a.pth"
    torch.save(state, path)
    content = bytearray(path.read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    path.write_bytes(content[:end])
    with working_or_refused(path):
        assert all(isinstance(tensor, torch.Tensor) for tensor in read_state(path).values())
    with working_or_refused(path):
        ModelBuilder.build_decoder("c1_bilinear", weights=str(path))


@examples(100)
@given(content=st.one_of(st.binary(max_size=60), JSON.map(pickle.dumps)))
def test_bytes_that_are_no_weights_are_refused(content, tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="a.pth is not a "):
        read_state(path)


@pytest.mark.parametrize("kind", ["sparse", "without values"])
def test_tensors_of_another_kind_are_refused(kind, tmp_path):
    decoder = ModelBuilder.build_decoder(num_class=4)
    state = {
        key: value.to_sparse() if kind == "sparse" else value.to("meta")
        for key, value in decoder.state_dict().items()
    }
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ModelError, match="a.pth does not fit c1_bilinear.*of another kind"):
        ModelBuilder.build_decoder(num_class=4, weights=str(tmp_path / "a.pth"))


OWN = {
    "train.py": [
        "weights_encoder",
        "weights_decoder",
        "list_train",
        "num_gpus",
        "batch_size_per_gpu",
        "num_epoch",
        "optim",
        "lr_encoder",
        "beta1",
        "seed",
        "fix_bn",
        "vis",
        "compile",
        "class_weight",
    ],
    "eval.py": [],
    "test.py": ["test_img", "json"],
    "prepare.py": ["list_class", "num_class", "ignore", "label_name", "val_fraction", "seed"],
}
ODD_VALUES = [
    "",
    "-1",
    "0",
    "1",
    "2147483647",
    "9" * 5000,
    "1e999",
    "nan",
    "-inf",
    "1_0",
    "٣",
    " ",
    "a\nb",
    "x" * 5000,
    "x/" * 3000,
    "\udce9",
    "../..",
    "/dev/null/a",
    "[",
    "hpu",
    "cuda:9",
    "privateuseone",
    "resnet34_dilated8",
    "places365",
    "%s",
    "{}",
    "=",
    "-x",
]
VALUES = st.one_of(
    st.sampled_from(ODD_VALUES),
    st.text(st.characters(exclude_characters="\0*"), max_size=8),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
@examples(120)
@given(values=st.data())
def test_flags_of_anything_end_a_script_in_one_line(name, values, script, data, foreign_run):
    drawn = values.draw(
        st.dictionaries(st.sampled_from([*SHARED, *OWN[name]]), VALUES, min_size=1, max_size=3)
    )
    required = {
        "train.py": [],
        "eval.py": ["id"],
        "test.py": ["id", "test_img"],
        "prepare.py": ["data"],
    }[name]
    sound = {"id": "run", "test_img": data.picture("val/0"), "data": "nowhere"}
    args = [f"--{flag}={sound[flag]}" for flag in required if flag not in drawn]
    args += [f"--{flag}={value}" for flag, value in drawn.items()]
    before = sorted(data.folder.parent.rglob("*"))
    # Whatever else may be sound, there is nothing to train on.
    absent = ["--root_img=nowhere"] if name == "train.py" else []
    assert_refused(script(name, *args, *absent))
    assert sorted(data.folder.parent.rglob("*")) == before


@pytest.mark.parametrize("suffix", ["x" * 5000, "/../..", "\0", ""])
def test_a_suffix_of_anything_is_answered(suffix, data, foreign_run):
    with pytest.raises(UserError, match="--suffix"):
        find_run(foreign_run.parent, "run", suffix)


@pytest.mark.slow
@examples(100)
@given(name=VALUES)
def test_a_device_of_anything_is_one_or_is_refused(name):
    with working_or_refused("--device"):
        assert isinstance(select_device(name), torch.device)


@pytest.mark.parametrize("message", ["a\nb", "x" * 10**6, "\ud800", "\x1b[2J", "é … ×"])
def test_an_error_is_one_line_of_bounded_length(message):
    line = str(UserError(message))
    assert line.isprintable() and len(line) <= LONGEST_ERROR
    assert str(UserError(line)) == line
