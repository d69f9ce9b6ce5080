"""How well one attribute is predicted, as plain dicts of numbers that JSON can hold.

A metric that is undefined (a division by zero) is None, never 0 or NaN. Balanced accuracy is the
mean recall over the classes that occur, and undefined where fewer than two do. Intervals are of
95 %: Wilson's for plain shares, else the percentile bootstrap's over faces (see ``intervals``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute, Kind
from fattr.classify.calibration import expected_age
from fattr.metrics.intervals import (
    SEED,
    Counts,
    Figures,
    drawn_counts,
    drawn_sums,
    percentile_interval,
    wilson_interval,
)
from fattr.metrics.ranking import (
    Levels,
    divide,
    drawn_class_means,
    drawn_ranking,
    levels,
    mean_defined,
    number,
    ranking_of,
)

Metrics: TypeAlias = dict[str, Any]
Shares: TypeAlias = dict[str, tuple[Counts, Counts]]  # part and whole of each share

MACRO_METRICS = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "average_precision",
    "roc_auc",
)
CALIBRATION_METRICS = ("ece", "brier")  # put into the metrics by others, where they are asked for
NEAR_YEARS = 5.0  # cs5: the cumulative score that papers on age report


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Figures of some faces, and how they vary.

    ``replicates`` holds figures of 1,000 resamples of the faces, (1,000,) each, NaN where
    undefined; none where no intervals were asked for.
    """

    metrics: Metrics
    replicates: Mapping[str, Figures]


def attribute_metrics(
    attribute: Attribute,
    targets: ArrayLike,
    probs: ArrayLike,
    threshold: float = 0.5,
    *,
    intervals: bool = False,
) -> Metrics:
    """Metrics of one attribute over the faces whose target is known.

    ``targets`` is (N,), -1 where unknown. ``probs`` is (N,) for a binary attribute, else (N, K) in
    the order of its classes. ``threshold`` matters to binary attributes only. ``intervals`` adds
    ``intervals``: of each metric that is defined, its 95 % interval, [low, high].
    """
    rng = np.random.default_rng(SEED) if intervals else None
    return measure(attribute, targets, probs, threshold, rng).metrics


def measure(
    attribute: Attribute,
    targets: ArrayLike,
    probs: ArrayLike,
    threshold: float = 0.5,
    rng: np.random.Generator | None = None,
    *,
    need_positives: bool = False,
) -> Measured:
    """``attribute_metrics``, with intervals and the resamples behind them if ``rng`` is given.

    ``need_positives``: precision and F1 are undefined, as recall is, where no face is labelled yes
    (of a class: as it). scikit-learn calls them 0 there.
    """
    y_true, y_prob = np.asarray(targets, np.int64), np.asarray(probs)
    num_classes = () if attribute.kind is Kind.BINARY else (attribute.num_values,)
    if y_prob.shape != (wanted := (len(y_true), *num_classes)):
        raise ValueError(f"{attribute.name}: probs must be {wanted}, got {y_prob.shape}")
    known = y_true >= 0
    y_true, y_prob = y_true[known], y_prob[known]
    if not np.isfinite(y_prob).all():
        raise ValueError(f"{attribute.name}: probs must be finite")
    if attribute.kind is Kind.BINARY:
        return _measure_binary(y_true, y_prob, threshold, rng, need_positives)
    if attribute.kind is Kind.AGE:
        return _measure_age(y_true, y_prob, attribute, rng)
    return _measure_categorical(y_true, y_prob, attribute.classes, rng, need_positives)


def binary_metrics(y_true: ArrayLike, y_prob: ArrayLike, threshold: float) -> Metrics:
    """Metrics of a yes/no attribute; a probability at or above ``threshold`` predicts yes.

    Precision, recall and F1 are those of yes. ``prevalence`` is the share of yes among targets,
    ``predicted_prevalence``, or ``selection_rate``, that among predictions.
    """
    labels = np.asarray(y_true, np.int64)
    return _measure_binary(labels, np.asarray(y_prob), threshold, None).metrics


def categorical_metrics(y_true: ArrayLike, probs: ArrayLike, classes: Sequence[str]) -> Metrics:
    """Metrics of an attribute with several classes; the most probable one is predicted.

    ``y_true`` is (N,) class indices, ``probs`` (N, K). Precision, recall, F1, average precision
    and ROC AUC are means over the classes for which they are defined, each against the rest. Rows
    of ``confusion`` are targets, columns predictions. Of two classes, ``selection_rate`` and
    ``false_positive_rate`` are those of the last.
    """
    labels = np.asarray(y_true, np.int64)
    return _measure_categorical(labels, np.asarray(probs), classes, None).metrics


def age_metrics(y_true_bin: ArrayLike, probs: ArrayLike, attribute: Attribute) -> Metrics:
    """Metrics of an age; the most probable bin and the expected age are predicted.

    ``y_true_bin`` is (N,) bin indices, ``probs`` (N, K). ``one_off_accuracy`` also counts a
    neighbouring bin as right. Years are the expected age's distance from the middle of the
    labelled bin: ``mae``, ``rmse``, ``cs5`` (the share within 5 years), and in ``per_bin`` the
    mean of expected minus labelled, ``bias``. Rows of ``confusion`` are labelled bins.
    """
    labels = np.asarray(y_true_bin, np.int64)
    return _measure_age(labels, np.asarray(probs), attribute, None).metrics


def macro(metrics_by_name: Mapping[str, Metrics], attributes: Iterable[Attribute]) -> Metrics:
    """The plain mean of each metric over the binary and categorical ``attributes``; no ages.

    An attribute whose metric is undefined is left out of that metric's mean. ``num_attributes``
    says, for each metric, over how many attributes the mean is. ``ece`` and ``brier`` are there
    where an attribute has them.
    """
    counted = [metrics_by_name[a.name] for a in attributes if a.kind is not Kind.AGE]
    extra = [metric for metric in CALIBRATION_METRICS if any(metric in one for one in counted)]
    defined = {
        metric: [one[metric] for one in counted if one.get(metric) is not None]
        for metric in (*MACRO_METRICS, *extra)
    }
    means = {metric: _mean(values) for metric, values in defined.items()}
    return {**means, "num_attributes": {metric: len(values) for metric, values in defined.items()}}


def micro(metrics_by_name: Mapping[str, Metrics], attributes: Iterable[Attribute]) -> Metrics:
    """Metrics of all labels of the ``attributes`` taken together; no ages.

    Accuracy is over binary and categorical attributes; precision, recall and F1, those of yes, over
    the binary ones. A common attribute weighs more than a rare one: ``macro`` weighs all alike.
    """
    counted = [(a, metrics_by_name[a.name]) for a in attributes if a.kind is not Kind.AGE]
    counts = [m["counts"] for a, m in counted if a.kind is Kind.BINARY]
    confusions = [np.asarray(m["confusion"]) for a, m in counted if a.kind is Kind.CATEGORICAL]
    hits, extra, missed, others = (sum(one[name] for one in counts) for name in _COUNTS)
    right = hits + others + sum(int(confusion.trace()) for confusion in confusions)
    return {
        "accuracy": _ratio(right, sum(m["n"] for _, m in counted)),
        "precision": _ratio(hits, hits + extra),
        "recall": _ratio(hits, hits + missed),
        "f1": _ratio(2 * hits, 2 * hits + extra + missed),
    }


_RANKING = ("average_precision", "roc_auc")
_COUNTS = ("true_positive", "false_positive", "false_negative", "true_negative")


def _measure_binary(
    y_true: NDArray[Any],
    y_prob: NDArray[Any],
    threshold: float,
    rng: np.random.Generator | None,
    need_positives: bool = False,
) -> Measured:
    is_true = y_true == 1
    confusion = _table(is_true, y_prob >= threshold, 2)
    ranked = levels(is_true, y_prob)
    shares = _binary_shares(confusion)
    figures = _binary_figures(confusion, need_positives)
    metrics = {
        "n": len(is_true),
        **{name: number(value) for name, value in figures.items()},
        **_ranking_figures(ranked),
        "counts": dict(zip(_COUNTS, confusion[[1, 0, 1, 0], [1, 1, 0, 0]].tolist(), strict=True)),
    }
    if rng is None:
        return Measured(metrics, {})
    if not len(is_true):
        return with_intervals(metrics, {}, {})
    replicates = _binary_figures(drawn_counts(rng, confusion), need_positives)
    replicates |= dict(zip(_RANKING, drawn_ranking(rng, ranked), strict=True))
    return with_intervals(metrics, shares, replicates)


def _ranking_figures(ranked: Levels) -> Metrics:
    found = zip(_RANKING, ranking_of(ranked), strict=True)
    return {name: number(value) for name, value in found}


def _binary_shares(confusion: Counts) -> Shares:
    """Of (..., 2, 2) counts, rows targets, columns predictions."""
    others, extra, missed, hits = (confusion[..., i, j] for i in (0, 1) for j in (0, 1))
    n = confusion.sum((-2, -1))
    return {
        "accuracy": (hits + others, n),
        "precision": (hits, hits + extra),
        "recall": (hits, hits + missed),
        "false_positive_rate": (extra, extra + others),
        "prevalence": (hits + missed, n),
        "predicted_prevalence": (hits + extra, n),
        "selection_rate": (hits + extra, n),
    }


def _binary_figures(confusion: Counts, need_positives: bool) -> dict[str, Figures]:
    """Metrics (...) of (..., 2, 2) counts, NaN where undefined."""
    shares = _binary_shares(confusion)
    hits, num_predicted = shares["precision"]
    figures = {name: divide(*share) for name, share in shares.items()} | {
        "balanced_accuracy": _balanced(confusion),
        "f1": divide(2 * hits, num_predicted + shares["recall"][1]),
    }
    return _where_recall_is(figures) if need_positives else figures


def _where_recall_is(figures: dict[str, Figures]) -> dict[str, Figures]:
    """Precision and F1 undefined where recall is."""
    has_none = np.isnan(figures["recall"])
    own = {name: np.where(has_none, np.nan, figures[name]) for name in ("precision", "f1")}
    return figures | own


def _measure_categorical(
    y_true: NDArray[Any],
    y_prob: NDArray[Any],
    classes: Sequence[str],
    rng: np.random.Generator | None,
    need_positives: bool = False,
) -> Measured:
    confusion = _table(y_true, y_prob.argmax(1), len(classes))
    ranked = [levels(y_true == k, y_prob[:, k]) for k in range(len(classes))]
    per_class = _per_class(confusion, ranked, classes, need_positives)
    shares = _categorical_shares(confusion)
    figures = _categorical_figures(confusion, need_positives)
    metrics = {
        "n": len(y_true),
        **{name: number(value) for name, value in figures.items()},
        **{name: _mean(one[name] for one in per_class.values()) for name in _RANKING},
        "per_class": per_class,
        "confusion": confusion.tolist(),
    }
    if rng is None:
        return Measured(metrics, {})
    if not len(y_true):
        return with_intervals(metrics, {}, {})
    replicates = _categorical_figures(drawn_counts(rng, confusion), need_positives)
    replicates |= dict(zip(_RANKING, drawn_class_means(rng, y_true, y_prob), strict=True))
    return with_intervals(metrics, shares, replicates)


def _categorical_shares(confusion: Counts) -> Shares:
    """Of (..., K, K) counts, rows targets, columns predictions."""
    n = confusion.sum((-2, -1))
    shares = {"accuracy": (confusion.trace(axis1=-2, axis2=-1), n)}
    if confusion.shape[-1] == 2:
        binary = _binary_shares(confusion)
        shares |= {name: binary[name] for name in ("selection_rate", "false_positive_rate")}
    return shares


def _categorical_figures(confusion: Counts, need_positives: bool) -> dict[str, Figures]:
    """Metrics (...) of (..., K, K) counts, NaN where undefined."""
    by_class = {
        name: mean_defined(np.moveaxis(values, -1, 0))
        for name, values in _class_figures(confusion, need_positives).items()
    }
    shares = {name: divide(*share) for name, share in _categorical_shares(confusion).items()}
    return shares | {"balanced_accuracy": _balanced(confusion)} | by_class


def _class_figures(confusion: Counts, need_positives: bool) -> dict[str, Figures]:
    """Metrics (..., K) of each class against the rest."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    num_true, num_predicted = confusion.sum(-1), confusion.sum(-2)
    figures = {
        "precision": divide(hits, num_predicted),
        "recall": divide(hits, num_true),
        "f1": divide(2 * hits, num_true + num_predicted),
    }
    return _where_recall_is(figures) if need_positives else figures


def _per_class(
    confusion: Counts, ranked: Sequence[Levels], classes: Sequence[str], need_positives: bool
) -> dict[str, Metrics]:
    figures, n = _class_figures(confusion, need_positives), confusion.sum()
    return {
        name: {
            "n": int(confusion[k].sum()),
            **{metric: number(values[k]) for metric, values in figures.items()},
            **_ranking_figures(ranked[k]),
            "prevalence": number(divide(confusion[k].sum(), n)),
            "predicted_prevalence": number(divide(confusion[:, k].sum(), n)),
        }
        for k, name in enumerate(classes)
    }


def _measure_age(
    y_true: NDArray[Any],
    y_prob: NDArray[Any],
    attribute: Attribute,
    rng: np.random.Generator | None,
) -> Measured:
    y_pred, edges = y_prob.argmax(1), np.asarray(attribute.bin_edges, np.float64)
    years_off = expected_age(y_prob, attribute) - ((edges[1:] + edges[:-1]) / 2)[y_true]
    values = _age_values(y_true, y_pred, years_off)
    sums, n = values.sum(0), np.asarray(len(y_true))
    names = ("accuracy", "one_off_accuracy", "cs5")
    shares = {name: (sums[i].astype(np.int64), n) for i, name in enumerate(names)}
    metrics = {
        "n": len(y_true),
        **{name: number(value) for name, value in _age_figures(sums, n).items()},
        "per_bin": {
            name: _bin_figures(values[y_true == k], years_off[y_true == k])
            for k, name in enumerate(attribute.classes)
        },
        "confusion": _table(y_true, y_pred, attribute.num_values).tolist(),
    }
    if rng is None:
        return Measured(metrics, {})
    if not len(y_true):
        return with_intervals(metrics, {}, {})
    return with_intervals(metrics, shares, _age_figures(drawn_sums(rng, values), n))


def _age_values(y_true: NDArray[Any], y_pred: NDArray[Any], years_off: NDArray[Any]) -> Figures:
    """What is averaged, (N, 5): the bin is right, a bin off, within 5 years; error, its square."""
    bins_off, error = np.abs(y_pred - y_true), np.abs(years_off)
    columns = (bins_off == 0, bins_off <= 1, error <= NEAR_YEARS, error, error**2)
    return np.stack(columns, axis=1).astype(np.float64)


def _age_figures(sums: Figures, n: NDArray[Any]) -> dict[str, Figures]:
    """Metrics (...) of sums (..., 5) of ``_age_values`` over n faces."""
    right, near, close, error, square = np.moveaxis(divide(sums, n), -1, 0)
    return {
        "accuracy": right,
        "one_off_accuracy": near,
        "mae": error,
        "rmse": np.sqrt(square),
        "cs5": close,
    }


def _bin_figures(values: Figures, years_off: NDArray[Any]) -> Metrics:
    n = np.asarray(len(values))
    figures = _age_figures(values.sum(0), n)
    return {
        "n": len(values),
        **{name: number(figures[name]) for name in ("accuracy", "one_off_accuracy", "mae")},
        "bias": number(divide(years_off.sum(), n)),
    }


def with_intervals(metrics: Metrics, shares: Shares, replicates: Mapping[str, Figures]) -> Measured:
    """``intervals`` of each metric that is resampled and defined; Wilson's of ``shares``."""
    intervals = {
        name: list(wilson_interval(*(int(part) for part in shares[name])))
        if name in shares
        else percentile_interval(replicates[name])
        for name in metrics
        if name in replicates and metrics[name] is not None
    }
    return Measured(metrics | {"intervals": intervals}, replicates)


def _table(y_true: NDArray[Any], y_pred: NDArray[Any], num_classes: int) -> Counts:
    """How many faces of each target (rows) have each prediction (columns)."""
    cells = np.bincount(y_true * num_classes + y_pred, minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes)


def _balanced(confusion: Counts) -> Figures:
    """The mean recall (...) of the classes that occur in (..., K, K) counts, if two or more do."""
    recall = divide(np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1))
    enough = (~np.isnan(recall)).sum(-1) >= 2
    return np.where(enough, mean_defined(np.moveaxis(recall, -1, 0)), np.nan)


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined."""
    defined = [value for value in values if value is not None]
    return _ratio(sum(defined), len(defined))
