import json

import numpy as np
import pytest
import sklearn.metrics as sk

from fattr.attributes import PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.metrics.by_group import by_group, intersections

SMILING = attribute("smiling")
RACE = ["Black", "White", "Black", "White", "Black", ""]
PRESENTATION = ["feminine", "feminine", "masculine", "", "feminine", "feminine"]
GROUPS = {"race": RACE, "perceived_gender_presentation": PRESENTATION}


def test_each_group_has_the_metrics_of_its_own_faces():
    rng = np.random.default_rng(0)
    race = rng.choice(["Black", "White", "Indian"], 300)
    y_true = rng.integers(0, 2, 300)
    y_prob = rng.random(300)
    got = by_group(SMILING, y_true, y_prob, 0.6, {"race": race.tolist()})
    assert list(got) == ["race"]
    assert list(got["race"]) == ["Black", "Indian", "White"]
    for value, metrics in got["race"].items():
        where = race == value
        y_pred = y_prob[where] >= 0.6
        assert metrics["n"] == where.sum()
        assert metrics["accuracy"] == pytest.approx(sk.accuracy_score(y_true[where], y_pred))
        assert metrics["f1"] == pytest.approx(sk.f1_score(y_true[where], y_pred))


def test_pairs_of_columns_are_groups_too():
    y_true, y_prob = [1, 1, 0, 0, 1, 1], [0.9, 0.9, 0.9, 0.1, 0.1, 0.9]
    got = by_group(SMILING, y_true, y_prob, 0.5, GROUPS)
    pair = got["race*perceived_gender_presentation"]
    assert {value: (metrics["n"], metrics["accuracy"]) for value, metrics in pair.items()} == {
        "Black|feminine": (2, 0.5),
        "Black|masculine": (1, 0.0),
        "White|feminine": (1, 1.0),
    }
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_a_face_without_a_value_is_in_no_group_of_that_column():
    got = by_group(SMILING, [1] * 6, [0.9] * 6, 0.5, GROUPS)
    assert {value: metrics["n"] for value, metrics in got["race"].items()} == {
        "Black": 3,
        "White": 2,
    }
    assert "" not in got["perceived_gender_presentation"]


def test_a_group_without_labels_stays_with_none():
    got = by_group(SMILING, [1, -1], [0.9, 0.9], 0.5, {"race": ["Black", "White"]})
    assert (got["race"]["White"]["n"], got["race"]["White"]["accuracy"]) == (0, None)


def test_rows_of_probabilities_follow_their_faces():
    probs = np.eye(2)[[0, 1, 0, 0, 0, 1]]
    got = by_group(PERCEIVED_GENDER_PRESENTATION, [0, 1, 0, 0, 1, 1], probs, 0.5, GROUPS)
    assert got["race"]["Black"]["confusion"] == [[2, 0], [1, 0]]
    assert got["race"]["White"]["confusion"] == [[1, 0], [0, 1]]


def test_three_columns_make_three_pairs_and_no_groups_none():
    columns = {"a": ["1"], "b": ["2"], "c": ["3"]}
    assert intersections(columns) == {"a*b": ["1|2"], "a*c": ["1|3"], "b*c": ["2|3"]}
    assert by_group(SMILING, [1], [0.9], 0.5, {}) == {}


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        intersections({"a": ["1", "2"], "b": ["1"]})
