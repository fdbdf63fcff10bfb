"""What head and steps ask of a GPU, found without one: launches, and the kernels' registers.

    python -m benchmarks.kernels

Launches are counted on tensors that hold no values: what torch would launch, views and allocations
excepted, and Triton's kernels. These are compiled for two GPUs, by the assembler that comes with
Triton. Registers that do not fit would be spilled to memory, which is slow.
"""

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from benchmarks.common import Row, Tables, main
from models import ModelBuilder, SegmentationModel, fused, loss, upsample
from models.loss import upsample_cross_entropy
from models.upsample import average_upsampled_probabilities, upsample_argmax

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
GPUS = {"sm_80": 80, "sm_90": 90}  # A100; H100 and H200
KERNELS = [name for name in vars(fused) if name.startswith(("pixel_", "cell_g", "gather_"))]
TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
    torch.bool: "i1",
}
Launch = tuple[str, tuple[Any, ...], dict[str, Any]]  # a kernel's name, arguments and options


class Counter(TorchDispatchMode):
    """Counts what torch would launch, and copies from the CPU, for which that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.copies = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        is_view = any(r.alias_info and not r.alias_info.is_write for r in func._schema.returns)
        on_gpu = any(x.is_meta for x in tree_leaves(result) if isinstance(x, Tensor))
        if on_gpu and not is_view and "empty" not in func.name():
            self.launches += 1
            self.copies += any(
                x.is_cpu and x.ndim for x in tree_leaves(args) if isinstance(x, Tensor)
            )
        return result


class Recorder:
    """Stands for a kernel, and keeps the arguments of its launches."""

    def __init__(self, name: str, launches: list[Launch]):
        self.name, self.launches = name, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *args, **options: self.launches.append((self.name, args, options))


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Within it, the head is for the kernels, whose launches are noted."""
    launches: list[Launch] = []
    with ExitStack() as stack:
        for name in KERNELS:
            stack.enter_context(mock.patch.object(fused, name, Recorder(name, launches)))
        for module in (loss, upsample):
            stack.enter_context(mock.patch.object(module, "gpu_kernels", return_value=fused))
        yield launches


def training(dtype: torch.dtype) -> None:
    """Loss and gradient of 16 pictures of 384 x 384 pixels and 150 classes, from logits at 1/8."""
    logits = torch.empty(16, 150, 48, 48, dtype=dtype, device="meta", requires_grad=True)
    labels = torch.empty(16, 384, 384, dtype=torch.uint8, device="meta")
    upsample_cross_entropy(logits, labels).backward()


def labels_of_one(dtype: torch.dtype) -> None:
    """The labels of one picture of 512 x 683 pixels from one scale."""
    upsample_argmax(torch.empty(1, 150, 64, 86, dtype=dtype, device="meta"), (512, 683))


def labels_of_five(dtype: torch.dtype) -> None:
    """The labels of the same from five scales."""
    sizes = [(38, 50), (47, 63), (57, 75), (66, 88), (75, 100)]
    maps = [torch.empty(1, 150, *size, dtype=dtype, device="meta") for size in sizes]
    average_upsampled_probabilities(maps, (512, 683), [None] * len(maps))


JOBS = {
    "loss and gradient, 16 x 150 x 48 x 48 to 384 x 384": training,
    "labels, 150 x 64 x 86 to 512 x 683": labels_of_one,
    "labels of five scales, to 512 x 683": labels_of_five,
}


def counted(
    run: Callable[[], object], context: AbstractContextManager[list[Launch]]
) -> dict[str, int]:
    """What a job launches and copies at its second call, within a context that notes kernels."""
    with context as launches:
        run()
        launches.clear()
        with Counter() as counter:
            run()
        return {"launches": counter.launches + len(launches), "copies": counter.copies}


def launch_counts() -> list[Row]:
    """How much each of `JOBS` launches and copies at its second call, in bands and fused."""
    rows: list[Row] = []
    for job, run in JOBS.items():
        for head, context in (("bands", nullcontext([])), ("fused", recorded())):
            counts = counted(partial(run, torch.float32), context)
            rows.append({"job": job, "head": head, **counts})
    return rows


def loss_and_gradients(model: SegmentationModel, images: Tensor, labels: Tensor) -> None:
    """The loss of crops, and the gradients of all weights."""
    model(images, labels).backward()


def step_launches() -> list[Row]:
    """What the loss of 16 crops of 384 x 384 pixels and its gradients launch, the second time."""
    rows: list[Row] = []
    for arch, checkpoint in product(("resnet34_dilated8", "resnet50dilated"), (0, 1)):
        with torch.device("meta"):
            encoder = ModelBuilder.build_encoder(arch, weights="none")
            decoder = ModelBuilder.build_decoder("c1_bilinear", encoder.channels)
            model = SegmentationModel(encoder, decoder).train()
            images = torch.empty(16, 3, 384, 384, dtype=torch.uint8)
            labels = torch.empty(16, 384, 384, dtype=torch.uint8)
        encoder.grad_checkpoint = bool(checkpoint)
        counts = counted(partial(loss_and_gradients, model, images, labels), recorded())
        flag = f"`--grad_checkpoint {checkpoint}`"
        rows.append({"encoder, with `c1_bilinear`": arch, "flag": flag, **counts})
    return rows


def compiled() -> list[Row]:
    """Registers, spilled bytes and shared memory of every kernel that `JOBS` launch."""
    rows: list[Row] = []
    for gpu, capability in GPUS.items():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            with recorded() as launches:
                for job in JOBS.values():
                    job(dtype)
            for name, args, options in {launch[0]: launch for launch in launches}.values():
                kernel = getattr(fused, name)
                usage = resources(source(kernel, args), capability, options)
                rows.append({"kernel": name, "logits": TYPES[dtype], "GPU": gpu, **usage})
    return rows


def source(kernel: Any, args: tuple[Any, ...]) -> ASTSource:
    """A kernel for arguments like these."""
    signature, constants = {}, {}
    for param, value in zip(kernel.params, args, strict=True):
        if param.is_constexpr:
            signature[param.name], constants[param.num,] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[param.name] = "*" + TYPES[value.dtype]
        else:
            signature[param.name] = "i32" if abs(value) < 2**31 else "i64"
    return ASTSource(kernel, signature, constexprs=constants)


def resources(kernel: ASTSource, capability: int, options: dict[str, Any]) -> Row:
    """What a kernel takes of a GPU of this compute capability."""
    binary = triton.compile(kernel, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = dict(part.split(":") for part in printed.split() if part.count(":") == 1)
    return {
        "registers": int(usage["REG"]),
        "spilled bytes": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared bytes": int(usage["SHARED"]),
    }


def tables(args: argparse.Namespace) -> Tables:
    """Launches of the head and of steps, and the head's kernels as they are compiled."""
    return {
        "Launches of the head on a GPU": launch_counts(),
        "Launches of a step on a GPU, without the optimiser's": step_launches(),
        "Kernels, compiled": compiled(),
    }


if __name__ == "__main__":
    main(__doc__.splitlines()[0], tables)
