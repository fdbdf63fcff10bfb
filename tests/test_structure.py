"""The shape of the code: what a reader can count on without reading all of it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from .conftest import ROOT

ROOMS = (
    "benchmarks",
    "browser",
    "common",
    "data",
    "exporting",
    "models",
    "preparation",
    "report",
    "stress",
    "training",
)
FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in chain(
        ROOT.glob("*.py"),
        *(ROOT.glob(f"{room}/**/*.py") for room in (*ROOMS, "visualize", "tests")),
    )
)
FLAG_DECLARATIONS = {"make_parser", "parse_args"}
LONGEST_FUNCTION = 60  # lines
MOST_PARAMETERS = 5
# Signatures of the public interface, and primitives whose callers pass different things each time.
WIDE = {
    "dataset.py": {"__init__"},
    "inference.py": {"predict", "predict_as_reference"},
    "models/builder.py": {"build_decoder"},
    "models/fused.py": {  # a kernel takes pointers and numbers
        "place",
        "interpolated",
        "pixel_statistics",
        "cell_gradients",
        "gather_cells",
        "pixel_labels",
        "pixel_probabilities",
    },
    "models/loss.py": {"upsample_cross_entropy"},
    "models/resnet.py": {"layer"},
}


def parse(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def functions(file: str) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(parse(file)) if isinstance(node, ast.FunctionDef))


def imported(file: str) -> set[str]:
    """The project's files that a file imports, for types only or within functions, too."""
    names: set[str] = set()
    package = Path(file).parent.as_posix().replace("/", ".")
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level else ""
            module = ".".join(filter(None, [base, node.module]))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return {f"{name.replace('.', '/')}.py" for name in names} & set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_no_literal_is_unpacked_to_pack_a_call(file):
    """`*(a, b), *(c, d)` would save lines, and hide how many arguments there are."""
    unpacked = [
        node.lineno
        for node in ast.walk(parse(file))
        if isinstance(node, ast.Starred) and isinstance(node.value, (ast.Tuple, ast.List))
    ]
    assert not unpacked


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith("tests/")])
def test_functions_are_short_and_take_few_parameters(file):
    scenes = file.startswith("data/")  # drawing takes coordinates
    for function in functions(file):
        lines = function.end_lineno - function.lineno + 1
        assert lines <= LONGEST_FUNCTION or function.name in FLAG_DECLARATIONS, function.name
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        given = [argument for argument in arguments if argument.arg not in ("self", "cls", "ctx")]
        wide = scenes or function.name in WIDE.get(file, ())
        assert len(given) <= MOST_PARAMETERS or wide, function.name


def test_no_file_imports_itself_in_a_circle_not_even_for_types():
    """A file without imports leads nowhere, and nor does one that imports only such files."""
    left = {file: imported(file) - {file} for file in FILES}
    while ends := [file for file, targets in left.items() if not targets & left.keys()]:
        for file in ends:
            del left[file]
    assert not left


def test_the_scripts_flags_are_parsed_without_torch():
    code = "import options, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_what_one_reads_first_stays_short():
    for file, most in (("train.py", 250), ("README.md", 250)):
        assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= most, file
