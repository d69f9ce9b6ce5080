import dataclasses

import pytest

from fattr.config import (
    AnnotateConfig,
    CalibrateConfig,
    DetectConfig,
    EvaluateConfig,
    TrainConfig,
)
from fattr.errors import UsageError

REQUIRED = {
    DetectConfig: {},
    AnnotateConfig: {"images": "in", "output": "out"},
    TrainConfig: {"preset": "tiny", "data": ("folder:in",), "output": "out"},
    EvaluateConfig: {"model": "celeba40", "data": "folder:in", "output": "out"},
    CalibrateConfig: {"model": "celeba40", "data": ("folder:in",), "output": "out"},
}
DETECT_CASES = [
    pytest.param({"detect_size": 0}, "--detect-size must be a positive multiple of 32: 0"),
    pytest.param({"detect_size": -32}, "--detect-size must be a positive multiple of 32: -32"),
    pytest.param({"detect_size": 100}, "--detect-size must be a positive multiple of 32: 100"),
    pytest.param({"score_threshold": -0.1}, "--score-threshold must be in [0, 1]: -0.1"),
    pytest.param({"score_threshold": float("nan")}, "--score-threshold must be in [0, 1]: nan"),
    pytest.param({"nms_iou_threshold": 1.5}, "--nms-iou-threshold must be in [0, 1]: 1.5"),
]
NEEDS_PURPOSE = '--sensitive needs --purpose "why these labels are needed"'
CASES = {
    AnnotateConfig: [
        ({"limit": 0}, "--limit must be 1 or more: 0"),
        ({"max_pixels": 0}, "--max-pixels must be 1 or more: 0"),
        ({"batch_size": -1}, "--batch-size must be 1 or more: -1"),
        ({"sensitive": "age"}, NEEDS_PURPOSE),
        ({"sensitive": "age", "purpose": "  "}, NEEDS_PURPOSE),
        (
            {"purpose": "audit"},
            "--purpose is for --sensitive: name the attributes it is about",
        ),
        (
            {"purpose": "audit", "sensitive": " , "},
            "--purpose is for --sensitive: name the attributes it is about",
        ),
    ],
    TrainConfig: [
        ({"data": ()}, "--data NAME:DIR: name at least one data set"),
        ({"workers": "0"}, "--workers 0: N or MIN:MAX expected, such as 4:32"),
        ({"epochs": 0}, "--epochs must be 1 or more: 0"),
        ({"batch_size": 0}, "--batch-size must be 1 or more: 0"),
        ({"limit": -5}, "--limit must be 1 or more: -5"),
        (
            {"init": "none", "init_from": "celeba40"},
            "--init and --init-from exclude each other: give one of them",
        ),
    ],
    EvaluateConfig: [
        ({"limit": 0}, "--limit must be 1 or more: 0"),
        ({"min_group": 0}, "--min-group must be 1 or more: 0"),
        ({"robustness_images": -1}, "--robustness-images must be 1 or more: -1"),
        (
            {"robustness": True, "crops": "dataset"},
            "--robustness looks for faces again: it needs --crops detect",
        ),
        (
            {"group_table": "groups.csv"},
            "--group-table needs --groups: name its columns to measure by",
        ),
    ],
    CalibrateConfig: [
        ({"data": ()}, "--data NAME:DIR: name at least one data set"),
        ({"limit": 0}, "--limit must be 1 or more: 0"),
        (
            {"coverage": 0.9, "min_confidence": 0.8},
            "--coverage and --min-confidence exclude each other: give one of them",
        ),
        ({"coverage": 0.0}, "--coverage must be over 0 and at most 1: 0.0"),
        ({"coverage": 1.5}, "--coverage must be over 0 and at most 1: 1.5"),
        ({"coverage": float("nan")}, "--coverage must be over 0 and at most 1: nan"),
        ({"min_confidence": 0.0}, "--min-confidence must be between 0 and 1: 0.0"),
        (
            {"min_precision": 1.0, "objective": "precision"},
            "--min-precision must be between 0 and 1: 1.0",
        ),
        ({"min_precision": 0.8}, "--min-precision needs --objective precision"),
    ],
}


@pytest.mark.parametrize("config", REQUIRED)
def test_the_defaults_are_valid(config):
    made = config(**REQUIRED[config])
    assert dataclasses.replace(made) == made


@pytest.mark.parametrize("config", REQUIRED)
@pytest.mark.parametrize(("fields", "message"), DETECT_CASES)
def test_every_job_checks_the_detectors_settings(config, fields, message):
    with pytest.raises(UsageError) as caught:
        config(**REQUIRED[config] | fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [(config, *case) for config, cases in CASES.items() for case in cases],
)
def test_a_wrong_setting_is_named(config, fields, message):
    with pytest.raises(UsageError) as caught:
        config(**REQUIRED[config] | fields)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "names"),
    [
        pytest.param("", (), id="none"),
        pytest.param("race", ("race",), id="one"),
        pytest.param(" race, gender ,", ("race", "gender"), id="spaces-and-a-last-comma"),
    ],
)
def test_lists_of_names_are_cut_at_commas(text, names):
    evaluate = EvaluateConfig(**REQUIRED[EvaluateConfig], groups=text)
    assert evaluate.group_names == names
    annotate = AnnotateConfig(
        **REQUIRED[AnnotateConfig], sensitive=text, purpose="audit" if names else ""
    )
    assert annotate.sensitive_names == names


@pytest.mark.parametrize(
    ("model", "names"),
    [
        pytest.param((), ("demographics", "celeba40"), id="none-is-all-shipped"),
        pytest.param(("b", "a", "b"), ("b", "a"), id="each-once-in-order"),
    ],
)
def test_which_models_are_run(model, names):
    assert AnnotateConfig(**REQUIRED[AnnotateConfig], model=model).model_names == names


def test_settings_are_frozen_and_named():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DetectConfig().detect_size = 64
    with pytest.raises(TypeError):
        DetectConfig("retinaface_mobilenet025")
