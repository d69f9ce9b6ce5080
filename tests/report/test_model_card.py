"""The card's text from known figures."""

import copy
import dataclasses
import json

import pytest
from report.evaluation.evaluation_metrics import evaluation_metrics, small_metrics

from fattr import bundle
from fattr.attributes import attribute
from fattr.bundle import BundleSpec
from fattr.classify.calibration import Calibration, Curve
from fattr.crop import named_rule
from fattr.report.model_card import card_figures, model_card

METRICS = evaluation_metrics()
NAMES = ("smiling", "bald", "perceived_gender_presentation")
SPEC = BundleSpec(
    name="looks",
    backbone="tiny",
    attributes=tuple(attribute(name) for name in NAMES),
    crop_rule=named_rule("celeba", (64, 52)),
    calibration=Calibration(
        temperatures={"smiling": 1.5, "bald": 1.2},
        thresholds={"smiling": 0.4},
        abstain={"smiling": (0.3, 0.5)},
        biases={"bald": (0.1,)},
        curves={"perceived_gender_presentation": (Curve((0.0,), (0.5,)), Curve((0.0,), (0.5,)))},
    ),
    licence="for tests",
    research_only=True,
    training={
        "command": "python jobs/train.py --output DIR",
        "recipe": {"epochs": 2},
        "best_epoch": 2,
        "valid": {"macro": {"accuracy": 0.9}},
        "data": [{"name": "drawn", "images": 12, "licence": "free"}],
    },
    versions={},
)


def card_of(metrics, spec=SPEC, title="drawn, test"):
    figures = {title: json.loads(json.dumps(card_figures(metrics)))}
    return model_card(spec, "a" * 64, figures=figures)


def section(card, title):
    return card.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def changed(name, **parts):
    metrics = small_metrics()
    row = metrics["attributes"]["smiling"]
    return metrics | {"attributes": {name: row | parts}}


def test_use_licence_and_limits_come_before_the_figures():
    card = card_of(METRICS)
    titles = [line[3:] for line in card.splitlines() if line.startswith("## ")]
    assert titles == [
        "Licence and data",
        "Intended use",
        "Out of scope",
        "Limits",
        "Known-bad attributes",
        "Training",
        "Calibration",
        "Measured",
        "Attributes",
    ]
    assert "**Research only.** for tests" in section(card, "Licence and data")
    assert "- drawn: 12 training images. free" in section(card, "Licence and data")
    assert "Decisions about a person" in section(card, "Out of scope")
    free = dataclasses.replace(SPEC, research_only=False)
    assert "Research only" not in card_of(small_metrics(), free)


def test_known_bad_attributes_are_chosen_from_the_figures():
    bad = section(
        card_of(changed("smiling", f1=0.3, balanced_accuracy=0.7)), "Known-bad attributes"
    )
    assert "On drawn, test: 1 attribute." in bad
    assert "- `smiling`: F1 0.300" in bad
    good = changed("smiling", f1=0.6, balanced_accuracy=0.7)
    assert "On drawn, test: none." in section(card_of(good), "Known-bad attributes")
    assert "nothing was measured" in model_card(SPEC, "a" * 64, figures={})


def test_a_gap_between_groups_makes_an_attribute_known_bad():
    spread = {
        "difference": 0.2,
        "difference_interval": [0.1, 0.3],
        "worst_group": "a",
        "worst": 0.7,
        "best_group": "b",
        "best": 0.9,
    }
    metrics = changed(
        "smiling", f1=0.6, by_group={"race": {}}, fairness={"race": {"accuracy": spread}}
    )
    why = "- `smiling`: accuracy by race differs by 0.200 (0.100 to 0.300)"
    assert why in section(card_of(metrics), "Known-bad attributes")


def test_calibration_says_by_what_and_how_well():
    said = section(card_of(METRICS), "Calibration")
    assert (
        "1 attribute by temperature; 1 attribute by temperature and bias (Platt); "
        "1 attribute by an isotonic curve."
    ) in said
    assert "Thresholds of their own: 1 attribute. Abstention bands: 1 attribute." in said
    assert f"On drawn, test: mean ECE {METRICS['macro']['ece']:.4f}" in said
    assert "before" not in said
    report = {
        "ece": {"before": 0.05, "after": 0.02},
        "brier": {"before": 0.1, "after": 0.09},
        "held_out": {"ece": 0.03, "brier": 0.095},
    }
    training = SPEC.training | {"calibration": {"macro": report}}
    said = section(card_of(METRICS, dataclasses.replace(SPEC, training=training)), "Calibration")
    assert "Mean ECE where it was fitted: 0.0500 before, 0.0200 after, 0.0300 of faces held" in said
    assert "Mean Brier score where it was fitted: 0.1000 before, 0.0900 after" in said


def test_figures_by_attribute_and_group_have_intervals():
    measured = section(card_of(METRICS), "Measured")
    row = METRICS["attributes"]["smiling"]
    low, high = row["intervals"]["accuracy"]
    line = next(one for one in measured.splitlines() if one.startswith("| smiling | 2000 |"))
    assert f"| {row['accuracy']:.4f} |" in line
    assert f"{low:.3f} to {high:.3f}" in line
    own = row["by_group"]["race"]["Black"]
    low, high = own["intervals"]["accuracy"]
    assert f"{own['accuracy']:.4f} ({own['n']}) {low:.3f} to {high:.3f}" in measured
    assert "too few (15)" in measured
    assert "by annotated race and perceived_gender_presentation:" in measured
    found = METRICS["coverage"]["race"]["Black"]
    assert f"| Black | {found['n']} | {found['detection_recall']:.3f} |" in measured
    assert "Where it is least sure: without that tenth" in measured


def test_an_undefined_figure_of_a_group_is_said_in_words():
    metrics = changed(
        "smiling", by_group={"race": {"a": {"n": 40, "status": "ok", "accuracy": None}}}
    )
    assert "not estimable (40)" in card_of(metrics)


def test_the_size_gate_is_told_with_its_reason():
    assert "From 48 px on, these curves have accuracy at most 0.02" in section(
        card_of(METRICS), "Limits"
    )
    without = copy.deepcopy(METRICS)
    del without["robustness"]
    assert "those below 24 px get none when annotating" in section(card_of(without), "Limits")


def test_figures_kept_by_older_versions_still_make_a_card():
    rows = {"n": 9, "accuracy": 0.5, "balanced_accuracy": None, "f1": 0.1}
    old = {
        "command": "python jobs/evaluate.py",
        "num_images": 9,
        "detection_recall": None,
        "num_macro_attributes": 1,
        "macro": {"accuracy": 0.5, "balanced_accuracy": None, "f1": 0.1},
        "attributes": {"smiling": rows | {"by_group": {"race": {"a": {"n": 4, "accuracy": 0.25}}}}},
    }
    card = model_card(SPEC, "a" * 64, figures={"old, test": old})
    assert "| smiling | 9 | 0.5000 | - | 0.1000 | - |" in card
    assert "0.2500 (4)" in card
    assert "- `smiling`: F1 0.100" in card


@pytest.mark.parametrize("name", sorted(bundle.shipped()))
def test_the_shipped_figures_make_a_card(name):
    found = bundle.load(bundle.shipped()[name])
    card = model_card(found.spec, found.model_id, figures=found.figures())
    for title, metrics in found.figures().items():
        assert f"### {title}" in card
        for attribute_name, row in metrics["attributes"].items():
            assert f"| {attribute_name} | {row['n']} | {row['accuracy']:.4f} |" in card


def test_what_is_kept_is_all_that_the_card_needs_and_small():
    kept = json.dumps(card_figures(METRICS))
    assert len(kept) < 0.4 * len(json.dumps(METRICS))
    assert '"curve"' not in kept
    assert '"confusion"' not in kept


def test_no_name_becomes_markup():
    hostile = "<script>alert(1)</script>[a](b)"
    training = SPEC.training | {"data": [{"name": hostile, "images": 1, "licence": hostile}]}
    spec = dataclasses.replace(SPEC, name=hostile, licence=hostile, training=training)
    metrics = changed("smiling", by_group={hostile: {hostile: {"n": 40, "accuracy": 0.5}}})
    card = card_of(metrics, spec, title=hostile)
    assert "<script>" not in card
    assert "[a](b)" not in card.replace(r"\[a\](b)", "")
