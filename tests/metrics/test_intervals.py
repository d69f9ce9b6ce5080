import numpy as np
import pytest
import scipy.stats

from fattr.metrics import intervals
from fattr.metrics.intervals import (
    FACES_PER_CELL,
    MAX_DRAWN,
    NUM_RESAMPLES,
    drawn_counts,
    drawn_sums,
    draws,
    percentile_interval,
    wilson_interval,
)

MANY, FEW = FACES_PER_CELL * 4 + 1, 7  # faces in 4 cells: drawn cell by cell, face by face


def rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 30), (15, 30), (3, 800), (640, 640)])
def test_wilson_interval_is_scipys(count, n):
    theirs = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    assert wilson_interval(count, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("n", [FEW, MANY, 10**6])
def test_resamples_are_multinomial(n):
    shares = np.array([0.5, 0.25, 0.0, 0.25])
    counts = np.round(shares * n).astype(int)
    counts[0] += n - counts.sum()
    drawn = np.concatenate(list(draws(rng(), counts)))
    assert drawn.shape == (NUM_RESAMPLES, 4)
    assert (drawn.sum(1) == n).all()
    assert (drawn[:, 2] == 0).all()
    own = counts / n
    theirs = scipy.stats.multinomial(n, own)
    errors = np.sqrt(n * own * (1 - own) / NUM_RESAMPLES)
    assert (np.abs(drawn.mean(0) - counts) <= 4 * errors).all()
    assert np.cov(drawn, rowvar=False) == pytest.approx(theirs.cov(), abs=0.15 * n * own.max())


@pytest.mark.parametrize("chunk_size", [1, 40, 10**6])
def test_memory_is_bounded_and_there_are_always_1000(monkeypatch, chunk_size):
    monkeypatch.setattr(intervals, "CHUNK_SIZE", chunk_size)
    sizes = [len(drawn) for drawn in draws(rng(), np.ones(20, int))]
    assert sum(sizes) == NUM_RESAMPLES
    assert max(sizes) == min(NUM_RESAMPLES, max(1, chunk_size // 20))


def test_a_table_of_counts_keeps_its_shape():
    counts = np.array([[5, 0], [3, 2]])
    drawn = drawn_counts(rng(), counts)
    assert drawn.shape == (NUM_RESAMPLES, 2, 2)
    assert drawn.mean(0) == pytest.approx(counts, abs=0.2)
    assert (drawn == drawn_counts(rng(), counts)).all()


@pytest.mark.parametrize("n", [60, MAX_DRAWN, MAX_DRAWN + 1, 20_000])
def test_resampled_sums_vary_as_sums_of_so_many_faces_do(n):
    x = rng().exponential(size=n)
    values = np.stack([x, x > 1, np.ones(n)], 1)
    sums = drawn_sums(rng(), values)
    covariance = n * np.cov(values, rowvar=False, bias=True)
    assert sums.shape == (NUM_RESAMPLES, 3)
    assert sums.mean(0) == pytest.approx(values.sum(0), abs=4 * np.sqrt(n / NUM_RESAMPLES))
    assert np.cov(sums, rowvar=False) == pytest.approx(covariance, abs=0.15 * covariance.max())
    assert sums[:, 2] == pytest.approx(n)


def test_undefined_resamples_are_not_in_the_interval():
    values = np.arange(1000.0)
    values[::2] = np.nan
    low, high = percentile_interval(values)
    assert (low, high) == pytest.approx(tuple(np.nanquantile(values, [0.025, 0.975])))
    assert percentile_interval(np.array([np.nan, 0.25])) == [0.25, 0.25]
