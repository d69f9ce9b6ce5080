import json

import numpy as np
import pytest
import sklearn.metrics as sk

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.metrics.attribute import (
    MACRO_METRICS,
    age_metrics,
    attribute_metrics,
    average_precision,
    binary_metrics,
    categorical_metrics,
    macro,
)

COLOURS = Attribute(
    name="colour", kind=Kind.CATEGORICAL, description="for tests", classes=("red", "green", "blue")
)


def random_probs(rng, n, k):
    probs = rng.random((n, k))
    return probs / probs.sum(1, keepdims=True)


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_binary_metrics_equal_scikit_learns(threshold):
    rng = np.random.default_rng(0)
    y_true = (rng.random(200) < 0.3).astype(int)
    y_prob = np.clip(0.3 * y_true + rng.random(200) * 0.7, 0, 1).astype(np.float32)
    y_pred = y_prob >= threshold
    assert binary_metrics(y_true, y_prob, threshold) == {
        "n": 200,
        "accuracy": pytest.approx(sk.accuracy_score(y_true, y_pred)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(y_true, y_pred)),
        "precision": pytest.approx(sk.precision_score(y_true, y_pred)),
        "recall": pytest.approx(sk.recall_score(y_true, y_pred)),
        "f1": pytest.approx(sk.f1_score(y_true, y_pred)),
        "average_precision": pytest.approx(sk.average_precision_score(y_true, y_prob)),
        "prevalence": pytest.approx(y_true.mean()),
        "predicted_prevalence": pytest.approx(y_pred.mean()),
    }


@pytest.mark.parametrize(
    ("y_true", "y_prob", "undefined"),
    [
        pytest.param(
            [],
            [],
            {*MACRO_METRICS, "prevalence", "predicted_prevalence"},
            id="no-faces",
        ),
        pytest.param([1, 0], [0.1, 0.1], {"precision"}, id="none-predicted"),
        pytest.param(
            [0, 0], [0.1, 0.9], {"recall", "balanced_accuracy", "average_precision"}, id="none-true"
        ),
        pytest.param([1, 1], [0.1, 0.9], {"balanced_accuracy"}, id="all-true"),
        pytest.param(
            [0, 0],
            [0.1, 0.1],
            {"precision", "recall", "f1", "balanced_accuracy", "average_precision"},
            id="nothing",
        ),
    ],
)
def test_what_is_undefined_is_none(y_true, y_prob, undefined):
    metrics = binary_metrics(y_true, y_prob, 0.5)
    assert {name for name, value in metrics.items() if value is None} == undefined


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_average_precision_is_scikit_learns_also_with_ties(levels):
    rng = np.random.default_rng(levels)
    for _ in range(20):
        y_true = rng.random(50) < 0.3
        y_prob = np.clip(rng.integers(0, levels, 50) / levels + 0.1 * y_true, 0, 1)
        assert average_precision(y_true, y_prob) == pytest.approx(
            sk.average_precision_score(y_true, y_prob)
        )


def test_a_probability_at_the_threshold_is_a_yes():
    assert binary_metrics([1], [0.25], 0.25)["recall"] == 1.0


def test_categorical_metrics_equal_scikit_learns():
    rng = np.random.default_rng(1)
    y_true = rng.integers(0, 3, 300)
    probs = random_probs(rng, 300, 3) + 0.3 * np.eye(3)[y_true]
    y_pred = probs.argmax(1)
    got = categorical_metrics(y_true, probs, COLOURS.classes)
    precision, recall, f1, support = sk.precision_recall_fscore_support(y_true, y_pred)
    for k, name in enumerate(COLOURS.classes):
        assert got["per_class"][name] == {
            "n": support[k],
            "precision": pytest.approx(precision[k]),
            "recall": pytest.approx(recall[k]),
            "f1": pytest.approx(f1[k]),
            "average_precision": pytest.approx(
                sk.average_precision_score(y_true == k, probs[:, k])
            ),
        }
    assert got["n"] == 300
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y_true, y_pred))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))
    assert got["precision"] == pytest.approx(precision.mean())
    assert got["f1"] == pytest.approx(sk.f1_score(y_true, y_pred, average="macro"))
    assert got["confusion"] == sk.confusion_matrix(y_true, y_pred).tolist()


def test_an_absent_class_is_left_out_of_the_means():
    # Green never occurs, and is never predicted; red is right twice of three times, blue always.
    probs = np.eye(3)[[0, 0, 2, 2]]
    got = categorical_metrics([0, 0, 0, 2], probs, COLOURS.classes)
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    undefined = dict.fromkeys(("precision", "recall", "f1", "average_precision"))
    assert got["per_class"]["green"] == {"n": 0} | undefined
    assert got["precision"] == pytest.approx((1 + 1 / 2) / 2)


def test_one_class_alone_has_no_balanced_accuracy():
    got = categorical_metrics([1, 1], np.eye(3)[[1, 0]], COLOURS.classes)
    assert (got["accuracy"], got["balanced_accuracy"]) == (0.5, None)


def test_ages_count_exact_bins_and_neighbours():
    probs = np.eye(9)[[0, 1, 4, 8]]
    assert age_metrics([0, 2, 6, 7], probs) == {
        "n": 4,
        "accuracy": 0.25,
        "one_off_accuracy": 0.75,
    }
    assert age_metrics([], np.zeros((0, 9))) == {
        "n": 0,
        "accuracy": None,
        "one_off_accuracy": None,
    }


@pytest.mark.parametrize(
    ("one", "probs"),
    [
        pytest.param(attribute("smiling"), np.array([0.9, 0.9, 0.2]), id="binary"),
        pytest.param(PERCEIVED_GENDER_PRESENTATION, np.eye(2)[[1, 0, 0]], id="categorical"),
        pytest.param(AGE, np.eye(9)[[1, 8, 0]], id="age"),
    ],
)
def test_unknown_targets_do_not_count(one, probs):
    got = attribute_metrics(one, [1, -1, 0], probs)
    assert (got["n"], got["accuracy"]) == (2, 1.0)
    assert got == attribute_metrics(one, [1, 0], probs[[0, 2]])
    assert attribute_metrics(one, [-1] * 3, probs)["n"] == 0


def test_the_threshold_reaches_binary_attributes():
    smiling = attribute("smiling")
    assert attribute_metrics(smiling, [1], [0.4])["accuracy"] == 0.0
    assert attribute_metrics(smiling, [1], [0.4], 0.3)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("one", "probs", "message"),
    [
        (attribute("smiling"), np.zeros((2, 1)), r"smiling: probs must be \(2,\), got \(2, 1\)"),
        (AGE, np.zeros((2, 7)), r"age: probs must be \(2, 9\), got \(2, 7\)"),
        (attribute("smiling"), [0.5, np.nan], "smiling: probs must be finite"),
    ],
)
def test_probs_that_do_not_fit_are_refused(one, probs, message):
    with pytest.raises(ValueError, match=message):
        attribute_metrics(one, [0, 1], probs)


@pytest.mark.parametrize("num_faces", [0, 1, 20])
@pytest.mark.parametrize("one", [attribute("bald"), PERCEIVED_GENDER_PRESENTATION, AGE])
def test_json_holds_every_result(one, num_faces):
    rng = np.random.default_rng(2)
    k = one.num_values
    targets = rng.integers(0, k, num_faces)
    probs = random_probs(rng, num_faces, k).astype(np.float32)
    got = attribute_metrics(one, targets, probs[:, 1] if one.kind is Kind.BINARY else probs)
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_macro_is_the_plain_mean_without_ages():
    attributes = [attribute("smiling"), attribute("bald"), PERCEIVED_GENDER_PRESENTATION, AGE]
    metrics = {
        "smiling": binary_metrics([1, 1, 0, 0], [0.9, 0.1, 0.1, 0.1], 0.5),
        "bald": binary_metrics([0], [0.1], 0.5),  # only its accuracy is defined
        PERCEIVED_GENDER_PRESENTATION.name: categorical_metrics(
            [0, 1], np.eye(2)[[0, 0]], PERCEIVED_GENDER_PRESENTATION.classes
        ),
        "age": age_metrics([0], np.eye(9)[[8]]),
    }
    assert macro(metrics, attributes) == {
        "accuracy": pytest.approx((0.75 + 1.0 + 0.5) / 3),
        "balanced_accuracy": pytest.approx((0.75 + 0.5) / 2),
        "precision": pytest.approx((1.0 + 0.5) / 2),
        "recall": pytest.approx((0.5 + 0.5) / 2),
        "f1": pytest.approx((2 / 3 + (2 / 3 + 0) / 2) / 2),
        # Half the recall at precision 1, half at 2 of 4; of equal probabilities, the prevalence.
        "average_precision": pytest.approx(((1 + 1 / 2) / 2 + 1 / 2) / 2),
        "num_attributes": {
            "accuracy": 3,
            "balanced_accuracy": 2,
            "precision": 2,
            "recall": 2,
            "f1": 2,
            "average_precision": 2,
        },
    }


def test_macro_of_ages_alone_is_undefined():
    got = macro({"age": age_metrics([0], np.eye(9)[[0]])}, [AGE])
    assert {got[metric] for metric in MACRO_METRICS} == {None}
