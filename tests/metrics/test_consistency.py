import json

import numpy as np
import pytest

from fattr.attributes import CONTRADICTIONS, Contradiction
from fattr.metrics.consistency import consistency
from fattr.metrics.intervals import wilson_interval

RULES = (
    Contradiction(("bald", "bangs"), "bald, and hair over the forehead"),
    Contradiction(("no_beard", "goatee"), "no beard, and a goatee"),
    Contradiction(("bald", "bangs", "wavy_hair"), "three at once"),
)
NAMES = ("bald", "bangs", "no_beard", "goatee", "wavy_hair")


def drawn_labels(n=300, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.choice([-1, 0, 1], n) for name in NAMES}


def test_rates_are_those_that_a_loop_counts():
    labels, targets = drawn_labels(), drawn_labels(seed=1)
    got = consistency(labels, targets, RULES)
    assert list(got) == ["bald_and_bangs", "no_beard_and_goatee", "bald_and_bangs_and_wavy_hair"]
    for rule in RULES:
        own = got[rule.name]
        assert own["description"] == rule.description
        assert own["attributes"] == list(rule.attributes)
        for prefix, columns in (("", labels), ("target_", targets)):
            faces = list(zip(*(columns[name].tolist() for name in rule.attributes), strict=True))
            known = [face for face in faces if -1 not in face]
            count = sum(set(face) == {1} for face in known)
            assert (own[f"{prefix}n"], own[f"{prefix}count"]) == (len(known), count)
            assert own[f"{prefix}rate"] == pytest.approx(count / len(known))
            interval = wilson_interval(count, len(known))
            assert own[f"{prefix}interval"] == pytest.approx(interval)
    assert json.loads(json.dumps(got)) == got


def test_yes_and_no_may_be_booleans():
    yes = np.array([True, True, False])
    got = consistency({"bald": yes, "bangs": ~yes | [True, False, False]}, None, RULES)
    own = got["bald_and_bangs"]
    assert (own["n"], own["count"], own["target_n"], own["target_rate"]) == (3, 1, 0, None)


def test_a_rule_needs_all_of_its_attributes():
    labels = drawn_labels()
    del labels["goatee"]
    assert set(consistency(labels, None, RULES)) == {"bald_and_bangs", RULES[2].name}
    targets = {"bald": labels["bald"]}
    own = consistency(labels, targets, RULES)["bald_and_bangs"]
    assert (own["target_n"], own["target_rate"], own["target_interval"]) == (0, None, None)


def test_what_nobody_labelled_has_no_rate():
    nobody = np.full(5, -1)
    own = consistency({"bald": nobody, "bangs": np.ones(5, int)}, None, RULES)["bald_and_bangs"]
    assert (own["n"], own["count"], own["rate"], own["interval"]) == (0, 0, None, None)


def test_the_vocabularys_own_rules_are_the_default():
    always = {name: np.ones(2, int) for rule in CONTRADICTIONS for name in rule.attributes}
    got = consistency(always)
    assert [one["rate"] for one in got.values()] == [1.0] * len(CONTRADICTIONS)
    assert consistency({}) == {}
