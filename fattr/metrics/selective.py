"""What labels are worth when the least certain faces get none: accuracy against coverage.

Certainty is that of ``classify.calibration``: what the abstention band of a bundle goes by, so that
a band fitted for a coverage keeps the faces that the curve keeps there. The accuracy of an age is
that of its most probable bin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute, Kind
from fattr.classify.calibration import Calibration, abstained, certainty, certainty_limit
from fattr.metrics.attribute import Metrics

COVERAGES = tuple(round(1 - step / 20, 2) for step in range(11))  # 1.0, 0.95 .. 0.5
STATED_COVERAGE = 0.9


def selective_metrics(
    attribute: Attribute, targets: ArrayLike, probs: ArrayLike, calibration: Calibration
) -> Metrics:
    """Accuracy of one attribute with abstention, over the faces whose target is known.

    ``targets`` is (N,), -1 where unknown; ``probs`` (N,) of true if binary, else (N, K).
    ``coverage`` is the share of faces outside of the bundle's band, ``accuracy`` theirs;
    ``accuracy_at_90`` and ``curve`` drop the least certain faces, whatever the band.
    """
    y_true, y_prob = np.asarray(targets), np.asarray(probs)
    known = y_true >= 0
    y_true, y_prob = y_true[known], y_prob[known]
    threshold = calibration.thresholds.get(attribute.name, 0.5)
    correct = is_correct(attribute, y_true, y_prob, threshold)
    certainties = certainty(y_prob, attribute, threshold)
    kept = ~abstained(y_prob, attribute, calibration)
    return {
        "coverage": _share(kept),
        "accuracy": _share(correct[kept]),
        "accuracy_at_90": accuracy_at(certainties, correct, STATED_COVERAGE),
        "curve": selective_curve(certainties, correct),
    }


def is_correct(
    attribute: Attribute, y_true: NDArray[Any], probs: NDArray[Any], threshold: float
) -> NDArray[np.bool_]:
    """Which of N faces get the label that they have."""
    if attribute.kind is Kind.BINARY:
        right: NDArray[np.bool_] = (probs >= threshold) == (y_true == 1)
    else:
        right = probs.argmax(axis=1) == y_true
    return right


def selective_curve(
    certainties: NDArray[np.float64],
    correct: NDArray[np.bool_],
    coverages: Sequence[float] = COVERAGES,
) -> list[dict[str, Any]]:
    """{coverage, kept, accuracy} at each of the coverages, highest first as given.

    ``kept`` is the share of faces that keep their label: at least the coverage, more where equally
    certain faces would have to be told apart. It and ``accuracy`` are None without faces.
    """
    rows = []
    for coverage in coverages:
        kept = _kept(certainties, coverage)
        rows.append({"coverage": coverage, "kept": _share(kept), "accuracy": _share(correct[kept])})
    return rows


def accuracy_at(
    certainties: NDArray[np.float64], correct: NDArray[np.bool_], coverage: float
) -> float | None:
    """Accuracy of the most certain faces, a share ``coverage`` of all; None without faces."""
    return _share(correct[_kept(certainties, coverage)])


def _kept(certainties: NDArray[np.float64], coverage: float) -> NDArray[np.bool_]:
    if not len(certainties):
        return np.zeros(0, bool)
    return certainties >= certainty_limit(certainties, coverage)


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None


def macro_selective(by_name: Mapping[str, Metrics], attributes: Iterable[Attribute]) -> Metrics:
    """Plain means of ``selective_metrics`` over the binary and categorical attributes; no ages.

    Each attribute drops its own faces: at coverage 0.9 every attribute keeps nine of ten labels,
    and a face that lost one may keep others. What is undefined is left out of its mean.
    """
    counted = [by_name[a.name] for a in attributes if a.kind is not Kind.AGE]
    curves = list(zip(*(one["curve"] for one in counted), strict=True))
    rows = [
        {
            "coverage": points[0]["coverage"],
            "kept": _mean(point["kept"] for point in points),
            "accuracy": _mean(point["accuracy"] for point in points),
        }
        for points in curves
    ]
    return {
        "coverage": _mean(one["coverage"] for one in counted),
        "accuracy": _mean(one["accuracy"] for one in counted),
        "accuracy_at_full_coverage": rows[0]["accuracy"] if rows else None,
        "accuracy_at_90": _mean(one["accuracy_at_90"] for one in counted),
        "curve": rows,
    }


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
