import json

import numpy as np
import pytest
import sklearn.metrics as sk
from fairlearn.metrics import (
    MetricFrame,
    count,
    false_positive_rate,
    selection_rate,
    true_positive_rate,
)

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.metrics.attribute import attribute_metrics
from fattr.metrics.by_group import MIN_N, figures, group_members, measure_groups

SMILING = attribute("smiling")
RACE = ["Black", "White", "Black", "White", "Black", ""]
PRESENTATION = ["feminine", "feminine", "masculine", "", "feminine", "feminine"]
GROUPS = {"race": RACE, "perceived_gender_presentation": PRESENTATION}
PAIR = "race*perceived_gender_presentation"


def small_groups(one, targets, probs, groups):
    """Figures of groups of any size, without intervals."""
    members = group_members(groups)
    found = measure_groups(one, targets, probs, 0.5, members, min_n=0, intervals=False)
    return figures(found)


def drawn_faces(n=600, seed=0):
    """Truth, of which a tenth is unknown, probabilities, and two columns of groups."""
    rng = np.random.default_rng(seed)
    y_true = rng.choice([-1, 0, 1], n, p=[0.1, 0.6, 0.3])
    y_prob = np.clip(0.3 * (y_true == 1) + 0.7 * rng.random(n), 0, 1)
    race = rng.choice(["Black", "White", "Indian", ""], n, p=[0.4, 0.3, 0.2, 0.1])
    head = rng.choice(["hat", "hair"], n)
    return y_true, y_prob, {"race": race.tolist(), "head": head.tolist()}


@pytest.mark.parametrize("columns", [["race"], ["race", "head"]])
def test_groups_equal_fairlearns(columns):
    y_true, y_prob, groups = drawn_faces()
    got = measure_groups(SMILING, y_true, y_prob, 0.6, group_members(groups))["*".join(columns)]
    kept = (y_true >= 0) & (np.array(groups["race"]) != "")
    theirs = {
        "n": count,
        "accuracy": sk.accuracy_score,
        "balanced_accuracy": sk.balanced_accuracy_score,
        "precision": sk.precision_score,
        "recall": true_positive_rate,
        "f1": sk.f1_score,
        "false_positive_rate": false_positive_rate,
        "selection_rate": selection_rate,
    }
    frame = MetricFrame(
        metrics=theirs,
        y_true=y_true[kept],
        y_pred=(y_prob >= 0.6)[kept].astype(int),
        sensitive_features={c: np.array(groups[c])[kept] for c in columns},
    ).by_group
    assert len(got) == len(frame) == (3 if len(columns) == 1 else 6)
    for key, row in frame.iterrows():
        cell = got[key if len(columns) == 1 else "|".join(key)].metrics
        assert {name: cell[name] for name in theirs} == pytest.approx(row.to_dict())


def test_a_group_has_the_figures_of_its_faces_alone():
    y_true, y_prob, groups = drawn_faces()
    got = measure_groups(SMILING, y_true, y_prob, 0.6, group_members(groups))
    for value, cell in got["race"].items():
        own = np.array(groups["race"]) == value
        alone = attribute_metrics(SMILING, y_true[own], y_prob[own], 0.6, intervals=True)
        intervals = alone.pop("intervals")
        assert cell.metrics | alone == cell.metrics
        assert cell.metrics["status"] == "ok"
        assert cell.metrics["not_estimable"] == []
        assert cell.metrics["intervals"].keys() == intervals.keys()
        # Wilson's are equal, the others drawn anew.
        assert cell.metrics["intervals"]["recall"] == intervals["recall"]
        assert cell.metrics["intervals"]["f1"] == pytest.approx(intervals["f1"], abs=0.03)


def test_pairs_of_columns_are_groups_too():
    y_true, y_prob = [1, 1, 0, 0, 1, 1], [0.9, 0.9, 0.9, 0.1, 0.1, 0.9]
    got = small_groups(SMILING, y_true, y_prob, GROUPS)
    pair = got[PAIR]
    assert {value: (metrics["n"], metrics["accuracy"]) for value, metrics in pair.items()} == {
        "Black|feminine": (2, 0.5),
        "Black|masculine": (1, 0.0),
        "White|feminine": (1, 1.0),
    }
    assert "intervals" not in pair["Black|feminine"]
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_members_are_the_faces_of_each_value_and_pair():
    got = {
        column: {value: faces.tolist() for value, faces in values.items()}
        for column, values in group_members(GROUPS).items()
    }
    assert got == {
        "race": {"Black": [0, 2, 4], "White": [1, 3]},
        "perceived_gender_presentation": {"feminine": [0, 1, 4, 5], "masculine": [2]},
        PAIR: {"Black|feminine": [0, 4], "Black|masculine": [2], "White|feminine": [1]},
    }
    assert list(got["race"]) == ["Black", "White"]


def test_members_are_those_that_a_loop_finds():
    _, _, groups = drawn_faces(200)
    members = group_members(groups)
    assert list(members) == ["race", "head", "race*head"]
    pairs = [f"{a}|{b}" if a else "" for a, b in zip(groups["race"], groups["head"], strict=True)]
    for column, values in {**groups, "race*head": pairs}.items():
        assert list(members[column]) == sorted(set(values) - {""})
        for value, faces in members[column].items():
            assert faces.tolist() == [i for i, one in enumerate(values) if one == value]


def test_three_columns_make_three_pairs_and_no_groups_none():
    columns = {"a": ["1"], "b": ["2"], "c": ["3"]}
    pairs = ("a*b", "a*c", "b*c")
    assert [list(group_members(columns)[pair]) for pair in pairs] == [["1|2"], ["1|3"], ["2|3"]]
    assert small_groups(SMILING, [1], [0.9], {}) == {}
    assert group_members({"a": ["", ""]}) == {"a": {}}
    assert group_members({"a": []}) == {"a": {}}


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"equally long: \{'a': 2, 'b': 1\}"):
        group_members({"a": ["1", "2"], "b": ["1"]})


def test_rows_of_probabilities_follow_their_faces():
    probs = np.eye(2)[[0, 1, 0, 0, 0, 1]]
    got = small_groups(PERCEIVED_GENDER_PRESENTATION, [0, 1, 0, 0, 1, 1], probs, GROUPS)
    assert got["race"]["Black"]["confusion"] == [[2, 0], [1, 0]]
    assert got["race"]["White"]["confusion"] == [[1, 0], [0, 1]]


def test_a_group_of_too_few_labelled_faces_has_no_figures():
    race = ["Black"] * MIN_N + ["White"] * MIN_N + ["Indian"]
    y_true = [0, 1] * MIN_N + [1]
    y_true[0] = -1
    members = group_members({"race": race})
    got = figures(measure_groups(SMILING, y_true, [0.9] * len(race), 0.5, members))["race"]
    assert got["Black"] == {"n": MIN_N - 1, "status": "too few"}
    assert got["Indian"] == {"n": 1, "status": "too few"}
    assert (got["White"]["n"], got["White"]["status"]) == (MIN_N, "ok")
    fewer = measure_groups(SMILING, y_true, [0.9] * len(race), 0.5, members, min_n=MIN_N - 1)
    assert fewer["race"]["Black"].metrics["accuracy"] == 15 / 29


def test_what_cannot_be_estimated_is_named_and_not_zero():
    race = ["Black"] * 40 + ["White"] * 40
    y_true, y_prob = [0] * 40 + [0, 1] * 20, [0.1] * 40 + [0.1, 0.9] * 20
    got = figures(measure_groups(SMILING, y_true, y_prob, 0.5, group_members({"race": race})))
    black, white = got["race"]["Black"], got["race"]["White"]
    missing = {"precision", "recall", "f1", "balanced_accuracy", "average_precision", "roc_auc"}
    assert set(black["not_estimable"]) == missing
    assert {black[name] for name in missing} == {None}
    assert black["accuracy"] == white["recall"] == 1.0
    assert white["not_estimable"] == []
    assert not missing & black["intervals"].keys()
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_precision_without_a_positive_is_undefined_and_not_zero():
    # White has none, but predictions: scikit-learn's precision and F1 would be 0.
    race = ["Black"] * 40 + ["White"] * 40
    y_true, y_prob = [0, 1] * 20 + [0] * 40, [0.1, 0.9] * 40
    assert attribute_metrics(SMILING, y_true[40:], y_prob[40:])["precision"] == 0.0
    white = measure_groups(SMILING, y_true, y_prob, 0.5, group_members({"race": race}))["race"][
        "White"
    ]
    for metric in ("recall", "precision", "f1"):
        assert white.metrics[metric] is None
        assert metric in white.metrics["not_estimable"]
        assert metric not in white.metrics["intervals"]
        assert np.isnan(white.replicates[metric]).all()
    assert white.metrics["false_positive_rate"] == 0.5


def test_a_class_that_a_group_lacks_is_in_no_mean():
    colours = Attribute(
        name="colour", kind=Kind.CATEGORICAL, description="for tests", classes=("r", "g", "b")
    )
    y_true, y_pred = np.array([0, 1] * 20), np.array([0, 1, 0, 2] * 10)
    members = group_members({"race": ["White"] * 40})
    cell = measure_groups(colours, y_true, np.eye(3)[y_pred], 0.5, members)["race"]["White"]
    own = cell.metrics["per_class"]
    assert (own["b"]["precision"], own["b"]["recall"], own["b"]["f1"]) == (None, None, None)
    for metric, score in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
    ):
        theirs = score(y_true, y_pred, labels=[0, 1], average="macro")
        assert cell.metrics[metric] == pytest.approx(theirs)
        low, high = cell.metrics["intervals"][metric]
        assert low <= theirs <= high
        assert np.nanmean(cell.replicates[metric]) == pytest.approx(theirs, abs=0.03)


def test_a_group_without_labels_stays_with_none():
    got = small_groups(SMILING, [1, -1], [0.9, 0.9], {"race": ["Black", "White"]})
    assert (got["race"]["White"]["n"], got["race"]["White"]["accuracy"]) == (0, None)


def test_groups_are_resampled_independently():
    # The same faces in either group, which one generator would draw alike.
    y_true, y_prob, _ = drawn_faces(300)
    twice = {"race": ["Black"] * 300 + ["White"] * 300}
    members = group_members(twice)
    got = measure_groups(SMILING, [*y_true] * 2, [*y_prob] * 2, 0.5, members)["race"]
    for metric in ("accuracy", "f1", "roc_auc"):
        both = [one.replicates[metric] for one in got.values()]
        assert abs(np.corrcoef(both)[0, 1]) < 0.15
    alone = {"race": {"White": members["race"]["White"]}}
    again = measure_groups(SMILING, [*y_true] * 2, [*y_prob] * 2, 0.5, alone)["race"]["White"]
    assert again.metrics == got["White"].metrics


def test_more_metrics_are_carried_with_their_intervals():
    y_true, y_prob, groups = drawn_faces()
    seen = []

    def brier(targets, probs):
        seen.append(targets)
        value = float(((probs - targets) ** 2).mean())
        return {"brier": value, "ece": None, "intervals": {"brier": [0.0, value]}}

    members = group_members({"head": groups["head"]})
    got = figures(measure_groups(SMILING, y_true, y_prob, 0.5, members, extra=brier))["head"]
    for value, metrics in got.items():
        own = (np.array(groups["head"]) == value) & (y_true >= 0)
        assert metrics["brier"] == pytest.approx(sk.brier_score_loss(y_true[own], y_prob[own]))
        assert metrics["not_estimable"] == ["ece"]
        assert metrics["intervals"]["brier"] == [0.0, metrics["brier"]]
        assert "accuracy" in metrics["intervals"]
    assert {-1} not in [set(targets) for targets in seen]


def test_ages_have_their_own_figures_by_group():
    rng = np.random.default_rng(2)
    y_true, race = rng.integers(0, 9, 100), np.array(["Black", "White"] * 50)
    probs = rng.dirichlet(np.ones(9), 100)
    members = group_members({"race": race.tolist()})
    got = figures(measure_groups(AGE, y_true, probs, 0.5, members))["race"]["Black"]
    alone = attribute_metrics(AGE, y_true[race == "Black"], probs[race == "Black"])
    assert got | alone == got
    assert got["intervals"].keys() == {"accuracy", "one_off_accuracy", "mae", "rmse", "cs5"}
