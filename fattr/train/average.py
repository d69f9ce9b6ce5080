"""The moving average of a network over its steps: what is validated, kept and served."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fattr.classify.network import AttributeNet


class Average(nn.Module):
    """A copy of a network that follows it: each step takes ``1 - decay`` of the way.

    Parameters and floating buffers are averaged, counters are the network's own; the first update
    copies all. This is torch's ``AveragedModel``, state dict included, but for listing the tensors
    once instead of at each step, which took longer than averaging them. So neither network may be
    moved to another device any more.
    """

    module: AttributeNet
    n_averaged: Tensor

    def __init__(self, network: AttributeNet, *, decay: float) -> None:
        super().__init__()
        self.module, self._decay = copy.deepcopy(network), decay
        self.register_buffer("n_averaged", torch.tensor(0))
        pairs = list(zip(_tensors(self.module), _tensors(network), strict=True))
        self._floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counters = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the network, which has made a step."""
        own, others = map(list, zip(*self._floats, strict=True))
        torch._foreach_lerp_(own, others, 1 - self._decay if self.n_averaged else 1.0)
        for counter, other in self._counters:
            counter.copy_(other)
        self.n_averaged += 1


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
