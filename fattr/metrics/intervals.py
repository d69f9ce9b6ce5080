"""How sure a figure is: 95 % intervals, and the resamples of the faces that they come from.

A plain share has Wilson's interval. Any other figure has the percentile bootstrap's: the 2.5 and
97.5 percentiles over 1,000 resamples of as many faces with replacement (Efron, 1979). It cannot
see what did not occur: an F1 of 1 has the interval [1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Counts: TypeAlias = NDArray[np.int64]
Figures: TypeAlias = NDArray[np.float64]

Z_95 = 1.959963984540054  # the 0.975 quantile of the normal distribution
NUM_RESAMPLES = 1_000
SEED = 20_260

# Above this many faces or cells, sums are drawn from the normal distribution that the bootstrap
# tends to: what a figure costs no longer grows with the number of faces times the resamples.
MAX_DRAWN = 2_048
# Drawing a face and counting it costs 8 ns, a binomial draw of one cell's count 60 to 120.
FACES_PER_CELL = 12
CHUNK_SIZE = 2**20  # numbers of 8 bytes; a handful of such arrays live at once


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of ``count`` in ``n`` > 0.

    Wilson, JASA 1927; https://doi.org/10.1080/01621459.1927.10502953
    """
    share, z2 = count / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def percentile_interval(replicates: Figures) -> list[float]:
    """The central 95 % of a figure's resamples (R,), NaN being those in which it is undefined."""
    defined = replicates[~np.isnan(replicates)]
    return [float(limit) for limit in np.quantile(defined, (0.025, 0.975))]


def draws(rng: np.random.Generator, counts: NDArray[np.integer]) -> Iterator[Counts]:
    """Resamples of faces that fall into C cells, ``counts`` (C,) of them: (r, C), 1,000 in all.

    Each row sums to the number of faces, which must not be 0. With counts of 1, a row says how
    often each face was drawn.
    """
    cells = np.flatnonzero(counts)
    n, own = int(counts.sum()), np.asarray(counts)[cells]
    by_cell = n > FACES_PER_CELL * len(cells)
    width = len(counts) if by_cell else max(n, len(counts))
    num_rows = max(1, CHUNK_SIZE // width)
    for start in range(0, NUM_RESAMPLES, num_rows):
        size = min(num_rows, NUM_RESAMPLES - start)
        drawn = np.zeros((size, len(counts)), np.int64)
        drawn[:, cells] = (
            rng.multinomial(n, own / n, size) if by_cell else _draws_by_face(rng, own, size)
        )
        yield drawn


def _draws_by_face(rng: np.random.Generator, counts: NDArray[np.integer], num_rows: int) -> Counts:
    """The multinomial draw (num_rows, C), one face after another."""
    num_cells, n = len(counts), int(counts.sum())
    cell_of_face = np.repeat(np.arange(num_cells), counts)
    drawn = cell_of_face[rng.integers(0, n, (num_rows, n))]
    drawn += num_cells * np.arange(num_rows)[:, np.newaxis]
    return np.bincount(drawn.ravel(), minlength=num_rows * num_cells).reshape(num_rows, num_cells)


def drawn_counts(rng: np.random.Generator, counts: NDArray[np.integer]) -> Counts:
    """``draws`` of a table of counts of any shape, (1,000, *shape)."""
    return np.concatenate(list(draws(rng, counts.ravel()))).reshape(-1, *counts.shape)


def drawn_sums(rng: np.random.Generator, values: NDArray[Any]) -> Figures:
    """Sums over resampled faces of M values a face, ``values`` (N, M): (1,000, M).

    Above ``MAX_DRAWN`` faces, by the central limit theorem.
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) <= MAX_DRAWN:
        weights = draws(rng, np.ones(len(numbers), np.int64))
        return np.concatenate([drawn @ numbers for drawn in weights])
    covariance = len(numbers) * np.atleast_2d(np.cov(numbers, rowvar=False, bias=True))
    return rng.multivariate_normal(
        numbers.sum(0), covariance, NUM_RESAMPLES, check_valid="ignore", method="eigh"
    )
