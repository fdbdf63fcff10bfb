"""The encoders' base: blocks in a row, which training may compute twice to save memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .interpolation import Extent

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Block = Callable[[Any], Any]  # between blocks, features are a tensor, or a list of several


class Encoder(nn.Module, ABC):
    """Pictures to maps of features, from fine to coarse.

    Attributes:
        channels: of each map.
        strides: pixels between the features of each map.
        mean: of the pictures that the weights expect, RGB in 0…1.
        std: their standard deviation.
        weights_source: where the initial weights are from: "places365", "imagenet", "none", a file.
        grad_checkpoint: keep only the blocks' inputs for the backward pass, which computes the rest
            again: a fraction of the memory for a third more arithmetic (Chen et al., "Training Deep
            Nets with Sublinear Memory Cost", 2016).
    """

    channels: Sequence[int]
    strides: Sequence[int]
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    weights_source: str = "none"
    grad_checkpoint: bool = False

    @property
    def fc_dim(self) -> int:
        """Number of channels of the last map."""
        return self.channels[-1]

    @property
    def coarsest_stride(self) -> int:
        """Pixels between the features of the coarsest map, also of those that it keeps inside."""
        return max(self.strides)

    def extents(self, images: Tensor) -> list[Extent]:
        """Height and width of pictures … x H x W in features of each map.

        A feature covers as many pixels as the map's stride. Therefore they are fractions where a
        side is no multiple of it, unlike the number of features.
        """
        height, width = images.shape[-2:]
        return [(height / stride, width / stride) for stride in self.strides]

    @abstractmethod
    def stages(self) -> Sequence[Sequence[Block]]:
        """The blocks that a picture passes, in order; those up to each map together."""

    def maps(self, x: Tensor, num: int | None = None) -> list[Tensor]:
        """Maps B x channels[i] x H/strides[i] x W/strides[i] of pictures B x 3 x H x W.

        Args:
            x: the pictures, normalised.
            num: the number of maps, the last ones; None = all.
        """
        stages = self.stages()
        first = 0 if num is None else len(stages) - num
        maps = []
        for i, stage in enumerate(stages):
            for block in stage:
                x = self.compute(block, x)
            if i >= first:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """The last map."""
        return self.maps(x, 1)[-1]

    def compute(self, block: Block, x: Any, module: nn.Module | None = None) -> Any:
        """A block's output; in training with `grad_checkpoint` it is computed twice.

        Args:
            block: a module, or a function.
            x: its input.
            module: has all BatchNorm of the block; by default the block itself, or this encoder if
                it is a function.
        """
        if not (self.grad_checkpoint and torch.is_grad_enabled()):
            return block(x)
        if module is None:
            module = block if isinstance(block, nn.Module) else self
        contexts = partial(checkpoint_contexts, module)
        return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


def checkpoint_contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager, AbstractContextManager]:
    """The contexts of a block's first and second computation."""
    return nullcontext(), keep_statistics(module)


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """A context in which BatchNorm uses its batch's statistics, and the running ones stay."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None  # no batch is counted
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
