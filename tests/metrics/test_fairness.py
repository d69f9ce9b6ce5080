import fairlearn.metrics as fl
import numpy as np
import pytest
import sklearn.metrics as sk

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.metrics.attribute import Measured, attribute_metrics
from fattr.metrics.by_group import group_members, measure_groups
from fattr.metrics.fairness import (
    MIN_CASES,
    PARITY,
    compare_groups,
    fairness,
    parity,
    spread,
)

SMILING = attribute("smiling")
COLOURS = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="for tests", classes=("red", "green", "blue")
)
RACES = ["Black", "East Asian", "Indian", "White"]
COUNTED = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "precision": sk.precision_score,
    "recall": fl.true_positive_rate,
    "f1": sk.f1_score,
    "selection_rate": fl.selection_rate,
    "false_positive_rate": fl.false_positive_rate,
}


def drawn_faces(n=800, seed=0):
    """Truth, probabilities and races, of which one is served worse."""
    rng = np.random.default_rng(seed)
    race = rng.choice(RACES, n, p=[0.4, 0.3, 0.2, 0.1])
    y_true = rng.choice([-1, 0, 1], n, p=[0.1, 0.5, 0.4])
    skill = np.where(race == "Indian", 0.1, 0.5)
    y_prob = skill * (y_true == 1) + (1 - skill) * rng.random(n)
    return y_true, y_prob, race


def fairness_of(one, y_true, y_prob, race, threshold=0.5, **options):
    members = group_members({"race": list(race)})
    return fairness(one, measure_groups(one, y_true, y_prob, threshold, members, **options)["race"])


def fairlearns_parity(y_true, y_pred, race):
    values = {}
    for name in PARITY:
        kind = name.removesuffix("_difference").removesuffix("_ratio")
        options = {"agg": "worst_case"} if kind == "equalized_odds" else {}
        values[name] = getattr(fl, name)(y_true, y_pred, sensitive_features=race, **options)
    return values


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_spreads_equal_fairlearns(threshold):
    y_true, y_prob, race = drawn_faces()
    got = fairness_of(SMILING, y_true, y_prob, race, threshold)
    known = y_true >= 0
    frame = fl.MetricFrame(
        metrics=COUNTED,
        y_true=y_true[known],
        y_pred=(y_prob >= threshold)[known].astype(int),
        sensitive_features=race[known],
    )
    difference, ratio = frame.difference(), frame.ratio()
    low, high = frame.by_group.idxmin(), frame.by_group.idxmax()
    for metric in COUNTED:
        own = got[metric]
        assert own["difference"] == pytest.approx(difference[metric])
        assert own["ratio"] == pytest.approx(ratio[metric])
        best, worst = high[metric], low[metric]
        if metric == "false_positive_rate":
            best, worst = worst, best
        assert (own["best_group"], own["worst_group"]) == (best, worst)
        assert own["worst"] == pytest.approx(frame.by_group.loc[worst, metric])
        assert own["best"] == pytest.approx(frame.by_group.loc[best, metric])
        assert own["difference_interval"][0] < own["difference"] < own["difference_interval"][1]
        assert own["ratio_interval"][0] <= own["ratio"] <= own["ratio_interval"][1]
    assert (got["groups_compared"], got["groups_left_out"]) == (RACES, {})


def test_ranking_figures_are_compared_too():
    y_true, y_prob, race = drawn_faces()
    got = fairness_of(SMILING, y_true, y_prob, race)
    for metric, figure in (
        ("average_precision", sk.average_precision_score),
        ("roc_auc", sk.roc_auc_score),
    ):
        values = {}
        for value in RACES:
            own = (race == value) & (y_true >= 0)
            values[value] = figure(y_true[own], y_prob[own])
        assert got[metric]["difference"] == pytest.approx(max(values.values()) - values["Indian"])
        assert got[metric]["worst_group"] == "Indian"


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_parity_equals_fairlearns(threshold):
    y_true, y_prob, race = drawn_faces()
    got = fairness_of(SMILING, y_true, y_prob, race, threshold)
    known = y_true >= 0
    y_pred = (y_prob >= threshold)[known].astype(int)
    theirs = fairlearns_parity(y_true[known], y_pred, race[known])
    assert {name: got[name] for name in PARITY} == pytest.approx(theirs)


def classes_of(one, y_true, seed=1):
    rng = np.random.default_rng(seed)
    probs = rng.random((len(y_true), one.num_values))
    return probs + 0.4 * np.eye(one.num_values)[np.maximum(y_true, 0)]


def test_of_two_classes_the_last_is_yes():
    y_true, _, race = drawn_faces()
    probs = classes_of(PERCEIVED_GENDER_PRESENTATION, y_true)
    got = fairness_of(PERCEIVED_GENDER_PRESENTATION, y_true, probs, race)
    known = y_true >= 0
    y_pred = probs.argmax(1)[known]
    theirs = fairlearns_parity(y_true[known], y_pred, race[known])
    assert {name: got[name] for name in PARITY} == pytest.approx(theirs)
    assert got["selection_rate"]["difference"] == got["demographic_parity_difference"]


def test_of_more_classes_the_furthest_against_the_rest_counts():
    rng = np.random.default_rng(3)
    race, y_true = rng.choice(RACES, 600), rng.integers(0, 3, 600)
    probs = classes_of(COLOURS, y_true)
    got = fairness_of(COLOURS, y_true, probs, race)
    y_pred = probs.argmax(1)
    by_class = [fairlearns_parity(y_true == k, y_pred == k, race) for k in range(3)]
    for name in PARITY:
        furthest = max if name.endswith("difference") else min
        assert got[name] == pytest.approx(furthest(one[name] for one in by_class))
    assert "selection_rate" not in got


def test_ages_are_compared_in_years_and_have_no_parity():
    rng = np.random.default_rng(4)
    y_true, race = rng.integers(0, 9, 400), rng.choice(RACES, 400)
    probs = rng.dirichlet(np.ones(9), 400)
    got = fairness_of(AGE, y_true, probs, race)
    values = {
        value: attribute_metrics(AGE, y_true[race == value], probs[race == value])
        for value in RACES
    }
    for metric in ("accuracy", "one_off_accuracy", "cs5", "mae", "rmse"):
        own = [metrics[metric] for metrics in values.values()]
        assert got[metric]["difference"] == pytest.approx(max(own) - min(own))
        lowest = min(values, key=lambda value: values[value][metric])
        worst = "best_group" if metric in ("mae", "rmse") else "worst_group"
        assert got[metric][worst] == lowest
    assert {got[name] for name in PARITY} == {None}


def test_a_group_without_a_yes_is_left_out_of_what_needs_one():
    y_true, y_prob, race = drawn_faces()
    y_true[race == "White"] = 0
    got = fairness_of(SMILING, y_true, y_prob, race)
    others = (y_true >= 0) & (race != "White")
    y_pred = (y_prob >= 0.5).astype(int)
    recall = fl.MetricFrame(
        metrics=fl.true_positive_rate,
        y_true=y_true[others],
        y_pred=y_pred[others],
        sensitive_features=race[others],
    )
    assert got["recall"]["difference"] == pytest.approx(recall.difference())
    assert got["equal_opportunity_difference"] == pytest.approx(recall.difference())
    assert got["recall"]["left_out"] == ["White"]
    known = y_true >= 0
    rates = fl.MetricFrame(
        metrics={"fpr": fl.false_positive_rate, "selected": fl.selection_rate},
        y_true=y_true[known],
        y_pred=y_pred[known],
        sensitive_features=race[known],
    ).difference()
    assert got["false_positive_rate"]["difference"] == pytest.approx(rates["fpr"])
    assert got["demographic_parity_difference"] == pytest.approx(rates["selected"])
    assert got["equalized_odds_difference"] == pytest.approx(max(rates["fpr"], recall.difference()))
    assert got["accuracy"]["left_out"] == []
    assert got["groups_compared"] == RACES[:3]
    assert got["groups_left_out"] == {"White": "not estimable"}


def with_labels(y_true, race, value, label, n):
    """All faces of a group labelled otherwise, but n."""
    own = np.flatnonzero(race == value)
    relabelled = y_true.copy()
    relabelled[own] = 1 - label
    relabelled[own[:n]] = label
    return relabelled


@pytest.mark.parametrize(("label", "thin"), [
    (1, {"recall", "precision", "f1", "balanced_accuracy", "average_precision", "roc_auc"}),
    (0, {"false_positive_rate", "f1", "balanced_accuracy", "average_precision", "roc_auc"}),
])  # fmt: skip
def test_a_group_of_a_handful_of_cases_is_left_out_of_rates_among_them(label, thin):
    y_true, y_prob, race = drawn_faces()
    for n in (MIN_CASES - 1, MIN_CASES):
        faces = with_labels(y_true, race, "Black", label, n)
        got = fairness_of(SMILING, faces, y_prob, race)
        left_out = {name for name in (*COUNTED, *thin) if got[name]["left_out"] == ["Black"]}
        assert left_out == (thin if n < MIN_CASES else set())
        kept = (faces >= 0) & ((race != "Black") | (n >= MIN_CASES))
        frame = fl.MetricFrame(
            metrics=fl.true_positive_rate if label else fl.false_positive_rate,
            y_true=faces[kept],
            y_pred=(y_prob >= 0.5)[kept].astype(int),
            sensitive_features=race[kept],
        )
        name = "recall" if label else "false_positive_rate"
        assert got[name]["difference"] == pytest.approx(frame.difference())
        if label:
            assert got["equal_opportunity_difference"] == pytest.approx(frame.difference())


def test_a_class_of_a_handful_of_faces_leaves_its_group_out():
    rng = np.random.default_rng(3)
    race, y_true = rng.choice(RACES, 600), rng.integers(0, 3, 600)
    blue = np.flatnonzero((race == "White") & (y_true == 2))
    y_true[blue[MIN_CASES - 1 :]] = 1
    probs = classes_of(COLOURS, y_true)
    got = fairness_of(COLOURS, y_true, probs, race)
    assert got["recall"]["left_out"] == got["f1"]["left_out"] == ["White"]
    assert got["accuracy"]["left_out"] == []
    recalls = []
    for k in range(3):
        kept = (race != "White") | (k != 2)
        recalls.append(
            fl.MetricFrame(
                metrics=fl.true_positive_rate,
                y_true=(y_true == k)[kept],
                y_pred=(probs.argmax(1) == k)[kept],
                sensitive_features=race[kept],
            ).difference()
        )
    assert got["equal_opportunity_difference"] == pytest.approx(max(recalls))


def test_a_class_that_no_group_has_leaves_none_out():
    rng = np.random.default_rng(3)
    race, y_true = rng.choice(RACES, 600), rng.integers(0, 2, 600)
    got = fairness_of(COLOURS, y_true, classes_of(COLOURS, y_true), race)
    assert got["recall"]["left_out"] == got["f1"]["left_out"] == []
    assert got["groups_compared"] == RACES


def test_figures_with_abstention_are_not_compared():
    y_true, y_prob, race = drawn_faces()
    plain = fairness_of(SMILING, y_true, y_prob, race)
    more = {"selective": {"coverage": 0.9, "accuracy": None}}
    assert fairness_of(SMILING, y_true, y_prob, race, extra=lambda *_: more) == plain


def test_a_group_of_too_few_is_left_out_of_all():
    y_true, y_prob, race = drawn_faces()
    kept = (race != "White") | (np.cumsum(race == "White") <= 20)
    whole = fairness_of(SMILING, y_true[kept], y_prob[kept], race[kept])
    without = race != "White"
    rest = fairness_of(SMILING, y_true[without], y_prob[without], race[without])
    assert whole["groups_left_out"] == {"White": "too few"}
    assert whole | {"groups_left_out": {}} == rest


@pytest.mark.parametrize(
    "race", [pytest.param([], id="no-group"), pytest.param(["White"] * 80, id="one-group")]
)
def test_fewer_than_two_groups_cannot_be_compared(race):
    y_true, y_prob = [0, 1] * (len(race) // 2), [0.1, 0.9] * (len(race) // 2)
    got = fairness_of(SMILING, y_true, y_prob, race)
    assert {got[name] for name in PARITY} == {None}
    if race:
        assert got["accuracy"]["difference"] is None
        assert got["accuracy"]["worst_group"] is None
        assert got["groups_compared"] == ["White"]


def test_a_ratio_of_nothing_to_nothing_is_undefined():
    race, y_true = ["Black"] * 40 + ["White"] * 40, [0, 1] * 40
    got = fairness_of(SMILING, y_true, [0.1] * 80, race)
    assert (got["selection_rate"]["difference"], got["selection_rate"]["ratio"]) == (0.0, None)
    assert got["selection_rate"]["ratio_interval"] is None
    assert (got["demographic_parity_difference"], got["demographic_parity_ratio"]) == (0.0, None)
    assert (got["equalized_odds_difference"], got["equalized_odds_ratio"]) == (0.0, None)
    assert got["precision"]["difference"] is None
    assert got["precision"]["left_out"] == ["Black", "White"]


def test_intervals_of_two_groups_are_those_of_faces_drawn_again_in_each():
    y_true, y_prob, race = drawn_faces()
    kept = np.isin(race, ["Black", "Indian"]) & (y_true >= 0)
    y_true, y_pred, race = y_true[kept], (y_prob >= 0.5)[kept], race[kept]
    got = fairness_of(SMILING, y_true, y_prob[kept], race)["f1"]
    rng, drawn = np.random.default_rng(5), []
    for _ in range(600):
        values = []
        for value in ("Black", "Indian"):
            faces = rng.choice(np.flatnonzero(race == value), (race == value).sum())
            hits = (y_true[faces] & y_pred[faces]).sum()
            values.append(2 * hits / (y_true[faces].sum() + y_pred[faces].sum()))
        drawn.append((values[0] - values[1], values[1] / values[0]))
    assert got["worst_group"] == "Indian"
    for name, own in zip(("difference", "ratio"), np.transpose(drawn), strict=True):
        limits = np.quantile(own, (0.025, 0.975))
        assert got[f"{name}_interval"] == pytest.approx(limits, abs=0.35 * own.std())


def binomial_group(rng, right, n):
    share = right / n
    replicates = {"accuracy": rng.binomial(n, share, 1000) / n}
    metrics = {"n": n, "status": "ok", "not_estimable": [], "accuracy": share}
    return Measured(metrics, replicates)


def test_alike_groups_differ_by_more_than_chance_once_in_twenty():
    rng, beyond = np.random.default_rng(6), 0
    for _ in range(400):
        sizes = [60, 100, 200, 200, 400, 400, 800]
        groups = {str(i): binomial_group(rng, rng.binomial(n, 0.8), n) for i, n in enumerate(sizes)}
        own = spread("accuracy", groups)
        beyond += own["difference"] > own["difference_by_chance"]
    assert 0.02 < beyond / 400 < 0.09
    unlike = {"0": binomial_group(rng, 90, 100), "1": binomial_group(rng, 60, 100)}
    own = spread("accuracy", unlike)
    assert own["difference"] > own["difference_by_chance"] > 0


def test_a_metric_without_resamples_is_compared_without_intervals():
    y_true, y_prob, race = drawn_faces()

    def ece(targets, probs):
        return {"ece": float(abs(probs.mean() - targets.mean()))}

    got = fairness_of(SMILING, y_true, y_prob, race, extra=ece)["ece"]
    values = {
        value: abs(y_prob[own].mean() - y_true[own].mean())
        for value in RACES
        if (own := (race == value) & (y_true >= 0)).any()
    }
    assert got["difference"] == pytest.approx(max(values.values()) - min(values.values()))
    assert got["worst"] == pytest.approx(max(values.values()))
    assert (got["difference_interval"], got["difference_by_chance"]) == (None, None)


def test_groups_measured_elsewhere_can_be_compared():
    rows = {
        "a": {"n": 40, "status": "ok", "not_estimable": [], "detection_recall": 0.9},
        "b": {"n": 40, "status": "ok", "not_estimable": [], "detection_recall": 0.6},
        "c": {"n": 3, "status": "too few"},
    }
    groups = {value: Measured(row, {}) for value, row in rows.items()}
    got = compare_groups(groups, ("detection_recall", "accuracy"))
    assert got["detection_recall"]["difference"] == pytest.approx(0.3)
    assert got["detection_recall"]["worst_group"] == "b"
    assert "accuracy" not in got
    assert got["groups_left_out"] == {"c": "too few"}


def test_parity_takes_plain_figures():
    rows = {
        "a": {"selection_rate": 0.5, "recall": 0.8, "false_positive_rate": 0.1},
        "b": {"selection_rate": 0.4, "recall": 0.6, "false_positive_rate": 0.4},
    }
    assert parity(SMILING, rows) == pytest.approx(
        {
            "demographic_parity_difference": 0.1,
            "demographic_parity_ratio": 0.8,
            "equalized_odds_difference": 0.3,
            "equalized_odds_ratio": 0.25,
            "equal_opportunity_difference": 0.2,
            "equal_opportunity_ratio": 0.75,
        }
    )
