import dataclasses

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fattr.attributes import AGE, Attribute, Kind, attribute
from fattr.classify import fit_calibration as fitting
from fattr.classify.calibration import (
    Calibration,
    Curve,
    abstained,
    attribute_probabilities,
    certainty,
)
from fattr.classify.fit_calibration import FitSettings, fit_attribute
from fattr.errors import UsageError

SMILING, BALD = attribute("smiling"), attribute("bald")
COLOUR = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="", classes=("red", "green", "blue")
)
OBJECTIVES = ("accuracy", "balanced_accuracy", "f1")


def drawn_binary(rng, n, probability):
    """Logits (n, 1), and whether each is true with the probability that a function gives."""
    logits = rng.normal(-0.5, 2, n)
    return logits.astype(np.float32)[:, np.newaxis], (rng.random(n) < probability(logits)).astype(
        int
    )


def drawn_classes(rng, n, scale, biases):
    """Logits (n, 3), and a class drawn from the softmax of ``logits * scale + biases``."""
    logits = rng.normal(0, 2, (n, 3))
    targets = (logits * scale + biases + rng.gumbel(size=(n, 3))).argmax(axis=1)
    return logits.astype(np.float32), targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.0])
def test_fit_recovers_a_known_temperature(temperature):
    rng = np.random.default_rng(0)
    n = 8_000
    honest = rng.normal(0, 2, (n, 1 + 3))
    binary = rng.random(n) < scipy.special.expit(honest[:, 0])
    classes = (honest[:, 1:] + rng.gumbel(size=(n, 3))).argmax(axis=1)  # a draw from the softmax
    logits = (honest * temperature).astype(np.float32)
    targets = np.stack([binary, classes], axis=1).astype(np.int64)
    got = fitting.fit(logits, targets, (SMILING, COLOUR))
    assert got.temperatures["smiling"] == pytest.approx(temperature, rel=0.06)
    assert got.temperatures["colour"] == pytest.approx(temperature, rel=0.06)
    assert got.thresholds["smiling"] == pytest.approx(0.5, abs=0.05)
    assert set(got.thresholds) == {"smiling"}
    assert not got.biases
    assert not got.curves
    assert not got.abstain


def test_fit_sees_known_labels_only():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (500, 2)).astype(np.float32)
    targets = np.full((500, 2), -1)
    targets[:300, 0] = rng.random(300) < scipy.special.expit(logits[:300, 0])
    got = fitting.fit(logits, targets, (SMILING, BALD))
    assert got == fitting.fit(logits[:300], targets[:300], (SMILING, BALD))
    assert set(got.temperatures) == {"smiling"}  # bald has no label: defaults
    assert set(got.thresholds) == {"smiling"}


def test_fit_of_nothing_is_the_defaults():
    empty = np.zeros((0, 1), np.float32), np.zeros((0, 1), np.int64)
    assert fitting.fit(*empty, (SMILING,)) == Calibration()


def test_a_temperature_has_the_least_log_loss_of_all():
    rng = np.random.default_rng(2)
    logits, targets = drawn_classes(rng, 400, 0.6, [0.5, 0, 0])
    fitted = fitting.fit_probabilities(logits, targets, COLOUR, "temperature")
    losses = {
        t: -scipy.special.log_softmax(logits / t, axis=1)[np.arange(400), targets].mean()
        for t in [*np.geomspace(0.25, 4, 400), fitted.temperatures["colour"]]
    }
    assert losses[fitted.temperatures["colour"]] <= min(losses.values()) + 1e-6


def test_platt_is_a_logistic_regression_on_the_logit():
    rng = np.random.default_rng(3)
    logits, targets = drawn_binary(rng, 5_000, lambda z: scipy.special.expit(z / 2 - 1))
    got = fitting.fit_probabilities(logits, targets, SMILING, "platt")
    reference = LogisticRegression(C=1e6).fit(logits, targets)
    assert 1 / got.temperatures["smiling"] == pytest.approx(reference.coef_.item(), rel=1e-2)
    assert got.biases["smiling"] == pytest.approx(reference.intercept_, abs=1e-2)
    assert not got.thresholds


def test_platt_of_classes_recovers_known_biases():
    rng = np.random.default_rng(4)
    biases = np.array([1.0, -1.5, 0.5])
    logits, targets = drawn_classes(rng, 20_000, 1 / 1.5, biases)
    got = fitting.fit_probabilities(logits, targets, COLOUR, "platt")
    assert got.temperatures["colour"] == pytest.approx(1.5, rel=0.05)
    assert got.biases["colour"] == pytest.approx(biases, abs=0.1)
    honest = scipy.special.softmax(logits / 1.5 + biases, axis=1)
    probs = attribute_probabilities(logits, COLOUR, got)
    np.testing.assert_allclose(probs, honest, atol=0.02)


def test_the_bias_of_a_class_without_faces_stays_finite():
    rng = np.random.default_rng(5)
    logits, targets = drawn_classes(rng, 200, 1, [0, 0, -np.inf])
    got = fitting.fit_probabilities(logits, targets, COLOUR, "platt")
    assert -10 < got.biases["colour"][2] < -1


def test_isotonic_is_scikit_learns():
    rng = np.random.default_rng(6)
    logits, targets = drawn_binary(rng, 300, lambda z: 0.1 + 0.8 * (z > 0))
    fitted = fitting.fit_probabilities(logits, targets, SMILING, "isotonic")
    model = IsotonicRegression(out_of_bounds="clip").fit(logits[:, 0].astype(float), targets)
    fresh = rng.normal(0, 4, (500, 1)).astype(np.float32)
    got = attribute_probabilities(fresh, SMILING, fitted)
    wanted = np.clip(model.predict(fresh[:, 0].astype(float)), 1 / 302, 301 / 302)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_isotonic_of_classes_is_one_against_the_rest_made_to_sum_to_one():
    rng = np.random.default_rng(7)
    logits, targets = drawn_classes(rng, 400, 0.5, [1, 0, 0])
    fitted = fitting.fit_probabilities(logits, targets, COLOUR, "isotonic")
    honest = scipy.special.softmax(logits.astype(float), axis=1)  # rises with the log odds
    columns = [
        IsotonicRegression(out_of_bounds="clip")
        .fit(honest[:, k], targets == k)
        .predict(honest[:, k])
        for k in range(3)
    ]
    wanted = np.clip(np.stack(columns, axis=1), 1 / 402, 401 / 402)
    got = attribute_probabilities(logits, COLOUR, fitted)
    np.testing.assert_allclose(got, wanted / wanted.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("one", [SMILING, COLOUR], ids=lambda one: one.kind)
@pytest.mark.parametrize("method", fitting.METHODS)
def test_each_face_is_held_out_once(method, one):
    """Probabilities by hand: fitted without the fold of a face, every fold like the whole."""
    rng = np.random.default_rng(8)
    if one is SMILING:
        logits, targets = drawn_binary(rng, 203, scipy.special.expit)
    else:
        logits, targets = drawn_classes(rng, 203, 1, [1, 0, -2])
    folds = fitting.folds_of(targets)
    got = fitting.cross_validated(logits, targets, one, method)
    for fold in range(5):
        inside = folds == fold
        others = fitting.fit_probabilities(logits[~inside], targets[~inside], one, method)
        wanted = attribute_probabilities(logits[inside], one, others)
        np.testing.assert_array_equal(got[inside], wanted)
        counts = np.bincount(targets[inside], minlength=3)
        assert abs(counts - np.bincount(targets, minlength=3) / 5).max() <= 1


def test_folds_do_not_follow_the_order_of_faces():
    targets = np.zeros(100, int)
    assert len(set(fitting.folds_of(targets)[:20].tolist())) > 1
    assert fitting.folds_of(targets).tolist() == fitting.folds_of(targets).tolist()


@pytest.mark.parametrize(
    ("probability", "method"),
    [
        pytest.param(scipy.special.expit, "temperature", id="right"),
        pytest.param(lambda z: scipy.special.expit(z / 3), "temperature", id="too-sure"),
        pytest.param(lambda z: scipy.special.expit(z - 1.5), "platt", id="shifted"),
        pytest.param(
            lambda z: 0.2 + 0.6 * scipy.special.expit(3 * z), "isotonic", id="never-certain"
        ),
    ],
)
def test_auto_takes_the_simplest_method_that_holds(probability, method):
    logits, targets = drawn_binary(np.random.default_rng(9), 3_000, probability)
    got = fit_attribute(logits, targets, SMILING, FitSettings())
    assert got.method == method
    assert set(got.log_losses) == set(fitting.METHODS)
    expected = fitting.fit_probabilities(logits, targets, SMILING, method)
    assert got.calibration == dataclasses.replace(expected, thresholds=got.calibration.thresholds)
    probs = attribute_probabilities(logits, SMILING, got.calibration)
    assert abs(probs - probability(logits[:, 0].astype(float))).mean() < 0.03


def test_auto_of_classes_sees_a_bias():
    logits, targets = drawn_classes(np.random.default_rng(10), 2_000, 1, [0, 1.5, 0])
    assert fit_attribute(logits, targets, COLOUR, FitSettings()).method == "platt"


def test_a_simpler_method_within_a_standard_error_is_taken():
    rng = np.random.default_rng(11)
    base = rng.random(100)
    worse = rng.normal(0, 1, 100)
    worse -= worse.mean()
    standard_error = worse.std(ddof=1) / 10
    for factor, wanted in ((0.9, "temperature"), (1.1, "platt")):
        losses = {"temperature": base + worse + factor * standard_error, "platt": base}
        assert fitting.simplest_within_noise(losses) == wanted
    equal = {"temperature": base, "platt": base, "isotonic": base}
    assert fitting.simplest_within_noise(equal) == "temperature"


def test_a_forced_method_is_kept_and_judged_alone():
    logits, targets = drawn_binary(np.random.default_rng(12), 400, scipy.special.expit)
    got = fit_attribute(logits, targets, SMILING, FitSettings(method="isotonic"))
    assert got.method == "isotonic"
    assert set(got.calibration.curves) == {"smiling"}
    assert not got.calibration.temperatures
    losses = fitting.log_losses(got.held_out_probs, targets, SMILING)
    assert got.log_losses == {"isotonic": pytest.approx(losses.mean())}


@pytest.mark.parametrize("one", [SMILING, COLOUR], ids=lambda one: one.kind)
def test_log_losses_are_those_of_scipy(one):
    rng = np.random.default_rng(13)
    if one is SMILING:
        logits, targets = drawn_binary(rng, 50, scipy.special.expit)
        wanted = -scipy.special.log_expit(np.where(targets == 1, 1, -1) * logits[:, 0])
    else:
        logits, targets = drawn_classes(rng, 50, 1, 0)
        wanted = -scipy.special.log_softmax(logits, axis=1)[np.arange(50), targets]
    probs = attribute_probabilities(logits, one, Calibration())
    np.testing.assert_allclose(fitting.log_losses(probs, targets, one), wanted, rtol=1e-3)
    sure = np.float32([1.0, 0.0])
    assert fitting.log_losses(sure, np.array([0, 1]), SMILING) == pytest.approx(-np.log(1e-7))


def expected_objective(probs, called, objective):
    """Of faces that are true with their probability: ratios of expected counts."""
    hits, true, n = probs[called].sum(), probs.sum(), len(probs)
    spared = (1 - probs)[~called].sum()
    return {
        "accuracy": (hits + spared) / n,
        "balanced_accuracy": (hits / true + spared / (n - true)) / 2,
        "f1": 2 * hits / (called.sum() + true),
    }[objective]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("seed", range(6))
def test_the_expected_best_threshold_is_the_best_of_all_cuts(objective, seed):
    probs = np.random.default_rng(seed).beta(0.5, 1 + seed, 60).astype(np.float32)
    threshold = fitting.expected_best_threshold(probs, objective)
    exact = probs.astype(np.float64)
    cuts = [exact >= cut for cut in np.append(np.unique(exact), 2.0)]
    best = max(expected_objective(exact, called, objective) for called in cuts)
    assert 0 < threshold < 1
    assert expected_objective(exact, exact >= threshold, objective) == pytest.approx(best)


def measured_objective(targets, called, objective):
    """The same of faces with labels."""
    return expected_objective((targets == 1).astype(float), called, objective)


def best_cut(probs, targets, objective):
    """The cut that would have been best on these very labels."""
    cuts = np.append(np.unique(probs), 1.1)
    values = [measured_objective(targets, probs >= cut, objective) for cut in cuts]
    return cuts[int(np.argmax(values))]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_thresholds_hold_on_other_faces_better_than_the_best_cut(objective):
    """Twenty draws of 200 faces, each threshold judged on the truth behind them."""
    rng = np.random.default_rng(14)
    honest = lambda z: scipy.special.expit(1.2 * z - 1)  # noqa: E731
    population = scipy.special.expit(1.2 * rng.normal(-0.5, 2, 100_000) - 1)
    lost = {"ours": [], "cut": []}
    settings = FitSettings(objective=objective)
    top = max(
        expected_objective(population, population >= t, objective)
        for t in np.linspace(0.02, 0.98, 97)
    )
    for _ in range(20):
        logits, targets = drawn_binary(rng, 200, honest)
        fitted = fit_attribute(logits, targets, SMILING, settings).calibration
        probs = attribute_probabilities(logits, SMILING, fitted)
        found = {"ours": fitted.thresholds["smiling"], "cut": best_cut(probs, targets, objective)}
        for name, threshold in found.items():
            grid = np.linspace(-12, 12, 4_001, dtype=np.float32)[:, np.newaxis]
            above = attribute_probabilities(grid, SMILING, fitted) >= threshold
            logit = grid[above.argmax(), 0] if above.any() else np.inf
            called = population >= honest(logit)
            lost[name].append(top - expected_objective(population, called, objective))
    assert np.mean(lost["ours"]) < 0.8 * np.mean(lost["cut"])


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_a_threshold_sees_a_shift_that_a_temperature_cannot(shift):
    logits, targets = drawn_binary(
        np.random.default_rng(15), 4_000, lambda z: scipy.special.expit(z - shift)
    )
    got = fit_attribute(logits, targets, SMILING, FitSettings(method="temperature")).calibration
    called = attribute_probabilities(logits, SMILING, got) >= got.thresholds["smiling"]
    assert logits[called].min() == pytest.approx(shift, abs=0.3)
    assert logits[~called].max() == pytest.approx(shift, abs=0.3)


def lowest_by_hand(probs, targets, min_precision):
    """The most faces from the top down that surely hold enough true ones, by scipy's test."""
    best = None
    for cut in np.unique(probs)[::-1]:
        hits, n = int(targets[probs >= cut].sum()), int((probs >= cut).sum())
        test = scipy.stats.binomtest(hits, n, alternative="greater")
        if test.proportion_ci(0.95, method="exact").low >= min_precision:
            best = probs >= cut
    return best


@pytest.mark.parametrize("levels", [8, 1000])
@pytest.mark.parametrize("min_precision", [0.5, 0.7, 0.9])
def test_the_lowest_threshold_of_a_precision_is_scipys(min_precision, levels):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        probs = (rng.integers(1, levels + 1, 120) / levels).astype(np.float32)
        targets = (rng.random(120) < probs**0.5).astype(int)
        got = fitting.lowest_threshold_of_precision(probs, targets, min_precision)
        wanted = lowest_by_hand(probs, targets, min_precision)
        if wanted is None:
            assert got is None
        else:
            assert (probs >= got).tolist() == wanted.tolist()
            assert 0 < got <= 1


@pytest.mark.parametrize(("n", "found"), [(28, False), (29, True)])
def test_few_faces_without_an_error_show_no_precision(n, found):
    probs, targets = np.linspace(0.6, 0.9, n, dtype=np.float32), np.ones(n, int)
    got = fitting.lowest_threshold_of_precision(probs, targets, 0.9)
    assert (got is not None) == found


def test_no_true_face_shows_no_precision():
    probs = np.linspace(0.1, 0.9, 50, dtype=np.float32)
    assert fitting.lowest_threshold_of_precision(probs, np.zeros(50, int), 0.1) is None


def plainly_lowest(probs, targets, min_precision):
    """The lowest cut at which the precision is reached on these very labels."""
    order = np.argsort(-probs)
    precision = targets[order].cumsum() / np.arange(1, len(probs) + 1)
    return probs[order][np.flatnonzero(precision >= min_precision)[-1]]


def test_a_precision_reached_on_valid_is_rarely_missed_on_others():
    rng = np.random.default_rng(16)
    population = scipy.special.expit(rng.normal(-0.5, 2, 200_000))
    missed = {"ours": 0, "plain": 0}
    for _ in range(100):
        logits, targets = drawn_binary(rng, 800, scipy.special.expit)
        probs = scipy.special.expit(logits[:, 0])
        found = {
            "ours": fitting.lowest_threshold_of_precision(probs, targets, 0.8),
            "plain": plainly_lowest(probs, targets, 0.8),
        }
        for name, threshold in found.items():
            missed[name] += population[population >= threshold].mean() < 0.8
    assert missed["ours"] <= 12
    assert missed["plain"] >= 40


def test_a_precision_out_of_reach_keeps_the_threshold_of_accuracy():
    logits, targets = drawn_binary(np.random.default_rng(17), 400, lambda z: 0.3 + 0.0 * z)
    settings = FitSettings(objective="precision", min_precision=0.95)
    got = fit_attribute(logits, targets, SMILING, settings)
    assert got.threshold_status == fitting.UNREACHABLE
    plain = fit_attribute(logits, targets, SMILING, FitSettings())
    assert got.calibration == plain.calibration
    assert plain.threshold_status == fitting.FITTED


def test_a_reached_precision_sets_the_threshold():
    logits, targets = drawn_binary(np.random.default_rng(18), 600, scipy.special.expit)
    settings = FitSettings(objective="precision", min_precision=0.9)
    got = fit_attribute(logits, targets, SMILING, settings)
    assert got.threshold_status == fitting.FITTED
    probs = attribute_probabilities(logits, SMILING, got.calibration)
    called = probs >= got.calibration.thresholds["smiling"]
    assert called.tolist() == lowest_by_hand(probs, targets, 0.9).tolist()


def test_classes_have_no_threshold():
    logits, targets = drawn_classes(np.random.default_rng(19), 200, 1, 0)
    got = fit_attribute(logits, targets, COLOUR, FitSettings(objective="f1"))
    assert not got.calibration.thresholds
    assert got.threshold_status is None


def random_probs(rng, one, n, levels):
    probs = rng.dirichlet(np.ones(3), n) if one is COLOUR else rng.random(n)
    return (np.round(probs * levels) / levels).astype(np.float32)


@pytest.mark.parametrize("one", [SMILING, COLOUR], ids=lambda one: one.kind)
@pytest.mark.parametrize("levels", [10, 10_000])
@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.95])
def test_a_band_takes_the_least_certain_faces_and_no_more_than_it_may(coverage, levels, one):
    rng = np.random.default_rng(20)
    for threshold in (0.5, 0.31, 0.83):
        probs = random_probs(rng, one, 101, levels)
        own = threshold if one is SMILING else 0.5
        band = fitting.abstention_band(probs, one, own, FitSettings(coverage=coverage))
        certainties = certainty(probs, one, own)
        allowed = [
            c for c in np.unique(certainties) if (certainties < c).sum() <= 101 - coverage * 101
        ]
        wanted = certainties < max(allowed)
        if band is None:
            assert not wanted.any()
            continue
        assert 0 <= band[0] < band[1] <= 1
        got = abstained(probs, one, Calibration(abstain={one.name: band}))
        assert got.tolist() == wanted.tolist()


@pytest.mark.parametrize("one", [SMILING, COLOUR], ids=lambda one: one.kind)
def test_faces_that_cannot_be_told_apart_all_keep_their_labels(one):
    probs = np.full((50, 3) if one is COLOUR else 50, 0.3, np.float32)
    assert fitting.abstention_band(probs, one, 0.5, FitSettings(coverage=0.9)) is None
    assert fitting.abstention_band(probs[:5], one, 0.5, FitSettings(coverage=0.9)) is None


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.62, 0.9])
@pytest.mark.parametrize("min_confidence", [0.2, 0.5, 0.6, 0.75, 0.95])
def test_labels_that_are_right_with_a_lower_probability_are_null(min_confidence, threshold):
    probs = np.linspace(0.0005, 0.9995, 1000, dtype=np.float32)  # none at the band's ends
    right = np.where(probs >= threshold, probs, 1 - probs)
    settings = FitSettings(min_confidence=min_confidence)
    band = fitting.abstention_band(probs, SMILING, threshold, settings)
    calibration = Calibration(abstain={"smiling": band} if band else {})
    got = abstained(probs, SMILING, calibration)
    assert got.tolist() == (right < min_confidence).tolist()


def test_classes_below_a_confidence_are_null():
    probs = random_probs(np.random.default_rng(21), COLOUR, 200, 10_000)
    band = fitting.abstention_band(probs, COLOUR, 0.5, FitSettings(min_confidence=0.6))
    got = abstained(probs, COLOUR, Calibration(abstain={"colour": band}))
    assert got.tolist() == (probs.max(1) < 0.6).tolist()


def test_an_age_needs_no_confidence_of_a_bin_but_keeps_to_a_coverage():
    rng = np.random.default_rng(25)
    logits = rng.normal(size=(200, AGE.num_logits)).astype(np.float32)
    targets = rng.integers(0, AGE.num_values, 200)
    fit_with = lambda **how: fit_attribute(logits, targets, AGE, FitSettings(**how)).calibration  # noqa: E731
    assert fit_with(min_confidence=0.8) == fit_with()
    probs = attribute_probabilities(logits, AGE, covering := fit_with(coverage=0.9))
    assert abstained(probs, AGE, covering).mean() == pytest.approx(0.1)


@pytest.mark.parametrize("one", [SMILING, COLOUR], ids=lambda one: one.kind)
@pytest.mark.parametrize("method", [*fitting.METHODS, "auto"])
def test_a_fitted_band_keeps_the_coverage_on_other_faces(method, one):
    rng = np.random.default_rng(22)
    draws = [
        drawn_binary(rng, 2_000, scipy.special.expit)
        if one is SMILING
        else drawn_classes(rng, 2_000, 1, 0)
        for _ in range(2)
    ]
    got = fit_attribute(*draws[0], one, FitSettings(method=method, coverage=0.8)).calibration
    probs = attribute_probabilities(draws[1][0], one, got)
    kept = ~abstained(probs, one, got)
    assert kept.mean() > 0.77
    if method != "isotonic":  # where many faces are equally certain, and keep their labels
        assert kept.mean() < 0.83


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
@pytest.mark.parametrize("method", [*fitting.METHODS, "auto"])
@pytest.mark.parametrize(
    ("n", "status"),
    [
        pytest.param(0, fitting.NO_LABELS, id="no-labels"),
        pytest.param(19, fitting.TOO_FEW, id="few"),
        pytest.param(40, fitting.ONE_CLASS, id="one-class"),
        pytest.param(60, fitting.EQUAL_LOGITS, id="equal-logits"),
    ],
)
def test_where_nothing_can_be_fitted_the_defaults_are_kept(n, status, method, one):
    rng = np.random.default_rng(23)
    logits = rng.normal(size=(n, one.num_logits)).astype(np.float32)
    targets = rng.integers(0, one.num_values, n)
    if status == fitting.ONE_CLASS:
        targets[:] = 1
    if status == fitting.EQUAL_LOGITS:
        logits[:] = logits[0]
    got = fit_attribute(logits, targets, one, FitSettings(method=method, coverage=0.9))
    assert (got.status, got.calibration, got.method) == (status, Calibration(), None)
    assert got.held_out_probs is None


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
@pytest.mark.parametrize("method", [*fitting.METHODS, "auto"])
@pytest.mark.parametrize("objective", [*OBJECTIVES, "precision"])
@pytest.mark.parametrize("case", ["one-of-a-kind", "separable", "inverted", "two-levels"])
def test_hard_cases_are_fitted_without_complaint(case, objective, method, one):
    rng = np.random.default_rng(24)
    targets = rng.integers(0, one.num_values, 30)
    logits = rng.normal(size=(30, one.num_logits)).astype(np.float32)
    if case == "one-of-a-kind":
        targets = np.eye(30, dtype=int)[3]
    if case in ("separable", "inverted"):
        sign = 30 if case == "separable" else -30
        logits = sign * np.eye(one.num_values, dtype=np.float32)[targets][:, -one.num_logits :]
    if case == "two-levels":
        logits = np.sign(logits)
    settings = FitSettings(method=method, objective=objective, coverage=0.9)
    got = fit_attribute(logits, targets, one, settings)
    assert got.status == fitting.FITTED
    probs = attribute_probabilities(logits, one, got.calibration)
    assert np.isfinite(probs).all()
    if one is SMILING:
        assert 0 <= got.calibration.thresholds["smiling"] <= 1


def test_replaced_leaves_other_attributes_as_they_were():
    before = Calibration(
        {"smiling": 2.0, "bald": 3.0},
        {"smiling": 0.4, "bald": 0.6},
        {"smiling": (0.3, 0.5), "bald": (0.2, 0.4)},
        {"smiling": (1.0,)},
        {"bald": (Curve((0.0,), (0.5,)),)},
    )
    got = fitting.replaced(before, SMILING, Calibration({"smiling": 1.5}, {"smiling": 0.7}))
    assert got == Calibration(
        {"bald": 3.0, "smiling": 1.5},
        {"bald": 0.6, "smiling": 0.7},
        {"bald": (0.2, 0.4)},
        {},
        before.curves,
    )
    assert fitting.replaced(before, BALD, Calibration()).curves == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "beta"}, r"method: one of .*'auto'\) expected: beta"),
        ({"objective": "recall"}, r"objective: one of .* expected: recall"),
        ({"coverage": 0.9, "min_confidence": 0.6}, "only one of them can be set"),
        ({"coverage": 0.0}, "coverage must be over 0 and at most 1: 0.0"),
        ({"coverage": 1.01}, "coverage must be over 0 and at most 1: 1.01"),
        ({"coverage": float("nan")}, "coverage must be over 0"),
        ({"min_precision": 1.0}, "min_precision must be between 0 and 1: 1.0"),
        ({"min_confidence": 0.0}, "min_confidence must be between 0 and 1: 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        FitSettings(**settings)
    assert "\n" not in str(caught.value)
