"""Two models on the same faces: paired differences, where the new one is worse, and a verdict.

Intervals (95 %) are the percentile bootstrap's of ``intervals``, paired: each resample of the faces
serves both models and all attributes. What is undefined is None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from fattr.attributes import Attribute, Kind
from fattr.metrics.attribute import Metrics
from fattr.metrics.by_group import MIN_N, Members
from fattr.metrics.intervals import SEED, Figures, draws, percentile_interval
from fattr.metrics.ranking import divide, number
from fattr.records import FloatArray

METRICS = ("accuracy", "balanced_accuracy", "f1", "average_precision")
MAX_UNDEFINED_FRAC = 0.05  # of the resamples; with more, there is no interval
FAMILY_ERROR = 0.05  # of calling any group worse that is not
KEPT_FACES = 5_000  # up to which the resamples are drawn once, not for each attribute

Targets: TypeAlias = Callable[[Attribute], NDArray[np.int64]]
Probabilities: TypeAlias = Callable[[Attribute], FloatArray]
Floats: TypeAlias = NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """What one model says of N faces.

    ``probs`` gives an attribute's calibrated probabilities: (N,) of true if binary, else (N, K).
    A binary attribute without a threshold takes 0.5.
    """

    model: str
    model_id: str
    probs: Probabilities
    thresholds: Mapping[str, float]

    def class_probs(self, attribute: Attribute) -> Floats:
        """(N, K) in the order of the values, also of a binary attribute."""
        probs = self.probs(attribute)
        return np.stack([1 - probs, probs], 1) if attribute.kind is Kind.BINARY else probs

    def predicted(self, attribute: Attribute, class_probs: Floats) -> NDArray[np.int64]:
        """(N,) the class that a face is labelled with."""
        if attribute.kind is not Kind.BINARY:
            return np.asarray(class_probs.argmax(1), np.int64)
        threshold = self.thresholds.get(attribute.name, 0.5)
        return (class_probs[:, 1] >= threshold).astype(np.int64)


def compare(
    attributes: Sequence[Attribute],
    targets: Targets,
    candidate: Answers,
    other: Answers,
    members: Members,
) -> Metrics:
    """What the candidate is better and worse at than the other; differences are candidate - other.

    ``targets`` gives an attribute's classes (N,), -1 where unknown; ``members`` says which faces
    are in which group (``by_group.group_members``). Ages are compared by accuracy and are in no
    macro mean. A macro difference is over the attributes for which both have the metric.

    ``regressions`` are the groups of ``MIN_N`` or more with less accuracy, interval below 0; of
    ``num_cells`` equal ones a fortieth would be too. ``confirmed`` are those that McNemar's test
    finds, Holm's correction (1979) keeping the chance of any false one below 5 %.
    """
    n = len(targets(attributes[0]))
    cells = _group_cells(members, n)
    resamples: Iterable[FloatArray] = _Resamples(n)
    if n <= KEPT_FACES:
        resamples = tuple(resamples)
    pairs = {
        a.name: _compare_attribute(a, targets(a), (candidate, other), cells, resamples)
        for a in attributes
    }
    macro = _macro_differences([pairs[a.name] for a in attributes if a.kind is not Kind.AGE])
    compared = _confirm([cell for pair in pairs.values() for cell in pair.cells])
    regressions = [row for row in compared if row["interval"] and row["interval"][1] < 0]
    against = {
        "model": other.model,
        "model_id": other.model_id,
        "n": n,
        "macro": macro,
        "attributes": {name: pair.figures for name, pair in pairs.items()},
        "num_cells": len(compared),
        "regressions": sorted(regressions, key=lambda row: float(row["difference"])),
    }
    against["verdict"] = verdict(against)
    against["summary"] = _summary(against, candidate.model, len(attributes))
    return against


# Words


def verdict(against: Mapping[str, Any]) -> str:
    """``better``, ``worse``, ``mixed`` or ``no clear difference``, and for which groups worse.

    Better is: an interval of a macro difference above 0, and none below; mixed is both. Of ages
    alone, it is their accuracy that counts.
    """
    rows = list(against["macro"].values())
    if all(row["interval"] is None for row in rows):
        rows = [one["accuracy"] for one in against["attributes"].values()]
    intervals = [row["interval"] for row in rows if row["interval"]]
    gains, losses = any(low > 0 for low, _ in intervals), any(high < 0 for _, high in intervals)
    words = {(True, False): "better", (False, True): "worse", (True, True): "mixed"}
    said = words.get((gains, losses), "no clear difference")
    worse_for = [
        f"{row['column']} {row['group']}" for row in against["regressions"] if row["confirmed"]
    ]
    return f"{said}, worse for {_listed(worse_for)}" if worse_for else said


def _listed(names: Sequence[str], limit: int = 3) -> str:
    distinct = list(dict.fromkeys(names))
    more = [f"and {len(distinct) - limit} more"] if len(distinct) > limit else []
    return ", ".join(distinct[:limit] + more)


def _summary(against: Mapping[str, Any], candidate: str, num_attributes: int) -> str:
    differences = ", ".join(
        f"{metric.replace('_', ' ')} {row['difference']:+.3f}"
        + ("" if row["interval"] is None else " ({:+.3f} to {:+.3f})".format(*row["interval"]))
        for metric, row in against["macro"].items()
        if row["difference"] is not None
    )
    num_confirmed = sum(row["confirmed"] for row in against["regressions"])
    return (
        f"{candidate} against {against['model']}, {against['n']} faces,"
        f" {num_attributes} attribute{'s' * (num_attributes != 1)}"
        f"{f': macro {differences}' if differences else ''};"
        f" less accurate in {len(against['regressions'])} of {against['num_cells']} group cells,"
        f" {num_confirmed} beyond chance: {against['verdict']}"
    )


# One attribute


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    figures: Metrics
    defined: Mapping[str, float]  # metric -> difference, where both models have it
    resampled: Mapping[str, Figures]  # metric -> difference in each resample, NaN if undefined
    cells: Sequence[Metrics]


@dataclass(frozen=True, slots=True, eq=False)
class _Cells:
    names: tuple[tuple[str, str], ...]  # column and value
    members: FloatArray  # (N, C), 1 where a face is in the cell


@dataclass(frozen=True, slots=True)
class _Resamples:
    """How often each of N faces is drawn, (N, r) at a time; the same whenever gone through."""

    n: int

    def __iter__(self) -> Iterator[FloatArray]:
        for drawn in draws(np.random.default_rng(SEED), np.ones(self.n, np.int64)):
            yield np.ascontiguousarray(drawn.T, np.float32)


def _group_cells(members: Members, n: int) -> _Cells:
    names = [(column, group) for column, groups in members.items() for group in groups]
    cells = np.zeros((n, len(names)), np.float32)
    for i, (column, group) in enumerate(names):
        cells[members[column][group], i] = 1
    return _Cells(tuple(names), cells)


def _compare_attribute(
    attribute: Attribute,
    targets: NDArray[np.int64],
    models: tuple[Answers, Answers],
    cells: _Cells,
    resamples: Iterable[FloatArray],
) -> _Pair:
    known = targets >= 0
    sides = [_Side(attribute, targets, model) for model in models]
    once = np.ones((len(targets), 1), np.float64)
    changes = sides[0].is_right.astype(np.float32) - sides[1].is_right
    by_cell = np.concatenate([cells.members * x[:, None] for x in (changes, known)], 1)
    parts = [(_differences(sides, w), w.T @ by_cell) for w in resamples]
    resampled = {m: np.concatenate([part[m] for part, _ in parts]) for m in sides[0].metrics}
    exact = {m: float(value[0]) for m, value in _differences(sides, once).items()}
    n_better, n_worse = int((changes > 0).sum()), int((changes < 0).sum())
    figures: Metrics = {
        m: {
            "difference": number(np.asarray(exact[m])),
            "interval": _interval(resampled[m], exact[m]),
        }
        for m in exact
    }
    figures |= {
        "n": int(known.sum()),
        "p_mcnemar": mcnemar(n_better, n_worse),
        "n_better": n_better,
        "n_worse": n_worse,
    }
    tallies = np.concatenate([tally for _, tally in parts])
    rows = _cell_rows(attribute, cells, changes, known, tallies)
    return _Pair(figures, {m: v for m, v in exact.items() if np.isfinite(v)}, resampled, rows)


class _Side:
    """One model's answers about one attribute, ready to be weighed."""

    def __init__(self, attribute: Attribute, targets: NDArray[np.int64], model: Answers) -> None:
        probs = model.class_probs(attribute)
        classes = range(attribute.num_values)
        known, predicted = targets >= 0, model.predicted(attribute, probs)
        self.is_right = known & (predicted == targets)
        self.metrics = METRICS if attribute.kind is not Kind.AGE else METRICS[:1]
        self._is_binary = attribute.kind is Kind.BINARY
        true = [targets == k for k in classes]
        answered = [known & (predicted == k) for k in classes]
        hits = [a & b for a, b in zip(true, answered, strict=True)]
        self._indicators = np.stack([*true, *answered, *hits], 1).astype(np.float32)  # (N, 3 K)
        ranked = [1] if self._is_binary else [k for k in classes if self.metrics == METRICS]
        self._rankings = [_Ranking(targets, probs[:, k], k) for k in ranked]

    def figures(self, weights: Floats) -> dict[str, Figures]:
        """Each metric (r,) with the faces weighed by ``weights`` (N, r); NaN if undefined."""
        tallies = (weights.T @ self._indicators).astype(np.float64)
        true, answered, hits = np.split(tallies, 3, axis=1)  # (r, K) each
        accuracy = divide(hits.sum(1), true.sum(1))
        if len(self.metrics) == 1:
            return {"accuracy": accuracy}
        recalls, f1 = divide(hits, true), divide(2 * hits, true + answered)
        balanced = np.where((true > 0).sum(1) >= 2, _mean(recalls), np.nan)
        precisions = np.stack([ranking.average_precision(weights) for ranking in self._rankings], 1)
        values = (accuracy, balanced, f1[:, 1] if self._is_binary else _mean(f1), _mean(precisions))
        return dict(zip(METRICS, values, strict=True))


class _Ranking:
    """The labelled faces by probability of one class, the most probable first."""

    def __init__(self, targets: NDArray[np.int64], probs: Floats, k: int) -> None:
        known = np.flatnonzero(targets >= 0)
        self._order = known[np.argsort(-probs[known], kind="stable")]
        is_true = targets[self._order] == k
        self._true = self._order[is_true]
        values = probs[self._order]
        lasts = np.flatnonzero(np.diff(values, append=-np.inf))  # of each group of equals
        place = np.searchsorted(lasts, np.flatnonzero(is_true))  # the group of each true face
        groups, starts = np.unique(place, return_index=True)
        self._lasts = lasts[groups]  # of the groups that hold a true face
        self._last_true = np.append(starts[1:], len(self._true))[: len(groups)] - 1

    def average_precision(self, weights: Floats) -> Figures:
        """(r,) as ``attribute.average_precision``, with the faces weighed by (N, r)."""
        if not len(self._true):
            return np.full(weights.shape[1], np.nan)
        total = np.cumsum(weights[self._order], axis=0)[self._lasts]
        hits = np.cumsum(weights[self._true], axis=0)[self._last_true]
        gained = np.diff(hits, axis=0, prepend=0)
        precision = np.divide(hits, total, out=np.zeros_like(hits), where=total > 0)
        return divide((gained * precision).sum(0, dtype=np.float64), hits[-1].astype(np.float64))


def _differences(sides: Sequence[_Side], weights: Floats) -> dict[str, Figures]:
    first, second = (side.figures(weights) for side in sides)
    return {metric: first[metric] - second[metric] for metric in first}


def _macro_differences(pairs: Sequence[_Pair]) -> Metrics:
    macro: Metrics = {}
    for metric in METRICS:
        of_both = [pair for pair in pairs if metric in pair.defined]
        macro[metric] = {"difference": None, "interval": None}
        if of_both:
            difference = float(np.mean([pair.defined[metric] for pair in of_both]))
            resampled = _mean(np.stack([pair.resampled[metric] for pair in of_both], 1))
            macro[metric] = {
                "difference": difference,
                "interval": _interval(resampled, difference),
            }
    return macro


# Groups


def _cell_rows(
    attribute: Attribute,
    cells: _Cells,
    changes: FloatArray,
    known: NDArray[np.bool_],
    tallies: FloatArray,
) -> list[Metrics]:
    """The accuracy difference in each cell; ``tallies`` (R, 2 C) are changes, then labelled."""
    gained, labelled = np.split(tallies.astype(np.float64), 2, axis=1)
    resampled = divide(gained, labelled)
    rows = []
    for i, (column, group) in enumerate(cells.names):
        own = known & (cells.members[:, i] > 0)
        if (n := int(own.sum())) < MIN_N:
            continue
        better, worse = int((changes[own] > 0).sum()), int((changes[own] < 0).sum())
        difference = (better - worse) / n
        rows.append(
            {
                "attribute": attribute.name,
                "column": column,
                "group": group,
                "n": n,
                "difference": difference,
                "interval": _interval(resampled[:, i], difference),
                "p_mcnemar": mcnemar(better, worse),
            }
        )
    return rows


def _confirm(rows: Sequence[Metrics]) -> list[Metrics]:
    """The rows with ``confirmed``: worse, and found so by Holm's step-down procedure."""
    order = sorted(range(len(rows)), key=lambda i: float(rows[i]["p_mcnemar"]))
    kept: set[int] = set()
    for rank, i in enumerate(order):
        if rows[i]["p_mcnemar"] > FAMILY_ERROR / (len(rows) - rank):
            break
        kept.add(i)
    return [row | {"confirmed": i in kept and row["difference"] < 0} for i, row in enumerate(rows)]


# Numbers


def mcnemar(n_better: int, n_worse: int) -> float:
    """The exact two-sided p value of McNemar's test, from how many faces changed either way.

    1 where none did. McNemar, Psychometrika 1947; https://doi.org/10.1007/BF02295996
    """
    changed = n_better + n_worse
    return min(1.0, 2 * float(bdtr(min(n_better, n_worse), changed, 0.5))) if changed else 1.0


def _interval(resampled: Figures, value: float) -> list[float] | None:
    undefined_frac = float(np.isnan(resampled).mean())
    if np.isnan(value) or undefined_frac > MAX_UNDEFINED_FRAC:
        return None
    return percentile_interval(resampled)


def _mean(values: Figures) -> Figures:
    """(r,) of (r, K), over those that are defined."""
    return divide(np.nansum(values, axis=1), (~np.isnan(values)).sum(1))
