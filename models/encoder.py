"""The encoders' base: blocks in a row, which training may compute twice to save memory."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .upsample import Extent


class Encoder(nn.Module, ABC):
    """Pictures to features, block by block.

    Attributes:
        fc_dim: number of channels of the features.
        output_stride: pixels between features, s.
        weights_source: where the initial weights are from: "places365", "imagenet", "none", a file.
        grad_checkpoint: keep only the blocks' inputs for the backward pass, which computes the rest
            again: a fraction of the memory for a third more arithmetic (Chen et al., "Training Deep
            Nets with Sublinear Memory Cost", 2016).
    """

    fc_dim: int
    output_stride: int
    weights_source: str = "none"
    grad_checkpoint: bool = False

    def extent(self, images: Tensor) -> Extent:
        """Height and width of pictures … x H x W in features, each of which covers s pixels.

        It is a fraction where a side is no multiple of s, unlike the number of features.
        """
        height, width = images.shape[-2:]
        return height / self.output_stride, width / self.output_stride

    @abstractmethod
    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks that a picture passes, in order."""

    def forward(self, x: Tensor) -> Tensor:
        """Features B x fc_dim x H/s x W/s of pictures B x 3 x H x W, s = 8 or 16."""
        for block in self.blocks():
            if self.grad_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=self.checkpoint_contexts)
            else:
                x = block(x)
        return x

    def checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """The contexts of a block's first and second computation."""
        return nullcontext(), keep_statistics(self)


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """A context in which BatchNorm uses its batch's statistics, and the running ones stay."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
