"""An attribute's metrics for each group of faces, to see whom a model serves worse.

Groups are what annotators noted, and serve evaluation only.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute
from fattr.metrics.attribute import Measured, Metrics, measure
from fattr.metrics.intervals import SEED

UNKNOWN = ""  # the group of a face for which nobody noted one
MIN_N = 30  # faces below which a group's figures would be mostly chance
OK, TOO_FEW = "ok", "too few"

Members: TypeAlias = Mapping[str, Mapping[str, NDArray[np.intp]]]  # column -> value -> faces
Extra: TypeAlias = Callable[[NDArray[np.int64], NDArray[Any]], Metrics]


def group_members(groups: Mapping[str, Sequence[str]]) -> dict[str, dict[str, NDArray[np.intp]]]:
    """Which faces have each value of each column of ``groups``, and of each pair of columns.

    Each column has one value a face, "" where unknown: such faces are in no group. The pair of
    ``race`` and ``age`` is the column ``race*age`` with values such as ``Black|20-29``, columns in
    the order given; only combinations that occur are there. Values are sorted.
    """
    lengths = {column: len(values) for column, values in groups.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"group columns must be equally long: {lengths}")
    names = {column: sorted(set(values) - {UNKNOWN}) for column, values in groups.items()}
    codes = {column: _codes(groups[column], own) for column, own in names.items()}
    members = {column: _members(own, codes[column]) for column, own in names.items()}
    for one, other in itertools.combinations(groups, 2):
        pairs = [f"{a}|{b}" for a in names[one] for b in names[other]]
        known = (codes[one] >= 0) & (codes[other] >= 0)
        both = np.where(known, codes[one] * len(names[other]) + codes[other], -1)
        members[f"{one}*{other}"] = _members(pairs, both)
    return members


def _codes(values: Sequence[str], names: Sequence[str]) -> NDArray[np.int64]:
    """Each face's place in ``names``, -1 where it has none of them."""
    places = {name: i for i, name in enumerate(names)}
    return np.fromiter((places.get(value, -1) for value in values), np.int64, len(values))


def _members(names: Sequence[str], codes: NDArray[np.int64]) -> dict[str, NDArray[np.intp]]:
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    parts = (order[start:end] for start, end in itertools.pairwise(bounds))
    return {name: part for name, part in zip(names, parts, strict=True) if len(part)}


def measure_groups(
    attribute: Attribute,
    targets: ArrayLike,
    probs: ArrayLike,
    threshold: float,
    members: Members,
    *,
    min_n: int = MIN_N,
    intervals: bool = True,
    extra: Extra | None = None,
) -> dict[str, dict[str, Measured]]:
    """Metrics of each group in each column of ``members`` (see ``group_members``).

    A group of fewer than ``min_n`` labelled faces has ``n`` and the status "too few" only. Others
    have the status "ok", and in ``not_estimable`` the metrics that are None: without a face that
    is labelled yes also precision and F1, which scikit-learn calls 0. ``extra`` gives more metrics
    of targets and probabilities, all of them known, and may give their ``intervals``.
    Groups are resampled independently of each other.
    """
    y_true, y_prob = np.asarray(targets, np.int64), np.asarray(probs)

    def measured(column: str, value: str, faces: NDArray[np.intp]) -> Measured:
        own_true, own_prob = y_true[faces], y_prob[faces]
        known = own_true >= 0
        if (n := int(known.sum())) < min_n:
            return Measured({"n": n, "status": TOO_FEW}, {})
        rng = group_rng(column, value) if intervals else None
        found = measure(attribute, own_true, own_prob, threshold, rng, need_positives=True)
        more = extra(own_true[known], own_prob[known]) if extra else {}
        return large_group(found, more)

    return {
        column: {value: measured(column, value, faces) for value, faces in values.items()}
        for column, values in members.items()
    }


def group_rng(column: str, value: str) -> np.random.Generator:
    """The generator of one group's resamples, whatever other groups there are."""
    return np.random.default_rng([SEED, zlib.crc32(f"{column}={value}".encode())])


def large_group(found: Measured, more: Metrics) -> Measured:
    """What is said of a group that is not too small, ``more`` metrics included."""
    metrics = found.metrics | more
    if both := found.metrics.get("intervals", {}) | more.get("intervals", {}):
        metrics["intervals"] = both
    missing = [name for name, value in metrics.items() if value is None]
    status = {"n": metrics["n"], "status": OK, "not_estimable": missing}
    return Measured(status | metrics, found.replicates)


def figures(measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, Metrics]]:
    """What was measured by group, as JSON holds it."""
    return {
        column: {value: one.metrics for value, one in values.items()}
        for column, values in measured.items()
    }
