"""Initial weights of encoders: from Places365, ImageNet, a file, or random.

Downloads are kept in `./pretrained`.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from .weights import (
    PRETRAINED,
    SYNC_BN,
    DownloadError,
    ModelError,
    State,
    fetch,
    load_file,
    load_strictly,
    read_state,
    without,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InitialWeights:
    """A published file of an encoder's initial weights.

    Attributes:
        source: its name as a value of `--weights_encoder`.
        arch: the architectures that it is for, a regular expression.
        url: its address.
        left_out: keys of the file that no encoder has, its classifier's; a regular expression.
        rename: from the file's keys, and shapes, to the encoder's.
        fills: how the names of those modules begin that it has weights for.
    """

    source: str
    arch: str
    url: str
    left_out: str = r"fc\."
    rename: Callable[[nn.Module, State], State] = lambda encoder, state: state
    fills: str = ""


def initial_weights(arch: str) -> list[InitialWeights]:
    """The published files for an architecture, best first."""
    return [row for row in INITIAL_WEIGHTS if re.fullmatch(row.arch, arch)]


def initialise_encoder(encoder: nn.Module, arch: str, weights: str | Path) -> str:
    """Give an encoder its initial weights.

    Args:
        encoder: changed in place.
        arch: its name, such as "resnet34_dilated8".
        weights: "places365", "imagenet", "none" or a file: exactly that one. "" is Places365, or
            ImageNet where an architecture has no Places365 weights or their address is dead.

    Returns:
        The source used: "places365", "imagenet", "none" or the file.

    Raises:
        ModelError: the weights cannot be had or do not fit.
    """
    if weights == "none":
        return "none"
    if weights and weights not in {row.source for row in INITIAL_WEIGHTS}:
        load_file(encoder, arch, weights)
        return str(weights)

    sources = ", ".join(dict.fromkeys(row.source for row in initial_weights(arch)))
    rows = [row for row in initial_weights(arch) if weights in ("", row.source)]
    if not rows:
        raise ModelError(f"there are no {weights} weights for {arch}; there are: {sources}")
    failures: list[str] = []
    for row in rows:
        try:
            load_initial_weights(encoder, arch, row)
        except DownloadError as error:
            failures.append(str(error))
            continue
        if failures:
            logger.warning(
                "WARNING: %s. Starting from %s weights of %s INSTEAD%s.",
                "; ".join(failures),
                row.source,
                row.url,
                ", without those of the stem" if row.fills else "",
            )
        return row.source
    raise ModelError(
        f"{'; '.join(failures)}; choose the encoder's weights: none (train from scratch), "
        f"{sources}, or a file"
    )


def has_initial_weights(module: str, arch: str, source: str) -> bool:
    """Whether weights from a source fill a module of an encoder; ImageNet's may leave the stem.

    Args:
        module: its name in the encoder.
        arch: the encoder's name.
        source: as `initialise_encoder` returns it.
    """
    rows = [row for row in initial_weights(arch) if row.source == source]
    return source != "none" and all(module.startswith(row.fills) for row in rows)


def load_initial_weights(encoder: nn.Module, arch: str, row: InitialWeights) -> None:
    """Load published weights; the modules that they do not fill stay as they are.

    Raises:
        DownloadError: the file cannot be had.
        ModelError: it does not fit.
    """
    path = PRETRAINED / row.url.rsplit("/", 1)[-1]
    if not path.exists():
        try:
            fetch(row.url, path)
        except DownloadError as error:
            raise DownloadError(f"{error}; to do without, put it at {path}") from error
    complaint = f"{path} does not fit {arch}"
    state = without(read_state(path), SYNC_BN)
    try:
        state = row.rename(encoder, state)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ModelError(f"{complaint}: {error}") from error
    unfilled = without(encoder.state_dict(), row.fills)
    load_strictly(encoder, unfilled | without(state, row.left_out), complaint)


def convolutional_vgg(encoder: nn.Module, state: State) -> State:
    """torchvision's VGG in the encoder's names: fc6 and fc7 are its last two convolutions."""
    names = [name for name, module in encoder.named_modules() if isinstance(module, nn.Conv2d)]
    indices = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    sources = [f"features.{i}" for i in indices] + ["classifier.0", "classifier.3"]
    shapes = {key: value.shape for key, value in encoder.state_dict().items()}
    return {
        f"{name}.{kind}": state[f"{source}.{kind}"].reshape(shapes[f"{name}.{kind}"])
        for name, source in zip(names, sources, strict=True)
        for kind in ("weight", "bias")
    }


def stem_of_three(_: nn.Module, state: State) -> State:
    """timm's ResNet-S in the encoder's names: its stem, a sequence there, is six modules here."""
    names = {
        "conv1.0": "conv1",
        "conv1.1": "bn1",
        "conv1.3": "conv2",
        "conv1.4": "bn2",
        "conv1.6": "conv3",
        "bn1": "bn3",
    }
    parts = {key: key.rpartition(".") for key in state}
    return {
        f"{names.get(module, module)}.{kind}": state[key]
        for key, (module, _, kind) in parts.items()
    }


def flat_mobilenet(_: nn.Module, state: State) -> State:
    """torchvision's MobileNetV2 in the encoder's names, which do not nest BatchNorm in a block."""
    first = {"0.0": 0, "0.1": 1, "1": 3, "2": 4}
    other = {"0.0": 0, "0.1": 1, "1.0": 3, "1.1": 4, "2": 6, "3": 7}

    def renamed(key: str) -> str:
        found = re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key)
        if not found:
            return key
        block, module, kind = found.groups()
        return f"features.{block}.conv.{(first if block == '1' else other)[module]}.{kind}"

    return {renamed(key): value for key, value in state.items()}


REFERENCE = "http://sceneparsing.csail.mit.edu/model/pretrained_resnet"  # without checksums
TORCHVISION = "https://download.pytorch.org/models"  # its import takes as long as that of torch
GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1"
HEADS = r"(incre_modules|downsamp_modules|final_layer|classifier)\."  # of HRNet as a classifier
LAST = r"(features\.18|classifier)\."  # of MobileNetV2
NOT_LAYERS = r"(?!layer)"  # torchvision's ResNets have one 7x7 convolution for a stem

# For each architecture, best first: the reference's own, then what fits as well.
INITIAL_WEIGHTS = (
    InitialWeights("places365", r"resnet34(_.*)?", f"{REFERENCE}/resnet34-places365.pth"),
    InitialWeights("places365", r"resnet50_.*", f"{REFERENCE}/resnet50-places365.pth"),
    InitialWeights(
        "imagenet",
        r"resnet34(_.*)?",
        f"{TORCHVISION}/resnet34-b627a593.pth",
        NOT_LAYERS,
        fills="layer",
    ),
    InitialWeights(
        "imagenet",
        r"resnet50_.*",
        f"{TORCHVISION}/resnet50-0676ba61.pth",
        NOT_LAYERS,
        fills="layer",
    ),
    InitialWeights(
        "imagenet", r"vgg16_.*", f"{TORCHVISION}/vgg16-397923af.pth", rename=convolutional_vgg
    ),
    InitialWeights(
        "imagenet", r"vgg19_.*", f"{TORCHVISION}/vgg19-dcbb9e9d.pth", rename=convolutional_vgg
    ),
    InitialWeights("imagenet", r"resnet18(dilated)?", f"{REFERENCE}/resnet18-imagenet.pth"),
    InitialWeights("imagenet", r"resnet50(dilated)?", f"{REFERENCE}/resnet50-imagenet.pth"),
    InitialWeights("imagenet", r"resnet101(dilated)?", f"{REFERENCE}/resnet101-imagenet.pth"),
    # The files of timm's resnet50s.gluon_in1k and resnet101s.gluon_in1k.
    InitialWeights(
        "imagenet",
        r"resnet50(dilated)?",
        f"{GLUON}/gluon_resnet50_v1s-1762acc0.pth",
        rename=stem_of_three,
    ),
    InitialWeights(
        "imagenet",
        r"resnet101(dilated)?",
        f"{GLUON}/gluon_resnet101_v1s-60fe0cc1.pth",
        rename=stem_of_three,
    ),
    InitialWeights("imagenet", r"mobilenetv2dilated", f"{REFERENCE}/mobilenet_v2.pth.tar", LAST),
    InitialWeights(
        "imagenet",
        r"mobilenetv2dilated",
        f"{TORCHVISION}/mobilenet_v2-b0353104.pth",
        LAST,
        flat_mobilenet,
    ),
    InitialWeights("imagenet", r"hrnetv2", f"{REFERENCE}/hrnetv2_w48-imagenet.pth", HEADS),
)
