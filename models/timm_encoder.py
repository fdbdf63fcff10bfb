"""timm's image models as encoders: `timm:NAME`, or `timm:NAME@STRIDE` for an output stride.

timm (Wightman, "PyTorch Image Models", 2019) is an optional package: `pip install timm`.
"""

import difflib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .encoder import Encoder
from .initial_weights import INITIAL_WEIGHTS
from .weights import TIMEOUT, DownloadError, ModelError, load_strictly, read_state

PREFIX = "timm:"
NUM_MAPS = 4
FINEST = 4  # pixels between the features of the finest map that is of use
SMALLEST = 32  # pixels of the smallest picture's sides

logger = logging.getLogger(__name__)


class TimmEncoder(Encoder):
    """One of timm's models without its classifier, and its last four maps of a stride of 4 or more.

    A model whose blocks all have one stride, such as a ViT, gives four of their outputs, evenly
    spaced, each through the model's last norm, as `get_intermediate_layers` of DINOv2 has them
    (Oquab et al., 2023).

    Pictures are continued to the right and below, by their last pixels, to sides that the model can
    take. An edge to some other colour would be in the features. What lies beyond is cut off again.

    Args:
        arch: "timm:NAME" or "timm:NAME@STRIDE"; the name may have a tag, as in "resnet50.a1_in1k".
        pretrained: start from timm's weights rather than from random ones.
        drop_path: as `ModelBuilder.build_encoder` has it.

    Attributes:
        model: timm's model. Its tensors have timm's names.
        indices: which of its feature maps are taken.
        norm: whether they pass the model's last norm.
        grid: pixels, of which the model takes multiples.
        left_out: names of the tensors that only timm's whole model has.
        options: what the model was built with.

    Raises:
        ModelError: there is no such model, or it gives no maps of pictures of any size, or its
            weights cannot be had.
    """

    def __init__(self, arch: str, pretrained: bool = False, drop_path: float = 0.0):
        super().__init__()
        name, options = parse(arch)
        with torch.device("meta"):
            self.model = create(arch, name, options)
        config = self.model.pretrained_cfg
        self.mean, self.std = config["mean"], config["std"]
        info = list(self.model.feature_info)
        whole = self.model.state_dict().keys()
        self.indices = choose_maps([entry["reduction"] for entry in info])
        self.strides = [info[i]["reduction"] for i in self.indices]
        self.norm = len(self.indices) > 1 and len({*self.strides}) == 1
        self.channels = [width(info[i], self.norm) for i in self.indices]
        self.prune()
        self.left_out = whole - self.model.state_dict().keys()
        if options and max(self.strides) != options["output_stride"]:
            raise ModelError(f"{arch}: this model has the strides {self.strides} in any case")
        self.grid = self.find_grid(arch, math.lcm(*self.strides), *config["input_size"][1:])
        if drop_path:
            options["drop_path_rate"] = drop_path
            check_drop_path(arch, name, options)
        if pretrained:
            check_connection(arch, config)
        self.model = create(arch, name, options, pretrained)
        self.options = options
        self.prune()

    @property
    def coarsest_stride(self) -> int:
        """What pictures are continued to multiples of."""
        return self.grid

    def prune(self) -> None:
        """Take away what comes after the last map."""
        self.model.prune_intermediate_layers(self.indices, prune_norm=not self.norm)

    @torch.no_grad()
    def find_grid(self, arch: str, *candidates: int) -> int:
        """The first candidate at whose multiples the maps are as promised; on the "meta" device.

        Raises:
            ModelError: there is none.
        """
        self.model.eval()
        failures = []
        for grid in dict.fromkeys(candidates):
            side = -(-SMALLEST // grid) * grid
            try:
                for height, width in ((side, side), (2 * side, 3 * side)):
                    maps = self.intermediates(torch.empty(1, 3, height, width, device="meta"))
                    self.check(maps, height, width)
                return grid
            except (AssertionError, RuntimeError, ValueError) as error:
                failures.append(first_line(error))
        raise ModelError(f"{arch} does not take pictures of any size: {failures[0]}")

    def check(self, maps: list[Tensor], height: int, width: int) -> None:
        """Check that a picture's maps have the promised sizes.

        Raises:
            ValueError: they have not.
        """
        sizes = [tuple(x.shape[1:]) for x in maps]
        grids = [(height // stride, width // stride) for stride in self.strides]
        if sizes != [(dim, *grid) for dim, grid in zip(self.channels, grids, strict=True)]:
            raise ValueError(
                f"maps of {height} x {width} pixels with strides {self.strides} are {sizes}"
            )

    def stages(self) -> list[list[nn.Module]]:
        """The model's blocks; timm calls them by itself, in `intermediates`."""
        return [[*find_blocks(self.model)]]

    def maps(self, x: Tensor, num: int | None = None) -> list[Tensor]:
        """Maps B x channels[i] x H/strides[i] x W/strides[i] of pictures B x 3 x H x W.

        Args:
            x: the pictures, normalised.
            num: the number of maps, the last ones; None = all.

        Returns:
            The maps; their heights and widths are rounded up.
        """
        height, width = x.shape[-2:]
        right, bottom = (multiples(n, self.grid) * self.grid - n for n in (width, height))
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
        with ExitStack() as stack:
            if self.grad_checkpoint:
                for block in self.stages()[0]:
                    stack.enter_context(computed_by(self.compute, block))
            maps = self.intermediates(x)
        first = 0 if num is None else len(maps) - num
        return [
            features[..., : multiples(height, stride), : multiples(width, stride)]
            for features, stride in zip(maps[first:], self.strides[first:], strict=True)
        ]

    def intermediates(self, x: Tensor) -> list[Tensor]:
        """The maps of pictures B x 3 x H x W whose sides are multiples of `grid`."""
        return self.model.forward_intermediates(
            x, indices=self.indices, norm=self.norm, intermediates_only=True
        )


def multiples(n: int, step: int) -> int:
    """The least number of steps that reach n. Exported, the quotient of a negative n is another."""
    return (n + step - 1) // step


@contextmanager
def computed_by(compute: Callable[..., Any], block: nn.Module) -> Iterator[None]:
    """A context in which a block's output is computed by `compute`, whoever calls the block."""
    forward = block.forward

    def computed(x: Any, *others: Any, **named: Any) -> Any:
        # The second computation gets the same list, whatever block and caller do with theirs: HRNet
        # puts outputs into it, and RDNet adds some.
        return compute(lambda x: forward(copied(x), *others, **named), copied(x), block)

    block.forward = computed  # type: ignore[method-assign]
    try:
        yield
    finally:
        del block.forward  # that of its class is in its place again


def copied(x: Any) -> Any:
    """Another list of the same tensors, or the tensor itself."""
    return [*x] if isinstance(x, list) else x


def build_timm(arch: str, weights: str | Path, drop_path: float = 0.0) -> TimmEncoder:
    """An encoder of timm's with its initial weights.

    Args:
        arch: "timm:NAME" or "timm:NAME@STRIDE".
        weights: "" (timm's), "none", or a file of this project's or of timm's.
        drop_path: as `ModelBuilder.build_encoder` has it.

    Raises:
        ModelError: there is no such encoder, or its weights cannot be had or do not fit.
    """
    if weights in {row.source for row in INITIAL_WEIGHTS}:
        raise ModelError(f"--weights_encoder {weights} is not for {arch}; '' takes timm's own")
    encoder = TimmEncoder(arch, not weights, drop_path)
    encoder.weights_source = str(weights)
    if not weights:
        config = encoder.model.pretrained_cfg
        encoder.weights_source = f"{PREFIX}{config['architecture']}.{config['tag']}"
    elif weights != "none":
        load_timm_file(encoder, arch, weights)
    return encoder


def load_timm_file(encoder: TimmEncoder, arch: str, path: str | Path) -> None:
    """Load weights from a file of this project's, or of timm's without what the encoder lacks.

    Raises:
        ModelError: the file cannot be read, or does not fit.
    """
    state, complaint = read_state(path), f"{path} does not fit {arch}"
    if any(key.startswith("model.") for key in state):  # this project's
        load_strictly(encoder, state, complaint)
        return
    if absent := sorted(state.keys() & encoder.left_out):
        logger.info("Left out of %s, as an encoder has no use: %s", path, ", ".join(absent))
    own = {f"model.{key}": state[key] for key in state if key not in encoder.left_out}
    try:
        load_strictly(encoder, own, complaint)
    except ModelError as error:  # unless timm knows how to convert the file
        name, _ = parse(arch)
        source = {"pretrained_cfg_overlay": {"state_dict": state}}
        try:
            encoder.model = create(arch, name, encoder.options | source, pretrained=True)
        except ModelError:
            raise error from None
        del encoder.model.pretrained_cfg["state_dict"]
        encoder.prune()


def parse(arch: str) -> tuple[str, dict[str, Any]]:
    """timm's name of "timm:NAME" or "timm:NAME@STRIDE", and the output stride as a setting.

    Raises:
        ModelError: timm is absent, or has no such model.
    """
    try:
        import timm
    except ImportError as error:
        raise ModelError(f"{arch} needs timm: pip install timm") from error
    name, at, stride = arch.removeprefix(PREFIX).partition("@")
    known = [*timm.list_models(), *timm.list_pretrained()]
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {PREFIX}{nearest[0]}?" if nearest else ""
        raise ModelError(f"timm has no model {name!r}{hint} (timm.list_models() has all names)")
    if at and not stride.isdecimal():
        raise ModelError(f"{arch}: after @ comes a stride in pixels, as in {PREFIX}{name}@8")
    return name, {"output_stride": int(stride)} if at else {}


def create(arch: str, name: str, options: dict[str, Any], pretrained: bool = False) -> Any:
    """timm's model, for pictures of any size where that is a setting.

    Raises:
        ModelError: it does not have these options, or its weights cannot be had.
    """
    import timm

    def build(**more: Any) -> nn.Module:
        return timm.create_model(name, pretrained=pretrained, **options, **more)

    try:
        try:
            return build(dynamic_img_size=True)
        except TypeError:  # no such setting
            return build()
    except Exception as error:  # timm and the hub have many
        if pretrained:
            raise no_weights(arch, first_line(error)) from error
        if options:
            raise ModelError(
                f"{arch}: this model cannot have such a stride ({first_line(error)}); leave out @ "
                "and the stride"
            ) from error
        raise ModelError(f"timm cannot build {arch}: {first_line(error)}") from error


def check_drop_path(arch: str, name: str, options: dict[str, Any]) -> None:
    """Check that a model has drop path, on the "meta" device.

    Raises:
        ModelError: it has not.
    """
    from timm.layers import DropPath

    try:
        with torch.device("meta"):
            model = create(arch, name, options)
    except ModelError:  # it has no such setting
        model = nn.Identity()
    if not any(isinstance(module, DropPath) for module in model.modules()):
        raise ModelError(f"{arch} has no drop path: leave --drop_path out")


def check_connection(arch: str, config: dict) -> None:
    """Check that weights are in the hub's cache, or the hub can be reached.

    The hub's own download tries for minutes before it gives up.

    Raises:
        DownloadError: neither.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository = config.get("hf_hub_id")
    if not repository:
        return
    try:
        snapshot_download(repository, local_files_only=True)
    except LocalEntryNotFoundError:
        try:
            HfApi().model_info(repository, timeout=TIMEOUT)
        except Exception as error:  # of whatever the hub uses for connections
            source = f"https://huggingface.co/{repository}"
            raise no_weights(arch, f"{source}: {first_line(error)}") from error


def no_weights(arch: str, reason: str) -> DownloadError:
    """The complaint about weights of timm's that cannot be had."""
    return DownloadError(
        f"no weights for {arch} ({reason}); choose the encoder's weights: none (train from "
        "scratch) or a file, such as model.safetensors of the model's page on huggingface.co"
    )


def choose_maps(strides: Sequence[int]) -> list[int]:
    """Which of a model's maps are taken, by their strides, from fine to coarse."""
    useful = [i for i, stride in enumerate(strides) if stride >= FINEST]
    if len({strides[i] for i in useful}) > 1:
        return useful[-NUM_MAPS:]
    num = min(NUM_MAPS, len(useful))
    return [useful[len(useful) * (i + 1) // num - 1] for i in range(num)]


def width(entry: dict, norm: bool) -> int:
    """Channels of a map, by its entry in timm's `feature_info`; a norm may project them."""
    return entry.get("num_chs_norm", entry["num_chs"]) if norm else entry["num_chs"]


def find_blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The parts of a model that are worth computing twice: neither single layers nor all."""
    for child in module.children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)) or hasattr(child, "blocks"):
            yield from find_blocks(child)
        elif any(child.children()):
            yield child


def first_line(error: Exception) -> str:
    """The first line of an error's text, or else its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
