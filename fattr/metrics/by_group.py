"""An attribute's metrics for each group of faces, to see whom a model serves worse.

Groups are what annotators noted, and serve evaluation only.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute
from fattr.metrics.attribute import Metrics, attribute_metrics

UNKNOWN = ""  # the group of a face for which nobody noted one


def by_group(
    attribute: Attribute,
    targets: ArrayLike,
    probs: ArrayLike,
    threshold: float,
    groups: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, Metrics]]:
    """Metrics for each value of each column of ``groups``, and for each pair of columns.

    Each column has one value a face, "" where unknown: such faces are in no group. The pair of
    ``race`` and ``age`` is the column ``race*age`` with values such as ``Black|20-29``, columns in
    the order given; only combinations that occur are there.
    """
    y_true, y_prob = np.asarray(targets), np.asarray(probs)

    def metrics_where(mask: NDArray[np.bool_]) -> Metrics:
        return attribute_metrics(attribute, y_true[mask], y_prob[mask], threshold)

    return {
        column: {
            value: metrics_where(np.asarray(values) == value)
            for value in sorted(set(values) - {UNKNOWN})
        }
        for column, values in (dict(groups) | intersections(groups)).items()
    }


def intersections(groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """One column for each pair of columns; a face that lacks either value is in no group."""
    return {
        f"{first}*{second}": [
            f"{a}|{b}" if UNKNOWN not in (a, b) else UNKNOWN
            for a, b in zip(groups[first], groups[second], strict=True)
        ]
        for first, second in itertools.combinations(groups, 2)
    }
