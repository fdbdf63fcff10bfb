"""Files of weights: downloaded whole or not at all, read, and loaded where they fit exactly.

No file can unpickle more than tensors.
"""

import hashlib
import logging
import os
import pickle
import re
import secrets
import socket
import warnings
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import download_url_to_file

PRETRAINED = Path("pretrained")  # where downloads go
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


def without(state: State, keys: str) -> State:
    """A state dict without the keys that begin as a regular expression says."""
    return {key: value for key, value in state.items() if not re.match(keys, key)}


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
