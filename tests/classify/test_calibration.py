import numpy as np
import pytest
import scipy.special

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.classify import calibration as calibrate
from fattr.classify.calibration import Calibration

SMILING, BALD = attribute("smiling"), attribute("bald")
PRESENTATION = PERCEIVED_GENDER_PRESENTATION
COLOUR = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="", classes=("red", "green", "blue")
)


def random_probs(n, k, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(k), n).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 50])
def test_sigmoid_and_softmax_are_scipys(n):
    logits = np.random.default_rng(n).normal(0, 10, (n, 4)).astype(np.float32)
    np.testing.assert_allclose(
        calibrate.sigmoid(logits), scipy.special.expit(logits), rtol=1e-4, atol=1e-7
    )
    got = calibrate.softmax(logits)
    np.testing.assert_allclose(got, scipy.special.softmax(logits, axis=-1), rtol=1e-4)
    assert calibrate.sigmoid(logits).dtype == got.dtype == np.float32


def test_extreme_logits_neither_overflow_nor_leave_the_range():
    logits = np.float32([[-1e4, -100, 0, 100, 1e4]])
    assert calibrate.sigmoid(logits).tolist() == [[0, 0, 0.5, 1, 1]]
    assert calibrate.softmax(logits).tolist() == [[0, 0, 0, 0, 1]]


def test_probabilities_come_from_each_attributes_own_columns():
    attributes = (SMILING, PRESENTATION, AGE, BALD)
    logits = np.random.default_rng(0).normal(0, 3, (5, 1 + 2 + 9 + 1)).astype(np.float32)
    temperatures = {"age": 2.0, "bald": 0.5}
    probs = calibrate.probabilities(logits, attributes, Calibration(temperatures))
    assert list(probs) == ["smiling", "perceived_gender_presentation", "age", "bald"]
    wanted = {
        "smiling": scipy.special.expit(logits[:, 0]),
        "perceived_gender_presentation": scipy.special.softmax(logits[:, 1:3], axis=1),
        "age": scipy.special.softmax(logits[:, 3:12] / 2, axis=1),
        "bald": scipy.special.expit(logits[:, 12] * 2),
    }
    for name, reference in wanted.items():
        np.testing.assert_allclose(probs[name], reference, rtol=1e-4, atol=1e-6)


def test_probabilities_of_no_faces_keep_their_shapes():
    probs = calibrate.probabilities(np.zeros((0, 10), np.float32), (SMILING, AGE), Calibration())
    assert {name: values.shape for name, values in probs.items()} == {
        "smiling": (0,),
        "age": (0, 9),
    }


def sampled_ages(probs, seed=0):
    """A million people of each face's distribution, uniform within each bin of years."""
    rng = np.random.default_rng(seed)
    edges = np.array(AGE.bin_edges)
    bins = rng.choice(len(probs), 1_000_000, p=probs.astype(np.float64) / probs.sum(dtype=float))
    return rng.uniform(edges[bins], edges[bins + 1])


@pytest.mark.parametrize("seed", [0, 1])
def test_expected_age_and_its_interval_are_those_of_a_sample(seed):
    probs = random_probs(1, 9, seed)
    ages = sampled_ages(probs[0])
    assert calibrate.expected_age(probs, AGE)[0] == pytest.approx(ages.mean(), abs=0.1)
    for quantile in (0.05, 0.1, 0.5, 0.9):
        got = calibrate.age_quantile(probs, AGE, quantile)[0]
        assert (ages < got).mean() == pytest.approx(quantile, abs=0.003)


@pytest.mark.parametrize(
    ("probs", "quantile", "age"),
    [
        pytest.param([0, 0, 0, 1, 0, 0, 0, 0, 0], 0.1, 21.0, id="one-bin"),
        pytest.param([0, 0, 0, 1, 0, 0, 0, 0, 0], 0.9, 29.0, id="one-bin-high"),
        pytest.param([1, 0, 0, 0, 0, 0, 0, 0, 0], 0.5, 1.5, id="first-bin"),
        pytest.param([0, 0, 0, 0, 0, 0, 0, 0, 1], 0.5, 80.0, id="last-bin"),
        pytest.param([0, 0, 0, 0.5, 0, 0.5, 0, 0, 0], 0.9, 48.0, id="a-gap"),
    ],
)
def test_age_quantiles_within_certain_bins(probs, quantile, age):
    got = calibrate.age_quantile(np.float32([probs]), AGE, quantile)
    assert got.tolist() == pytest.approx([age], abs=1e-3)


def test_ages_of_no_faces_are_empty():
    none = np.zeros((0, 9), np.float32)
    assert calibrate.expected_age(none, AGE).shape == (0,)
    assert calibrate.age_quantile(none, AGE, 0.5).shape == (0,)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 3.0])
def test_fit_recovers_a_known_temperature(temperature):
    rng = np.random.default_rng(0)
    n = 20_000
    honest = rng.normal(0, 2, (n, 1 + 3))
    binary = rng.random(n) < scipy.special.expit(honest[:, 0])
    classes = (honest[:, 1:] + rng.gumbel(size=(n, 3))).argmax(axis=1)  # a draw from the softmax
    logits = (honest * temperature).astype(np.float32)
    targets = np.stack([binary, classes], axis=1).astype(np.int64)
    got = calibrate.fit(logits, targets, (SMILING, COLOUR))
    assert got.temperatures["smiling"] == pytest.approx(temperature, rel=0.06)
    assert got.temperatures["colour"] == pytest.approx(temperature, rel=0.06)
    assert got.thresholds["smiling"] == pytest.approx(0.5, abs=0.05)
    assert set(got.thresholds) == {"smiling"}


def test_fit_sees_known_labels_only():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (500, 2)).astype(np.float32)
    targets = np.full((500, 2), -1)
    targets[:300, 0] = rng.random(300) < scipy.special.expit(logits[:300, 0])
    got = calibrate.fit(logits, targets, (SMILING, BALD))
    assert got == calibrate.fit(logits[:300], targets[:300], (SMILING, BALD))
    assert set(got.temperatures) == {"smiling"}  # bald has no label: defaults
    assert set(got.thresholds) == {"smiling"}


def test_fit_of_nothing_is_the_defaults():
    empty = np.zeros((0, 1), np.float32), np.zeros((0, 1), np.int64)
    assert calibrate.fit(*empty, (SMILING,)) == Calibration()


def num_correct(probs, targets, threshold):
    return int(((probs >= np.float32(threshold)) == (targets == 1)).sum())


@pytest.mark.parametrize(
    ("probs", "targets"),
    [
        pytest.param([0.3], [1], id="one-true"),
        pytest.param([0.8], [0], id="one-false"),
        pytest.param([0.2, 0.2, 0.2], [0, 1, 1], id="all-tied"),
        pytest.param([0.1, 0.6, 0.7, 0.9], [0, 0, 1, 1], id="separable-above-half"),
        pytest.param([0.9, 0.1], [0, 1], id="inverted"),
        pytest.param([0.1, 0.2, 0.3], [0, 0, 0], id="none-true"),
        pytest.param([0.6, 0.7], [1, 1], id="all-true"),
        pytest.param([0.0, 1.0, 1.0, 0.0], [0, 1, 0, 0], id="certain"),
        *(
            pytest.param(
                (np.random.default_rng(seed).integers(0, 9, 30) / 8).tolist(),
                np.random.default_rng(seed + 50).integers(0, 2, 30).tolist(),
                id=f"random-with-ties-{seed}",
            )
            for seed in range(8)
        ),
    ],
)
def test_the_best_threshold_is_the_best_of_all_cuts(probs, targets):
    probs, targets = np.float32(probs), np.array(targets)
    got = calibrate._best_threshold(probs, targets)
    values = np.unique(np.concatenate([[0.0], probs, [1.0]]))
    cuts = (values[1:] + values[:-1]) / 2
    best = max(num_correct(probs, targets, cut) for cut in cuts)
    assert num_correct(probs, targets, got) == best
    equal = [cut for cut in cuts if num_correct(probs, targets, cut) == best]
    assert abs(got - 0.5) == pytest.approx(min(abs(cut - 0.5) for cut in equal), abs=1e-6)


@pytest.mark.parametrize(
    ("one", "probs", "band", "wanted"),
    [
        pytest.param(SMILING, [], (0.4, 0.6), [], id="no-face"),
        pytest.param(SMILING, [0.1, 0.5], None, [False, False], id="no-band"),
        pytest.param(
            SMILING,
            [0.39, 0.4, 0.59, 0.6],
            (0.4, 0.6),
            [False, True, True, False],
            id="from-low-to-below-high",
        ),
        pytest.param(
            COLOUR,
            [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1]],
            (0.0, 0.6),
            [True, False],
            id="by-the-most-probable-class",
        ),
    ],
)
def test_undecided_faces_abstain(one, probs, band, wanted):
    shape = (-1,) if one.kind is Kind.BINARY else (-1, len(one.classes))
    calibration = Calibration(abstain={one.name: band} if band else {})
    got = calibrate.abstained(np.float32(probs).reshape(shape), one, calibration)
    assert got.tolist() == wanted


def test_labels_of_a_binary_attribute():
    calibration = Calibration(thresholds={"smiling": 0.25}, abstain={"smiling": (0.5, 0.75)})
    probs = np.float32([0.24, 0.25, 0.5, 0.9, 0.9])
    hidden = np.array([False, False, False, False, True])
    got = calibrate.labels(probs, SMILING, calibration, hidden)
    assert got == {"smiling": [False, True, None, True, None]}


def test_labels_of_classes():
    probs = np.float32([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.1, 0.8, 0.1]])
    hidden = np.array([False, False, True])
    assert calibrate.labels(probs, COLOUR, Calibration(), hidden) == {
        "colour": ["red", "blue", None]
    }


def test_labels_of_an_age_are_its_mean_and_the_middle_four_fifths():
    certain = np.float32([[0, 0, 0, 1, 0, 0, 0, 0, 0]] * 2)
    got = calibrate.labels(certain, AGE, Calibration(), np.array([False, True]))
    assert {name: values[0] for name, values in got.items()} == pytest.approx(
        {"age": 25, "age_low": 21, "age_high": 29}, abs=1e-3
    )
    assert [values[1] for values in got.values()] == [None, None, None]


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
def test_labels_of_no_faces_are_empty_columns(one):
    probs = np.zeros((0, *(() if one.kind is Kind.BINARY else (one.num_values,))), np.float32)
    got = calibrate.labels(probs, one, Calibration(), np.zeros(0, bool))
    assert list(got.values()) == [[]] * (3 if one.kind is Kind.AGE else 1)
