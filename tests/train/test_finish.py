import dataclasses

import numpy as np
import pytest
import torch

from fattr import bundle
from fattr.classify.classifier import AttributeClassifier, load_network, onnx_forward
from fattr.classify.fit_calibration import fit as fit_calibration
from fattr.classify.network import AttributeNet
from fattr.datasets.split import DatasetSplit
from fattr.records import CropRule, Sample, TemplatePoint
from fattr.train.checkpoint import TrainState
from fattr.train.finish import licences, make_bundle

POINTS = (TemplatePoint((0,), 8, 10), TemplatePoint((1,), 16, 10))
RULE = CropRule(name="celeba", size_hw=(32, 24), points=POINTS)


def split(name, licence, plan, *, research_only):
    return DatasetSplit(
        name=name,
        split="train",
        attributes=plan.attributes,
        samples=(Sample("file:///a.jpg", {}),),
        licence=licence,
        research_only=research_only,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory, plan, valid_crops):
    """A bundle of untrained weights, and these."""
    network = AttributeNet(plan.backbone, plan.attributes)
    other = AttributeNet(plan.backbone, plan.attributes).state_dict()
    state = TrainState(
        model=other,
        ema={},
        optimizer={},
        schedule={},
        scaler={},
        epoch=4,
        position=0,
        loss_sum=0.0,
        best_value=0.5,
        best_epoch=3,
        best_weights=network.state_dict(),
        history=[],
    )
    splits = [
        split("free", "CC0", plan, research_only=False),
        split("research", "research only", plan, research_only=True),
        split("free2", "CC0", plan, research_only=False),
    ]
    bundle_made = make_bundle(
        tmp_path_factory.mktemp("bundle"),
        name="mine",
        plan=plan,
        rule=RULE,
        state=state,
        valid=valid_crops,
        splits=splits,
        training={"preset": "tiny"},
    )
    return bundle_made, network.eval(), state


def test_the_bundle_holds_the_best_weights_twice(made, plan, valid_crops):
    """As safetensors and as ONNX, both loaded from the folder."""
    loaded, network = bundle.load(made[0].folder), made[1]
    assert loaded.model_id == made[0].model_id
    with torch.inference_mode():
        wanted = network(torch.from_numpy(valid_crops.crops[:7])).numpy()
    again = load_network(loaded.spec.backbone, loaded.spec.attributes, loaded.weights)
    with torch.inference_mode():
        got = again(torch.from_numpy(valid_crops.crops[:7])).numpy()
    np.testing.assert_array_equal(got, wanted)
    by_onnx = onnx_forward(loaded.onnx, num_threads=1)(valid_crops.crops[:7])
    np.testing.assert_allclose(by_onnx, wanted, atol=1e-4)


def test_calibration_and_figures_are_those_of_valid(made, plan, valid_crops):
    spec = made[0].spec
    forward = onnx_forward(made[0].onnx, num_threads=1)
    classifier = AttributeClassifier(forward, spec.attributes, spec.calibration)
    logits = classifier.logits(valid_crops.crops)
    wanted = fit_calibration(logits, valid_crops.targets, spec.attributes)
    assert spec.calibration.temperatures == pytest.approx(wanted.temperatures)
    assert spec.calibration.thresholds == pytest.approx(wanted.thresholds, abs=1e-3)
    probs = classifier.predict_proba(valid_crops.crops)["smiling"]
    truth = valid_crops.targets[:, 0]
    right = (probs >= spec.calibration.thresholds["smiling"]) == (truth == 1)
    assert spec.training["valid"]["accuracy"]["smiling"] == pytest.approx(right[truth >= 0].mean())


def test_licences_are_named_once_and_the_strictest_counts(made, plan):
    spec = made[0].spec
    assert spec.licence == "CC0; research only"
    assert spec.research_only
    assert (spec.name, spec.training["best_epoch"], spec.training["preset"]) == ("mine", 3, "tiny")
    assert licences([]) == ""


def test_a_model_inherits_the_terms_of_the_one_it_started_from(
    made, plan, valid_crops, models, tmp_path
):
    research = bundle.find(str(models.looks))
    assert research.spec.research_only
    inherited = make_bundle(
        tmp_path,
        name="mine",
        plan=dataclasses.replace(plan, init_bundle=research),
        rule=RULE,
        state=dataclasses.replace(made[2], best_weights=made[1].state_dict()),
        valid=valid_crops,
        splits=[split("free", "CC0", plan, research_only=False)],
        training={"preset": "tiny"},
    ).spec
    assert inherited.licence == f"CC0; {research.spec.licence}"
    assert inherited.research_only
