"""Paired comparison, against resamples drawn out face by face, and planted differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    f1_score,
)

from fattr.attributes import AGE, EMOTION, attribute
from fattr.metrics import compare as comparing
from fattr.metrics import intervals
from fattr.metrics.by_group import group_members
from fattr.metrics.compare import METRICS, Answers, compare, mcnemar, verdict

SMILING, BALD, HAT = (attribute(name) for name in ("smiling", "bald", "wearing_hat"))


def model(name, probs, thresholds=None):
    return Answers(
        model=name,
        model_id=f"id-{name}",
        probs=lambda a: np.asarray(probs[a.name], np.float32),
        thresholds=thresholds or {},
    )


def answered(rng, targets, skill, num_classes=None):
    """Probabilities that are right more often the greater the skill; 0.1 apart, so some tie."""
    k = num_classes or 2
    scores = rng.normal(size=(len(targets), k))
    scores[np.arange(len(targets)), np.maximum(targets, 0)] += skill
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    return probs if num_classes else probs[:, 1].round(1)


@pytest.fixture
def faces():
    """Targets of 60 faces with gaps, two models' probabilities, and groups."""
    rng = np.random.default_rng(1)
    targets = {
        "smiling": rng.integers(-1, 2, 60),
        "bald": (rng.random(60) < 0.2).astype(np.int64),
        "emotion": rng.integers(0, 5, 60),  # of 8 classes
        "age": rng.integers(-1, 9, 60),
    }
    widths = {"emotion": 8, "age": 9}
    good, bad = (
        {name: answered(rng, t, skill, widths.get(name)) for name, t in targets.items()}
        for skill in (2.0, 1.0)
    )
    groups = {"race": ["x", "y", ""] * 20, "head": ["hat"] * 45 + ["hair"] * 15}
    return targets, good, bad, groups


ATTRIBUTES = (SMILING, BALD, EMOTION, AGE)
THRESHOLDS = {"smiling": 0.4}


def compared(faces):
    targets, good, bad, groups = faces
    return compare(
        ATTRIBUTES,
        lambda a: targets[a.name],
        model("new", good, THRESHOLDS),
        model("old", bad),
        group_members(groups),
    )


# Brute force: each face repeated as often as it was drawn, then scikit-learn


def sklearn_metrics(a, y, probs, threshold):
    if a is AGE:
        return {"accuracy": accuracy_score(y, probs.argmax(1))}
    if a is EMOTION:
        predicted = probs.argmax(1)
        seen = sorted({*y, *predicted})
        return {
            "accuracy": accuracy_score(y, predicted),
            "balanced_accuracy": np.mean([(predicted[y == k] == k).mean() for k in set(y)]),
            "f1": f1_score(y, predicted, average="macro", labels=seen),
            "average_precision": np.mean(
                [average_precision_score(y == k, probs[:, k]) for k in set(y)]
            ),
        }
    predicted = (probs >= threshold).astype(int)
    return {
        "accuracy": accuracy_score(y, predicted),
        "balanced_accuracy": balanced_accuracy_score(y, predicted),
        "f1": f1_score(y, predicted),
        "average_precision": average_precision_score(y, probs),
    }


def brute_difference(a, faces, drawn):
    targets, good, bad, _ = faces
    drawn = drawn[targets[a.name][drawn] >= 0]
    y = targets[a.name][drawn]
    first, second = (
        sklearn_metrics(a, y, np.asarray(probs[a.name], np.float32)[drawn], np.float32(threshold))
        for probs, threshold in ((good, THRESHOLDS.get(a.name, 0.5)), (bad, 0.5))
    )
    return {metric: first[metric] - second[metric] for metric in first}


def percentiles(values):
    return np.percentile(values, [2.5, 97.5])


def draws(num_faces):
    """The faces of each resample, as often as its weight says."""
    (weights,) = comparing._Resamples(num_faces)
    return [np.repeat(np.arange(num_faces), w.astype(int)) for w in weights.T]


def test_differences_and_intervals_equal_brute_force(faces, monkeypatch):
    monkeypatch.setattr(intervals, "NUM_RESAMPLES", 50)
    against = compared(faces)
    resamples = draws(60)
    assert [len(drawn) for drawn in resamples] == [60] * 50
    brute = {a.name: [brute_difference(a, faces, d) for d in resamples] for a in ATTRIBUTES}
    for a in ATTRIBUTES:
        expected = brute_difference(a, faces, np.arange(60))
        rows = against["attributes"][a.name]
        assert {m for m in METRICS if m in rows} == expected.keys()
        for metric, value in expected.items():
            assert rows[metric]["difference"] == pytest.approx(value, abs=1e-6)
            own = percentiles([one[metric] for one in brute[a.name]])
            assert rows[metric]["interval"] == pytest.approx(own, abs=1e-6)
    for metric in METRICS:
        names = ("smiling", "bald", "emotion")
        means = np.mean([[one[metric] for one in brute[name]] for name in names], axis=0)
        assert against["macro"][metric]["interval"] == pytest.approx(percentiles(means), abs=1e-6)
        exact = np.mean([against["attributes"][name][metric]["difference"] for name in names])
        assert against["macro"][metric]["difference"] == pytest.approx(exact)


def test_resamples_do_not_depend_on_how_many_fit_into_memory(faces, monkeypatch):
    at_once = compared(faces)
    monkeypatch.setattr(intervals, "CHUNK_SIZE", 60 * 7)
    monkeypatch.setattr(comparing, "KEPT_FACES", 0)
    in_parts = compared(faces)
    for a in ATTRIBUTES:
        for metric in {*METRICS} & at_once["attributes"][a.name].keys():
            rows = [one["attributes"][a.name][metric] for one in (at_once, in_parts)]
            assert rows[0]["interval"] == pytest.approx(rows[1]["interval"])


def test_the_interval_is_that_of_scipys_paired_bootstrap(faces):
    targets, good, bad, _ = faces
    known = targets["smiling"] >= 0
    y = targets["smiling"][known]
    sides = [(np.float32(probs["smiling"][known]) >= 0.5) == y for probs in (good, bad)]
    expected = bootstrap(
        sides,
        lambda first, second, axis: first.mean(axis=axis) - second.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    against = compare(
        [SMILING],
        lambda _: np.where(known, targets["smiling"], -1),
        model("new", good),
        model("old", bad),
        {},
    )
    own = against["attributes"]["smiling"]["accuracy"]["interval"]
    assert own == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 6), (5, 5), (30, 12), (400, 501)], ids=str)
def test_mcnemar_is_the_exact_binomial_test(counts):
    n = sum(counts)
    expected = binomtest(counts[0], n, 0.5).pvalue if n else 1.0
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-9)


# Known truth


def one_sided(num_faces, wrong_before, wrong_after):
    """Faces of which all smile; two models, each wrong about the faces named."""
    sides = []
    for wrong in (wrong_after, wrong_before):
        probs = np.full(num_faces, 0.9)
        probs[list(wrong)] = 0.1
        sides.append({a.name: probs for a in (SMILING, BALD)})
    return sides


def against_of(num_faces, wrong_before, wrong_after, groups=None, attributes=(SMILING,)):
    targets = {a.name: np.ones(num_faces, np.int64) for a in attributes}
    after, before = one_sided(num_faces, wrong_before, wrong_after)
    return compare(
        attributes,
        lambda a: targets[a.name],
        model("new", after),
        model("old", before),
        group_members(groups or {}),
    )


def test_a_better_model_is_called_better_and_a_worse_one_worse():
    wrong = range(40)
    better, worse = against_of(200, wrong, ()), against_of(200, (), wrong)
    assert better["verdict"] == "better"
    assert worse["verdict"] == "worse"
    row = worse["attributes"]["smiling"]
    assert (row["n"], row["n_better"], row["n_worse"]) == (200, 0, 40)
    assert row["accuracy"]["difference"] == pytest.approx(-0.2)
    assert row["p_mcnemar"] == pytest.approx(2 * 0.5**40)
    low, high = worse["macro"]["accuracy"]["interval"]
    assert -0.3 < low < -0.2 < high < -0.1
    assert (worse["model"], worse["model_id"], worse["n"]) == ("old", "id-old", 200)
    assert worse["summary"].startswith(
        "new against old, 200 faces, 1 attribute: macro accuracy -0.200 (-0."
    )
    assert worse["summary"].endswith(
        "; less accurate in 0 of 0 group cells, 0 beyond chance: worse"
    )


def test_equal_models_do_not_differ():
    against = against_of(100, range(10), range(10), {"race": ["x", "y"] * 50})
    assert against["verdict"] == "no clear difference"
    assert against["macro"]["accuracy"] == {"difference": 0.0, "interval": [0.0, 0.0]}
    assert against["attributes"]["smiling"]["p_mcnemar"] == 1.0
    assert (against["num_cells"], against["regressions"]) == (2, [])


def test_what_is_undefined_is_none():
    """All smile: there is no second class to balance, and nobody is bald."""
    none_bald = {"smiling": np.ones(50, np.int64), "bald": np.zeros(50, np.int64)}
    sides = {"smiling": np.full(50, 0.9), "bald": np.full(50, 0.1)}
    against = compare(
        [SMILING, BALD],
        lambda a: none_bald[a.name],
        model("new", sides),
        model("old", sides),
        {},
    )
    undefined = {"difference": None, "interval": None}
    bald = against["attributes"]["bald"]
    assert bald["f1"] == bald["average_precision"] == bald["balanced_accuracy"] == undefined
    assert against["macro"]["balanced_accuracy"] == undefined
    assert against["macro"]["f1"] == {"difference": 0.0, "interval": [0.0, 0.0]}  # of smiling
    assert "balanced" not in against["summary"]


def test_a_metric_that_few_resamples_define_has_no_interval():
    """One bald face: more than a third of the resamples lack it."""
    targets = np.zeros(100, np.int64)
    targets[0] = 1
    sides = [{"bald": np.where(targets, p, 0.1)} for p in (0.9, 0.2)]
    against = compare([BALD], lambda _: targets, model("n", sides[0]), model("o", sides[1]), {})
    assert against["attributes"]["bald"]["f1"]["difference"] == pytest.approx(1.0)
    assert against["attributes"]["bald"]["f1"]["interval"] is None
    assert against["attributes"]["bald"]["accuracy"]["interval"] is not None


RACES = {"race": ["x"] * 100 + ["y"] * 100 + ["few"] * 29 + [""] * 71}


def test_a_group_that_is_worse_off_is_found():
    """The new model is right about 60 more faces of y, and wrong about 20 more of x."""
    against = against_of(300, range(100, 160), range(20), RACES)
    assert against["verdict"] == "better, worse for race x"
    (row,) = against["regressions"]
    low, high = row.pop("interval")
    assert low < -0.2 < high < 0
    assert row == {
        "attribute": "smiling",
        "column": "race",
        "group": "x",
        "n": 100,
        "difference": -0.2,
        "p_mcnemar": pytest.approx(2 * 0.5**20),
        "confirmed": True,
    }
    assert against["num_cells"] == 2  # a group of 29 is not compared, nor an unknown one


def test_a_loss_that_chance_explains_is_listed_but_not_called_worse():
    against = against_of(300, (), range(5), RACES)
    (row,) = against["regressions"]
    assert (row["group"], row["confirmed"]) == ("x", False)
    assert row["p_mcnemar"] == pytest.approx(2 * 0.5**5)
    assert against["verdict"] == "worse"


def test_only_faces_with_a_label_count_in_a_group():
    targets = np.ones(300, np.int64)
    targets[:80] = -1  # 20 of x are left
    after, before = one_sided(300, (), range(100))
    against = compare(
        [SMILING],
        lambda _: targets,
        model("new", after),
        model("old", before),
        group_members(RACES),
    )
    assert against["num_cells"] == 1
    assert against["attributes"]["smiling"]["n"] == 220


@pytest.mark.parametrize(
    ("p_values", "confirmed"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.01, 0.02, 0.03, 0.04], [True, False, False, False]),
        ([0.04, 0.001, 0.012, 0.02], [True, True, True, True]),
        ([0.9, 0.04, 0.01], [False, False, True]),
    ],
    ids=str,
)
def test_holms_procedure(p_values, confirmed):
    rows = [{"p_mcnemar": p, "difference": -0.1} for p in p_values]
    assert [row["confirmed"] for row in comparing._confirm(rows)] == confirmed
    gained = [row | {"difference": 0.1} for row in rows]
    assert not any(row["confirmed"] for row in comparing._confirm(gained))


def test_ages_alone_are_judged_by_their_accuracy():
    targets = np.arange(90) % 9
    right, wrong = np.eye(9)[targets], np.eye(9)[(targets + 1) % 9]
    sides = [{"age": probs} for probs in (right, wrong)]
    against = compare([AGE], lambda _: targets, model("new", sides[0]), model("o", sides[1]), {})
    assert against["verdict"] == "better"
    assert all(row["interval"] is None for row in against["macro"].values())
    assert against["summary"].startswith("new against o, 90 faces, 1 attribute; less accurate in")


def _against(*intervals, worse_for=()):
    return {
        "macro": {m: {"interval": i} for m, i in zip(METRICS, intervals, strict=False)},
        "attributes": {},
        "regressions": [{"column": "c", "group": g, "confirmed": True} for g in worse_for],
    }


@pytest.mark.parametrize(
    ("against", "said"),
    [
        (_against([-0.1, 0.1], None), "no clear difference"),
        (_against([-0.1, 0.1], [0.01, 0.1]), "better"),
        (_against([-0.1, -0.05], [-0.1, 0.1]), "worse"),
        (_against([-0.1, -0.05], [0.01, 0.1]), "mixed"),
        (_against([0.0, 0.1]), "no clear difference"),
        (_against([0.01, 0.1], worse_for="aab"), "better, worse for c a, c b"),
        (
            _against([-0.2, -0.1], worse_for="abcde"),
            "worse, worse for c a, c b, c c, and 2 more",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_verdict_in_words(against, said):
    assert verdict(against) == said
