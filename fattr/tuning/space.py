"""Which settings a search tries: ranges by name, and the settings of each trial."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = bool | int | float | str

DIGITS = 3  # of a drawn number: as many as tell in training, and few enough to type


@dataclass(frozen=True, slots=True)
class LogUniform:
    """A number whose logarithm is spread evenly; 0 < low < high."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """The value that far up, share in [0, 1)."""
        return _rounded(self.low * (self.high / self.low) ** share, self.low, self.high)


@dataclass(frozen=True, slots=True)
class Uniform:
    """A number spread evenly; low < high."""

    low: float
    high: float

    def at(self, share: float) -> float:
        """See ``LogUniform``."""
        return _rounded(self.low + (self.high - self.low) * share, self.low, self.high)


@dataclass(frozen=True, slots=True)
class IntRange:
    """A whole number, both ends included; low < high."""

    low: int
    high: int

    def at(self, share: float) -> int:
        """See ``LogUniform``."""
        return self.low + math.floor((self.high - self.low + 1) * share)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values, each as often."""

    values: tuple[Value, ...]

    def at(self, share: float) -> Value:
        """See ``LogUniform``."""
        return self.values[math.floor(len(self.values) * share)]


Range: TypeAlias = LogUniform | Uniform | IntRange | Choice
Space: TypeAlias = Mapping[str, Range]  # setting -> what it may be


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def draw(space: Space, seed: int, number: int) -> dict[str, Value]:
    """The settings of one trial, which depend on space, seed and the trial's number alone.

    Any first few trials are spread evenly over the space (Roberts' R sequence from a random start):
    random draws of eight learning rates often leave a whole decade untried.
    """
    shares = _shares(sorted(space), seed, number)
    return {name: space[name].at(share) for name, share in shares}


def _shares(names: Sequence[str], seed: int, number: int) -> Iterator[tuple[str, float]]:
    root = 2.0  # of x ** (n + 1) == x + 1: the golden ratio, and what takes its place beyond one
    for _ in range(64):
        root = (1 + root) ** (1 / (len(names) + 1))
    for power, name in enumerate(names, start=1):
        start = random.Random(f"{seed} {name}").random()
        yield name, (start + number * root**-power) % 1


def to_json(space: Space) -> dict[str, Any]:
    """The space as a space file would say it."""
    return {name: _spelled(range_) for name, range_ in sorted(space.items())}


def _spelled(range_: Range) -> dict[str, list[Value]]:
    match range_:
        case LogUniform(low, high):
            return {"loguniform": [low, high]}
        case Uniform(low, high):
            return {"uniform": [low, high]}
        case IntRange(low, high):
            return {"int": [low, high]}
        case Choice(values):
            return {"choice": list(values)}
