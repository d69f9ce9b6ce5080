import dataclasses

import pytest

from fattr.attributes import Attribute, Kind, attribute
from fattr.datasets import DatasetSplit
from fattr.errors import UsageError
from fattr.presets import train_preset
from fattr.records import Sample
from fattr.train_job import choose_attributes

MASK = Attribute(
    name="face_mask", kind=Kind.CATEGORICAL, description="d", classes=("none", "cloth")
)
SMILING = attribute("smiling")


def split(*attributes: Attribute) -> DatasetSplit:
    return DatasetSplit(
        name="table",
        split="train",
        attributes=attributes,
        samples=(Sample("file:///a.jpg", {}),),
        licence="",
        research_only=False,
    )


def test_attributes_of_ones_own_are_trained_as_declared():
    tiny = train_preset("tiny")
    assert choose_attributes(tiny, [split(SMILING), split(MASK, SMILING)]) == (SMILING, MASK)
    named = dataclasses.replace(tiny, attributes=("face_mask",))
    assert choose_attributes(named, [split(SMILING, MASK)]) == (MASK,)


def test_a_wanted_attribute_must_be_labelled():
    with pytest.raises(UsageError, match="no --data labels age, perceived_gender_presentation"):
        choose_attributes(train_preset("demographics"), [split(SMILING)])


def test_one_name_has_one_meaning():
    other = dataclasses.replace(MASK, classes=("cloth", "none"))
    with pytest.raises(UsageError, match="two --data declare face_mask differently: make kind"):
        choose_attributes(train_preset("tiny"), [split(MASK), split(other)])
