"""Logits to calibrated probabilities, probabilities to labels. What is fitted: fit_calibration."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.records import FloatArray

AGE_INTERVAL = (0.1, 0.9)  # quantiles between which age_low .. age_high lies


@dataclass(frozen=True, slots=True)
class Curve:
    """A map from log odds to a probability that never falls: straight between knots, else flat.

    Probabilities are above 0 and below 1, so that a log loss is finite and those of several
    classes can be made to sum to 1.
    """

    log_odds: tuple[float, ...]
    probs: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.log_odds) != len(self.probs) or not self.probs:
            sizes = f"{len(self.log_odds)} and {len(self.probs)}"
            raise ValueError(f"a curve needs as many log odds as probs, and one or more: {sizes}")
        if any(low >= high for low, high in itertools.pairwise(self.log_odds)):
            raise ValueError(f"log odds of a curve must rise: {self.log_odds}")
        if any(low > high for low, high in itertools.pairwise(self.probs)):
            raise ValueError(f"probs of a curve must not fall: {self.probs}")
        if not 0 < self.probs[0] <= self.probs[-1] < 1:
            raise ValueError(f"probs of a curve must lie between 0 and 1: {self.probs}")


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become labels; an attribute that is absent takes the default.

    ``temperatures`` divide logits (default 1), then ``biases`` are added, one a logit (default 0).
    Where there are ``curves``, one a logit, they stand in place of both: each maps the log odds of
    its class against all others to a probability, and those of several classes are divided by their
    sum. ``thresholds``: a binary label is true at or above (default 0.5). ``abstain``: the label is
    null where the probability of the most probable class (binary: of true) lies in [low, high).
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    abstain: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    biases: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    curves: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict)


def logit_slices(attributes: Sequence[Attribute]) -> dict[str, slice]:
    """Which columns of the logits belong to which attribute."""
    ends = np.cumsum([a.num_logits for a in attributes]).tolist()
    return {a.name: slice(end - a.num_logits, end) for a, end in zip(attributes, ends, strict=True)}


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-x)) without overflow, elementwise."""
    half: FloatArray = np.tanh(logits / 2)
    return (half + np.float32(1)) / np.float32(2)


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis, without overflow."""
    powers: FloatArray = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def log_odds(logits: FloatArray) -> FloatArray:
    """Of each class against all others, (N, K) of logits (N, K) of K > 1 classes."""
    num_classes = logits.shape[1]
    others = np.where(np.eye(num_classes, dtype=bool), -np.inf, logits[:, np.newaxis])
    top = others.max(axis=2)
    odds: FloatArray = logits - top - np.log(np.exp(others - top[..., np.newaxis]).sum(axis=2))
    return odds


def attribute_probabilities(
    logits: FloatArray, attribute: Attribute, calibration: Calibration
) -> FloatArray:
    """Logits (N, L) of one attribute -> (N,) of true, or (N, K) over its classes."""
    name, binary = attribute.name, attribute.kind is Kind.BINARY
    if name in calibration.curves:
        return _curve_probabilities(logits, binary, calibration.curves[name])
    scaled = logits / np.float32(calibration.temperatures.get(name, 1.0))
    if name in calibration.biases:
        scaled = scaled + np.asarray(calibration.biases[name], np.float32)
    return sigmoid(scaled[:, 0]) if binary else softmax(scaled)


def _curve_probabilities(logits: FloatArray, binary: bool, curves: Sequence[Curve]) -> FloatArray:
    odds = logits if binary else log_odds(logits)
    columns = [
        np.interp(own, curve.log_odds, curve.probs)
        for own, curve in zip(odds.T, curves, strict=True)
    ]
    probs = np.stack(columns, axis=1)
    return np.asarray(probs[:, 0] if binary else probs / probs.sum(1, keepdims=True), np.float32)


def probabilities(
    logits: FloatArray, attributes: Sequence[Attribute], calibration: Calibration
) -> dict[str, FloatArray]:
    """Logits (N, L) -> per attribute (N,) of true, or (N, K) over its classes."""
    slices = logit_slices(attributes)
    return {
        a.name: attribute_probabilities(logits[:, slices[a.name]], a, calibration)
        for a in attributes
    }


def expected_age(probs: FloatArray, attribute: Attribute) -> FloatArray:
    """Mean age (N,) in years of bin probabilities (N, K), each bin at its middle.

    Summed row by row, not as a matrix product, whose last bits depend on how many rows there are:
    a face has the same age in every batch.
    """
    edges = np.asarray(attribute.bin_edges)
    mean: FloatArray = (probs * ((edges[1:] + edges[:-1]) / 2)).sum(axis=1).astype(np.float32)
    return mean


def age_quantile(probs: FloatArray, attribute: Attribute, quantile: float) -> FloatArray:
    """Age (N,) below which ``quantile`` of the probability lies, uniform within each bin."""
    edges = np.asarray(attribute.bin_edges)
    cumulative = np.concatenate([np.zeros((len(probs), 1)), probs.cumsum(axis=1)], axis=1)
    ages = [np.interp(quantile * row[-1], row, edges) for row in cumulative]
    return np.asarray(ages, np.float32)


def certainty(
    probs: FloatArray, attribute: Attribute, threshold: float = 0.5
) -> NDArray[np.float64]:
    """How far from undecided each of N faces is, 0 .. 1: what an abstention band goes by.

    The probability of the most probable class; of a binary attribute the distance to the threshold
    as a share of the way to 0 or to 1, so that faces at either end are equally certain wherever
    the threshold lies. In millionths: faces equally far on both sides are equals.
    """
    values: NDArray[np.float64] = np.asarray(probs, np.float64)
    if attribute.kind is not Kind.BINARY:
        top: NDArray[np.float64] = values.max(axis=1, initial=0)
        return top
    room = np.where(probs >= threshold, 1 - threshold, threshold)
    return np.round(np.abs(values - threshold) / np.maximum(room, 1e-12), 6)


def certainty_limit(certainties: NDArray[np.float64], coverage: float) -> float:
    """The lowest certainty of N > 0 faces that keeps a label if a share ``coverage`` shall.

    Of equally certain faces all keep theirs, so that more may.
    """
    num_dropped = int((1 - coverage) * len(certainties) + 1e-9)
    return float(np.sort(certainties)[num_dropped])


def abstained(
    probs: FloatArray, attribute: Attribute, calibration: Calibration
) -> NDArray[np.bool_]:
    """Which of N faces have a probability too undecided for a label."""
    top = probs if attribute.kind is Kind.BINARY else probs.max(axis=1, initial=0)
    low, high = calibration.abstain.get(attribute.name, (0.0, 0.0))
    inside: NDArray[np.bool_] = (top >= low) & (top < high)
    return inside


def _masked(values: NDArray[Any], hidden: NDArray[np.bool_]) -> list[Any]:
    return [None if gone else v for v, gone in zip(values.tolist(), hidden, strict=True)]


def labels(
    probs: FloatArray,
    attribute: Attribute,
    calibration: Calibration,
    hidden: NDArray[np.bool_],
) -> dict[str, list[Any]]:
    """Label columns of N faces, None where ``hidden`` (N,) or abstained.

    Binary: ``name``, bool. Categorical: ``name``, class. Age: ``name``, ``name_low`` and
    ``name_high``, years: the mean and the central 80 % of the distribution.
    """
    name = attribute.name
    hidden = hidden | abstained(probs, attribute, calibration)
    if attribute.kind is Kind.BINARY:
        return {name: _masked(probs >= calibration.thresholds.get(name, 0.5), hidden)}
    if attribute.kind is Kind.CATEGORICAL:
        classes = np.asarray(attribute.classes, object)
        return {name: _masked(classes[probs.argmax(axis=1)], hidden)}
    return {
        name: _masked(expected_age(probs, attribute), hidden),
        f"{name}_low": _masked(age_quantile(probs, attribute, AGE_INTERVAL[0]), hidden),
        f"{name}_high": _masked(age_quantile(probs, attribute, AGE_INTERVAL[1]), hidden),
    }
