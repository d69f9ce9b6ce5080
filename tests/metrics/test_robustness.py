"""Figures of looks at faces against brute force, scikit-learn and what is known by construction."""

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score

from fattr.attributes import attribute
from fattr.metrics.robustness import (
    Looks,
    gate_figures,
    joined,
    no_faces,
    point_figures,
    suggested_gate,
)

SMILING, BALD = attribute("smiling"), attribute("bald")
GENDER, AGE = attribute("perceived_gender_presentation"), attribute("age")


def looks_of(is_right, *, said=0.8, came_true=None, abstained=False, found=None, present=None):
    """Looks (F, K, A) from whether each label is right, NaN where unknown."""
    right = np.asarray(is_right, float)
    shape = right.shape
    is_found = np.ones(shape[:2], bool) if found is None else np.asarray(found)
    face_px = np.where(is_found, 50, np.nan).astype(np.float32)
    gone = np.where(is_found, 0, np.nan)[:, :, None]
    return Looks(
        np.ones(shape[:2], bool) if present is None else np.asarray(present),
        face_px,
        np.broadcast_to(said, shape) + gone,
        (right if came_true is None else np.broadcast_to(came_true, shape)) + gone,
        right + gone,
        np.broadcast_to(abstained, shape).copy(),
    )


def figures(looks, k, attributes, columns=None, min_n=1):
    return point_figures(looks, k, attributes, columns or {}, min_n=min_n)


def test_accuracies_are_those_of_sklearn_where_labels_are_known():
    rng = np.random.default_rng(0)
    targets = rng.integers(-1, 2, (60, 2))
    predicted = rng.integers(0, 2, (60, 2))
    right = np.where(targets < 0, np.nan, predicted == targets)[:, None]
    got = figures(looks_of(right), 0, (SMILING, BALD))
    known = targets >= 0
    wanted = [accuracy_score(targets[known[:, i], i], predicted[known[:, i], i]) for i in (0, 1)]
    assert list(got["attributes"]) == ["smiling", "bald"]
    assert list(got["attributes"].values()) == pytest.approx(wanted)
    assert got["accuracy"] == pytest.approx(np.mean(wanted))
    assert (got["n"], got["num_found"], got["status"]) == (60, 60, "ok")


def test_ages_are_no_part_of_the_means():
    right = np.zeros((10, 1, 2))
    right[:7, 0, 0] = right[:2, 0, 1] = 1
    got = figures(looks_of(right), 0, (GENDER, AGE))
    assert got["accuracy"] == 0.7
    assert got["attributes"] == {"perceived_gender_presentation": 0.7, "age": 0.2}
    alone = figures(looks_of(right[:, :, 1:]), 0, (AGE,))
    assert alone["accuracy"] is alone["change"] is alone["ece"] is None
    assert alone["attributes"] == {"age": 0.2}
    assert set(alone["intervals"]) == {"detection_recall"}


def test_a_change_is_that_of_the_same_faces():
    """As they are, 6 of 8 are right; of the 4 found in the second look, 3 were, and 1 is."""
    first, second = [1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 1, 0, 1, 1, 1, 1]
    found = [True] * 4 + [False] * 4
    right = np.stack([first, second], axis=1)[:, :, None]
    looks = looks_of(right, found=np.stack([[True] * 8, found], axis=1))
    as_is, got = (figures(looks, k, (SMILING,)) for k in (0, 1))
    assert (as_is["accuracy"], as_is["change"]) == (0.75, 0)
    assert as_is["intervals"]["change"] == [0, 0]
    assert (got["detection_recall"], got["num_found"]) == (0.5, 4)
    assert (got["accuracy"], got["as_is_accuracy"], got["change"]) == (0.25, 0.75, -0.5)


def test_faces_without_such_a_picture_are_in_no_figure():
    right = np.array([[1, 1], [0, 0], [1, 0], [1, 1]])[:, :, None]
    present = np.array([[True, True], [True, True], [True, False], [True, False]])
    got = figures(looks_of(right, present=present, found=present), 1, (SMILING,))
    assert (got["n"], got["num_found"], got["detection_recall"]) == (2, 2, 1.0)
    assert got["accuracy"] == 0.5


@pytest.mark.parametrize("num_right", [30, 120, 196])
def test_intervals_are_those_of_the_binomial_distribution(num_right):
    """Resampling faces that are right or not draws binomial counts."""
    right = (np.arange(200) < num_right).astype(float)[:, None, None]
    found = (np.arange(200) < 199)[:, None]
    low, high = figures(looks_of(right), 0, (SMILING,))["intervals"]["accuracy"]
    wanted = scipy.stats.binom.ppf([0.025, 0.975], 200, num_right / 200) / 200
    np.testing.assert_allclose([low, high], wanted, atol=0.011)
    got = figures(looks_of(right, found=found), 0, (SMILING,))["intervals"]["detection_recall"]
    wilson = scipy.stats.binomtest(199, 200).proportion_ci(method="wilson")
    np.testing.assert_allclose(got, [wilson.low, wilson.high])


def test_paired_changes_are_surer_than_the_accuracies():
    """The same 5 of 200 faces turn wrong: their number alone varies, not who was wrong before."""
    rng = np.random.default_rng(1)
    first = (rng.random(200) < 0.7).astype(float)
    second = first.copy()
    second[np.flatnonzero(first)[:5]] = 0
    got = figures(looks_of(np.stack([first, second], axis=1)[:, :, None]), 1, (SMILING,))
    wanted = -scipy.stats.binom.ppf([0.975, 0.025], 200, 5 / 200) / 200
    np.testing.assert_allclose(got["intervals"]["change"], wanted, atol=0.006)
    low, high = got["intervals"]["accuracy"]
    assert high - low > 2 * (wanted[1] - wanted[0])


def test_abstentions_are_of_labelled_faces_and_include_ages():
    right = np.array([[1, 1], [0, 1], [np.nan, 0], [0, 1]])[:, None]
    abstained = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], bool)[:, None]
    got = figures(looks_of(right, abstained=abstained), 0, (SMILING, AGE))
    assert got["abstained_frac"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert got["accuracy"] == pytest.approx(1 / 3)
    assert got["selective_accuracy"] == pytest.approx(1 / 2)  # of the first and the last face
    everything = figures(looks_of(right, abstained=True), 0, (SMILING, AGE))
    assert everything["abstained_frac"] == 1
    assert everything["selective_accuracy"] is None


def test_confidence_is_of_the_class_that_is_more_probable():
    said = np.array([[0.1, 0.6], [0.7, 0.9]])[:, None]
    got = figures(looks_of(np.ones((2, 1, 2)), said=said), 0, (SMILING, GENDER))
    assert got["confidence"] == pytest.approx(np.mean([(0.9 + 0.7) / 2, (0.6 + 0.9) / 2]))


def brute_force_error(said, came_true):
    """By sorting and cutting into ten, one bin after another."""
    pairs = sorted(zip(said.tolist(), came_true.tolist(), strict=True))
    bins = [[pairs[i] for i in own] for own in np.array_split(np.arange(len(pairs)), 10)]
    return sum(
        len(own) / len(pairs) * abs(np.mean([p for p, _ in own]) - np.mean([t for _, t in own]))
        for own in bins
        if own
    )


@pytest.mark.parametrize("n", [1, 7, 10, 203])
def test_calibration_errors_are_of_what_was_said_of_labelled_faces(n):
    """Against what came true, not against the labels being right."""
    rng = np.random.default_rng(n)
    said, came_true = rng.random((n + 3, 1, 2)), (rng.random((n + 3, 1, 2)) < 0.4).astype(float)
    right = rng.integers(0, 2, came_true.shape).astype(float)
    came_true[-3:] = right[-3:] = np.nan
    got = figures(looks_of(right, said=said, came_true=came_true), 0, (SMILING, BALD))
    errors = [brute_force_error(said[:-3, 0, i], came_true[:-3, 0, i]) for i in (0, 1)]
    assert got["ece"] == pytest.approx(np.mean(errors))


def test_without_labels_nothing_is_defined_but_the_recall():
    got = figures(looks_of(np.full((3, 1, 1), np.nan)), 0, (SMILING,))
    assert got["ece"] is got["accuracy"] is got["confidence"] is got["abstained_frac"] is None
    assert got["detection_recall"] == 1


def test_too_few_faces_found_have_no_accuracy():
    right = np.ones((40, 1, 1))
    found = (np.arange(40) < 29)[:, None]
    columns = {"race": np.array(["x"] * 40)}
    few = point_figures(looks_of(right, found=found), 0, (SMILING,), columns)
    assert (few["status"], few["n"], few["num_found"]) == ("too few", 40, 29)
    assert few["detection_recall"] == 29 / 40
    assert few["accuracy"] is few["ece"] is few["attributes"]["smiling"] is None
    assert set(few["intervals"]) == {"detection_recall"}
    assert few["by_group"]["race"]["x"]["accuracy"] is None
    fewer = point_figures(looks_of(right[:29]), 0, (SMILING,), {})
    assert (fewer["status"], fewer["n"], fewer["detection_recall"]) == ("too few", 29, None)
    assert fewer["intervals"] == {}
    enough = point_figures(looks_of(right), 0, (SMILING,), {})
    assert (enough["status"], enough["accuracy"]) == ("ok", 1.0)


def test_groups_have_their_own_recall_and_accuracy():
    values = np.array(["a"] * 4 + ["b"] * 3 + [""] * 2 + ["c"])
    right = np.array([1, 1, 0, 0, 1, 0, 0, 1, 1, 1.0])[:, None, None]
    found = np.array([1, 1, 1, 0, 1, 1, 1, 1, 1, 1], bool)[:, None]
    looks = looks_of(right, found=found)
    groups = figures(looks, 0, (SMILING,), {"race": values}, min_n=2)["by_group"]["race"]
    assert groups["c"] == {"n": 1, "status": "too few"}
    assert list(groups) == ["a", "b", "c"]
    a, b = groups["a"], groups["b"]
    assert (a["n"], a["num_found"], a["detection_recall"]) == (4, 3, 0.75)
    assert a["accuracy"] == pytest.approx(2 / 3)
    assert b["accuracy"] == pytest.approx(1 / 3)


def test_looks_are_joined_in_order():
    parts = [no_faces(2, 1), looks_of(np.ones((2, 2, 1))), looks_of(np.zeros((1, 2, 1)))]
    together = joined(parts)
    assert together.is_right[:, 0, 0].tolist() == [1, 1, 0]
    assert together.face_px.shape == (3, 2)
    assert together.face_px.dtype == np.float32
    assert together.abstained.dtype == np.bool_


def test_without_faces_nothing_is_defined():
    got = figures(no_faces(3, 2), 2, (SMILING, AGE), {"race": np.array([], np.str_)})
    assert (got["n"], got["num_found"], got["status"]) == (0, 0, "too few")
    assert got["detection_recall"] is got["accuracy"] is got["abstained_frac"] is None
    assert got["by_group"] == {"race": {}}


# The size gate


def curve(*rows):
    """Points of (value, change, recall) or (value, change, recall, n)."""
    return [
        {"value": r[0], "change": r[1], "detection_recall": r[2], "n": r[3] if len(r) > 3 else 300}
        for r in rows
    ]


FULL = (128, 0.0, 1.0)


@pytest.mark.parametrize(
    ("points", "gate"),
    [
        pytest.param([], None, id="no-points"),
        pytest.param([FULL], 128, id="one-size"),
        pytest.param([(16, -0.05, 1.0), (32, -0.019, 1.0), FULL], 32, id="accuracy"),
        pytest.param([(16, 0.0, 0.9), (32, 0.0, 0.96), FULL], 32, id="recall"),
        pytest.param([(16, 0.0, 1.0), (32, 0.01, 1.0), FULL], 16, id="all-are-fine"),
        pytest.param([(16, 0.0, 1.0), (32, -0.03, 1.0), FULL], 128, id="a-lucky-smaller-size"),
        pytest.param([FULL, (32, -0.01, 1.0), (16, -0.05, 1.0)], 32, id="in-any-order"),
        pytest.param([(32, 0.0, 1.0), (128, -0.3, 1.0)], None, id="not-even-the-largest"),
        pytest.param([(32, 0.0, 1.0), (128, -0.3, 1.0, 99)], 32, id="too-few-faces-of-a-size"),
        pytest.param([(16, None, 0.96), (32, 0.0, 1.0), FULL], 32, id="no-accuracy"),
        pytest.param([(16, None, None, 0), FULL], 128, id="no-face-at-all"),
    ],
)
def test_the_suggested_gate(points, gate):
    assert suggested_gate(curve(*points)) == gate


def test_the_rule_is_adjustable_and_stated():
    points = curve((16, -0.05, 0.8), (32, -0.019, 0.97), FULL)
    assert suggested_gate(points, max_drop=0.01) == 128
    assert suggested_gate(points, max_drop=0.06, min_recall=0.8) == 16
    assert suggested_gate(points, min_faces=301) is None
    assert gate_figures(points, 24) == {
        "min_face_px": 24,
        "suggested_px": 32,
        "max_drop": 0.02,
        "min_recall": 0.95,
    }
