"""An exponential moving average of a network's weights, which often scores better than they do."""

import copy

import torch

from models import SegmentationModel


class Average:
    """The moving average of a network, BatchNorm's statistics included.

    At first, the average forgets faster than `decay` says, as the weights it began with are random:
    by (1 + n) / (10 + n) after n steps.

    Args:
        network: on its device, with its initial weights.
        decay: the share of the average that stays in a step.

    Attributes:
        network: the averaged network, in eval mode.
        steps: how many have been averaged.
    """

    def __init__(self, network: SegmentationModel, decay: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, network: SegmentationModel) -> None:
        """Take a step's weights into the average."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        own, new = self.network.state_dict(), network.state_dict()
        floating = [name for name, value in own.items() if value.is_floating_point()]
        averaged, weights = ([state[name] for name in floating] for state in (own, new))
        torch._foreach_lerp_(averaged, weights, 1 - decay)
        for name in own.keys() - floating:  # BatchNorm's counts
            own[name].copy_(new[name])
