"""How well one attribute is predicted, as plain dicts of numbers that JSON can hold.

A metric that is undefined (a division by zero) is None, never 0 or NaN. Balanced accuracy is the
mean recall over the classes that occur, and undefined where fewer than two do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute, Kind

Metrics: TypeAlias = dict[str, Any]

MACRO_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "average_precision",
)


def attribute_metrics(
    attribute: Attribute, targets: ArrayLike, probs: ArrayLike, threshold: float = 0.5
) -> Metrics:
    """Metrics of one attribute over the faces whose target is known.

    ``targets`` is (N,), -1 where unknown. ``probs`` is (N,) for a binary attribute, else (N, K) in
    the order of its classes. ``threshold`` matters to binary attributes only.
    """
    y_true, y_prob = np.asarray(targets), np.asarray(probs)
    num_classes = () if attribute.kind is Kind.BINARY else (attribute.num_values,)
    if y_prob.shape != (wanted := (len(y_true), *num_classes)):
        raise ValueError(f"{attribute.name}: probs must be {wanted}, got {y_prob.shape}")
    known = y_true >= 0
    y_true, y_prob = y_true[known], y_prob[known]
    if not np.isfinite(y_prob).all():
        raise ValueError(f"{attribute.name}: probs must be finite")
    if attribute.kind is Kind.BINARY:
        return binary_metrics(y_true, y_prob, threshold)
    if attribute.kind is Kind.AGE:
        return age_metrics(y_true, y_prob)
    return categorical_metrics(y_true, y_prob, attribute.classes)


def binary_metrics(y_true: ArrayLike, y_prob: ArrayLike, threshold: float) -> Metrics:
    """Metrics of a yes/no attribute; a probability at or above ``threshold`` predicts yes.

    Precision, recall and F1 are those of yes. ``prevalence`` is the share of yes among targets.
    """
    is_true, is_predicted = np.asarray(y_true) == 1, np.asarray(y_prob) >= threshold
    n, num_true, num_predicted = len(is_true), int(is_true.sum()), int(is_predicted.sum())
    hits = int((is_true & is_predicted).sum())
    recall = _ratio(hits, num_true)
    specificity = _ratio(int((~is_true & ~is_predicted).sum()), n - num_true)
    return {
        "n": n,
        "accuracy": _ratio(int((is_true == is_predicted).sum()), n),
        "balanced_accuracy": _balanced([recall, specificity]),
        "precision": _ratio(hits, num_predicted),
        "recall": recall,
        "f1": _ratio(2 * hits, num_true + num_predicted),
        "average_precision": average_precision(is_true, np.asarray(y_prob)),
        "prevalence": _ratio(num_true, n),
        "predicted_prevalence": _ratio(num_predicted, n),
    }


def categorical_metrics(y_true: ArrayLike, probs: ArrayLike, classes: Sequence[str]) -> Metrics:
    """Metrics of an attribute with several classes; the most probable one is predicted.

    ``y_true`` is (N,) class indices, ``probs`` (N, K). Precision, recall, F1 and average precision
    are means over the classes for which they are defined. Rows of ``confusion`` are targets,
    columns predictions.
    """
    labels, y_prob = np.asarray(y_true), np.asarray(probs)
    confusion = _confusion(labels, y_prob, len(classes))
    hits, num_true, num_predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    per_class = {
        name: {
            "n": int(num_true[k]),
            "precision": _ratio(hits[k], num_predicted[k]),
            "recall": _ratio(hits[k], num_true[k]),
            "f1": _ratio(2 * hits[k], num_true[k] + num_predicted[k]),
            "average_precision": average_precision(labels == k, y_prob[:, k]),
        }
        for k, name in enumerate(classes)
    }
    return {
        "n": int(confusion.sum()),
        "accuracy": _ratio(hits.sum(), confusion.sum()),
        "balanced_accuracy": _balanced([one["recall"] for one in per_class.values()]),
        **{
            metric: _mean(one[metric] for one in per_class.values())
            for metric in ("precision", "recall", "f1", "average_precision")
        },
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }


def average_precision(is_true: NDArray[np.bool_], y_prob: NDArray[Any]) -> float | None:
    """Precision averaged over the recall gained at each distinct probability; None without a true.

    The sum that scikit-learn's ``average_precision_score`` defines, without interpolation.
    """
    if not is_true.any():
        return None
    order = np.argsort(-y_prob, kind="stable")
    lasts = np.flatnonzero(np.diff(y_prob[order], append=-np.inf))  # of each group of equals
    hits = is_true[order].cumsum()[lasts]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float((gained * hits / (lasts + 1)).sum())


def age_metrics(y_true_bin: ArrayLike, probs: ArrayLike) -> Metrics:
    """Metrics of an age; the most probable bin is predicted.

    ``y_true_bin`` is (N,) bin indices, ``probs`` (N, K). ``one_off_accuracy`` also counts a
    neighbouring bin as right.
    """
    y_true = np.asarray(y_true_bin)
    bins_off = np.abs(_most_probable(np.asarray(probs)) - y_true)
    return {
        "n": len(y_true),
        "accuracy": _ratio(int((bins_off == 0).sum()), len(y_true)),
        "one_off_accuracy": _ratio(int((bins_off <= 1).sum()), len(y_true)),
    }


def macro(metrics_by_name: Mapping[str, Metrics], attributes: Iterable[Attribute]) -> Metrics:
    """The plain mean of each metric over the binary and categorical ``attributes``; no ages.

    An attribute whose metric is undefined is left out of that metric's mean. ``num_attributes``
    says, for each metric, over how many attributes the mean is.
    """
    counted = [metrics_by_name[a.name] for a in attributes if a.kind is not Kind.AGE]
    defined = {
        metric: [one[metric] for one in counted if one[metric] is not None]
        for metric in MACRO_METRICS
    }
    means = {metric: _mean(values) for metric, values in defined.items()}
    return {**means, "num_attributes": {metric: len(values) for metric, values in defined.items()}}


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return _ratio(sum(defined), len(defined))


def _balanced(recalls: Sequence[float | None]) -> float | None:
    num_classes = sum(recall is not None for recall in recalls)
    return _mean(recalls) if num_classes >= 2 else None


def _most_probable(probs: NDArray[Any]) -> NDArray[np.int64]:
    indices: NDArray[np.int64] = probs.argmax(1)
    return indices


def _confusion(y_true: NDArray[Any], probs: NDArray[Any], num_classes: int) -> NDArray[np.int64]:
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (y_true, _most_probable(probs)), 1)
    return confusion
