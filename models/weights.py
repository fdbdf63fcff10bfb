"""Initial weights of networks: from Places365, ImageNet, a file, or random.

Downloads are kept in `./pretrained`, whole or not at all. No file can unpickle more than tensors.
"""

import logging
import os
import pickle
import socket
import warnings
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file
from torchvision.models import ResNet34_Weights, ResNet50_Weights, VGG16_Weights, VGG19_Weights

PRETRAINED = Path("pretrained")
TIMEOUT = 20  # seconds without an answer or a byte
PLACES365 = "http://sceneparsing.csail.mit.edu/model/pretrained_resnet"  # no checksum is published
URLS = {
    "places365": {
        "resnet34": f"{PLACES365}/resnet34-places365.pth",
        "resnet50": f"{PLACES365}/resnet50-places365.pth",
    },
    "imagenet": {
        "resnet34": ResNet34_Weights.IMAGENET1K_V1.url,
        "resnet50": ResNet50_Weights.IMAGENET1K_V1.url,
        "vgg16": VGG16_Weights.IMAGENET1K_V1.url,
        "vgg19": VGG19_Weights.IMAGENET1K_V1.url,
    },
}

logger = logging.getLogger(__name__)


class ModelError(ValueError):
    """A network that cannot be built as it was asked for; the message is one line for the user."""


class DownloadError(ModelError):
    """An address that gives no weights."""


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
    net = arch.split("_")[0]
    if weights == "none":
        return "none"
    if weights and weights not in URLS:
        load_file(encoder, arch, weights)
        return str(weights)

    failures = []
    for source in [str(weights)] if weights else [source for source in URLS if net in URLS[source]]:
        try:
            load_pretrained(encoder, net, source)
        except DownloadError as error:
            failures.append(str(error))
            continue
        if failures:
            logger.warning(
                "WARNING: %s. Starting from %s weights INSTEAD, without those of the stem.",
                *failures,
                source,
            )
        return source
    raise ModelError(
        f"{'; '.join(failures)}; choose the encoder's weights: none (train from scratch), "
        f"{', '.join(source for source in URLS if net in URLS[source])}, or a file"
    )


def has_initial_weights(module: str, arch: str, source: str) -> bool:
    """Whether weights from a source fill a module of an encoder; ImageNet's leave a ResNet's stem.

    Args:
        module: its name in the encoder.
        arch: the encoder's name.
        source: as `initialise_encoder` returns it.
    """
    if source == "imagenet" and arch.startswith("resnet"):
        return module.startswith("layer")
    return source != "none"


def load_pretrained(encoder: nn.Module, net: str, source: str) -> None:
    """Load published weights; of ImageNet's ResNets only `layer1…layer4`: their stem differs."""
    if net not in URLS[source]:
        others = ", ".join(other for other in URLS if net in URLS[other])
        raise ModelError(f"there are no {source} weights for {net}; there are: {others}")
    url = URLS[source][net]
    path = PRETRAINED / url.rsplit("/", 1)[-1]
    if not path.exists():
        fetch(url, path)
    state = read_state(path)
    if net.startswith("vgg"):
        try:
            state = convolutional_vgg(encoder, state)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ModelError(f"{path} does not fit {net}: {error}") from error
    elif source == "imagenet":
        own = encoder.state_dict()
        filled = {key for key in {*own, *state} if has_initial_weights(key, net, source)}
        stem = {key: value for key, value in own.items() if key not in filled}
        state = stem | {key: value for key, value in state.items() if key in filled}
    else:
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    load_strictly(encoder, state, f"{path} does not fit {net}")


def convolutional_vgg(encoder: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
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


def fetch(url: str, path: Path) -> None:
    """Download a weights file; `path` comes into being only when it is whole and readable.

    Raises:
        DownloadError: the address does not answer, or with something else than weights.
    """
    partial = path.with_name(path.name + ".download")
    # torchvision ends its file names in the first digits of the SHA-256.
    digits = path.stem.rsplit("-", 1)[-1] if "download.pytorch.org" in url else None
    logger.info("Downloading %s to %s", url, path)
    path.parent.mkdir(parents=True, exist_ok=True)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch.hub offers no timeout of its own
    try:
        download_url_to_file(url, str(partial), hash_prefix=digits)
        read_state(partial)
        os.replace(partial, path)
    except (OSError, HTTPException, RuntimeError, ModelError) as error:
        reason = str(error).splitlines()[0]
        raise DownloadError(
            f"no weights from {url} ({reason}; to do without, put it at {path})"
        ) from error
    finally:
        socket.setdefaulttimeout(timeout)
        partial.unlink(missing_ok=True)
        with suppress(OSError):  # nothing came, and nothing had come before
            path.parent.rmdir()


def load_file(module: nn.Module, arch: str, path: str | Path) -> None:
    """Load a state dict of this very architecture from a file.

    Raises:
        ModelError: the file cannot be read, or is of another architecture or number of classes.
    """
    load_strictly(module, read_state(path), f"{path} does not fit {arch}")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU.

    Raises:
        ModelError: there is no such file, or it holds anything but tensors by name.
    """
    state = read_tensors(path)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} is not a state dict: it holds other things than tensors by name")
    return state


def read_tensors(path: str | Path) -> object:
    """The tensors and plain values in a file, on the CPU; nothing in it is run.

    Raises:
        ModelError: there is no such file, or it is damaged, foreign, or holds other things.
    """
    if not os.path.isfile(path):
        raise ModelError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what makes a file foreign; an error tells it
            if str(path).endswith(".safetensors"):
                return load_safetensors(path)
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


def load_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors in a file of the format that timm's files have."""
    try:
        from safetensors.torch import load_file as load
    except ImportError as error:
        raise ModelError(f"{path} needs safetensors: pip install safetensors") from error
    return load(path)


def load_strictly(module: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """Load a state dict that fits exactly, or raise `complaint` with the first difference.

    BatchNorm's counters of batches may be absent: PyTorch did not have them before 0.4.1.
    """
    own = module.state_dict()
    counters = {key: own[key] for key in own if key.endswith("num_batches_tracked")}
    state = {**counters, **state}
    for key in [*own, *state]:
        shapes = [str(tuple(d[key].shape)) if key in d else "absent" for d in (state, own)]
        if shapes[0] != shapes[1]:
            raise ModelError(f"{complaint}: {key} is {shapes[0]} there, {shapes[1]} in the network")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:  # sparse, quantised, or without values
        raise ModelError(f"{complaint}: its tensors are of another kind") from error
