"""What a training run starts from, and what it says about itself; nothing is trained."""

import logging

import pytest
import torch

from fattr.attributes import attribute
from fattr.classify import imagenet
from fattr.classify.network import AttributeNet
from fattr.commands import train_plan as train_job
from fattr.commands.train import log_cost
from fattr.commands.train_plan import build_plan, describe, init_weights, shares
from fattr.config import TrainConfig
from fattr.datasets.split import DatasetSplit
from fattr.errors import UsageError
from fattr.presets import train_preset
from fattr.records import Sample

ATTRIBUTES = (attribute("smiling"), attribute("bald"))
TINY = train_preset("tiny")


def config(**fields):
    return TrainConfig(preset="tiny", data=("synthetic:d",), output="o", **fields)


def saved(path, backbone):
    torch.save(AttributeNet(backbone, ATTRIBUTES).features.state_dict(), path)
    return path


def refused(**fields):
    with pytest.raises(UsageError) as caught:
        build_plan(config(**fields), TINY, ATTRIBUTES)
    return str(caught.value)


def test_the_flags_replace_the_presets_backbone_and_first_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train_job, "imagenet_checkpoint", lambda name: tmp_path / f"{name}.pth")
    checkpoint = saved(tmp_path / "resnet18.pth", "resnet18")
    plain = build_plan(config(), TINY, ATTRIBUTES)
    assert (plain.backbone, plain.init_weights, plain.init_bundle) == ("tiny", None, None)
    other = build_plan(config(backbone="resnet18", init="imagenet"), TINY, ATTRIBUTES)
    assert (other.backbone, other.init_weights) == ("resnet18", checkpoint.read_bytes())
    mine = build_plan(config(init=str(saved(tmp_path / "mine.pth", "tiny"))), TINY, ATTRIBUTES)
    assert mine.init_weights == (tmp_path / "mine.pth").read_bytes()
    path = tmp_path / "resnet18.pth"
    assert refused(init=str(path)) == f"{path}: not torchvision's weights of tiny"


def test_what_a_backbone_cannot_do_is_refused_before_any_work():
    assert refused(backbone="resnet17").startswith("unknown backbone 'resnet17': one of ")
    assert refused(backbone="inception_v3").startswith(
        "backbone inception_v3 needs crops of 75 px or more a side, got 64x52"
    )
    assert refused(init="imagenet") == imagenet_message("tiny")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"augmentation": "foto"}, "unknown augmentation 'foto'"),
        ({"clip_norm": -1.0}, "clip_norm must be a number over 0: -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be a number over 0: nan"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more: -1.0"),
        ({"dropout": 1.0}, "dropout must be in [0, 1): 1.0"),
        ({"mixup_alpha": -0.2}, "mixup_alpha must be 0 or more: -0.2"),
        ({"first_scale": 1.5}, "first_scale must be in (0, 1]: 1.5"),
        ({"frozen_epochs": 99}, "frozen_epochs must be under 6: 99"),
        ({"accumulate": 3}, "accumulate must divide 16: 3"),
        ({"accumulate": 16}, "leave each part 2 samples or more"),
        ({"workers": "2:9"}, "cut into --workers 9 times --accumulate 1 parts"),
        ({"backbone": "vgg16_bn", "first_scale": 0.4}, "vgg16_bn needs crops of 32 px or more"),
        ({"label_smoothing": 1.0}, "label_smoothing must be in [0, 1): 1.0"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(fields, said):
    assert said in refused(**fields)


def test_a_mean_without_age_needs_another_attribute():
    only_age = (attribute("age"),)
    with pytest.raises(UsageError, match="--best-metric f1 is a mean over attributes without age"):
        build_plan(config(best_metric="f1"), TINY, only_age)
    assert build_plan(config(best_metric="loss"), TINY, only_age).recipe.best_metric == "loss"


def imagenet_message(name):
    with pytest.raises(UsageError) as caught:
        imagenet.imagenet_checkpoint(name)
    return str(caught.value)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(UsageError) as caught:
        init_weights(str(tmp_path / "none.pth"), "tiny")
    assert str(caught.value) == (
        f"--init {tmp_path / 'none.pth'}: a torchvision checkpoint, imagenet or none expected"
    )


def test_a_run_can_start_from_a_bundle_and_says_what_it_takes(models, caplog):
    with caplog.at_level(logging.INFO, logger="fattr"):
        plan = build_plan(config(init_from=str(models.people)), TINY, ATTRIBUTES)
    assert plan.init_bundle.spec.name == "people"
    assert plan.init_weights is None
    assert caplog.messages == ["starting from people: heads taken: smiling; fresh: bald"]
    assert refused(init_from="celeba40").startswith("celeba40 has the backbone mobilenet_v2, ")
    assert refused(init_from="no-such").startswith("unknown model 'no-such'")


def test_a_model_says_what_it_was_made_from_without_paths(models, tmp_path):
    split = DatasetSplit(
        name="drawn",
        split="train",
        attributes=ATTRIBUTES,
        samples=(Sample("file:///a.jpg", {}),),
        licence="CC0",
        research_only=False,
    )
    saved(tmp_path / "mine.pth", "tiny")
    for fields, flags, start in (
        ({}, "", "none"),
        ({"init": str(tmp_path / "mine.pth")}, "--init mine.pth ", "mine.pth"),
        ({"limit": 5, "seed": 3, "mixup_alpha": 0}, "--mixup-alpha 0 --limit 5 --seed 3 ", "none"),
        ({"compile": True, "binary": "focal"}, "--compile --binary focal ", "none"),
        ({"backbone": "resnet18"}, "--backbone resnet18 ", "none"),
        ({"init_from": str(models.people)}, "--init-from people ", "people "),
    ):
        wanted = config(**fields)
        plan = build_plan(wanted, TINY, ATTRIBUTES)
        said = describe(wanted, TINY, plan, [split])
        assert said["command"] == (
            f"python jobs/train.py --preset tiny {flags}--data drawn:DIR --output DIR"
        )
        assert said["recipe"]["init"].startswith(start)
        assert str(tmp_path) not in str(said)
    assert said["recipe"]["init"] == f"people {plan.init_bundle.model_id}"


def test_the_networks_cost_is_said(caplog):
    plan = build_plan(config(), TINY, ATTRIBUTES)
    with caplog.at_level(logging.INFO, logger="fattr"):
        log_cost(config(), TINY, plan)
    header, row, share = caplog.messages
    assert header.startswith("backbone")
    assert row.startswith("tiny ")
    assert share.endswith(": 1 with 16 samples each")


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        pytest.param((1, 1), "1 with 16 samples each", id="one"),
        pytest.param((4, 4), "4 with 4 samples each", id="equal-parts"),
        pytest.param((3, 3), "3 with 5 to 6 samples each", id="unequal-parts"),
        pytest.param((2, 3), "2 to 3 with 5 to 8 samples each", id="elastic"),
    ],
)
def test_what_each_worker_gets_is_said(workers, said):
    plan = build_plan(config(), TINY, ATTRIBUTES)
    whole = "batches of 16 at learning rate 0.01, of all workers together: "
    assert shares(plan, workers) == whole + said
