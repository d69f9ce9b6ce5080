"""Figures of pictures that got worse: accuracy, detection and abstention, and the size gate.

Knows nothing of how pictures get worse, nor of who looked at them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.metrics.by_group import MIN_N, OK, TOO_FEW, UNKNOWN
from fattr.metrics.calibration import ece
from fattr.metrics.intervals import SEED, Figures, draws, percentile_interval, wilson_interval
from fattr.metrics.ranking import divide, mean_defined, number
from fattr.records import FloatArray

# The size gate, see ``suggested_gate``.
MAX_DROP = 0.02  # as much as a face in a photograph may lose against the data set's own crop
MIN_RECALL = 0.95
MIN_FACES = 100  # of a point that the gate may rest on

Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Looks:
    """F faces, each looked at K times: the first time as it is, then in pictures that got worse.

    ``said``, ``came_true`` and ``is_right`` are NaN where the face was not found; the last two also
    where it has no label.
    """

    present: Bools  # (F, K) False: there is no such picture of this face
    face_px: FloatArray  # (F, K) shorter side of the box found; NaN where the face was not found
    said: Figures  # (F, K, A) probability of true, or of the most probable class
    came_true: Figures  # (F, K, A) 1 where that of which ``said`` is the probability holds
    is_right: Figures  # (F, K, A) 1 where the class predicted is the labelled one
    abstained: Bools  # (F, K, A) where annotate would give no label

    @property
    def found(self) -> Bools:
        """(F, K) where the face was found again."""
        return ~np.isnan(self.face_px)


def joined(parts: Sequence[Looks]) -> Looks:
    """The faces of all parts."""
    return Looks(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in dataclasses.fields(Looks)
        )
    )


def no_faces(num_looks: int, num_attributes: int) -> Looks:
    """F = 0."""
    shape = (0, num_looks)
    rates, flags = np.empty((*shape, num_attributes)), np.empty((*shape, num_attributes), np.bool_)
    return Looks(np.empty(shape, np.bool_), np.empty(shape, np.float32), rates, rates, rates, flags)


def point_figures(
    looks: Looks,
    k: int,
    attributes: Sequence[Attribute],
    columns: Mapping[str, NDArray[np.str_]],
    *,
    min_n: int = MIN_N,
) -> dict[str, Any]:
    """Figures of look ``k``; what is undefined is None.

    Of ``n`` faces that there is a picture of, ``detection_recall`` is the share found: of faces
    found as they are, so that it is 1 there. Where fewer than ``min_n`` are found, the status is
    "too few" and the rest None; the recall too where there are no more of them. The rest is of
    labelled faces found, as means over binary and categorical attributes:

    - ``accuracy``, ``as_is_accuracy`` of the very same faces as they are, and ``change``, the
      first minus the second;
    - ``selective_accuracy`` where annotate gives a label, and ``abstained_frac``, how often it
      does not (over ages too);
    - ``confidence``, the mean probability of the most probable class, and ``ece``.

    ``columns`` are groups, (F,), "" where unknown. Intervals are Wilson's of the recall, else the
    bootstrap's over faces.
    """
    found = looks.found[:, k]
    n, num_found = int(looks.present[:, k].sum()), int(found.sum())
    judged = found & (num_found >= min_n)
    counted = [i for i, a in enumerate(attributes) if a.kind is not Kind.AGE]
    figures, intervals = _accuracies(*(looks.is_right[judged, j][:, counted] for j in (k, 0)))
    if n >= max(min_n, 1):
        intervals["detection_recall"] = list(wilson_interval(num_found, n))
    shares = mean_defined(looks.is_right[judged, k])
    return {
        "n": n,
        "num_found": num_found,
        "status": OK if judged.any() else TOO_FEW,
        "detection_recall": num_found / n if n >= max(min_n, 1) else None,
        **figures,
        **_trust(looks, k, judged, attributes),
        "intervals": intervals,
        "attributes": {a.name: number(one) for a, one in zip(attributes, shares, strict=True)},
        "by_group": {
            column: {
                str(value): _group_figures(looks, k, values == value, counted, min_n)
                for value in np.unique(values[values != UNKNOWN])
            }
            for column, values in columns.items()
        },
    }


def _accuracies(right: Figures, as_is: Figures) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Macro accuracy of faces (N, A), as they are, and the change; and intervals."""
    now, then = mean_defined(mean_defined(right)), mean_defined(mean_defined(as_is))
    figures = {
        "accuracy": number(now),
        "as_is_accuracy": number(then),
        "change": number(now - then),
    }
    if figures["change"] is None:
        return figures, {}
    weights = draws(np.random.default_rng(SEED), np.ones(len(right), np.int64))
    drawn = [(_macro(own, right), _macro(own, as_is)) for own in weights]
    after, before = (np.concatenate(own) for own in zip(*drawn, strict=True))
    return figures, {
        "accuracy": percentile_interval(after),
        "change": percentile_interval(after - before),
    }


def _macro(weights: NDArray[np.int64], right: Figures) -> Figures:
    """Macro accuracy (R,) of faces (N, A), each there ``weights`` (R, N) times."""
    known = ~np.isnan(right)
    return mean_defined(
        divide(weights @ np.where(known, right, 0.0), weights @ known.astype(int)).T
    )


def _trust(looks: Looks, k: int, judged: Bools, attributes: Sequence[Attribute]) -> dict[str, Any]:
    """How far the labels of the faces ``judged`` (F,) can be believed; see ``point_figures``."""
    said, truth, right = (one[judged, k] for one in (looks.said, looks.came_true, looks.is_right))
    hidden, is_unknown = looks.abstained[judged, k], np.isnan(right)
    is_binary = [a.kind is Kind.BINARY for a in attributes]
    sure = np.where(is_binary, np.maximum(said, 1 - said), said)
    counted = [i for i, a in enumerate(attributes) if a.kind is not Kind.AGE]
    errors = [ece(said[~is_unknown[:, i], i], truth[~is_unknown[:, i], i]) for i in counted]
    per_attribute = {
        "selective_accuracy": mean_defined(np.where(hidden, np.nan, right))[counted],
        "abstained_frac": mean_defined(np.where(is_unknown, np.nan, hidden)),
        "confidence": mean_defined(np.where(is_unknown, np.nan, sure))[counted],
        "ece": np.array(errors, np.float64),
    }
    return {name: number(mean_defined(values)) for name, values in per_attribute.items()}


def _group_figures(
    looks: Looks, k: int, members: Bools, counted: Sequence[int], min_n: int
) -> dict[str, Any]:
    """Recall and macro accuracy of the faces that are ``members`` (F,)."""
    n, found = int((looks.present[:, k] & members).sum()), looks.found[:, k] & members
    if n < min_n:
        return {"n": n, "status": TOO_FEW}
    right = looks.is_right[found, k][:, counted]
    return {
        "n": n,
        "num_found": len(right),
        "status": OK,
        "detection_recall": len(right) / n,
        "accuracy": number(mean_defined(mean_defined(right))) if len(right) >= min_n else None,
    }


# The size gate


def gate_figures(points: Sequence[Mapping[str, Any]], min_face_px: float) -> dict[str, Any]:
    """The gate in force, the one that a curve of face sizes suggests, and by which rule."""
    return {
        "min_face_px": min_face_px,
        "suggested_px": suggested_gate(points),
        "max_drop": MAX_DROP,
        "min_recall": MIN_RECALL,
    }


def suggested_gate(
    points: Sequence[Mapping[str, Any]],
    *,
    max_drop: float = MAX_DROP,
    min_recall: float = MIN_RECALL,
    min_faces: int = MIN_FACES,
) -> float | None:
    """The smallest size of a face from which on labels are nearly as good as at full size.

    At it and at every larger size that ``min_faces`` or more faces have, macro accuracy is at most
    ``max_drop`` below that of the same faces as they are, and ``min_recall`` of them are found.
    None where not even the largest such size will do.
    """
    suggested = None
    for point in sorted(points, key=lambda one: -float(one["value"])):
        if point["n"] < min_faces:
            continue
        is_worse = point["change"] is None or point["change"] < -max_drop
        if is_worse or point["detection_recall"] < min_recall:
            break
        suggested = float(point["value"])
    return suggested
