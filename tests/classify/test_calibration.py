import numpy as np
import pytest
import scipy.special

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.classify import calibration as calibrate
from fattr.classify.calibration import Calibration, Curve

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


def test_a_face_has_the_same_age_in_every_batch():
    probs = random_probs(64, 9, 0)
    together = calibrate.expected_age(probs, AGE)
    alone = [calibrate.expected_age(row[None], AGE)[0] for row in probs]
    assert together.tolist() == alone


def test_ages_of_no_faces_are_empty():
    none = np.zeros((0, 9), np.float32)
    assert calibrate.expected_age(none, AGE).shape == (0,)
    assert calibrate.age_quantile(none, AGE, 0.5).shape == (0,)


BIASES = {"smiling": (0.75,), "colour": (1.0, -2.0, 0.25)}


def test_biases_are_added_to_the_divided_logits():
    attributes = (SMILING, COLOUR)
    logits = np.random.default_rng(1).normal(0, 3, (50, 4)).astype(np.float32)
    calibration = Calibration({"smiling": 2.0, "colour": 0.5}, biases=BIASES)
    probs = calibrate.probabilities(logits, attributes, calibration)
    wanted = scipy.special.softmax(logits[:, 1:] / 0.5 + BIASES["colour"], axis=1)
    np.testing.assert_allclose(probs["colour"], wanted, rtol=1e-4, atol=1e-6)
    wanted = scipy.special.expit(logits[:, 0] / 2 + 0.75)
    np.testing.assert_allclose(probs["smiling"], wanted, rtol=1e-4, atol=1e-6)


CURVES = {
    "smiling": (Curve((-2.0, 0.0, 3.0), (0.1, 0.5, 0.9)),),
    "colour": (
        Curve((-4.0, 4.0), (0.05, 0.95)),
        Curve((0.0,), (0.25,)),
        Curve((-1.0, 1.0), (0.2, 0.2)),
    ),
}


@pytest.mark.parametrize(
    ("logit", "prob"),
    [(-50, 0.1), (-2, 0.1), (-1, 0.3), (0, 0.5), (1.5, 0.7), (3, 0.9), (50, 0.9)],
)
def test_a_curve_is_straight_between_knots_and_flat_outside(logit, prob):
    logits = np.float32([[logit]])
    got = calibrate.attribute_probabilities(logits, SMILING, Calibration(curves=CURVES))
    assert got.tolist() == pytest.approx([prob])


def test_curves_of_classes_see_each_class_against_the_others_and_sum_to_one():
    logits = np.random.default_rng(2).normal(0, 3, (40, 3)).astype(np.float32)
    got = calibrate.attribute_probabilities(logits, COLOUR, Calibration(curves=CURVES))
    for face, row in zip(got, logits.astype(np.float64), strict=True):
        p = scipy.special.softmax(row)
        red = 0.5 + 0.45 * np.clip(scipy.special.logit(p[0]) / 4, -1, 1)
        wanted = np.array([red, 0.25, 0.2]) / (red + 0.45)
        np.testing.assert_allclose(face, wanted, rtol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3, 9])
def test_log_odds_are_those_of_the_softmax(num_classes):
    logits = np.random.default_rng(3).normal(0, 4, (200, num_classes)).astype(np.float32)
    wanted = scipy.special.logit(scipy.special.softmax(logits.astype(np.float64), axis=1))
    got = calibrate.log_odds(logits)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


def test_log_odds_of_sure_faces_are_finite():
    """Where a softmax in float32 is 1 and 0, they still rise with the logit."""
    odds = calibrate.log_odds(np.float32([[0, 0, 200], [0, 0, 300]]))
    np.testing.assert_allclose(odds[:, 2], [200 - np.log(2), 300 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(odds[:, 0], [-200, -300], rtol=1e-6)


CALIBRATIONS = {
    "none": Calibration(),
    "temperature": Calibration({"smiling": 0.25, "colour": 4.0, "age": 1.5}),
    "biases": Calibration({"smiling": 3.0}, biases=BIASES | {"age": (0.5, -0.5, *[0.1] * 7)}),
    "curves": Calibration(curves=CURVES | {"age": (Curve((-9.0, 9.0), (1e-4, 0.999)),) * 9}),
}


@pytest.mark.parametrize("calibration", CALIBRATIONS.values(), ids=CALIBRATIONS)
@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
@pytest.mark.parametrize("scale", [0.0, 3.0, 1e4])
def test_probabilities_are_float32_within_range_and_sum_to_one(one, calibration, scale):
    logits = np.random.default_rng(4).normal(0, scale, (300, one.num_logits)).astype(np.float32)
    probs = calibrate.attribute_probabilities(logits, one, calibration)
    assert probs.dtype == np.float32
    assert probs.shape == ((300,) if one is SMILING else logits.shape)
    assert (probs >= 0).all()
    assert (probs <= 1).all()
    if one is not SMILING:
        np.testing.assert_allclose(probs.sum(1), 1, atol=1e-6)
    none = calibrate.attribute_probabilities(logits[:0], one, calibration)
    assert (none.shape, none.dtype) == ((0, *probs.shape[1:]), np.float32)


@pytest.mark.parametrize("calibration", CALIBRATIONS.values(), ids=CALIBRATIONS)
def test_a_higher_logit_never_has_a_lower_probability(calibration):
    logits = np.linspace(-20, 20, 10_001, dtype=np.float32)[:, np.newaxis]
    probs = calibrate.attribute_probabilities(logits, SMILING, calibration)
    assert (np.diff(probs) >= -1e-7).all()  # tanh rounds
    assert probs[-1] > probs[0]


@pytest.mark.parametrize(
    ("odds", "probs", "message"),
    [
        pytest.param((), (), "one or more: 0 and 0", id="empty"),
        pytest.param((0.0, 1.0), (0.5,), "one or more: 2 and 1", id="lengths"),
        pytest.param((0.0, 0.0), (0.1, 0.2), "must rise", id="equal-odds"),
        pytest.param((1.0, 0.0), (0.1, 0.2), "must rise", id="falling-odds"),
        pytest.param((0.0, 1.0), (0.2, 0.1), "must not fall", id="falling"),
        pytest.param((0.0, 1.0), (0.0, 0.1), "between 0 and 1", id="never"),
        pytest.param((0.0, 1.0), (0.5, 1.0), "between 0 and 1", id="always"),
        pytest.param((0.0,), (float("nan"),), "between 0 and 1", id="nan"),
    ],
)
def test_what_is_no_curve_is_refused(odds, probs, message):
    with pytest.raises(ValueError, match=message):
        Curve(odds, probs)


@pytest.mark.parametrize(
    ("threshold", "prob", "wanted"),
    [
        (0.5, 0.5, 0.0),
        (0.5, 0.75, 0.5),
        (0.5, 0.25, 0.5),
        (0.8, 0.9, 0.5),
        (0.8, 0.4, 0.5),
        (0.8, 1.0, 1.0),
        (0.8, 0.0, 1.0),
        (0.2, 0.2, 0.0),
        (1.0, 1.0, 0.0),
        (0.0, 0.0, 0.0),
        (0.0, 0.25, 0.25),
    ],
)
def test_certainty_is_the_share_of_the_way_from_the_threshold(threshold, prob, wanted):
    got = calibrate.certainty(np.float32([prob]), SMILING, threshold)
    assert got.tolist() == pytest.approx([wanted], abs=1e-6)


def test_certainty_of_classes_is_the_top_probability():
    probs = random_probs(30, 3)
    assert calibrate.certainty(probs, COLOUR).tolist() == probs.max(1).tolist()
    assert calibrate.certainty(probs[:0], COLOUR).shape == (0,)


@pytest.mark.parametrize("levels", [3, 20, 1000])
@pytest.mark.parametrize("coverage", [1.0, 0.95, 0.9, 0.7, 0.5, 0.01])
def test_the_certainty_limit_is_the_highest_that_keeps_enough(coverage, levels):
    for seed in range(5):
        certainties = np.random.default_rng(seed).integers(0, levels, 40) / levels
        limit = calibrate.certainty_limit(certainties, coverage)
        enough = [c for c in np.unique(certainties) if (certainties >= c).sum() >= coverage * 40]
        assert limit == max(enough)


def test_nine_of_ten_faces_are_nine():
    """0.1 * 10 is 1, although (1 - 0.9) * 10 is less."""
    assert calibrate.certainty_limit(np.arange(10) / 10, 0.9) == 0.1


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
