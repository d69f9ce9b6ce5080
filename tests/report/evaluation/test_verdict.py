"""The plain sentences, on figures whose answer is known."""

import copy

import pytest
from report.evaluation.evaluation_metrics import small_metrics

from fattr.report.evaluation.verdict import gaps, group_columns, known_bad, verdicts


def spread(difference, by_chance=None):
    return {
        "difference": difference,
        "difference_interval": [difference - 0.02, difference + 0.02],
        "difference_by_chance": by_chance,
        "worst_group": "a",
        "worst": 0.9 - difference,
        "best_group": "b",
        "best": 0.9,
    }


def attribute(*, f1=0.8, balanced=0.8, **fairness):
    return {
        "n": 100,
        "accuracy": 0.9,
        "balanced_accuracy": balanced,
        "f1": f1,
        "ece": 0.02,
        "by_group": {column.replace("_x_", "*"): {} for column in fairness},
        "fairness": {column.replace("_x_", "*"): {"accuracy": s} for column, s in fairness.items()},
    }


def metrics(attributes=None, **changed):
    made = small_metrics() | changed
    if attributes:
        made["attributes"] = attributes
    return made


def verdict(made, question):
    return next(one for one in verdicts(made) if one.question.startswith(question))


# Attributes not to rely on


@pytest.mark.parametrize(
    ("row", "why"),
    [
        pytest.param(attribute(), None, id="good"),
        pytest.param(attribute(f1=0.49), "F1 0.490", id="f1"),
        pytest.param(attribute(f1=0.5), None, id="f1-at-the-bar"),
        pytest.param(attribute(f1=None), None, id="f1-not-estimable"),
        pytest.param(attribute(balanced=0.64), "balanced accuracy 0.640", id="balanced"),
        pytest.param(
            attribute(race=spread(0.11)),
            "accuracy by race differs by 0.110 (0.090 to 0.130)",
            id="gap",
        ),
        pytest.param(attribute(race=spread(0.1)), None, id="gap-at-the-bar"),
        pytest.param(attribute(race=spread(0.11, 0.12)), None, id="gap-by-chance"),
        pytest.param(attribute(race_x_age=spread(0.3)), None, id="gap-of-an-intersection"),
        pytest.param(
            attribute(f1=0.4, age=spread(0.2)),
            "F1 0.400; accuracy by age differs by 0.200 (0.180 to 0.220)",
            id="both",
        ),
    ],
)
def test_the_rule_for_known_bad_attributes(row, why):
    assert known_bad(metrics({"x": row})) == ({} if why is None else {"x": why})


def test_gaps_come_widest_first_and_without_those_not_compared():
    rows = {
        "small": attribute(race=spread(0.02)),
        "wide": attribute(race=spread(0.2)),
        "none": attribute(race=dict.fromkeys(spread(0.1))),
        "other": attribute(age=spread(0.5)),
    }
    made = metrics(rows)
    assert [gap.attribute for gap in gaps(made, "race")] == ["wide", "small"]
    assert str(gaps(made, "race")[0]) == (
        "wide: 0.700 for a, 0.900 for b; difference 0.200 (0.180 to 0.220)"
    )
    assert group_columns(made) == ["race", "age"]


# Sentences


def test_accuracy_is_told_of_100_labels_and_what_flatters_is_said():
    macro = {"accuracy": 0.904, "balanced_accuracy": 0.75, "f1": 0.6, "average_precision": None}
    made = verdict(metrics(macro=macro, num_macro_attributes=40), "How accurate")
    assert made.answer == "Right for 90 of 100 labels."
    assert made.text.startswith(
        "Mean over 40 attributes: accuracy 0.904, balanced accuracy 0.750, F1 0.600. Accuracy flat"
    )
    even = verdict(metrics(macro=macro | {"balanced_accuracy": 0.9}), "How accurate")
    assert "flatters" not in even.text


def test_best_and_worst_are_named():
    rows = {f"a{i}": attribute(f1=i / 10) for i in range(1, 8)}
    said = verdict(metrics(rows), "How accurate").text
    assert "Best by F1: a7 0.70, a6 0.60 and a5 0.50; worst: a1 0.10, a2 0.20 and a3 0.30." in said


def test_ages_alone_are_told_in_years():
    age = {"n": 9, "accuracy": 0.5, "one_off_accuracy": 0.9, "mae": 6.04}
    made = metrics({"age": age}, macro={"accuracy": None}, num_macro_attributes=0)
    assert verdict(made, "How accurate").text == (
        "Age: the right bin for 50.0 % of faces, that or a neighbour for 90.0 %, off by 6.0 years "
        "on average."
    )


@pytest.mark.parametrize(
    ("rows", "answer"),
    [
        pytest.param({"x": attribute(race=spread(0.05))}, "Yes, to within 0.10.", id="equal"),
        pytest.param(
            {"x": attribute(race=spread(0.15)), "y": attribute(race=spread(0.01))},
            "Not for 1 of 2 attributes.",
            id="unequal",
        ),
        pytest.param(
            {"x": attribute(race=spread(0.15, 0.2))},
            "Unclear: groups differ, but by no more than chance explains.",
            id="by-chance",
        ),
        pytest.param({"x": attribute()}, "Not measured.", id="no-groups"),
    ],
)
def test_equality_is_answered(rows, answer):
    assert verdict(metrics(rows), "Is it equally").answer == answer


def test_groups_too_small_to_compare_are_not_called_equal():
    rows = {"x": attribute(race=dict.fromkeys(spread(0.1)))}
    made = verdict(metrics(rows), "Is it equally")
    assert (made.answer, made.text) == (
        "Not measured.",
        "No group had enough faces to compare.",
    )


def test_the_attribute_found_least_equally_is_named():
    rows = {name: copy.deepcopy(attribute(race=spread(0.05))) for name in ("x", "y")}
    rows["x"]["fairness"]["race"]["equal_opportunity_difference"] = 0.1
    rows["y"]["fairness"]["race"]["equal_opportunity_difference"] = 0.6
    said = verdict(metrics(rows), "Is it equally").text
    assert said.endswith(
        "differs most for y by race: by 0.600, between groups with at least 10 who have it."
    )


@pytest.mark.parametrize(
    ("ece", "answer"),
    [
        (0.03, "Yes: off by 3.0 points on average."),
        (0.0301, "Roughly: off by 3.0 points on average."),
        (0.061, "No: off by 6.1 points on average."),
        (None, "Not measured."),
    ],
)
def test_belief_depends_on_the_calibration_error(ece, answer):
    made = metrics({"x": attribute()}, macro=small_metrics()["macro"] | {"ece": ece})
    assert verdict(made, "Can the prob").answer == answer


def test_abstention_and_the_size_gate_are_told():
    own = {
        "coverage": 0.93,
        "accuracy": 0.92,
        "accuracy_at_full_coverage": 0.9,
        "accuracy_at_90": 0.93,
    }
    made = verdict(metrics(selective=own, gated_frac=0.012), "When should")
    assert made.answer == (
        "Where it is least sure: without that tenth, accuracy goes from 0.900 to 0.930."
    )
    assert "93.0 % of labels are given, and 92.0 % of those are right." in made.text
    assert "Faces below 24 px get no label at all: 1.2 % of those found here." in made.text


def test_missed_requirements_are_named():
    bars = [{"text": "f1>=0.7", "met": False}, {"text": "ece<=0.1", "met": True}]
    made = verdict(metrics(requirements=bars), "Does it meet")
    assert (made.answer, made.text) == ("1 of 2 requirements met.", "Missed: f1>=0.7.")
