"""How well probabilities rank true faces above false ones: average precision and ROC AUC, exact.

Both are sums over levels: the numbers of true and of false faces at each distinct probability,
highest first. Ties count as scikit-learn counts them.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.metrics.intervals import MAX_DRAWN, NUM_RESAMPLES, Counts, Figures, draws

Levels: TypeAlias = tuple[Counts, Counts]  # (..., L) true faces, (..., L) false ones


def average_precision(is_true: NDArray[np.bool_], y_prob: NDArray[Any]) -> float | None:
    """Precision averaged over the recall gained at each distinct probability; None without a true.

    The sum that scikit-learn's ``average_precision_score`` defines, without interpolation.
    """
    return number(ranking_of(levels(is_true, y_prob))[0])


def roc_auc(is_true: NDArray[np.bool_], y_prob: NDArray[Any]) -> float | None:
    """How often a true face is above a false one, ties half; None where either is missing."""
    return number(ranking_of(levels(is_true, y_prob))[1])


def number(value: NDArray[Any]) -> float | None:
    """An array of one figure as JSON holds it."""
    return None if np.isnan(value) else float(value)


def divide(part: NDArray[Any], whole: NDArray[Any]) -> Figures:
    """Elementwise part / whole, NaN where the whole is 0."""
    shares: Figures = part / np.where(whole == 0, np.nan, whole)
    return shares


def levels(is_true: NDArray[np.bool_], y_prob: NDArray[Any]) -> Levels:
    """Of N faces: how many are true, and false, at each distinct probability, highest first."""
    order = np.argsort(-y_prob, kind="stable")
    lasts = _lasts(y_prob[order])
    num_true = np.diff(is_true[order].cumsum()[lasts], prepend=0)
    return num_true, np.diff(lasts, prepend=-1) - num_true


def _lasts(falling: NDArray[Any]) -> NDArray[np.intp]:
    """Where each run of equals ends in an array that falls."""
    return np.flatnonzero(np.diff(falling, append=-np.inf))


def ranking_of(counts: Levels) -> tuple[Figures, Figures]:
    """Average precision and ROC AUC (...) of (..., L) levels, NaN where undefined."""
    num_true, num_false = (one.astype(np.float64) for one in counts)
    hits = num_true.cumsum(-1)
    called = hits + num_false.cumsum(-1)
    total = hits[..., -1] if hits.size else hits.sum(-1)
    beaten = _dot(num_false, hits - num_true / 2)  # pairs of a true face above a false one
    return (
        divide(_dot(num_true, hits / np.maximum(called, 1)), total),
        divide(beaten, total * num_false.sum(-1)),
    )


def _dot(one: Figures, other: Figures) -> Figures:
    """Sums of products along the last axis."""
    products: Figures = np.einsum("...l,...l->...", one, other)
    return products


def influences(counts: Levels) -> tuple[Levels, Levels]:
    """How much one true, one false face at each level moves average precision, then ROC AUC.

    Derivatives by a face's weight, whose sum over the faces is 0 (Efron's infinitesimal jackknife,
    1982). Both figures must be defined.
    """
    num_true, num_false = (one.astype(np.float64) for one in counts)
    hits, misses = num_true.cumsum(), num_false.cumsum()
    total, others = hits[-1], misses[-1]
    called = hits + misses  # at this level or above; more than 0
    later = _from_here_on(num_true * hits / called**2)
    of_true = hits / called + _from_here_on(num_true / called) - later
    average, area = ranking_of(counts)
    below, above = others - misses + num_false / 2, hits - num_true / 2
    of_precision = (of_true - average) / total, -later / total
    return of_precision, ((below / others - area) / total, (above / total - area) / others)


def _from_here_on(values: Figures) -> Figures:
    return values[::-1].cumsum()[::-1]


def drawn_ranking(rng: np.random.Generator, counts: Levels) -> tuple[Figures, Figures]:
    """Average precision and ROC AUC (1,000,) of as many faces drawn again from (L,) levels.

    False faces between two true ones are drawn as one cell, which changes neither figure. Where
    more than ``MAX_DRAWN`` cells are left, the figures are drawn from the normal distribution that
    theirs tends to, with the standard errors of the infinitesimal jackknife.
    """
    num_true, num_false = _merged(counts)
    num_cells = np.count_nonzero(num_true) + np.count_nonzero(num_false)
    if num_cells > MAX_DRAWN:
        return _normal_ranking(rng, (num_true, num_false))
    drawn = draws(rng, np.concatenate([num_true, num_false]))
    found = [ranking_of((one[:, : len(num_true)], one[:, len(num_true) :])) for one in drawn]
    precisions, areas = zip(*found, strict=True)
    return np.concatenate(precisions), np.concatenate(areas)


def _merged(counts: Levels) -> Levels:
    """Neighbouring levels without a true face as one."""
    has_true = counts[0] > 0
    starts = np.flatnonzero(has_true | np.append(True, has_true[:-1]))
    return np.add.reduceat(counts[0], starts), np.add.reduceat(counts[1], starts)


def _normal_ranking(rng: np.random.Generator, counts: Levels) -> tuple[Figures, Figures]:
    figures = np.stack(ranking_of(counts))
    if np.isnan(figures).any():
        return np.full(NUM_RESAMPLES, figures[0]), np.full(NUM_RESAMPLES, figures[1])
    errors = [
        np.sqrt((counts[0] * true**2 + counts[1] * false**2).sum())
        for true, false in influences(counts)
    ]
    drawn = rng.normal(figures, errors, (NUM_RESAMPLES, 2)).clip(0, 1)
    return drawn[:, 0], drawn[:, 1]


def drawn_class_means(
    rng: np.random.Generator, y_true: NDArray[Any], probs: NDArray[Any]
) -> tuple[Figures, Figures]:
    """Like ``drawn_ranking``, of classes: means over each class against the rest, where defined.

    ``y_true`` is (N,) classes, ``probs`` (N, K). All classes see the same resamples. Above
    ``MAX_DRAWN`` faces the means are drawn from the normal distribution.
    """
    classes = np.unique(y_true).tolist()
    if len(y_true) > MAX_DRAWN and len(classes) > 1:
        return _normal_class_means(rng, y_true, probs, classes)
    orders = [np.argsort(-probs[:, k], kind="stable") for k in classes]
    found = []
    for drawn in draws(rng, np.ones(len(y_true), np.int64)):
        by_class = [
            ranking_of(_drawn_levels(drawn[:, order], y_true[order] == k, probs[order, k]))
            for k, order in zip(classes, orders, strict=True)
        ]
        found.append(mean_defined(np.asarray(by_class)))
    precisions, areas = np.concatenate(found, axis=1)
    return precisions, areas


def mean_defined(figures: Figures) -> Figures:
    """The mean over the first axis of those that are not NaN; NaN where none is."""
    return divide(np.nansum(figures, axis=0), np.asarray((~np.isnan(figures)).sum(0)))


def _drawn_levels(drawn: Counts, is_true: NDArray[np.bool_], falling: NDArray[Any]) -> Levels:
    """Levels (r, L) of faces (N,) by falling probability, each as often as ``drawn`` (r, N)."""
    starts = np.append(0, _lasts(falling)[:-1] + 1)
    num_all, hits = (np.add.reduceat(one, starts, axis=1) for one in (drawn, drawn * is_true))
    return hits, num_all - hits


def _normal_class_means(
    rng: np.random.Generator, y_true: NDArray[Any], probs: NDArray[Any], classes: list[int]
) -> tuple[Figures, Figures]:
    figures, moved = np.zeros(2), np.zeros((2, len(y_true)))
    for k in classes:
        counts = levels(y_true == k, probs[:, k])
        figures += ranking_of(counts)
        level = np.unique(-probs[:, k], return_inverse=True)[1]
        for i, (true, false) in enumerate(influences(counts)):
            moved[i] += np.where(y_true == k, true[level], false[level])
    errors = np.sqrt((moved**2).sum(1)) / len(classes)
    drawn = rng.normal(figures / len(classes), errors, (NUM_RESAMPLES, 2)).clip(0, 1)
    return drawn[:, 0], drawn[:, 1]
