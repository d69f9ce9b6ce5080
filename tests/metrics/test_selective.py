import json

import numpy as np
import pytest

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.classify.calibration import Calibration, abstained
from fattr.classify.fit_calibration import FitSettings, abstention_band
from fattr.metrics.attribute import attribute_metrics
from fattr.metrics.selective import (
    COVERAGES,
    accuracy_at,
    macro_selective,
    selective_curve,
    selective_metrics,
)

SMILING, BALD = attribute("smiling"), attribute("bald")
COLOUR = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="for tests", classes=("red", "green", "blue")
)


def drawn(rng, one, n, levels=10_000):
    """Targets (n,), some unknown, and probabilities that know something of them."""
    truth = rng.integers(0, one.num_values, n)
    probs = rng.dirichlet(np.ones(one.num_values), n) + 0.5 * np.eye(one.num_values)[truth]
    probs = np.round(probs / probs.sum(1, keepdims=True) * levels) / levels
    truth[rng.random(n) < 0.1] = -1
    return truth, (probs[:, 1] if one.kind is Kind.BINARY else probs).astype(np.float32)


def curve_by_hand(certainties, correct, coverages):
    """Faces dropped one after another from the least certain on, equals together or not at all."""
    n = len(correct)
    rows = []
    for coverage in coverages:
        best = 0.0
        for level in sorted(set(certainties)):
            if sum(c >= level for c in certainties) >= coverage * n - 1e-9:
                best = level
        kept = [y for c, y in zip(certainties, correct, strict=True) if c >= best]
        rows.append(
            {"coverage": coverage, "kept": len(kept) / n, "accuracy": sum(kept) / len(kept)}
        )
    return rows


@pytest.mark.parametrize("n", [1, 7, 10, 60])
@pytest.mark.parametrize("levels", [1, 3, 1000])
def test_the_curve_drops_the_least_certain_first(levels, n):
    rng = np.random.default_rng(n)
    certainties = rng.integers(1, levels + 1, n) / levels
    correct = rng.random(n) < certainties
    got = selective_curve(certainties, correct)
    wanted = curve_by_hand(certainties.tolist(), correct.tolist(), COVERAGES)
    assert len(got) == len(wanted) == 11
    for row, other in zip(got, wanted, strict=True):
        assert row == pytest.approx(other)
        assert accuracy_at(certainties, correct, row["coverage"]) == row["accuracy"]


def test_coverages_go_from_all_faces_to_half():
    assert COVERAGES == (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
@pytest.mark.parametrize("threshold", [0.5, 0.27, 0.8])
@pytest.mark.parametrize("levels", [20, 10_000])
@pytest.mark.parametrize("coverage", [0.95, 0.9, 0.6])
def test_a_band_fitted_for_a_coverage_keeps_what_the_curve_keeps(coverage, levels, threshold, one):
    truth, probs = drawn(np.random.default_rng(3), one, 300, levels)
    known = truth >= 0
    settings = FitSettings(coverage=coverage)
    band = abstention_band(probs[known], one, threshold if one is SMILING else 0.5, settings)
    calibration = Calibration(
        thresholds={"smiling": threshold}, abstain={one.name: band} if band else {}
    )
    got = selective_metrics(one, truth, probs, calibration)
    row = next(row for row in got["curve"] if row["coverage"] == coverage)
    assert (got["coverage"], got["accuracy"]) == (row["kept"], row["accuracy"])
    if coverage == 0.9:
        assert got["accuracy_at_90"] == row["accuracy"]


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
def test_accuracy_is_that_of_the_faces_outside_of_the_bundles_band(one):
    truth, probs = drawn(np.random.default_rng(4), one, 400)
    calibration = Calibration(thresholds={"smiling": 0.4}, abstain={one.name: (0.3, 0.55)})
    got = selective_metrics(one, truth, probs, calibration)
    known = truth >= 0
    kept = known & ~abstained(probs, one, calibration)
    assert 0 < kept.sum() < known.sum()
    assert got["coverage"] == pytest.approx(kept.sum() / known.sum())
    wanted = attribute_metrics(one, truth[kept], probs[kept], 0.4)["accuracy"]
    assert got["accuracy"] == pytest.approx(wanted)
    everyone = attribute_metrics(one, truth, probs, 0.4)["accuracy"]
    assert got["curve"][0] == {"coverage": 1.0, "kept": 1.0, "accuracy": pytest.approx(everyone)}
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_without_a_band_all_faces_are_kept():
    truth, probs = drawn(np.random.default_rng(5), SMILING, 50)
    got = selective_metrics(SMILING, truth, probs, Calibration())
    assert got["coverage"] == 1.0
    assert got["accuracy"] == got["curve"][0]["accuracy"]


@pytest.mark.parametrize("one", [SMILING, COLOUR, AGE], ids=lambda one: one.kind)
def test_what_is_undefined_is_none(one):
    truth, probs = drawn(np.random.default_rng(6), one, 20)
    got = selective_metrics(one, np.full(20, -1), probs, Calibration())
    assert (got["coverage"], got["accuracy"], got["accuracy_at_90"]) == (None, None, None)
    assert got["curve"] == [{"coverage": c, "kept": None, "accuracy": None} for c in COVERAGES]
    silent = Calibration(abstain={one.name: (0.0, 1.1)})
    got = selective_metrics(one, truth, probs, silent)
    assert (got["coverage"], got["accuracy"]) == (0.0, None)


def test_macro_is_the_plain_mean_of_all_but_ages():
    rng = np.random.default_rng(7)
    attributes = [SMILING, BALD, COLOUR, PERCEIVED_GENDER_PRESENTATION, AGE]
    calibration = Calibration(abstain={"smiling": (0.3, 0.7), "age": (0.0, 0.9)})
    rows = {
        a.name: selective_metrics(a, *drawn(rng, a, 200), calibration)
        for a in attributes
        if a is not BALD
    }
    _, probs = drawn(rng, BALD, 200)
    rows["bald"] = selective_metrics(BALD, np.full(200, -1), probs, calibration)
    counted = [rows[a.name] for a in attributes if a not in (BALD, AGE)]  # bald is undefined
    got = macro_selective(rows, attributes)
    for name in ("coverage", "accuracy", "accuracy_at_90"):
        assert got[name] == pytest.approx(np.mean([row[name] for row in counted]))
    for i, point in enumerate(got["curve"]):
        own = [row["curve"][i] for row in counted]
        assert point["coverage"] == COVERAGES[i]
        assert point["kept"] == pytest.approx(np.mean([row["kept"] for row in own]))
        assert point["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in own]))
    assert got["accuracy_at_full_coverage"] == got["curve"][0]["accuracy"]


def test_macro_of_ages_alone_is_undefined():
    truth, probs = drawn(np.random.default_rng(8), AGE, 20)
    got = macro_selective({"age": selective_metrics(AGE, truth, probs, Calibration())}, [AGE])
    undefined = ("coverage", "accuracy", "accuracy_at_full_coverage", "accuracy_at_90")
    assert got == dict.fromkeys(undefined) | {"curve": []}
