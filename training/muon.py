"""Muon, an optimiser for the weights of convolutions and linear layers."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

# Of the quintic Newton-Schulz iteration, a row for each of its steps
# (https://leloykun.github.io/ponder/muon-opt-coeffs).
COEFFICIENTS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
# The root mean square of AdamW's usual updates, in learning rates (https://arxiv.org/abs/2502.16982).
RMS = 0.2
EPS = 1e-7  # gradients with a smaller norm make smaller updates
BLOCK = 128


class Muon(AdamW):
    """Muon (https://kellerjordan.github.io/posts/muon) for matrices, and AdamW for the rest.

    A few directions rule the gradient of a matrix. Muon makes the singular values of its momentum
    nearly equal, so that a step moves along all directions. Steps are as large as AdamW's, whose
    learning rates and weight decays suit. The first of the betas is Nesterov's momentum, too.

    `torch.optim.Muon` takes no convolutions, and computes in bfloat16, which is slow on many CPUs.
    """

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the parameters, and drop the gradients of matrices: AdamW has the rest."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and is_matrix(parameter):
                    self.update(parameter, parameter.grad, group)
                    parameter.grad = None
        super().step()

    def update(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update a matrix; like fused AdamW, leave it as it is where `found_inf` is 1."""
        lr, momentum, state = group["lr"], group["betas"][0], self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
            state["step"] = torch.zeros(())  # which AdamW looks for when it loads a state
        average = state["momentum_buffer"]
        skipped = getattr(self, "found_inf", matrix.new_zeros(()))
        gradient = torch.where(skipped > 0, average, gradient)  # which changes no average
        average.lerp_(gradient, 1 - momentum)
        # Channels go last, as they do in memory: nothing is copied.
        update = gradient.lerp(average, momentum).movedim(1, -1)
        flat = orthogonalize(update.flatten(1))
        update = flat.view(update.shape).movedim(-1, 1)
        lr = lr * (1 - skipped)
        matrix.mul_(1 - lr * group["weight_decay"])
        matrix.addcmul_(update, lr * RMS * max(flat.shape) ** 0.5, value=-1)


def is_matrix(parameter: Tensor) -> bool:
    """Whether a parameter maps channels to channels; a depthwise convolution keeps them apart."""
    return parameter.ndim in (2, 4) and min(parameter.shape[:2]) > 1


def orthogonalize(matrix: Tensor) -> Tensor:
    """A matrix with the same singular vectors, and singular values of nearly 1.

    The shorter side is cut into equal blocks of at most `BLOCK`, if it can be, and each is a matrix
    of its own. The iteration runs on their Gram matrices. Both are less work; the latter is not for
    half precision (https://dao-lab.ai/blog/2026/gram-newton-schulz).

    Args:
        matrix: M x N. Singular values below a hundredth of a block's norm end below 1, and those of
            0 at 0.
    """
    rows, columns = matrix.shape
    if rows > columns:
        return orthogonalize(matrix.T).T
    blocks = -(-rows // BLOCK)
    blocks = 1 if rows % blocks else blocks
    matrix = matrix.reshape(blocks, -1, columns)
    gram = matrix @ matrix.mT
    norm = gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None].sqrt().clamp_min(EPS)
    gram = gram / norm**2
    factor = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) / norm
    for a, b, c in COEFFICIENTS:
        step = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        step.diagonal(dim1=1, dim2=2).add_(a)
        factor = step @ factor
        gram = step @ gram @ step
    return (factor @ matrix).reshape(rows, columns)
