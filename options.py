"""The flags that the scripts share, each defined once."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from common.classes import ADE20K
from common.data_file import read_data
from common.names import locate
from utils import UserError

MIN_SIDE = 32  # pixels; below that the features of a picture shrink to less than 2 x 2

Number = TypeVar("Number", int, float)


def within(kind: type[Number], low: float, high: float = math.inf) -> Callable[[str], Number]:
    """A type of flag: numbers of at least `low` and below `high`."""

    def number(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            whole = "whole " if kind is int else ""
            raise argparse.ArgumentTypeError(f"must be a {whole}number, not {text!r}") from None
        if not low <= value < high:
            bound = " and finite" if high == math.inf else f" and below {high}"
            raise argparse.ArgumentTypeError(f"must be at least {low}{bound}, not {text}")
        return value

    return number


def share(text: str) -> float:
    """A type of flag: numbers from 0 to 1."""
    value = within(float, 0)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"must be at most 1, not {text}")
    return value


def side(text: str) -> int:
    """A type of flag: sides of pictures that a network can see."""
    return within(int, MIN_SIDE, 2**31)(text)


def positive_or_all(text: str) -> int:
    """A type of flag: whole numbers of at least 1, or -1 for no limit."""
    return -1 if text == "-1" else positive(text)


def side_or_all(text: str) -> int:
    """A type of flag: sides of pictures that a network can see, or -1 for no limit."""
    return -1 if text == "-1" else side(text)


positive = within(int, 1, 2**31)

SHARED: dict[str, dict[str, Any]] = {
    "id": dict(
        help="name of the run, in CKPT/ID, or of a published network: see --list_ids; or a run's "
        "folder, or hf:OWNER/NAME"
    ),
    "arch_encoder": dict(
        default="resnet34_dilated8",
        help="architecture of the encoder; timm:NAME, timm:NAME@STRIDE = one of timm's",
    ),
    "arch_decoder": dict(default="c1_bilinear", help="architecture of the decoder"),
    "fc_dim": dict(
        type=positive, help="width of the features; another than the encoder's is an error"
    ),
    # Labels have at most 16 bits.
    "num_class": dict(
        type=within(int, 1, 2**16), default=ADE20K["num_class"], help="number of classes"
    ),
    "list_class": dict(
        default=ADE20K["list_class"],
        help="class names and colours: a CSV of index,name,r,g,b, or a .mat palette; other numbers "
        "of classes than 150 get generated ones",
    ),
    "list_val": dict(
        default=ADE20K["list_val"],
        help="validation pictures, relative to ROOT_IMG, one a line",
    ),
    "data": dict(
        help="folder of a data set, whose data.json tells lists, folders and classes; flags that "
        "tell them count more"
    ),
    "root_img": dict(default=ADE20K["root_img"], help="folder of the pictures"),
    "root_seg": dict(
        default=ADE20K["root_seg"],
        help="folder of the labels: PNGs of class indices",
    ),
    "label_offset": dict(
        type=within(int, 0, 2),
        default=ADE20K["label_offset"],
        help="value of the first class in the labels: 1 (0 is unlabelled) or 0 (255 is unlabelled)",
    ),
    "num_val": dict(type=positive_or_all, help="use only the first so many pictures; -1 = all"),
    "batch_size": dict(type=positive, default=1, help="pictures at a time (only of equal size)"),
    "imgSize": dict(type=side_or_all, help="short side to scale pictures to; -1 = as they are"),
    "segSize": dict(
        type=positive_or_all, default=-1, help="short side of the labels; -1 = as the picture"
    ),
    "scales": dict(
        type=within(float, 0.01, 100), nargs="+", help="sizes, relative to IMGSIZE, to average over"
    ),
    "flip": dict(
        type=int, choices=(0, 1), default=0, help="1 = average over mirrored pictures, too"
    ),
    "workers": dict(
        type=within(int, 0), default=16, help="processes that read pictures, at most one a core"
    ),
    "amp": dict(
        default="auto",
        choices=("auto", "off", "bf16", "fp16"),
        help="half precision: auto = what the hardware is fast at, if anything",
    ),
    "device": dict(default="auto", help="where to run: auto (a GPU if there is one), cpu, cuda, …"),
    "ckpt": dict(default="./ckpt", help="folder of the runs"),
    "list_ids": dict(
        action="store_true",
        default=None,
        help="print the published networks and one's own runs, and end",
    ),
    "visualize": dict(type=int, choices=(0, 1), help="1 = write panels for the eye"),
    "result": dict(help="folder of the results"),
    "suffix": dict(default="_best.pth", help="which weights: _best.pth, _latest.pth, _epoch_N.pth"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to each flag's help, unless that is empty: the help tells it in words."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser with errors of one line and a help that tells the defaults."""

    current: argparse._ArgumentGroup | None = None

    def __init__(self, description: str):
        super().__init__(
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )

    def group(self, title: str) -> None:
        """Put the flags that follow under a title in the help."""
        self.current = self.add_argument_group(title)

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """Add a flag to the current group."""
        if self.current is None:
            return super().add_argument(*names, **settings)
        return self.current.add_argument(*names, **settings)

    def shared(self, *names: str, **changes: object) -> None:
        """Add shared flags by name; `changes` (default, help …) apply to each of them."""
        for name in names:
            self.add_argument(f"--{name}", **{**SHARED[name], **changes})

    def from_run(self, *names: str) -> None:
        """Add shared flags that default to the run's own setting: see `fill_from_run`."""
        for name in names:
            help = f"{SHARED[name]['help']} (default: the run's)"
            self.shared(name, default=None, help=help)

    def parse_args(self, *flags: Any) -> argparse.Namespace:  # type: ignore[override]
        """The settings of flags; --id may be a run's folder, and --ckpt becomes where that is.

        Raises:
            UserError: --id is no name.
        """
        args = super().parse_args(*flags)
        if getattr(args, "id", None):
            args.ckpt, args.id = locate(args.ckpt, args.id)
        return args

    def parse_with_data(self, flags: Sequence[str] | None = None) -> argparse.Namespace:
        """The settings of flags, or those typed; --data's replace the defaults.

        Raises:
            UserError: there is no such data set.
        """
        folder = self.parse_args(flags).data
        if folder is not None:
            self.set_defaults(**read_data(folder))
        return self.parse_args(flags)

    def require(self, args: argparse.Namespace, *names: str) -> None:
        """End with one line if flags were not given; for those that not every call needs."""
        missing = [f"--{name}" for name in names if getattr(args, name) is None]
        if missing:
            self.error(f"the following arguments are required: {', '.join(missing)}")

    def error(self, message: str) -> NoReturn:
        """End with one line, which names the nearest flags where one is unknown."""
        for flag in re.findall(r"--[\w-]+", message):
            nearest = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            if nearest and nearest != [flag]:
                message += f"; did you mean {nearest[0]}?"
        line = UserError(f"{message} (--help lists all flags)")
        self.exit(2, f"{self.prog}: error: {line}\n")


def fill_from_run(args: argparse.Namespace, config: dict) -> None:
    """Give each flag of `Parser.from_run` that was not given the run's setting, or the default.

    Raises:
        UserError: the flag could not have this setting.
    """
    for name, given in vars(args).items():
        flag = SHARED.get(name, {})
        if given is None and "default" in flag:
            setting = config.get(name, flag["default"])
            try:
                setattr(args, name, flag.get("type", str)(str(setting)))
            except argparse.ArgumentTypeError as error:
                raise UserError(f"the run's config.json: {name} {error}; give --{name}") from error
