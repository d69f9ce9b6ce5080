"""Can the probabilities be believed: expected calibration error, Brier score, reliability.

Of a binary attribute the probability of true is held against the share of true faces; of classes
and ages the probability of the most probable class against the share of faces of which it is right.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute, Kind
from fattr.metrics.attribute import Metrics

NUM_BINS = 10


def calibration_metrics(attribute: Attribute, targets: ArrayLike, probs: ArrayLike) -> Metrics:
    """``ece``, ``brier`` and ``reliability`` of one attribute over the faces with a known target.

    ``targets`` is (N,), -1 where unknown. ``probs`` is (N,) for a binary attribute, else (N, K).
    """
    y_true, y_prob = np.asarray(targets), np.asarray(probs, np.float64)
    known = y_true >= 0
    y_true, y_prob = y_true[known], y_prob[known]
    rows = reliability(*confidences(attribute, y_true, y_prob))
    return {"ece": _ece_of(rows), "brier": brier(y_true, y_prob), "reliability": rows}


def confidences(
    attribute: Attribute, y_true: NDArray[Any], probs: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """What was promised of each of N faces, and whether it came true, both (N,)."""
    if attribute.kind is Kind.BINARY:
        return probs, y_true == 1
    return probs.max(axis=1, initial=0), probs.argmax(axis=1) == y_true


def ece(confidence: ArrayLike, correct: ArrayLike, bins: int = NUM_BINS) -> float | None:
    """Mean distance between confidence and share of correct faces in ``reliability``'s bins.

    Each bin counts with its faces: the expected calibration error (Naeini et al., 2015) with bins
    of equal mass, as Nguyen and O'Connor (2015) have them. None without faces.
    """
    return _ece_of(reliability(confidence, correct, bins))


def _ece_of(rows: list[dict[str, Any]]) -> float | None:
    num_faces = sum(row["n"] for row in rows)
    gaps = [row["n"] * abs(row["prob"] - row["frac"]) for row in rows]
    return float(sum(gaps) / num_faces) if num_faces else None


def reliability(
    confidence: ArrayLike, correct: ArrayLike, bins: int = NUM_BINS
) -> list[dict[str, Any]]:
    """Faces (N,) by rising confidence in bins of equally many, of which the first have one more.

    Rows are {n, prob: mean confidence, frac: share correct}; there are fewer than ``bins`` where
    there are fewer faces. Faces of equal confidence count as equally correct, each with the share
    of them all, so that it does not matter which of them a bin holds.
    """
    values, hits = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    levels, level, sizes = np.unique(values, return_inverse=True, return_counts=True)
    shares = np.bincount(level, hits, minlength=len(levels)) / sizes
    order = np.argsort(values, kind="stable")
    parts = np.array_split(order, min(bins, len(order)) or 1)
    return [
        {
            "n": len(part),
            "prob": float(values[part].mean()),
            "frac": float(shares[level[part]].mean()),
        }
        for part in parts
        if len(part)
    ]


def brier(y_true: ArrayLike, probs: ArrayLike) -> float | None:
    """Mean squared error of probabilities, 0 .. 1; None without faces.

    Of a binary attribute, ``probs`` (N,), Brier's score as usual: the mean of (p - y)^2. Of
    classes, ``probs`` (N, K), half of the sum over classes that Brier (1950) has, so that a binary
    attribute scores the same when told as two classes: scikit-learn's ``scale_by_half=True``.
    """
    labels, values = np.asarray(y_true, np.int64), np.asarray(probs, np.float64)
    if not len(labels):
        return None
    if values.ndim == 1:
        return float(((values - labels) ** 2).mean())
    right = np.eye(values.shape[1])[labels]
    return float(((values - right) ** 2).sum(axis=1).mean() / 2)
