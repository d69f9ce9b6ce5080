"""Logits to calibrated probabilities, probabilities to labels; how both are chosen on `valid`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.records import FloatArray

TEMPERATURES = np.geomspace(0.25, 4.0, 81)
AGE_INTERVAL = (0.1, 0.9)  # quantiles between which age_low .. age_high lies


@dataclass(frozen=True, slots=True)
class Calibration:
    """How logits become labels; an attribute that is absent takes the default.

    ``temperatures`` divide logits (default 1). ``thresholds``: a binary label is true at or above
    (default 0.5). ``abstain``: the label is null where the probability of the most probable class
    (binary: of true) lies in [low, high).
    """

    temperatures: Mapping[str, float] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    abstain: Mapping[str, tuple[float, float]] = field(default_factory=dict)


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


def probabilities(
    logits: FloatArray, attributes: Sequence[Attribute], calibration: Calibration
) -> dict[str, FloatArray]:
    """Logits (N, L) -> per attribute (N,) of true, or (N, K) over its classes."""
    probs = {}
    for attribute, columns in zip(attributes, logit_slices(attributes).values(), strict=True):
        scaled = logits[:, columns] / np.float32(calibration.temperatures.get(attribute.name, 1.0))
        binary = attribute.kind is Kind.BINARY
        probs[attribute.name] = sigmoid(scaled[:, 0]) if binary else softmax(scaled)
    return probs


def expected_age(probs: FloatArray, attribute: Attribute) -> FloatArray:
    """Mean age (N,) in years of bin probabilities (N, K), each bin at its middle."""
    edges = np.asarray(attribute.bin_edges, np.float32)
    mean: FloatArray = probs @ ((edges[1:] + edges[:-1]) / np.float32(2))
    return mean


def age_quantile(probs: FloatArray, attribute: Attribute, quantile: float) -> FloatArray:
    """Age (N,) below which ``quantile`` of the probability lies, uniform within each bin."""
    edges = np.asarray(attribute.bin_edges)
    cumulative = np.concatenate([np.zeros((len(probs), 1)), probs.cumsum(axis=1)], axis=1)
    ages = [np.interp(quantile * row[-1], row, edges) for row in cumulative]
    return np.asarray(ages, np.float32)


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


def _negative_log_likelihood(
    logits: FloatArray, targets: NDArray[np.integer], attribute: Attribute, temperature: float
) -> float:
    scaled = logits / np.float32(temperature)
    if attribute.kind is Kind.BINARY:
        signs = np.where(targets == 1, 1.0, -1.0)
        return float(np.logaddexp(0, -signs * scaled[:, 0]).mean())
    chosen = softmax(scaled)[np.arange(len(targets)), targets]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def _best_threshold(probs: FloatArray, targets: NDArray[np.integer]) -> float:
    """The threshold with most correct labels; of equals the one nearest 0.5."""
    order = np.argsort(probs, kind="stable")
    positives = np.concatenate([[0], np.cumsum(targets[order])])
    negatives = np.arange(len(probs) + 1) - positives
    correct = negatives + (positives[-1] - positives)  # cut before item i: those from i on are true
    padded = np.concatenate([[0.0], probs[order].astype(np.float64), [1.0]])
    cuts = (padded[1:] + padded[:-1]) / 2
    distinct = padded[1:] > padded[:-1]
    best = correct == correct[distinct].max()
    options = cuts[best & distinct]
    return float(options[np.argmin(abs(options - 0.5))])


def fit(
    logits: FloatArray, targets: NDArray[np.integer], attributes: Sequence[Attribute]
) -> Calibration:
    """Temperatures of least log loss and thresholds of best accuracy, on labelled `valid` data.

    ``logits`` (N, L); ``targets`` (N, A), -1 where unknown. An attribute without labels keeps the
    defaults.
    """
    temperatures, thresholds = {}, {}
    slices = logit_slices(attributes)
    for index, attribute in enumerate(attributes):
        known = targets[:, index] >= 0
        own, truth = logits[known][:, slices[attribute.name]], targets[known, index]
        if not len(truth):
            continue
        losses = [_negative_log_likelihood(own, truth, attribute, t) for t in TEMPERATURES]
        best = float(TEMPERATURES[int(np.argmin(losses))])
        temperatures[attribute.name] = best
        if attribute.kind is Kind.BINARY:
            probs = sigmoid(own[:, 0] / np.float32(best))
            thresholds[attribute.name] = _best_threshold(probs, truth)
    return Calibration(temperatures, thresholds)
