"""Initial weights of networks: from Places365, ImageNet, a file, or random.

Downloads are kept in `./pretrained`, whole or not at all. No file can unpickle more than tensors.
"""

import hashlib
import logging
import os
import pickle
import re
import secrets
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file
from torchvision.models import (
    MobileNet_V2_Weights,
    ResNet34_Weights,
    ResNet50_Weights,
    VGG16_Weights,
    VGG19_Weights,
)

PRETRAINED = Path("pretrained")
TIMEOUT = 20  # seconds without an answer or a byte
SAFETENSORS = ".safetensors"  # the ending of files in that format
WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name
# SyncBN's own buffers in files of the later reference; nothing reads them.
SYNC_BN = r".*\._(tmp_running_mean|tmp_running_var|running_iter)$"
OF_2017 = re.compile("_dilated|_bilinear")  # in the names of the first reference's architectures
BGR = (
    "networks published as baseline-* want BGR pictures of 0…255 minus "
    "(102.9801, 115.9465, 122.7717), and would label RGB ones wrongly"
)

logger = logging.getLogger(__name__)


class ModelError(ValueError):
    """A network that cannot be built as it was asked for; the message is one line for the user."""


class DownloadError(ModelError):
    """An address that gives no weights."""


State = dict[str, Tensor]


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a file's content."""

    size: int  # in bytes
    sha384: str

    def check(self, path: Path) -> None:
        """Check a file.

        Raises:
            ModelError: it has another content.
        """
        size = path.stat().st_size
        if size != self.size:
            raise ModelError(f"{path} has {size:,} bytes, and should have {self.size:,}")
        digest = hashlib.sha384()
        with path.open("rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
        if digest.hexdigest() != self.sha384:
            raise ModelError(
                f"{path} has another SHA-384 than it should have: {digest.hexdigest()}"
            )


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


def without(state: State, keys: str) -> State:
    """A state dict without the keys that begin as a regular expression says."""
    return {key: value for key, value in state.items() if not re.match(keys, key)}


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
GLUON = "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1"
HEADS = r"(incre_modules|downsamp_modules|final_layer|classifier)\."  # of HRNet as a classifier
LAST = r"(features\.18|classifier)\."  # of MobileNetV2
NOT_LAYERS = r"(?!layer)"  # torchvision's ResNets have one 7x7 convolution for a stem

# For each architecture, best first: the reference's own, then what fits as well.
INITIAL_WEIGHTS = (
    InitialWeights("places365", r"resnet34_.*", f"{REFERENCE}/resnet34-places365.pth"),
    InitialWeights("places365", r"resnet50_.*", f"{REFERENCE}/resnet50-places365.pth"),
    InitialWeights(
        "imagenet", r"resnet34_.*", ResNet34_Weights.IMAGENET1K_V1.url, NOT_LAYERS, fills="layer"
    ),
    InitialWeights(
        "imagenet", r"resnet50_.*", ResNet50_Weights.IMAGENET1K_V1.url, NOT_LAYERS, fills="layer"
    ),
    InitialWeights(
        "imagenet", r"vgg16_.*", VGG16_Weights.IMAGENET1K_V1.url, rename=convolutional_vgg
    ),
    InitialWeights(
        "imagenet", r"vgg19_.*", VGG19_Weights.IMAGENET1K_V1.url, rename=convolutional_vgg
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
        MobileNet_V2_Weights.IMAGENET1K_V1.url,
        LAST,
        flat_mobilenet,
    ),
    InitialWeights("imagenet", r"hrnetv2", f"{REFERENCE}/hrnetv2_w48-imagenet.pth", HEADS),
)


def fetch(url: str, path: Path, fingerprint: Fingerprint | None = None) -> None:
    """Download a weights file; `path` comes into being only when it is whole and readable.

    Args:
        url: its address.
        path: where it goes; several processes may fetch it at once.
        fingerprint: what is known of its content.

    Raises:
        DownloadError: the address does not answer, or with something else than these weights.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.download")
    # torchvision's and timm's file names end in the first digits of the SHA-256.
    digits = re.search(r"-([0-9a-f]{8})$", path.stem)
    logger.info("Downloading %s to %s", url, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub offers no timeout of its own
    try:
        download_url_to_file(url, str(partial), hash_prefix=digits and digits[1])
        if fingerprint:
            fingerprint.check(partial)
        read_state(partial)
        os.replace(partial, path)
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        reason = (str(error) or repr(error)).splitlines()[0].replace(str(partial), "it")
        raise DownloadError(f"no weights from {url} ({reason})") from error
    finally:
        socket.setdefaulttimeout(timeout)
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # nothing came, and nothing had come before
            path.parent.rmdir()


def load_file(module: nn.Module, arch: str, path: str | Path) -> None:
    """Load a state dict of this very architecture from a file.

    Raises:
        ModelError: the file cannot be read, is of another architecture or number of classes, or
            wants other colours than the pictures have.
    """
    refuse_bgr(Path(path), arch)
    load_strictly(module, read_state(path), f"{path} does not fit {arch}")


def refuse_bgr(path: Path, arch: str) -> None:
    """Refuse what the reference published as baseline-* in 2018.

    Its networks of 2017 have that name, too, and so have runs of these scripts. Both want RGB.

    Raises:
        ModelError: the file may be of 2018.
    """
    is_baseline = any(part.startswith("baseline-") for part in path.parts)
    # Files of a run that is being saved lie one folder deeper.
    is_run = any((folder / "config.json").exists() for folder in list(path.parents)[:2])
    if is_baseline and not OF_2017.search(arch) and not is_run:
        raise ModelError(f"{path}: {BGR}; if it is none of these, rename its folder")


def read_state(path: str | Path) -> State:
    """The state dict in a file, on the CPU, under the names that the network itself has.

    It may lie in a checkpoint, beside other things.

    Raises:
        ModelError: there is no such file, or it does not hold a single set of tensors by name.
    """
    content = read_tensors(path)
    if isinstance(content, dict) and not is_state(content):
        found = [key for key, value in content.items() if is_state(value)]
        if len(found) > 1:
            raise ModelError(
                f"{path} holds several state dicts ({', '.join(map(str, found))}); save the one "
                "that is meant to a file of its own"
            )
        if found:
            logger.info("%s: taking its %r", path, found[0])
            content = content[found[0]]
    if not is_state(content):
        raise ModelError(f"{path} is not a state dict: it holds other things than tensors by name")
    state: State = content  # type: ignore[assignment]
    while prefix := next((p for p in WRAPPERS if all(key.startswith(p) for key in state)), None):
        logger.info("%s: leaving out the %r before each name", path, prefix)
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def is_state(content: object) -> bool:
    """Whether something is a state dict: tensors by name, one or more."""
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items())
    )


def read_tensors(path: str | Path) -> object:
    """The tensors and plain values in a file, on the CPU; nothing in it is run.

    Raises:
        ModelError: there is no such file, or it is damaged, foreign, or holds other things.
    """
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file")
    try:
        if str(path).endswith(SAFETENSORS):
            return read_safetensors(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what makes a file foreign; an error tells it
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} is not a whole PyTorch weights file: it is damaged, or asks for code to be "
            "run, which was not"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # torch.load has no class of its own for a foreign file
        reason = type(error).__name__
        raise ModelError(f"{path} is not a whole PyTorch weights file ({reason})") from error


def read_safetensors(path: str | Path) -> State:
    """The tensors in a file of that format.

    Raises:
        ModelError: its package is not installed.
    """
    try:
        from safetensors.torch import load_file as load
    except ImportError as error:
        raise ModelError(f"{path} needs a package: pip install safetensors") from error
    return load(path)


def load_strictly(module: nn.Module, state: State, complaint: str) -> None:
    """Load a state dict that fits exactly, or raise `complaint` with the first difference.

    BatchNorm's counters of batches may be absent: PyTorch did not have them before 0.4.1.
    """
    own = module.state_dict()
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for key in [*own, *state]:
        shapes = [str(tuple(d[key].shape)) if key in d else "absent" for d in (state, own)]
        if shapes[0] != shapes[1]:
            difference = f"{key} is {shapes[0]} there, {shapes[1]} in the network"
            raise ModelError(f"{complaint}: {difference}{class_hint(state, own)}")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # sparse, quantised, or without values
        raise ModelError(f"{complaint}: its tensors are of another kind") from error


def class_hint(state: State, own: State) -> str:
    """What to add to a complaint where nothing but the number of classes differs, or nothing."""
    if state.keys() != own.keys():
        return ""
    pairs = [(state[key].shape, own[key].shape) for key in own]
    differing = [(theirs, ours) for theirs, ours in pairs if theirs != ours]
    classes = {theirs[0] for theirs, _ in differing if theirs}
    if len(classes) != 1 or any(theirs[1:] != ours[1:] for theirs, ours in differing):
        return ""
    (n,) = classes
    return f"; the file has {n} classes: give --num_class {n}, or another file"
