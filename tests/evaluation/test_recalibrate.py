import json

import numpy as np
import pytest
import scipy.special

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify.calibration import Calibration, Curve, attribute_probabilities, logit_slices
from fattr.classify.fit_calibration import NO_LABELS, FitSettings, cross_validated, fit_attribute
from fattr.evaluation.recalibrate import recalibrate
from fattr.evaluation.scores import Scores, scores_table
from fattr.metrics.calibration import calibration_metrics
from fattr.metrics.selective import selective_metrics

SMILING, BALD = attribute("smiling"), attribute("bald")
PRESENTATION = PERCEIVED_GENDER_PRESENTATION
ATTRIBUTES = (SMILING, BALD, PRESENTATION, AGE)
CURRENT = Calibration(
    {"smiling": 3.0, "bald": 2.0, "hat": 1.5},
    {"smiling": 0.9, "bald": 0.3, "hat": 0.4},
    {"smiling": (0.2, 0.3), "bald": (0.25, 0.4)},
    {"bald": (0.5,)},
    {PRESENTATION.name: (Curve((-1.0, 1.0), (0.4, 0.5)), Curve((0.0,), (0.5,)))},
)


def scored(n, seed):
    """Faces whose logits are too low for smiling; nobody says who is bald."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, 13)).astype(np.float32)
    slices = logit_slices(ATTRIBUTES)
    drawn = logits + rng.gumbel(size=(n, 13))
    targets = np.stack(
        [
            rng.random(n) < scipy.special.expit(logits[:, 0] + 1.5),
            np.full(n, -1),
            drawn[:, slices[PRESENTATION.name]].argmax(1),
            drawn[:, slices["age"]].argmax(1),
        ],
        axis=1,
    ).astype(np.int64)
    targets[rng.random((n, 4)) < 0.1] = -1
    table = scores_table(
        ATTRIBUTES,
        image_uris=[f"file:///{i}.jpg" for i in range(n)],
        found=np.ones(n, bool),
        face_px=np.full(n, 50, np.float32),
        targets=targets,
        logits=logits,
        groups={},
    )
    return Scores(ATTRIBUTES, table)


@pytest.fixture(scope="module")
def scores():
    return scored(600, 0)


@pytest.fixture(scope="module")
def made(scores):
    return recalibrate(scores, CURRENT, FitSettings(coverage=0.9))


def test_each_attribute_gets_what_its_known_faces_ask_for(scores, made):
    calibration, report = made
    for one in (SMILING, PRESENTATION, AGE):
        known = scores.targets(one) >= 0
        wanted = fit_attribute(
            scores.logits(one)[known], scores.targets(one)[known], one, FitSettings(coverage=0.9)
        )
        for field in ("temperatures", "thresholds", "abstain", "biases", "curves"):
            got, own = getattr(calibration, field), getattr(wanted.calibration, field)
            assert got.get(one.name) == own.get(one.name)
        assert report["attributes"][one.name]["method"] == wanted.method
    assert report["attributes"]["smiling"]["method"] == "platt"


def test_what_cannot_be_fitted_is_kept_and_said(made):
    calibration, report = made
    for field in ("temperatures", "thresholds", "abstain", "biases"):
        for name in ("bald", "hat"):
            assert getattr(calibration, field).get(name) == getattr(CURRENT, field).get(name)
    row = report["attributes"]["bald"]
    assert (row["n"], row["status"], row["method"]) == (0, NO_LABELS, None)
    assert row["temperature"] == {"before": 2.0, "after": 2.0}
    assert row["threshold"] == {"before": 0.3, "after": 0.3}
    assert row["biases"] == {"before": [0.5], "after": [0.5]}
    assert row["band"] == {"before": [0.25, 0.4], "after": [0.25, 0.4]}
    assert row["ece"] == row["log_loss"] == row["coverage"] == {"before": None, "after": None}
    assert row["held_out"] is None


def test_the_report_tells_figures_before_and_after(scores, made):
    calibration, report = made
    for one in (SMILING, PRESENTATION, AGE):
        row = report["attributes"][one.name]
        targets = scores.targets(one)
        assert row["n"] == (targets >= 0).sum()
        for when, used in (("before", CURRENT), ("after", calibration)):
            probs = attribute_probabilities(scores.logits(one), one, used)
            figures = calibration_metrics(one, targets, probs)
            for name in ("ece", "brier", "reliability"):
                assert row[name][when] == figures[name]
            selective = selective_metrics(one, targets, probs, used)
            assert row["coverage"][when] == selective["coverage"]
            assert row["selective_accuracy"][when] == selective["accuracy"]
            assert row["accuracy"][when] == selective["curve"][0]["accuracy"]
        assert row["log_loss"]["after"] < row["log_loss"]["before"]
        assert row["log_losses"][row["method"]] == pytest.approx(row["held_out"]["log_loss"])
        assert row["coverage"]["after"] == pytest.approx(0.9, abs=0.005)
        held_out = cross_validated(
            scores.logits(one)[targets >= 0], targets[targets >= 0], one, row["method"]
        )
        assert row["held_out"] == {
            "log_loss": row["held_out"]["log_loss"],
            **calibration_metrics(one, targets[targets >= 0], held_out),
        }
    curved = report["attributes"][PRESENTATION.name]
    assert curved["num_knots"] == {"before": [2, 1], "after": []}
    assert curved["temperature"]["before"] is None
    assert curved["threshold"] == {"before": None, "after": None}


def test_means_are_over_what_is_defined_and_no_age(made):
    _, report = made
    rows = [report["attributes"][name] for name in ("smiling", PRESENTATION.name)]
    for name in ("accuracy", "log_loss", "ece", "brier", "coverage", "selective_accuracy"):
        for when in ("before", "after"):
            wanted = np.mean([row[name][when] for row in rows])
            assert report["macro"][name][when] == pytest.approx(wanted)
    for name in ("log_loss", "ece", "brier"):
        wanted = np.mean([row["held_out"][name] for row in rows])
        assert report["macro"]["held_out"][name] == pytest.approx(wanted)


def test_json_holds_the_report(made):
    assert json.loads(json.dumps(made[1], allow_nan=False)) == made[1]


def test_other_faces_are_believed_more_than_before(made):
    """What was fitted on some faces helps on others."""
    fresh = scored(2_000, 1)
    for one in (SMILING, PRESENTATION):
        targets = fresh.targets(one)
        before, after = (
            calibration_metrics(
                one, targets, attribute_probabilities(fresh.logits(one), one, calibration)
            )
            for calibration in (CURRENT, made[0])
        )
        assert after["ece"] < 0.04 < before["ece"]
        assert after["brier"] < before["brier"]


def test_nothing_labelled_changes_nothing(scores):
    nobody = Scores((BALD,), scores.source)
    calibration, report = recalibrate(nobody, CURRENT, FitSettings())
    assert calibration == CURRENT
    assert report["macro"]["ece"] == {"before": None, "after": None}
    assert report["macro"]["held_out"] == {"log_loss": None, "ece": None, "brier": None}
