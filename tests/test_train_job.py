"""What a training run starts from, and what it says about itself; nothing is trained."""

import logging

import pytest

from fattr import train_job
from fattr.attributes import attribute
from fattr.classify import imagenet
from fattr.config import TrainConfig
from fattr.datasets.split import DatasetSplit
from fattr.errors import UsageError
from fattr.presets import train_preset
from fattr.records import Sample
from fattr.train_job import build_plan, describe, init_weights, log_cost

ATTRIBUTES = (attribute("smiling"), attribute("bald"))
TINY = train_preset("tiny")


def config(**fields):
    return TrainConfig(preset="tiny", data=("synthetic:d",), output="o", **fields)


def refused(**fields):
    with pytest.raises(UsageError) as caught:
        build_plan(config(**fields), TINY, ATTRIBUTES)
    return str(caught.value)


def test_the_flags_replace_the_presets_backbone_and_first_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train_job, "imagenet_checkpoint", lambda name: tmp_path / f"{name}.pth")
    plain = build_plan(config(), TINY, ATTRIBUTES)
    assert (plain.backbone, plain.init_weights, plain.init_bundle) == ("tiny", None, None)
    other = build_plan(config(backbone="resnet18", init="imagenet"), TINY, ATTRIBUTES)
    assert (other.backbone, other.init_weights) == ("resnet18", tmp_path / "resnet18.pth")
    (tmp_path / "mine.pth").write_bytes(b"")
    mine = build_plan(config(init=str(tmp_path / "mine.pth")), TINY, ATTRIBUTES)
    assert mine.init_weights == tmp_path / "mine.pth"


def test_what_a_backbone_cannot_do_is_refused_before_any_work():
    assert refused(backbone="resnet17").startswith("unknown backbone 'resnet17': one of ")
    assert refused(backbone="inception_v3").startswith(
        "backbone inception_v3 needs crops of 75 px or more a side, got 64x52"
    )
    assert refused(init="imagenet") == imagenet_message("tiny")


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
    (tmp_path / "mine.pth").write_bytes(b"")
    for fields, flags, start in (
        ({}, "", "none"),
        ({"init": str(tmp_path / "mine.pth")}, "", "mine.pth"),
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
    header, row = caplog.messages
    assert header.startswith("backbone")
    assert row.startswith("tiny ")
