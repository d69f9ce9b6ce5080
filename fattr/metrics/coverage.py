"""Who gets a label at all, by group: faces found, large enough, and decided upon.

Missing labels bend what is counted over many pictures as wrong ones do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fattr.metrics.attribute import Measured, Metrics, Shares, with_intervals
from fattr.metrics.by_group import MIN_N, TOO_FEW, Members, group_rng, large_group
from fattr.metrics.fairness import compare_groups
from fattr.metrics.intervals import Counts, Figures, drawn_counts, drawn_sums
from fattr.metrics.ranking import divide, mean_defined, number

COVERAGE = ("detection_recall", "too_small_frac", "abstained_frac")


def measure_coverage(
    members: Members,
    *,
    found: NDArray[np.bool_] | None,
    face_px: NDArray[np.floating],
    min_face_px: float,
    abstained: NDArray[np.bool_] | None = None,
    labelled: NDArray[np.bool_] | None = None,
    min_n: int = MIN_N,
) -> dict[str, dict[str, Measured]]:
    """Of each group in each column of ``members``: what share of its faces goes without a label.

    ``found`` is (N,), None where no face was looked for; ``detection_recall`` is its share.
    ``too_small_frac`` is the share of the found faces below ``min_face_px``. ``abstained`` is (N,)
    of one attribute or (N, A) of several, as ``labelled``, the labels that count (default: all):
    ``abstained_frac`` is the mean over attributes of the share of labelled faces abstained from.
    What was not looked at is None. Groups of fewer than ``min_n`` faces are "too few". Intervals
    are Wilson's, for several attributes' abstentions the bootstrap's over faces.
    """
    hidden = None if abstained is None else abstained.reshape(len(abstained), -1)
    counted = np.ones_like(hidden) if labelled is None else labelled.reshape(len(labelled), -1)

    def measured(column: str, value: str, faces: NDArray[np.intp]) -> Measured:
        if len(faces) < min_n:
            return Measured({"n": len(faces), "status": TOO_FEW}, {})
        rng, parts = group_rng(column, value), []
        if found is not None:
            parts.append(_detection(rng, found[faces], face_px[faces] < min_face_px))
        if hidden is not None:
            parts.append(_abstention(rng, hidden[faces], counted[faces]))
        return _joined(len(faces), parts)

    return {
        column: {value: measured(column, value, faces) for value, faces in values.items()}
        for column, values in members.items()
    }


def coverage_gaps(groups: Mapping[str, Measured]) -> dict[str, Any]:
    """How far the groups of one column are apart in coverage (see ``compare_groups``)."""
    return compare_groups(groups, COVERAGE)


def _joined(n: int, parts: list[Measured]) -> Measured:
    metrics: Metrics = {"n": n, "intervals": {}}
    replicates: dict[str, Figures] = {}
    for part in parts:
        intervals = metrics["intervals"] | part.metrics["intervals"]
        metrics |= part.metrics | {"intervals": intervals}
        replicates |= part.replicates
    metrics = large_group(Measured(metrics, replicates), {}).metrics
    unseen = {name: None for name in COVERAGE if name not in metrics}
    return Measured(metrics | unseen, replicates)


def _detection(
    rng: np.random.Generator, found: NDArray[np.bool_], is_small: NDArray[np.bool_]
) -> Measured:
    num_found, num_small = int(found.sum()), int((found & is_small).sum())
    counts = np.array([len(found) - num_found, num_small, num_found - num_small])
    shares, drawn = _detection_shares(counts), _detection_shares(drawn_counts(rng, counts))
    metrics = {name: number(divide(*share)) for name, share in shares.items()}
    replicates = {name: divide(*share) for name, share in drawn.items()}
    return with_intervals(metrics, shares, replicates)


def _detection_shares(counts: Counts) -> Shares:
    """Of (..., 3) counts of faces: not found, found but small, found and large enough."""
    num_found = counts[..., 1:].sum(-1)
    return {
        "detection_recall": (num_found, counts.sum(-1)),
        "too_small_frac": (counts[..., 1], num_found),
    }


def _abstention(
    rng: np.random.Generator, hidden: NDArray[np.bool_], counted: NDArray[np.bool_]
) -> Measured:
    """The mean over A attributes, (n, A) each, of the share of counted labels that are hidden."""
    part, whole = (hidden & counted).sum(0), counted.sum(0)
    by_attribute = divide(part, whole)
    mean = mean_defined(by_attribute)
    known = np.flatnonzero(whole)
    # What each face adds to the mean, to first order: exact where all labels count.
    added = np.zeros(len(hidden))
    for k in known:
        own = counted[:, k] * (hidden[:, k] - by_attribute[k])
        added += own / whole[k] / len(known)
    drawn = mean + drawn_sums(rng, added[:, np.newaxis])[:, 0]
    shares: Shares = {"abstained_frac": (part[0], whole[0])} if hidden.shape[1] == 1 else {}
    replicates = {"abstained_frac": drawn.clip(0, 1)}
    return with_intervals({"abstained_frac": number(mean)}, shares, replicates)
