"""What the encoders share: their blocks in a row, whose insides training may compute twice."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Encoder(nn.Module, ABC):
    """Pictures to features, block by block.

    Attributes:
        fc_dim: number of channels of the features.
        output_stride: pixels between features, s.
        grad_checkpoint: keep only what goes from block to block for the backward pass, which
            computes the rest again: a fraction of the memory for a third more arithmetic (Chen et
            al., "Training Deep Nets with Sublinear Memory Cost", 2016).
    """

    fc_dim: int
    output_stride: int
    grad_checkpoint = False

    @abstractmethod
    def blocks(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """What a picture goes through, in order."""

    def forward(self, x: Tensor) -> Tensor:
        """Features B x fc_dim x H/s x W/s of pictures B x 3 x H x W, s = 8 or 16."""
        for block in self.blocks():
            if self.grad_checkpoint and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=self.checkpoint_contexts)
            else:
                x = block(x)
        return x

    def checkpoint_contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Those of a block's first computation and of its second one."""
        return nullcontext(), keep_statistics(self)


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """BatchNorm goes by the statistics of its batch, but its running ones stay as they are."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
