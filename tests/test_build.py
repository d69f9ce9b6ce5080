import re

import pytest

from fattr import bundle
from fattr.attributes import Attribute, Kind, attribute
from fattr.build import choose_models, plan_annotate
from fattr.classify.calibration import Calibration
from fattr.config import AnnotateConfig
from fattr.crop import named_rule
from fattr.errors import UsageError

OWN = Attribute(name="hearing_aid", kind=Kind.BINARY, description="true: worn", sensitive=True)


@pytest.fixture
def model(tmp_path) -> str:
    """A bundle with an attribute of a user's own, which is sensitive."""
    spec = bundle.BundleSpec(
        name="own",
        backbone="tiny",
        attributes=(OWN, attribute("smiling")),
        crop_rule=named_rule("celeba", (64, 52)),
        calibration=Calibration({}, {}, {}),
        licence="ours",
        research_only=False,
        training={},
        versions={},
    )
    bundle.save(tmp_path / "own", spec, weights=b"", onnx=b"")
    return str(tmp_path / "own")


def config(model: str, sensitive: str) -> AnnotateConfig:
    purpose = "a test" if sensitive else ""
    return AnnotateConfig(
        images="i", output="o", model=(model,), sensitive=sensitive, purpose=purpose
    )


def test_a_sensitive_attribute_of_ones_own_can_be_asked_for(model):
    ((_, writes),) = choose_models(config(model, ""))
    assert writes == (attribute("smiling"),)
    ((_, writes),) = choose_models(config(model, "hearing_aid"))
    assert writes == (OWN, attribute("smiling"))


@pytest.mark.parametrize(
    ("sensitive", "message"),
    [
        ("hearing_aids", "unknown attribute 'hearing_aids'"),
        ("yuong", "did you mean 'young'"),
        ("young", "--sensitive young: no --model predicts it"),
    ],
)
def test_a_name_that_no_model_predicts_is_refused(model, sensitive, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        choose_models(config(model, sensitive))


def test_a_plan_is_described_without_its_weights():
    """Ray Data describes what it is given at each start: 20 MB took it a second."""
    plan = plan_annotate(AnnotateConfig(images="i", output="o", device="cpu"))
    weights = sum(len(model.weights) + len(model.onnx) for model, _ in plan.models)
    assert len(repr(plan)) < weights / 100
