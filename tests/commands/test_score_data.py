"""Which engine scores a data set, what is measured on it, and that an engine is stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow as pa
import pytest

from fattr import bundle
from fattr.attributes import attribute
from fattr.build import ScorePlan
from fattr.commands import score_data
from fattr.commands.score_data import (
    RAY_FROM,
    choose_engine,
    refuse_problems,
    score,
    shared_attributes,
)
from fattr.config import DetectConfig
from fattr.datasets.split import DatasetSplit
from fattr.errors import UsageError
from fattr.evaluation.scoring import scored_schema
from fattr.records import Sample

NAMES = ("bald", "smiling", "young")


@pytest.fixture
def looks(models) -> bundle.Bundle:
    """Predicts eyeglasses, smiling, young, wearing_hat, in this order."""
    return bundle.load(models.looks)


def split_of(*targets: dict[str, int], names: tuple[str, ...] = NAMES) -> DatasetSplit:
    return DatasetSplit(
        name="ours",
        split="valid",
        attributes=tuple(attribute(name) for name in names),
        samples=tuple(Sample(f"file:///{n}.jpg", one) for n, one in enumerate(targets)),
        licence="ours",
        research_only=False,
    )


@pytest.mark.parametrize(
    ("asked", "num_images", "address", "engine"),
    [
        ("auto", RAY_FROM - 1, "", "local"),
        ("auto", RAY_FROM, "", "ray"),
        ("auto", 1, "10.0.0.1:6379", "ray"),
        ("local", RAY_FROM, "10.0.0.1:6379", "local"),
        ("ray", 1, "", "ray"),
    ],
)
def test_many_images_or_a_cluster_are_worth_ray(asked, num_images, address, engine, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert choose_engine(asked, num_images) == engine


def test_what_both_know_is_measured_in_the_models_order(looks):
    found = shared_attributes(looks, split_of({}, {"young": 0}))
    assert [a.name for a in found] == ["smiling", "young"]


def test_an_attribute_of_other_classes_is_another_attribute(looks):
    other = dataclasses.replace(split_of({"young": 0}), attributes=())
    own = attribute("perceived_gender_presentation")
    renamed = dataclasses.replace(own, name="smiling")
    split = dataclasses.replace(other, attributes=(renamed, attribute("young")))
    assert [a.name for a in shared_attributes(looks, split)] == ["young"]


def test_nothing_in_common_is_refused(looks):
    message = r"^model looks predicts nothing that data set ours labels \(bald, goatee\): choose"
    with pytest.raises(UsageError, match=message):
        shared_attributes(looks, split_of({"bald": 1}, names=("bald", "goatee")))


def test_labels_of_other_attributes_alone_are_refused(looks):
    message = "^no image of ours valid has a label for smiling, young: label some, or choose"
    with pytest.raises(UsageError, match=message):
        shared_attributes(looks, split_of({"bald": 1}, {}))


def test_a_split_with_problems_is_refused():
    split = split_of({"young": 1})
    refuse_problems(split)
    with pytest.raises(UsageError, match=r"ours: 2 rows or folders .*, the first: a, line 1: bad$"):
        refuse_problems(dataclasses.replace(split, problems=("a, line 1: bad", "a, line 2: bad")))


def test_an_engine_is_stopped_where_a_row_is_refused(looks, monkeypatch):
    closed = []

    def rows(*_args, **_kwargs):
        try:
            for n in range(3):
                row = [[n], ["missing"], ["is gone"], [False], [None], [None]]
                yield pa.table(row, schema=scored_schema(1))
        finally:
            closed.append(n)

    monkeypatch.setattr(score_data, "score_locally", rows)
    plan = ScorePlan(DetectConfig(), None, (looks,), "cpu")
    with pytest.raises(UsageError, match=r"^file:///0\.jpg: is gone; mend") as caught:
        score(plan, split_of({}, {}, {}), [(attribute("young"),)], engine="local", folder=Path())
    assert closed == [0]
    assert caught.value.__traceback__  # holds the frames: nothing was closed by being forgotten
