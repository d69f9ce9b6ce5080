import json

import numpy as np
import pytest
import sklearn.metrics as sk

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.metrics.attribute import (
    MACRO_METRICS,
    age_metrics,
    attribute_metrics,
    binary_metrics,
    categorical_metrics,
    macro,
    measure,
    micro,
)
from fattr.metrics.intervals import MAX_DRAWN, NUM_RESAMPLES, wilson_interval

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
    others, extra, missed, hits = sk.confusion_matrix(y_true, y_pred).ravel().tolist()
    assert binary_metrics(y_true, y_prob, threshold) == {
        "n": 200,
        "accuracy": pytest.approx(sk.accuracy_score(y_true, y_pred)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(y_true, y_pred)),
        "precision": pytest.approx(sk.precision_score(y_true, y_pred)),
        "recall": pytest.approx(sk.recall_score(y_true, y_pred)),
        "f1": pytest.approx(sk.f1_score(y_true, y_pred)),
        "average_precision": pytest.approx(sk.average_precision_score(y_true, y_prob)),
        "roc_auc": pytest.approx(sk.roc_auc_score(y_true, y_prob)),
        "false_positive_rate": pytest.approx(y_pred[y_true == 0].mean()),
        "prevalence": pytest.approx(y_true.mean()),
        "predicted_prevalence": pytest.approx(y_pred.mean()),
        "selection_rate": pytest.approx(y_pred.mean()),
        "counts": {
            "true_positive": hits,
            "false_positive": extra,
            "false_negative": missed,
            "true_negative": others,
        },
    }


NO_YES = {"recall", "balanced_accuracy", "average_precision", "roc_auc"}


@pytest.mark.parametrize(
    ("y_true", "y_prob", "undefined"),
    [
        pytest.param(
            [],
            [],
            {
                *MACRO_METRICS,
                "false_positive_rate",
                "prevalence",
                "predicted_prevalence",
                "selection_rate",
            },
            id="no-faces",
        ),
        pytest.param([1, 0], [0.1, 0.1], {"precision"}, id="none-predicted"),
        pytest.param([0, 0], [0.1, 0.9], NO_YES, id="none-true"),
        pytest.param(
            [1, 1],
            [0.1, 0.9],
            {"balanced_accuracy", "roc_auc", "false_positive_rate"},
            id="all-true",
        ),
        pytest.param([0, 0], [0.1, 0.1], NO_YES | {"precision", "f1"}, id="nothing"),
    ],
)
def test_what_is_undefined_is_none(y_true, y_prob, undefined):
    metrics = binary_metrics(y_true, y_prob, 0.5)
    assert {name for name, value in metrics.items() if value is None} == undefined


def test_a_probability_at_the_threshold_is_a_yes():
    assert binary_metrics([1], [0.25], 0.25)["recall"] == 1.0


def test_categorical_metrics_equal_scikit_learns():
    rng = np.random.default_rng(1)
    y_true = rng.integers(0, 3, 300)
    probs = (random_probs(rng, 300, 3) + 0.3 * np.eye(3)[y_true]) / 1.3
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
            "roc_auc": pytest.approx(sk.roc_auc_score(y_true == k, probs[:, k])),
            "prevalence": pytest.approx((y_true == k).mean()),
            "predicted_prevalence": pytest.approx((y_pred == k).mean()),
        }
    assert got["n"] == 300
    assert got["accuracy"] == pytest.approx(sk.accuracy_score(y_true, y_pred))
    assert got["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y_true, y_pred))
    assert got["precision"] == pytest.approx(precision.mean())
    assert got["f1"] == pytest.approx(sk.f1_score(y_true, y_pred, average="macro"))
    assert got["average_precision"] == pytest.approx(
        sk.average_precision_score(np.eye(3)[y_true], probs, average="macro")
    )
    assert got["roc_auc"] == pytest.approx(sk.roc_auc_score(y_true, probs, multi_class="ovr"))
    assert got["confusion"] == sk.confusion_matrix(y_true, y_pred).tolist()


def test_of_two_classes_the_last_is_selected():
    y_true, probs = [0, 0, 0, 1, 1], np.eye(2)[[0, 1, 0, 1, 0]]
    got = categorical_metrics(y_true, probs, PERCEIVED_GENDER_PRESENTATION.classes)
    assert (got["selection_rate"], got["false_positive_rate"]) == (2 / 5, pytest.approx(1 / 3))
    assert "selection_rate" not in categorical_metrics([0], np.eye(3)[[0]], COLOURS.classes)


def test_an_absent_class_is_left_out_of_the_means():
    # Green never occurs, and is never predicted; red is right twice of three times, blue always.
    probs = np.eye(3)[[0, 0, 2, 2]]
    got = categorical_metrics([0, 0, 0, 2], probs, COLOURS.classes)
    assert got["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    undefined = dict.fromkeys(("precision", "recall", "f1", "average_precision", "roc_auc"))
    shares = {"prevalence": 0.0, "predicted_prevalence": 0.0}
    assert got["per_class"]["green"] == {"n": 0} | undefined | shares
    assert got["precision"] == pytest.approx((1 + 1 / 2) / 2)
    # Red is above blue in 2 pairs of 3 and level in 1, and likewise blue above red.
    assert got["roc_auc"] == pytest.approx(2.5 / 3)


def test_one_class_alone_has_no_balanced_accuracy():
    got = categorical_metrics([1, 1], np.eye(3)[[1, 0]], COLOURS.classes)
    assert (got["accuracy"], got["balanced_accuracy"]) == (0.5, None)


def test_ages_count_exact_bins_and_neighbours():
    # Bins 0-2, 3-9, 30-39 and 70+ (to 90); their middles are 1.5, 6.5, 35 and 80.
    got = age_metrics([0, 2, 6, 7], np.eye(9)[[0, 1, 4, 8]], AGE)
    years_off = np.array([0, 6.5 - 15, 35 - 55, 80 - 65])
    assert (got["n"], got["accuracy"], got["one_off_accuracy"]) == (4, 0.25, 0.75)
    assert got["mae"] == pytest.approx(np.abs(years_off).mean())
    assert got["rmse"] == pytest.approx(np.sqrt((years_off**2).mean()))
    assert got["cs5"] == 0.25
    assert got["per_bin"]["10-19"] == {
        "n": 1,
        "accuracy": 0.0,
        "one_off_accuracy": 1.0,
        "mae": pytest.approx(8.5),
        "bias": pytest.approx(-8.5),
    }
    nothing = dict.fromkeys(("accuracy", "one_off_accuracy", "mae", "bias"))
    assert got["per_bin"]["3-9"] == {"n": 0} | nothing


def test_ages_equal_scikit_learns():
    rng = np.random.default_rng(4)
    y_true = rng.integers(0, 8, 500)  # nobody is 70 or more
    probs = random_probs(rng, 500, 9) + 0.6 * np.eye(9)[y_true]
    probs /= probs.sum(1, keepdims=True)
    middles = np.array([1.5, 6.5, 15, 25, 35, 45, 55, 65, 80])
    years, expected = middles[y_true], probs @ middles
    got = age_metrics(y_true, probs, AGE)
    assert got["mae"] == pytest.approx(sk.mean_absolute_error(years, expected))
    assert got["rmse"] == pytest.approx(sk.root_mean_squared_error(years, expected))
    assert got["cs5"] == pytest.approx((abs(years - expected) <= 5).mean())
    assert (
        got["confusion"] == sk.confusion_matrix(y_true, probs.argmax(1), labels=range(9)).tolist()
    )
    for k, one in enumerate(got["per_bin"].values()):
        own = y_true == k
        assert one["n"] == own.sum()
        if own.any():
            assert one["mae"] == pytest.approx(abs(years - expected)[own].mean())
            assert one["bias"] == pytest.approx((expected - years)[own].mean())


def test_no_ages_have_no_figures():
    got = age_metrics([], np.zeros((0, 9)), AGE)
    assert {got[name] for name in ("accuracy", "one_off_accuracy", "mae", "rmse", "cs5")} == {None}


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
    probs = probs[:, 1] if one.kind is Kind.BINARY else probs
    got = attribute_metrics(one, targets, probs, intervals=True)
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_macro_is_the_plain_mean_without_ages():
    attributes = [attribute("smiling"), attribute("bald"), PERCEIVED_GENDER_PRESENTATION, AGE]
    metrics = {
        "smiling": binary_metrics([1, 1, 0, 0], [0.9, 0.1, 0.1, 0.1], 0.5),
        "bald": binary_metrics([0], [0.1], 0.5),  # only its accuracy is defined
        PERCEIVED_GENDER_PRESENTATION.name: categorical_metrics(
            [0, 1], np.eye(2)[[0, 0]], PERCEIVED_GENDER_PRESENTATION.classes
        ),
        "age": age_metrics([0], np.eye(9)[[8]], AGE),
    }
    assert macro(metrics, attributes) == {
        "accuracy": pytest.approx((0.75 + 1.0 + 0.5) / 3),
        "balanced_accuracy": pytest.approx((0.75 + 0.5) / 2),
        "precision": pytest.approx((1.0 + 0.5) / 2),
        "recall": pytest.approx((0.5 + 0.5) / 2),
        "f1": pytest.approx((2 / 3 + (2 / 3 + 0) / 2) / 2),
        # Half the recall at precision 1, half at 2 of 4; of equal probabilities, the prevalence.
        "average_precision": pytest.approx(((1 + 1 / 2) / 2 + 1 / 2) / 2),
        # One yes is above both noes, the other level with them; equal ones are all level.
        "roc_auc": pytest.approx(((1 + 1 / 2) / 2 + 1 / 2) / 2),
        "num_attributes": {
            "accuracy": 3,
            "balanced_accuracy": 2,
            "precision": 2,
            "recall": 2,
            "f1": 2,
            "average_precision": 2,
            "roc_auc": 2,
        },
    }


def test_macro_of_ages_alone_is_undefined():
    got = macro({"age": age_metrics([0], np.eye(9)[[0]], AGE)}, [AGE])
    assert {got[metric] for metric in MACRO_METRICS} == {None}


def test_macro_takes_calibration_where_it_is_there():
    attributes = [attribute("smiling"), attribute("bald")]
    metrics = {a.name: binary_metrics([0, 1], [0.1, 0.9], 0.5) for a in attributes}
    assert "ece" not in macro(metrics, attributes)
    metrics["smiling"] |= {"ece": 0.02, "brier": None}
    got = macro(metrics, attributes)
    assert (got["ece"], got["brier"]) == (0.02, None)
    assert (got["num_attributes"]["ece"], got["num_attributes"]["brier"]) == (1, 0)


def test_micro_is_of_all_labels_together():
    rng = np.random.default_rng(6)
    attributes = [attribute("smiling"), attribute("bald"), attribute("bangs")]
    targets = rng.choice([-1, 0, 1], (3, 150), p=[0.2, 0.6, 0.2])
    probs = np.clip(rng.random((3, 150)) + 0.3 * (targets == 1), 0, 1)
    metrics = {
        a.name: attribute_metrics(a, y, p)
        for a, y, p in zip(attributes, targets, probs, strict=True)
    }
    known = targets >= 0
    y_true, y_pred = targets[known], probs[known] >= 0.5
    precision, recall, f1, _ = sk.precision_recall_fscore_support(y_true, y_pred, average="binary")
    got = micro(metrics, attributes)
    assert got == pytest.approx(
        {
            "accuracy": sk.accuracy_score(y_true, y_pred),
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }
    )
    # A class counts as right or wrong, and is in nothing else; an age is in nothing at all.
    presentation, right = PERCEIVED_GENDER_PRESENTATION, int((y_true == y_pred).sum())
    metrics[presentation.name] = categorical_metrics(
        [0, 1, 1], np.eye(2)[[0, 1, 0]], presentation.classes
    )
    metrics["age"] = age_metrics([0], np.eye(9)[[0]], AGE)
    more = micro(metrics, [*attributes, presentation, AGE])
    assert more == got | {"accuracy": pytest.approx((right + 2) / (len(y_true) + 3))}


def test_micro_of_nothing_is_undefined():
    assert set(micro({}, []).values()) == {None}


def binary_faces(n=300):
    rng = np.random.default_rng(8)
    y_true = (rng.random(n) < 0.25).astype(int)
    return y_true, np.clip(0.3 * y_true + 0.8 * rng.random(n), 0, 1)


def test_intervals_are_there_where_asked_for():
    smiling, (y_true, y_prob) = attribute("smiling"), binary_faces()
    plain = attribute_metrics(smiling, y_true, y_prob)
    got = attribute_metrics(smiling, y_true, y_prob, intervals=True)
    intervals = got.pop("intervals")
    assert got == plain
    assert intervals.keys() == plain.keys() - {"n", "counts"}
    for name, (low, high) in intervals.items():
        assert 0 <= low < plain[name] < high <= 1
    assert attribute_metrics(smiling, y_true, y_prob, intervals=True)["intervals"] == intervals
    assert not measure(smiling, y_true, y_prob).replicates


def test_shares_have_wilsons_interval():
    y_true, y_prob = binary_faces()
    y_pred = y_prob >= 0.5
    hits, n = int((y_true & y_pred).sum()), len(y_true)
    shares = {
        "accuracy": ((y_true == y_pred).sum(), n),
        "precision": (hits, y_pred.sum()),
        "recall": (hits, y_true.sum()),
        "false_positive_rate": (y_pred.sum() - hits, n - y_true.sum()),
        "prevalence": (y_true.sum(), n),
        "predicted_prevalence": (y_pred.sum(), n),
        "selection_rate": (y_pred.sum(), n),
    }
    got = attribute_metrics(attribute("smiling"), y_true, y_prob, intervals=True)["intervals"]
    for name, (count, whole) in shares.items():
        assert got[name] == pytest.approx(wilson_interval(int(count), int(whole)))


def resampled(figure, *columns, times=1500):
    """A figure of faces drawn again, by nothing but indices."""
    rng, n = np.random.default_rng(9), len(columns[0])
    rows = (rng.integers(0, n, n) for _ in range(times))
    return np.array([figure(*(column[row] for column in columns)) for row in rows])


def assert_intervals_agree(interval, theirs):
    limits = np.quantile(theirs, [0.025, 0.975])
    assert interval == pytest.approx(limits, abs=0.35 * theirs.std())


def test_other_intervals_are_those_of_resampled_faces():
    y_true, y_prob = binary_faces()
    y_pred = y_prob >= 0.5
    got = attribute_metrics(attribute("smiling"), y_true, y_prob, intervals=True)["intervals"]

    def f1(true, called):
        return 2 * (true & called).sum() / (true.sum() + called.sum())

    def balanced(true, called):
        return (called[true == 1].mean() + (~called[true == 0]).mean()) / 2

    assert_intervals_agree(got["f1"], resampled(f1, y_true, y_pred))
    assert_intervals_agree(got["balanced_accuracy"], resampled(balanced, y_true, y_pred))


def test_intervals_of_classes_are_those_of_resampled_faces():
    rng = np.random.default_rng(1)
    y_true = rng.integers(0, 3, 200)
    probs = (random_probs(rng, 200, 3) + 0.3 * np.eye(3)[y_true]) / 1.3
    y_pred = probs.argmax(1)
    got = attribute_metrics(COLOURS, y_true, probs, intervals=True)["intervals"]
    right = int((y_true == y_pred).sum())
    assert got["accuracy"] == pytest.approx(wilson_interval(right, 200))

    def f1(true, called):
        return np.mean(
            [
                2 * ((true == k) & (called == k)).sum() / ((true == k).sum() + (called == k).sum())
                for k in range(3)
            ]
        )

    assert_intervals_agree(got["f1"], resampled(f1, y_true, y_pred))
    area = resampled(
        lambda true, own: sk.roc_auc_score(true, own, multi_class="ovr"), y_true, probs, times=200
    )
    assert_intervals_agree(got["roc_auc"], area)


@pytest.mark.parametrize("n", [300, MAX_DRAWN + 1])
def test_intervals_of_ages_are_those_of_resampled_faces(n):
    rng = np.random.default_rng(3)
    y_true = rng.integers(0, 9, n)
    probs = (random_probs(rng, n, 9) + np.eye(9)[y_true]) / 2
    middles = np.array([1.5, 6.5, 15, 25, 35, 45, 55, 65, 80])
    off = abs(probs @ middles - middles[y_true])
    got = attribute_metrics(AGE, y_true, probs, intervals=True)["intervals"]
    assert got.keys() == {"accuracy", "one_off_accuracy", "mae", "rmse", "cs5"}
    assert_intervals_agree(got["mae"], resampled(np.mean, off))
    assert_intervals_agree(got["rmse"], resampled(lambda x: np.sqrt((x**2).mean()), off))
    assert got["cs5"] == pytest.approx(wilson_interval(int((off <= 5).sum()), n))


def test_what_is_undefined_has_no_interval():
    got = attribute_metrics(attribute("bald"), [0] * 40, [0.1] * 40, intervals=True)
    shares = {"accuracy", "false_positive_rate", "prevalence"}
    assert got["intervals"].keys() == shares | {"predicted_prevalence", "selection_rate"}
    nothing = attribute_metrics(attribute("bald"), [-1], [0.1], intervals=True)
    assert nothing["intervals"] == {}


def test_a_resample_may_lack_what_the_faces_have():
    found = measure(
        attribute("bald"), [1] + [0] * 39, [0.9] + [0.1] * 39, 0.5, np.random.default_rng(0)
    )
    recall = found.replicates["recall"]
    assert len(recall) == NUM_RESAMPLES
    assert np.isnan(recall).mean() == pytest.approx((39 / 40) ** 40, abs=0.05)
    assert set(recall[~np.isnan(recall)]) == {1.0}
    assert found.metrics["intervals"]["roc_auc"] == [1.0, 1.0]
