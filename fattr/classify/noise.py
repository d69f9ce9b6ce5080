"""Dropout and stochastic depth as functions of a sample's key, whoever computes the sample.

torch's own layers draw for a batch from a generator, so that the draw depends on how the batch is
shared among workers and on all that was drawn before. Nothing here has a state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

# Steele et al., Fast Splittable Pseudorandom Number Generators (2014): SplitMix64's constants, as
# the signed numbers that torch's integers are.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def _shifted(bits: Tensor, by: int) -> Tensor:
    """A logical shift to the right, which torch lacks."""
    return (bits >> by) & ((1 << (64 - by)) - 1)


def mixed(bits: Tensor) -> Tensor:
    """SplitMix64's output function on int64, which wrap around."""
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    return bits ^ _shifted(bits, 31)


def uniform(keys: Tensor, layer: int, width: int) -> Tensor:
    """Numbers (N, width) in [0, 1), float32, by keys (N,) int64, layer and column alone."""
    rows = mixed(mixed(keys) + torch.tensor(layer + 1) * GOLDEN)
    columns = torch.arange(1, width + 1, device=keys.device) * GOLDEN
    return _shifted(mixed(rows[:, None] + columns), 40).float() / 2**24


class Keys:
    """The keys (N,) int64 of the samples in a network; its noisy layers share one."""

    def __init__(self) -> None:
        self.now = torch.zeros(0, dtype=torch.int64)


class KeyedNoise(nn.Module):
    """Sets a sample's features, or whole sample, to 0 with probability ``p``; scales the rest."""

    def __init__(self, keys: Keys, layer: int, *, p: float, whole: bool) -> None:
        super().__init__()
        self.keys, self.layer, self.p, self.whole = keys, layer, p, whole

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> the same shape; unchanged in evaluation."""
        if not self.training or self.p == 0:
            return x
        shape = (1,) * (x.ndim - 1) if self.whole else tuple(x.shape[1:])
        width = 1 if self.whole else math.prod(x.shape[1:])
        kept = uniform(self.keys.now, self.layer, width) >= self.p
        return x * (kept.view(-1, *shape).to(x.dtype) / (1 - self.p))


def key_noise(network: nn.Module) -> Keys:
    """Replace torch's dropout and torchvision's stochastic depth in a network; their keys.

    Names in its state dict stay: neither the old layers nor the new ones have any.
    """
    keys = Keys()
    found = [
        (parent, name, layer)
        for parent in network.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Dropout | StochasticDepth)
    ]
    for number, (parent, name, layer) in enumerate(found):
        whole = isinstance(layer, StochasticDepth)
        assert not whole or layer.mode == "row", "of a whole batch no sample has its own"
        parent.add_module(name, KeyedNoise(keys, number, p=layer.p, whole=whole))
    return keys
