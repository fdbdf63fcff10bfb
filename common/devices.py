"""Devices to compute on, and the precision that suits them."""

import logging
import math
import sys
from typing import Any

import torch

from utils import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


def select_device(name: str) -> torch.device:
    """The device of a name that torch knows; "auto" = the first GPU if there is one, else the CPU.

    A GPU becomes the current one: what names no number is on it, too.

    Raises:
        UserError: torch knows no such device, or this machine has none.
    """
    if name == "auto" and torch.cuda.is_available():
        name = "cuda"
    elif name == "auto" and torch.backends.mps.is_available():
        logger.info("Running on Apple's GPU; --device cpu does without.")
        name = "mps"
    elif name == "auto":
        logger.info("No GPU found: running on the CPU.")
        name = "cpu"
    try:
        probe = torch.zeros((), device=name)
        probe.item()  # the device "meta" holds no values
        if probe.device.type == "cuda":
            torch.cuda.set_device(probe.device)
        return probe.device
    # torch raises the latter two where it was built without the device.
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"--device {name}: not on this machine; use auto or cpu") from error


def select_amp(name: str, device: torch.device) -> torch.dtype | None:
    """The half-precision type to compute in; None = full precision.

    "auto" is bfloat16 where the hardware computes with it natively, float16 on older GPUs (training
    scales the loss then), and full precision elsewhere.
    """
    if name != "auto":
        return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu":
        # Older releases of torch cannot tell what a CPU is capable of.
        capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
            return torch.bfloat16
    return None


def leaves_cpu_free(device: torch.device) -> bool:
    """Whether the CPU has nothing to do while this device computes."""
    return device.type != "cpu"


def describe_device(device: torch.device) -> str:
    """The device in words: a GPU's name, or a CPU's threads and kernels."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    kernels = f", {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else ""
    return f"{device.type.upper()}, {torch.get_num_threads()} threads{kernels}"


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has had, in GB: on its GPU, or in all without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if resource is None:
        return math.nan
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
