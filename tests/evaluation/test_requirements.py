"""Promotion bars: what they may say, when they are refused, and when they are met."""

from __future__ import annotations

import copy

import pytest

from fattr.attributes import attribute
from fattr.errors import UsageError
from fattr.evaluation import requirements
from fattr.evaluation.requirements import Requirement, all_met, check, judge, lines, parse

ATTRIBUTES = [attribute(name) for name in ("smiling", "emotion", "age")]


def gap(difference, worst="b", best="a"):
    known = difference is not None
    return {
        "accuracy": {
            "difference": difference,
            "worst_group": worst if known else None,
            "best_group": best if known else None,
        }
    }


METRICS = {
    "detection_recall": 0.98,
    "macro": {"accuracy": 0.9, "f1": 0.7, "average_precision": None, "ece": 0.02},
    "micro": {"f1": 0.75},
    "selective": {"coverage": 0.95, "accuracy_at_90": 0.93},
    "attributes": {
        "smiling": {
            "n": 500,
            "accuracy": 0.92,
            "f1": None,
            "fairness": {"race": gap(0.04), "sex": gap(0.06), "race*sex": gap(0.5)},
        },
        "emotion": {"n": 90, "roc_auc": 0.8, "fairness": {"race": gap(None)}},
        "age": {"n": 200, "mae": 4.5, "fairness": {"race": gap(0.1, "y", "x"), "sex": gap(0.1)}},
    },
    "coverage": {
        "race": {
            "x": {"status": "ok", "detection_recall": 0.9},
            "y": {"status": "ok", "detection_recall": 0.97},
            "z": {"status": "too few"},
        },
        "sex": {"a": {"status": "ok", "detection_recall": 1.0}, "b": {"status": "too few"}},
        "race*sex": {
            "x|a": {"status": "ok", "detection_recall": 0.1},
            "y|a": {"status": "ok", "detection_recall": 1.0},
        },
    },
    "against": {
        "macro": {
            "f1": {"difference": 0.02, "interval": [-0.01, 0.05]},
            "accuracy": {"difference": None, "interval": None},
        },
        "num_cells": 4,
        "regressions": [
            {"attribute": "smiling", "column": "race", "group": "x", "confirmed": True},
            {"attribute": "age", "column": "sex", "group": "b", "confirmed": False},
        ],
    },
}


def judged(text, metrics=METRICS):
    (row,) = judge(parse([text]), metrics)
    return row


# Parsing


def test_a_requirement_is_a_name_an_operator_and_a_number():
    assert parse(["macro_f1>=0.70", " ece <= 3e-2 ", "mae/age<5", "accuracy/smiling>.9"]) == (
        Requirement("macro_f1>=0.70", "macro_f1", "", ">=", 0.7),
        Requirement("ece <= 3e-2", "ece", "", "<=", 0.03),
        Requirement("mae/age<5", "mae", "age", "<", 5.0),
        Requirement("accuracy/smiling>.9", "accuracy", "smiling", ">", 0.9),
    )


@pytest.mark.parametrize(
    "text",
    ["", "macro_f1", "macro_f1=0.7", "macro_f1==0.7", ">=0.7", "f1>=70%", "f1>=nan", "f1>=inf",
     "f1>=", "f1 score>=0.7", "0.7<=f1<=0.8"],
)  # fmt: skip
def test_another_form_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse(["macro_f1>=0.7", text])
    assert repr(text) in str(caught.value)
    assert 'expected "NAME>=NUMBER", as "macro_f1>=0.70"' in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("macro_f2>=0.7", "unknown metric 'macro_f2': did you mean 'macro_f1'?"),
        ("worst_gap<=0.1", "did you mean 'worst_group_gap'?"),
        ("recal/smiling>=0.7", "did you mean 'recall'?"),
        ("macro_f1/smiling>=0.7", "did you mean 'f1'?"),
        ("micro_ece<=0.7", "did you mean 'macro_ece'?"),
        ("xyz>=0.7", "known: macro_accuracy, "),
        ("f1/>=0.7", "an attribute expected after the slash"),
    ],
)
def test_an_unknown_metric_is_refused_with_a_suggestion(text, hint):
    with pytest.raises(UsageError, match=r"^--require ") as caught:
        parse([text])
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


# What will not be measured


def checked(text, attributes=ATTRIBUTES, **has):
    check(parse([text]), attributes, **{"groups": True, "against": True, "detection": True} | has)


@pytest.mark.parametrize(
    ("text", "has", "message"),
    [
        ("worst_group_gap<=0.05", "groups", "about groups: name them with --groups"),
        ("worst_group_gap/smiling<=0.05", "groups", "about groups: name them with --groups"),
        ("detection_gap<=0.05", "groups", "about groups: name them with --groups"),
        ("regressions<=0", "groups", "about groups: name them with --groups"),
        ("regressions<=0", "against", "about another model: give --against"),
        ("against_f1>=0", "against", "about another model: give --against"),
        ("detection_recall>=0.9", "detection", "about finding faces: use --crops detect"),
        ("detection_gap<=0.05", "detection", "about finding faces: use --crops detect"),
    ],
)
def test_what_will_not_be_measured_is_refused(text, has, message):
    checked(text)
    with pytest.raises(UsageError, match=message):
        checked(text, **{has: False})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f1/smilling>=0.7", "'smilling' is not measured: did you mean 'smiling'?"),
        ("f1/bald>=0.7", "'bald' is not measured: measured: smiling, emotion, age"),
        ("f1/age>=0.7", "age, of kind age, has accuracy, one_off_accuracy"),
        ("mae/smiling<=5", "smiling, of kind binary, has accuracy, "),
        ("prevalence/emotion<=5", "emotion, of kind categorical, has accuracy, "),
    ],
)
def test_an_attribute_or_metric_that_is_not_there_is_refused(text, message):
    with pytest.raises(UsageError) as caught:
        checked(text)
    assert message in str(caught.value)


def test_ages_alone_have_no_macro_mean():
    checked("accuracy/age>=0.5", [ATTRIBUTES[2]])
    for text in ("macro_accuracy>=0.5", "accuracy>=0.5"):
        with pytest.raises(UsageError, match="use METRIC/ATTRIBUTE"):
            checked(text, [ATTRIBUTES[2]])


@pytest.mark.parametrize(
    "text",
    ["micro_accuracy>=0.5", "micro_f1>=0.5", "selective_accuracy>=0.5", "selective_coverage>=0.5",
     "against_f1>=0", "macro_ece<=0.1"],
)  # fmt: skip
def test_what_leaves_ages_out_needs_another_attribute(text):
    checked(text)
    with pytest.raises(UsageError, match="of all attributes without age"):
        checked(text, [ATTRIBUTES[2]])


@pytest.mark.parametrize("name", ["micro_precision", "micro_recall", "micro_f1"])
def test_pooled_figures_of_yes_need_a_binary_attribute(name):
    checked(f"{name}>=0.5", ATTRIBUTES[:1])
    checked("micro_accuracy>=0.5", ATTRIBUTES[1:])
    with pytest.raises(
        UsageError, match=f"yes/no attributes.* use {name.replace('micro', 'macro')} or"
    ):
        checked(f"{name}>=0.5", ATTRIBUTES[1:])


def test_bars_that_ages_can_meet_are_not_refused():
    for text in ("worst_group_gap<=0.1", "detection_recall>=0.9", "regressions<=0", "mae/age<=5"):
        checked(text, [ATTRIBUTES[2]])


def test_every_name_that_parses_can_be_judged_or_refused():
    """No known name falls through to a KeyError: a full metrics dict has a value for each."""
    full = copy.deepcopy(METRICS)
    full["macro"] = dict.fromkeys(requirements._MACRO, 0.5)
    full["micro"] = dict.fromkeys(requirements._MICRO, 0.5)
    full["selective"] = dict.fromkeys(requirements._SELECTIVE, 0.5)
    full["against"]["macro"] = {m: {"interval": [0.5, 0.6]} for m in requirements._AGAINST}
    for name in requirements._WHOLE:
        assert judged(f"{name}>=0", full)["value"] is not None
        assert judged(f"{name}>=0", full)["met"]


# Judging


@pytest.mark.parametrize(
    ("text", "value", "met"),
    [
        ("macro_f1>=0.70", 0.7, True),
        ("macro_f1>0.70", 0.7, False),
        ("f1<=0.7", 0.7, True),
        ("f1<0.7", 0.7, False),
        ("ece<=0.03", 0.02, True),
        ("micro_f1>=0.8", 0.75, False),
        ("selective_accuracy_at_90>=0.9", 0.93, True),
        ("selective_coverage>=0.9", 0.95, True),
        ("accuracy/smiling>=0.95", 0.92, False),
        ("roc_auc/emotion>=0.8", 0.8, True),
        ("mae/age<=5", 4.5, True),
        ("detection_recall>=0.99", 0.98, False),
        ("worst_group_gap<=0.05", 0.1, False),
        ("worst_group_gap/smiling<=0.06", 0.06, True),
        ("detection_gap<=0.05", pytest.approx(0.07), False),
        ("against_f1>=0", -0.01, False),
        ("against_f1>=-0.02", -0.01, True),
        ("regressions<=1", 2, False),
        ("confirmed_regressions<=1", 1, True),
    ],
)
def test_a_requirement_is_met_or_not(text, value, met):
    row = judged(text)
    assert (row["value"], row["met"]) == (value, met)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("average_precision>=0", "not estimable from these faces"),
        ("f1/smiling<=1", "not estimable from 500 labelled faces"),
        ("worst_group_gap/emotion<=1", "no column has two groups of enough faces"),
        ("against_accuracy>=-1", "not estimable from these faces"),
    ],
)
def test_what_is_not_estimable_is_not_met_whatever_the_bar(text, why):
    row = judged(text)
    assert (row["value"], row["met"], row["why"]) == (None, False, why)


def test_no_group_of_enough_faces_is_not_no_regression():
    metrics = copy.deepcopy(METRICS)
    metrics["against"] |= {"num_cells": 0, "regressions": []}
    assert judged("regressions<=0", metrics)["value"] is None
    metrics["coverage"] = {"sex": METRICS["coverage"]["sex"]}
    assert not judged("detection_gap<=1", metrics)["met"]


def test_a_row_says_which_groups():
    assert judged("worst_group_gap<=1")["why"] == "age: race y to x; 1 more not estimable"
    assert judged("worst_group_gap/smiling<=1")["why"] == "smiling: sex b to a"
    assert judged("detection_gap<=1")["why"].startswith("race x to y; 1 more not estimable")
    assert judged("regressions<=0")["why"] == "smiling: race x, age: sex b"


def test_groups_left_out_of_a_gap_are_named_also_where_it_is_met():
    metrics = copy.deepcopy(METRICS)
    few = {"z": "too few", "w": "not estimable"}
    for name in ("smiling", "age"):
        metrics["attributes"][name]["fairness"]["race"]["groups_left_out"] = few
    metrics["attributes"]["smiling"]["fairness"]["race*sex"]["groups_left_out"] = {"v": "too few"}
    row = judged("worst_group_gap<=1", metrics)
    assert row["met"]
    assert row["why"] == "age: race y to x; 1 more not estimable; too few: race z"
    row = judged("detection_gap<=1")
    assert row["met"]
    assert row["why"].endswith("; too few: race z, sex b")


def test_of_many_groups_left_out_ten_are_named():
    metrics = copy.deepcopy(METRICS)
    few = dict.fromkeys((f"g{i}" for i in range(13)), "too few")
    metrics["attributes"] = {"smiling": {"n": 500, "fairness": {"race": {"groups_left_out": few}}}}
    why = judged("worst_group_gap<=1", metrics)["why"]
    assert why.startswith("no column has two groups of enough faces; too few: race g0, race g1, ")
    assert why.endswith(", race g9, and 3 more")


def test_a_column_of_too_few_faces_has_no_gap():
    metrics = copy.deepcopy(METRICS)
    metrics["attributes"]["smiling"]["fairness"] = {
        "race": {"groups_compared": [], "groups_left_out": {"x": "too few", "y": "too few"}},
        "sex": {"groups_compared": [], "groups_left_out": {}},
    }
    row = judged("worst_group_gap/smiling<=1", metrics)
    assert (row["value"], row["met"]) == (None, False)
    assert row["why"].endswith("; too few: race x, race y")


def test_rows_and_lines():
    rows = judge(
        parse(["macro_f1>=0.70", "worst_group_gap/smiling<=0.05", "f1/smiling>=0"]), METRICS
    )
    assert rows[0] == {
        "text": "macro_f1>=0.70",
        "metric": "macro_f1",
        "op": ">=",
        "bar": 0.7,
        "value": 0.7,
        "met": True,
        "why": "",
    }
    assert list(lines(rows)) == [
        "met     macro_f1 0.7, >= 0.7 required",
        "missed  worst_group_gap/smiling 0.06, <= 0.05 required (smiling: sex b to a)",
        "missed  f1/smiling not estimable, >= 0 required (not estimable from 500 labelled faces)",
    ]
    assert not all_met(rows)
    assert all_met(rows[:1])
    assert all_met([])
