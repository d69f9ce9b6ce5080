"""How often labels contradict each other, such as a bald head with bangs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr.attributes import CONTRADICTIONS, Contradiction
from fattr.metrics.attribute import Metrics
from fattr.metrics.intervals import wilson_interval

Labels: TypeAlias = Mapping[str, NDArray[np.integer]]


def consistency(
    labels: Labels,
    targets: Labels | None = None,
    contradictions: Sequence[Contradiction] = CONTRADICTIONS,
) -> dict[str, Metrics]:
    """For each contradiction whose attributes all have labels: among how many faces, how often.

    ``labels`` has for each attribute (N,) predictions, ``targets`` what annotators said: 1 true,
    0 false, -1 unknown or abstained. ``n`` are the faces with a label for every attribute of the
    contradiction; annotators contradict themselves too, and how often is ``target_rate``.
    Intervals are Wilson's.
    """
    return {
        one.name: {
            "description": one.description,
            "attributes": list(one.attributes),
            **_occurrence(one, labels, ""),
            **_occurrence(one, targets or {}, "target_"),
        }
        for one in contradictions
        if labels.keys() >= set(one.attributes)
    }


def _occurrence(contradiction: Contradiction, labels: Labels, prefix: str) -> dict[str, Any]:
    columns = [labels[name] for name in contradiction.attributes if name in labels]
    n = count = 0
    if len(columns) == len(contradiction.attributes):
        values = np.stack(columns)
        n, count = int((values >= 0).all(0).sum()), int((values == 1).all(0).sum())
    return {
        f"{prefix}n": n,
        f"{prefix}count": count,
        f"{prefix}rate": count / n if n else None,
        f"{prefix}interval": list(wilson_interval(count, n)) if n else None,
    }
