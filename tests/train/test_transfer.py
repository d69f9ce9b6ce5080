"""What a network takes from a bundle, tensor by tensor."""

import dataclasses

import pytest
import torch
from safetensors.torch import load

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.bundle import find
from fattr.classify.network import AttributeNet
from fattr.errors import UsageError
from fattr.train.loop import build_network
from fattr.train.transfer import Matched, load_bundle_weights, match_heads

SMILING, BALD = attribute("smiling"), attribute("bald")
PRESENTATION = PERCEIVED_GENDER_PRESENTATION


@pytest.fixture(scope="module")
def bundle(models):
    """Age, presentation and smiling, on the tiny backbone."""
    return find(str(models.people))


def test_features_and_equal_heads_are_taken_the_others_left(bundle):
    network = AttributeNet("tiny", (BALD, SMILING, AGE))
    torch.nn.init.constant_(network.heads["bald"].weight, 0.125)
    matched = load_bundle_weights(network, bundle)
    assert matched == Matched(taken=("smiling", "age"), fresh=("bald",))
    state, source = network.state_dict(), load(bundle.weights)
    assert state["heads.bald.weight"].unique().tolist() == [0.125]
    shared = state.keys() & source.keys()
    assert state.keys() - shared == {"heads.bald.weight", "heads.bald.bias"}
    assert all(torch.equal(state[name], source[name]) for name in shared)
    assert any(name.startswith("features.") for name in shared)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"bin_edges": (0, 5, 10, 20, 30, 40, 50, 60, 70, 90)}, id="other-bins"),
        pytest.param({"classes": tuple("abcdefghi")}, id="other-classes"),
        pytest.param({"name": "years"}, id="other-name"),
    ],
)
def test_a_head_that_means_something_else_is_fresh(change, bundle):
    """Although it has as many outputs."""
    other = dataclasses.replace(AGE, **change)
    network = AttributeNet("tiny", (other, PRESENTATION))
    before = network.heads[other.name].weight.detach().clone()
    matched = load_bundle_weights(network, bundle)
    assert matched == Matched(taken=(PRESENTATION.name,), fresh=(other.name,))
    assert torch.equal(network.heads[other.name].weight, before)


def test_a_head_described_in_other_words_is_taken(bundle):
    other = dataclasses.replace(SMILING, description="true: a smile", sensitive=True)
    assert match_heads("tiny", (other,), bundle).taken == ("smiling",)


def test_a_name_that_another_begins_with_is_not_taken_for_it(bundle):
    """``heads.smiling_wide`` is not ``heads.smiling``."""
    wide = dataclasses.replace(SMILING, name="smiling_wide")
    assert match_heads("tiny", (wide,), bundle) == Matched((), ("smiling_wide",))
    load_bundle_weights(AttributeNet("tiny", (wide,)), bundle)


def test_another_backbone_is_refused_with_both_named(bundle):
    with pytest.raises(UsageError) as caught:
        load_bundle_weights(AttributeNet("resnet18", (SMILING,)), bundle)
    assert str(caught.value) == (
        "people has the backbone tiny, this run resnet18: use --backbone tiny or another model"
    )


def test_a_plan_starts_from_its_bundle(bundle, plan):
    network = build_network(dataclasses.replace(plan, init_bundle=bundle))
    state, source = network.state_dict(), load(bundle.weights)
    taken = [name for name in state if name in source]
    assert {"features.0.weight", "heads.smiling.weight"} <= set(taken)
    assert all(torch.equal(state[name], source[name]) for name in taken)


@pytest.mark.parametrize("name", ["celeba40", "demographics"])
def test_shipped_models_can_be_started_from(name):
    shipped = find(name)
    network = AttributeNet(shipped.spec.backbone, shipped.spec.attributes)
    matched = load_bundle_weights(network, shipped)
    assert matched.fresh == ()
    source = load(shipped.weights)
    assert network.state_dict().keys() == source.keys()
