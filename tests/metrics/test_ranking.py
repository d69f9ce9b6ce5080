import numpy as np
import pytest
import sklearn.metrics as sk

from fattr.metrics import ranking
from fattr.metrics.intervals import MAX_DRAWN, NUM_RESAMPLES, draws, percentile_interval
from fattr.metrics.ranking import (
    average_precision,
    drawn_class_means,
    drawn_ranking,
    influences,
    levels,
    ranking_of,
    roc_auc,
)

FIGURES = (sk.average_precision_score, sk.roc_auc_score)


def rng(seed=7):
    return np.random.default_rng(seed)


def drawn_faces(n, *, num_levels=1000, prevalence=0.3, seed=0):
    """Truth and probabilities that are right more often than not, with ties."""
    own = rng(seed)
    y_true = own.random(n) < prevalence
    y_prob = np.clip(0.25 * y_true + 0.75 * own.random(n), 0, 1)
    return y_true, np.round(y_prob * num_levels) / num_levels


def drawn_classes(n, seed=0):
    own = rng(seed)
    y_true = own.choice(3, n, p=[0.2, 0.5, 0.3])
    probs = np.round(own.random((n, 3)) + 0.5 * np.eye(3)[y_true], 2)
    return y_true, probs / probs.sum(1, keepdims=True)


@pytest.mark.parametrize("num_levels", [1, 2, 5, 1000])
def test_figures_are_scikit_learns_also_with_ties(num_levels):
    for seed in range(20):
        y_true, y_prob = drawn_faces(50, num_levels=num_levels, seed=seed)
        assert average_precision(y_true, y_prob) == pytest.approx(
            sk.average_precision_score(y_true, y_prob)
        )
        assert roc_auc(y_true, y_prob) == pytest.approx(sk.roc_auc_score(y_true, y_prob))


def test_float32_probabilities_give_the_same_figures():
    y_true, y_prob = drawn_faces(500)
    single = y_prob.astype(np.float32)
    assert roc_auc(y_true, single) == pytest.approx(sk.roc_auc_score(y_true, single))
    assert average_precision(y_true, single) == average_precision(y_true, y_prob)


@pytest.mark.parametrize(
    ("y_true", "precision", "area"),
    [
        pytest.param([], None, None, id="no-faces"),
        pytest.param([0, 0], None, None, id="none-true"),
        pytest.param([1, 1], 1.0, None, id="all-true"),
        pytest.param([1, 0], 1.0, 1.0, id="in-order"),
        pytest.param([0, 1], 0.5, 0.0, id="upside-down"),
    ],
)
def test_what_is_undefined_is_none(y_true, precision, area):
    is_true, y_prob = np.array(y_true, bool), np.array([0.9, 0.2][: len(y_true)])
    assert (average_precision(is_true, y_prob), roc_auc(is_true, y_prob)) == (precision, area)


def test_a_million_faces_do_not_overflow():
    y_true = np.arange(10**6) % 2 == 1
    assert roc_auc(y_true, np.zeros(10**6)) == 0.5
    assert average_precision(y_true, np.zeros(10**6)) == 0.5


@pytest.mark.parametrize("num_levels", [6, 10_000])
def test_influences_are_what_a_little_more_weight_changes(num_levels):
    y_true, y_prob = drawn_faces(60, num_levels=num_levels)
    level = np.unique(-y_prob, return_inverse=True)[1]
    for figure, moved in zip(FIGURES, influences(levels(y_true, y_prob)), strict=True):
        by_face = np.where(y_true, moved[0][level], moved[1][level])
        assert by_face.sum() == pytest.approx(0, abs=1e-9)
        for i in range(0, 60, 7):
            up, down = np.ones(60), np.ones(60)
            up[i], down[i] = 1.001, 0.999
            change = figure(y_true, y_prob, sample_weight=up)
            change -= figure(y_true, y_prob, sample_weight=down)
            assert by_face[i] == pytest.approx(change / 0.002, rel=1e-3, abs=1e-7)


def test_false_faces_between_true_ones_may_be_drawn_as_one():
    y_true, y_prob = drawn_faces(200, prevalence=0.05)
    whole = levels(y_true, y_prob)
    merged = ranking._merged(whole)
    assert len(merged[0]) < len(whole[0]) / 3
    assert np.stack(ranking_of(merged)) == pytest.approx(np.stack(ranking_of(whole)))
    # Also where the true faces are drawn 0 to 3 times.
    times = rng().integers(0, 4, len(merged[0]))
    times_whole = np.zeros_like(whole[0])
    times_whole[whole[0] > 0] = times[merged[0] > 0]
    again = ranking_of((merged[0] * times, merged[1]))
    again_whole = ranking_of((whole[0] * times_whole, whole[1]))
    assert np.stack(again) == pytest.approx(np.stack(again_whole))


@pytest.mark.parametrize(
    ("n", "prevalence", "num_levels"),
    [
        pytest.param(150, 0.3, 1000, id="few"),
        pytest.param(150, 0.5, 8, id="ties"),
        pytest.param(3000, 0.01, 10**6, id="rare"),
    ],
)
def test_resampled_figures_are_those_of_resampled_faces(n, prevalence, num_levels):
    y_true, y_prob = drawn_faces(n, prevalence=prevalence, num_levels=num_levels)
    ours = drawn_ranking(rng(), levels(y_true, y_prob))
    own, theirs = rng(1), []
    while len(theirs) < 300:
        faces = own.integers(0, n, n)
        if 0 < y_true[faces].sum() < n:
            theirs.append([figure(y_true[faces], y_prob[faces]) for figure in FIGURES])
    for mine, other in zip(ours, np.transpose(theirs), strict=True):
        assert mine.shape == (NUM_RESAMPLES,)
        scale = other.std()
        assert np.nanmean(mine) == pytest.approx(other.mean(), abs=0.25 * scale)
        assert np.nanstd(mine) == pytest.approx(scale, rel=0.15)
        limits = np.quantile(other, (0.025, 0.975))
        assert percentile_interval(mine) == pytest.approx(limits, abs=0.4 * scale)


def delong_error(y_true, y_prob):
    """Standard error of the area; DeLong et al., Biometrics 1988, by all pairs."""
    beats = (y_prob[y_true][:, None] > y_prob[~y_true]) + 0.5 * (
        y_prob[y_true][:, None] == y_prob[~y_true]
    )
    true, false = beats.mean(1), beats.mean(0)
    return np.sqrt(true.var(ddof=1) / len(true) + false.var(ddof=1) / len(false))


@pytest.mark.parametrize("n", [1000, 3 * MAX_DRAWN])
def test_the_areas_interval_is_delongs(n):
    y_true, y_prob = drawn_faces(n, num_levels=10**6)
    error, area = delong_error(y_true, y_prob), sk.roc_auc_score(y_true, y_prob)
    low, high = percentile_interval(drawn_ranking(rng(), levels(y_true, y_prob))[1])
    assert low == pytest.approx(area - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(area + 1.96 * error, abs=0.3 * error)


def both_ways(monkeypatch, draw):
    """Resamples of the faces, and draws from the normal distribution."""
    found = []
    for limit in (10**9, 0):
        monkeypatch.setattr(ranking, "MAX_DRAWN", limit)
        found.append(draw())
    return zip(*found, strict=True)


def test_many_faces_give_the_normal_distribution_that_resampling_tends_to(monkeypatch):
    faces = levels(*drawn_faces(6000, num_levels=10**6))
    for resampled, normal in both_ways(monkeypatch, lambda: drawn_ranking(rng(), faces)):
        assert normal.std() == pytest.approx(resampled.std(), rel=0.1)
        assert normal.mean() == pytest.approx(resampled.mean(), abs=0.2 * normal.std())


def test_so_do_many_faces_of_several_classes(monkeypatch):
    y_true, probs = drawn_classes(3000)
    pairs = both_ways(monkeypatch, lambda: drawn_class_means(rng(), y_true, probs))
    for resampled, normal in pairs:
        assert normal.std() == pytest.approx(resampled.std(), rel=0.1)
        assert normal.mean() == pytest.approx(resampled.mean(), abs=0.2 * normal.std())


def test_resampled_means_over_classes_are_of_the_same_faces():
    y_true, probs = drawn_classes(120)
    precisions, areas = drawn_class_means(rng(), y_true, probs)
    weights = np.concatenate(list(draws(rng(), np.ones(120, int))))
    for i in range(0, NUM_RESAMPLES, 100):
        one = [
            [f(y_true == k, probs[:, k], sample_weight=weights[i]) for f in FIGURES]
            for k in range(3)
        ]
        assert (precisions[i], areas[i]) == pytest.approx(tuple(np.mean(one, axis=0)))


@pytest.mark.parametrize("n", [50, MAX_DRAWN + 1])
@pytest.mark.parametrize("truth", [True, False])
def test_faces_that_are_all_alike_have_no_area(n, truth):
    faces = levels(np.full(n, truth), rng().random(n))
    precisions, areas = drawn_ranking(rng(), faces)
    assert np.isnan(areas).all()
    assert (precisions == 1).all() if truth else np.isnan(precisions).all()


@pytest.mark.parametrize("n", [50, MAX_DRAWN + 1])
def test_one_class_alone_has_no_area(n):
    precisions, areas = drawn_class_means(rng(), np.full(n, 1), rng().random((n, 3)))
    assert (precisions == 1).all()
    assert np.isnan(areas).all()
