"""BatchNorm as part of the convolutions before it, for inference."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from .layers import PooledBatchNorm2d
from .pyramid import PyramidConv3x3
from .vgg import HalvedConv2d
from .winograd import Conv3x3

# Modules of which it is known what they do; subclasses may do more.
CONVOLUTIONS = (nn.Conv2d, Conv3x3, HalvedConv2d, PyramidConv3x3)
NORMS = (nn.BatchNorm2d, PooledBatchNorm2d)


@torch.no_grad()
def fold_batchnorm(network: nn.Module, run: Callable[[], object]) -> None:
    """Make each BatchNorm part of the convolution whose output it was seen to get.

    Args:
        network: in eval mode; changed in place.
        run: computes its output for some input.
    """
    calls: Counter[nn.Module] = Counter()
    made: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}  # by its id: by whom, itself, its version
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def note_output(module: nn.Conv2d, _: object, output: Tensor) -> None:
        calls[module] += 1
        made[id(output)] = module, output, output._version

    def note_input(module: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        calls[module] += 1
        conv, output, version = made.get(id(inputs[0]), (None, None, 0))
        if conv and output is inputs[0] and output._version == version:
            pairs.append((conv, module))

    with ExitStack() as hooks:
        for module in network.modules():
            if type(module) in CONVOLUTIONS:
                hooks.enter_context(module.register_forward_hook(note_output))
            elif type(module) in NORMS:
                hooks.enter_context(module.register_forward_pre_hook(note_input))
        run()

    names: dict[nn.Module, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    followers = Counter(conv for conv, _ in pairs)
    for conv, norm in pairs:
        if calls[conv] == calls[norm] == followers[conv] == 1:
            fused = fuse_conv_bn_eval(conv, norm)
            for name in names[conv]:
                network.set_submodule(name, fused)
            for name in names[norm]:
                network.set_submodule(name, nn.Identity())


def deviation(output: Tensor, exact: Tensor) -> float:
    """The norm of the difference between two outputs, as a fraction of the second one's."""
    return float((output.double() - exact.double()).norm() / exact.double().norm())
