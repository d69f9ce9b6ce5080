import itertools
import json

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.metrics.calibration import brier, calibration_metrics, ece, reliability

SMILING = attribute("smiling")
COLOUR = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="for tests", classes=("red", "green", "blue")
)


@pytest.mark.parametrize("bins", [1, 5, 10])
def test_reliability_is_scikit_learns_quantile_curve(bins):
    rng = np.random.default_rng(bins)
    confidence = rng.permutation(np.linspace(0.01, 0.99, 1000)) ** 2  # no ties
    correct = rng.random(1000) < confidence
    frac, prob = calibration_curve(correct, confidence, n_bins=bins, strategy="quantile")
    rows = reliability(confidence, correct, bins)
    assert [row["n"] for row in rows] == [1000 // bins] * bins
    assert [row["prob"] for row in rows] == pytest.approx(prob)
    assert [row["frac"] for row in rows] == pytest.approx(frac)
    assert ece(confidence, correct, bins) == pytest.approx(abs(frac - prob).mean())


def by_hand(confidence, correct, bins):
    """Bins face by face: sorted, ties sharing what they have, the first bins one larger."""
    of_level = {
        c: [y for d, y in zip(confidence, correct, strict=True) if d == c] for c in confidence
    }
    faces = sorted((c, sum(of_level[c]) / len(of_level[c])) for c in confidence)
    size, larger = divmod(len(faces), bins)
    rows = []
    for i in range(bins):
        own, faces = faces[: size + (i < larger)], faces[size + (i < larger) :]
        if own:
            prob, frac = (sum(column) / len(own) for column in zip(*own, strict=True))
            rows.append({"n": len(own), "prob": prob, "frac": frac})
    return rows


@pytest.mark.parametrize("n", [1, 3, 9, 10, 11, 137])
@pytest.mark.parametrize("levels", [1, 4, 1000])
def test_reliability_and_ece_are_those_by_hand(levels, n):
    rng = np.random.default_rng(n)
    confidence = rng.integers(0, levels + 1, n) / levels
    correct = rng.random(n) < confidence
    rows = by_hand(confidence.tolist(), correct.tolist(), 10)
    got = reliability(confidence, correct)
    assert [row["n"] for row in got] == [row["n"] for row in rows]
    for name in ("prob", "frac"):
        assert [row[name] for row in got] == pytest.approx([row[name] for row in rows])
    off = sum(row["n"] * abs(row["prob"] - row["frac"]) for row in rows) / n
    assert ece(confidence, correct) == pytest.approx(off)


def test_ties_do_not_depend_on_the_order_of_faces():
    """Four faces of one confidence over two bins: in any order each bin is half right."""
    confidence = [0.5] * 4
    found = {
        json.dumps(reliability(confidence, correct, 2))
        for correct in itertools.permutations([1, 1, 0, 0])
    }
    assert found == {json.dumps([{"n": 2, "prob": 0.5, "frac": 0.5}] * 2)}
    assert ece(confidence, [1, 1, 0, 0], 2) == 0.0


def test_calibrated_probabilities_have_little_error_and_shifted_ones_their_shift():
    rng = np.random.default_rng(0)
    honest = rng.uniform(0.2, 0.8, 100_000)
    correct = rng.random(100_000) < honest
    assert ece(honest, correct) < 0.01
    assert ece(honest + 0.1, correct) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("n", [2, 50])
def test_the_brier_score_is_scikit_learns(n):
    rng = np.random.default_rng(n)
    probs, truth = rng.random(n), np.arange(n) % 2
    assert brier(truth, probs) == pytest.approx(brier_score_loss(truth, probs))
    probs, truth = rng.dirichlet(np.ones(3), n), rng.integers(0, 3, n)
    wanted = brier_score_loss(truth, probs, labels=[0, 1, 2], scale_by_half=True)
    assert brier(truth, probs) == pytest.approx(wanted)


def test_two_classes_score_as_a_binary_attribute_does():
    rng = np.random.default_rng(1)
    probs, truth = rng.random(40), rng.integers(0, 2, 40)
    assert brier(truth, np.stack([1 - probs, probs], 1)) == pytest.approx(brier(truth, probs))


def test_nothing_is_undefined_not_zero():
    assert reliability([], []) == []
    assert ece([], []) is None
    assert brier([], []) is None
    assert brier([], np.zeros((0, 3))) is None


@pytest.mark.parametrize(
    "one", [SMILING, COLOUR, PERCEIVED_GENDER_PRESENTATION, AGE], ids=lambda one: one.name
)
def test_an_attribute_is_judged_on_its_known_faces(one):
    rng = np.random.default_rng(2)
    truth = rng.integers(0, one.num_values, 200)
    probs = rng.dirichlet(np.ones(one.num_values), 200).astype(np.float32)
    confidence, correct = probs.max(1), probs.argmax(1) == truth
    if one is SMILING:
        probs = probs[:, 1]
        confidence, correct = probs, truth == 1  # P(true), not that of the likelier answer
    got = calibration_metrics(one, truth, probs)
    assert got == {
        "ece": ece(confidence, correct),
        "brier": brier(truth, probs),
        "reliability": reliability(confidence, correct),
    }
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    some = np.where(rng.random(200) < 0.4, -1, truth)
    known = some >= 0
    assert calibration_metrics(one, some, probs) == calibration_metrics(
        one, truth[known], probs[known]
    )
    nobody = {"ece": None, "brier": None, "reliability": []}
    assert calibration_metrics(one, np.full(200, -1), probs) == nobody
