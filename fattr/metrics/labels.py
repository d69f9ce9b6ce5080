"""What the labels of a data set say by themselves: how frequent, how related, how spread.

Plain numbers that JSON can hold; what is undefined is None or NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fattr.attributes import Attribute, Kind
from fattr.metrics.intervals import wilson_interval


def prevalence(attribute: Attribute, targets: ArrayLike) -> dict[str, Any]:
    """How often each class is labelled: of a binary attribute, how often ``true``.

    ``targets`` is (N,), -1 where unknown; those are ``missing``, and in no share.
    """
    y = np.asarray(targets)
    counts = np.bincount(y[y >= 0], minlength=attribute.num_values).tolist()
    n = sum(counts)
    classes = attribute.classes or ("false", "true")
    shares = {name: _share(count, n) for name, count in zip(classes, counts, strict=True)}
    return {
        "n": n,
        "missing": len(y) - n,
        "classes": {"true": shares["true"]} if attribute.kind is Kind.BINARY else shares,
    }


def _share(count: int, n: int) -> dict[str, Any]:
    if not n:
        return {"count": 0, "share": None, "low": None, "high": None}
    low, high = wilson_interval(count, n)
    return {"count": count, "share": count / n, "low": low, "high": high}


def phi_matrix(targets: NDArray[np.integer]) -> NDArray[np.float64]:
    """Phi coefficients (A, A) of yes/no targets (N, A), -1 where unknown.

    Each pair over the images that label both; NaN where one of them never varies. Phi is the
    correlation of two yes/no variables: (n n11 - n1. n.1) / sqrt(n1. n0. n.1 n.0); Yule, JRSS 1912.
    """
    known, yes = (targets >= 0).astype(np.float64), (targets == 1).astype(np.float64)
    n, both = known.T @ known, yes.T @ yes
    first, second = yes.T @ known, known.T @ yes  # of images that label both, those with either
    variance = first * (n - first) * second * (n - second)
    phi = np.full(n.shape, np.nan)
    np.divide(n * both - first * second, np.sqrt(variance), out=phi, where=variance > 0)
    return phi


def angular_order(phi: NDArray[np.float64]) -> list[int]:
    """An order of the attributes that puts alike ones side by side, undefined ones last.

    By the angle of their first two eigenvectors, cut at the widest gap; Friendly, Corrgrams, 2002,
    https://doi.org/10.1198/000313002533
    """
    defined = [i for i in range(len(phi)) if not math.isnan(phi[i, i])]
    undefined = [i for i in range(len(phi)) if math.isnan(phi[i, i])]
    if len(defined) < 3:
        return defined + undefined
    _, vectors = np.linalg.eigh(np.nan_to_num(phi[np.ix_(defined, defined)]))
    angles = np.arctan2(vectors[:, -2], vectors[:, -1])
    order = np.argsort(angles, kind="stable")
    around = angles[order]
    gaps = np.diff(around, prepend=around[-1] - 2 * np.pi)
    start = int(gaps.argmax())
    return [defined[i] for i in np.roll(order, -start)] + undefined


def cell_counts(
    columns: Mapping[str, Sequence[str]], values: Mapping[str, Sequence[str]]
) -> NDArray[np.int64]:
    """How many images have each combination of the columns' values, one axis a column.

    ``columns`` has one value an image, ``values`` the order of each column's values; an image with
    a value that is none of them, such as "" for unknown, is not counted.
    """
    index = {name: {value: i for i, value in enumerate(values[name])} for name in columns}
    places = [[index[name].get(value, -1) for value in columns[name]] for name in columns]
    cells = np.asarray(places, np.int64).reshape(len(columns), -1)
    counts = np.zeros([len(values[name]) for name in columns], np.int64)
    np.add.at(counts, tuple(cells[:, (cells >= 0).all(0)]), 1)
    return counts
