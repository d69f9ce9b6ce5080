"""How far groups are apart in an attribute's figures; words and definitions are fairlearn's.

Groups that are too small, or in which a figure is undefined or rests on a handful of faces, are
left out and named: what cannot be compared is None, never 0. https://fairlearn.org/v0.15/user_guide/assessment
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.metrics.attribute import Measured, Metrics
from fattr.metrics.by_group import OK, TOO_FEW
from fattr.metrics.intervals import Counts, Figures, percentile_interval
from fattr.metrics.ranking import divide, number

COMPARED = (
    "accuracy",
    "one_off_accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "average_precision",
    "roc_auc",
    "selection_rate",
    "false_positive_rate",
    "cs5",
    "mae",
    "rmse",
    "ece",
    "brier",
)
LOWER_IS_BETTER = frozenset(
    ("false_positive_rate", "mae", "rmse", "ece", "brier", "too_small_frac", "abstained_frac")
)
PARITY = (
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
)
NOT_ESTIMABLE = "not estimable"
MIN_CASES = 10  # faces labelled yes, or no, below which a rate among them is mostly chance

_AMONG_BOTH = ("balanced_accuracy", "f1", "average_precision", "roc_auc")
_AMONG_YES = ("recall", "precision", *_AMONG_BOTH)

Rates: TypeAlias = tuple[float | None, float | None, float | None]  # selected, recall, false alarms


def fairness(attribute: Attribute, groups: Mapping[str, Measured]) -> dict[str, Any]:
    """How far the groups of one column are apart: ``compare_groups`` and ``parity``.

    A group is compared in recall and precision if ``MIN_CASES`` of its faces are labelled yes, in
    the false positive rate if as many are labelled no, and in F1, balanced accuracy, average
    precision and ROC AUC if both; in a mean over classes, if that is so of each class that any of
    the groups has. Else it is left out of that figure.
    """
    solid = _without_thin(attribute, groups)
    large = {value: one.metrics for value, one in solid.items() if one.metrics["status"] == OK}
    return compare_groups(solid, COMPARED) | parity(attribute, large)


def _without_thin(attribute: Attribute, groups: Mapping[str, Measured]) -> dict[str, Measured]:
    """The groups, None in place of figures that rest on too few faces labelled yes or no."""
    large = {value: one for value, one in groups.items() if one.metrics["status"] == OK}
    if attribute.kind is Kind.AGE or not large:
        return dict(groups)
    labelled = np.stack([_labelled(attribute, one.metrics) for one in large.values()])
    counted = np.flatnonzero(labelled.any(axis=0))  # means are over the classes that occur
    if attribute.kind is Kind.BINARY:
        counted = np.array([1])  # figures are those of yes
    solid = {
        value: replace(
            one, metrics=one.metrics | dict.fromkeys(_thin(counts, counted) & set(one.metrics))
        )
        for (value, one), counts in zip(large.items(), labelled, strict=True)
    }
    return {**groups, **solid}


def _labelled(attribute: Attribute, metrics: Metrics) -> NDArray[np.int64]:
    """How many faces have each label, (K,); of a binary attribute no, yes."""
    if attribute.kind is not Kind.BINARY:
        by_class: NDArray[np.int64] = np.asarray(metrics["confusion"], np.int64).sum(axis=1)
        return by_class
    counts = metrics["counts"]
    num_true = counts["true_positive"] + counts["false_negative"]
    return np.array([metrics["n"] - num_true, num_true])


def _thin(labelled: NDArray[np.int64], counted: NDArray[np.intp]) -> set[str]:
    """Metrics that rest on too few of a group's faces with each label, (K,), of those counted."""
    num_yes, num_no = labelled[counted], labelled.sum() - labelled[counted]
    thin = set[str]()
    if (num_yes < MIN_CASES).any():
        thin.update(_AMONG_YES)
    if (num_no < MIN_CASES).any():
        thin.update(_AMONG_BOTH)
    if labelled[0] < MIN_CASES:
        thin.add("false_positive_rate")  # there is one of two labels only, of the last
    return thin


def compare_groups(groups: Mapping[str, Measured], metrics: Sequence[str]) -> dict[str, Any]:
    """``spread`` of each of the ``metrics`` that the groups have.

    ``groups_compared`` are compared in all of them. ``groups_left_out`` are left out of all where
    they are "too few", and of those that name them in ``left_out`` where "not estimable".
    """
    large = {value: one for value, one in groups.items() if one.metrics["status"] == OK}
    spreads = {
        metric: spread(metric, large)
        for metric in metrics
        if any(metric in one.metrics for one in large.values())
    }
    missed = {value for one in spreads.values() for value in one["left_out"]}
    return spreads | {
        "groups_compared": [value for value in large if value not in missed],
        "groups_left_out": {
            value: TOO_FEW if value not in large else NOT_ESTIMABLE
            for value in groups
            if value not in large or value in missed
        },
    }


def spread(metric: str, groups: Mapping[str, Measured]) -> dict[str, Any]:
    """The most that two groups differ in a metric: difference, ratio (at most 1) and which two.

    ``worst`` is the lowest, of errors the highest; of a selection rate, which is neither good nor
    bad, the lowest. Intervals (95 %, bootstrap) are of the two groups named: one that reaches below
    0, or a ratio's above 1, leaves open which of them is the higher. ``difference_by_chance`` is
    what the difference would stay below 95 times of 100 if all groups were alike: of many small
    groups two are far apart by chance. Groups in which the metric is undefined are ``left_out``.
    """
    values = {
        value: float(one.metrics[metric])
        for value, one in groups.items()
        if one.metrics.get(metric) is not None
    }
    left_out = [value for value in groups if value not in values]
    if len(values) < 2:
        return dict.fromkeys(_SPREAD) | {"left_out": left_out}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    worst, best = (high, low) if metric in LOWER_IS_BETTER else (low, high)
    return {
        "difference": values[high] - values[low],
        "ratio": values[low] / values[high] if values[high] else None,
        "worst_group": worst,
        "worst": values[worst],
        "best_group": best,
        "best": values[best],
        **_resampled({value: groups[value].replicates.get(metric) for value in values}, low, high),
        "left_out": left_out,
    }


_SPREAD = (
    "difference",
    "ratio",
    "worst_group",
    "worst",
    "best_group",
    "best",
    "difference_interval",
    "ratio_interval",
    "difference_by_chance",
)


def _resampled(
    replicates: Mapping[str, Figures | None], low: str, high: str
) -> dict[str, list[float] | float | None]:
    """Intervals of the difference and the ratio of two groups; None where one is not resampled."""
    drawn = {value: one for value, one in replicates.items() if one is not None}
    if len(drawn) < len(replicates):
        return dict.fromkeys(_SPREAD[-3:])
    ratios = divide(drawn[low], drawn[high])
    alike = [np.nan_to_num(one - np.nanmean(one)) for one in drawn.values()]
    return {
        "difference_interval": percentile_interval(drawn[high] - drawn[low]),
        "ratio_interval": None if np.isnan(ratios).all() else percentile_interval(ratios),
        "difference_by_chance": float(np.quantile(np.ptp(alike, axis=0), 0.95)),
    }


def parity(attribute: Attribute, groups: Mapping[str, Metrics]) -> dict[str, float | None]:
    """Demographic parity, equalized odds (worst case) and equal opportunity between groups.

    Of a binary attribute, by how often yes is predicted: among all, among those labelled no, and
    among those labelled yes. Of two classes, the last one is yes. Of more, each class against the
    rest, and the largest difference and the smallest ratio of any of them; a class that fewer than
    ``MIN_CASES`` faces of a group have, or have not, leaves that group out. Ages have none.
    """
    if attribute.kind is Kind.AGE or not groups:
        return dict.fromkeys(PARITY)
    by_class = [_class_parity(rates) for rates in _rates(attribute, groups)]
    found: dict[str, float | None] = {}
    for name in PARITY:
        defined = [one[name] for one in by_class if one[name] is not None]
        furthest = max if name.endswith("difference") else min
        found[name] = furthest(defined) if defined else None
    return found


def _rates(attribute: Attribute, groups: Mapping[str, Metrics]) -> Iterator[list[Rates]]:
    """For each class that counts as yes, the rates of each group."""
    if attribute.kind is Kind.BINARY:
        names = ("selection_rate", "recall", "false_positive_rate")
        yield [(m[names[0]], m[names[1]], m[names[2]]) for m in groups.values()]
        return
    confusions = [np.asarray(metrics["confusion"]) for metrics in groups.values()]
    for k in range(attribute.num_values)[1 if attribute.num_values == 2 else 0 :]:
        yield [_one_against_rest(confusion, k) for confusion in confusions]


def _one_against_rest(confusion: Counts, k: int) -> Rates:
    n, num_true, num_selected = confusion.sum(), confusion[k].sum(), confusion[:, k].sum()
    hits = confusion[k, k]
    return (
        number(divide(num_selected, n)),
        number(divide(hits, num_true)) if num_true >= MIN_CASES else None,
        number(divide(num_selected - hits, n - num_true)) if n - num_true >= MIN_CASES else None,
    )


def _class_parity(rates: Sequence[Rates]) -> dict[str, Any]:
    (parity_gap, parity_ratio), *odds = (_furthest(column) for column in zip(*rates, strict=True))
    gaps, ratios = zip(*odds, strict=True)
    values = (
        parity_gap,
        parity_ratio,
        None if None in gaps else max(gaps),
        None if None in ratios else min(ratios),
        gaps[0],
        ratios[0],
    )
    return dict(zip(PARITY, values, strict=True))


def _furthest(rates: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Difference and ratio of the highest and the lowest of two or more defined rates."""
    defined = [rate for rate in rates if rate is not None]
    if len(defined) < 2:
        return None, None
    low, high = min(defined), max(defined)
    return high - low, low / high if high else None
