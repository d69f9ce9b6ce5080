"""What a training run is asked to do, checked before any work: plan, settings, description."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fattr import bundle
from fattr.attributes import Attribute, Kind
from fattr.bundle import Bundle
from fattr.classify.backbones import check_crop_size
from fattr.classify.imagenet import imagenet_checkpoint
from fattr.classify.network import AttributeNet, load_backbone
from fattr.classify.transforms import build_augmentation
from fattr.config import TrainConfig
from fattr.datasets import DatasetSplit
from fattr.detect import source as detectors
from fattr.errors import UsageError
from fattr.presets import TrainPreset
from fattr.train.batches import reduced_hw
from fattr.train.loss_settings import LossSettings
from fattr.train.plan import Recipe, TrainPlan
from fattr.train.transfer import match_heads

log = logging.getLogger(__name__)

# Of a recipe, on what is learnt: of a train loss, a sum in parts, the last digits may differ.
WITHOUT_EFFECT = ("num_checkpoints", "checkpoint_every")


def init_weights(init: str, backbone: str) -> Path | None:
    """Where the backbone's first weights are; None for random ones.

    Raises:
        UsageError: they are not there.
    """
    if init == "none":
        return None
    if init == "imagenet":
        return imagenet_checkpoint(backbone)
    if not Path(init).is_file():
        raise UsageError(f"--init {init}: a torchvision checkpoint, imagenet or none expected")
    return Path(init)


def init_bundle(name: str | None, backbone: str, attributes: Sequence[Attribute]) -> Bundle | None:
    """The trained model to start from, if one is named; the log says which heads it brings.

    Raises:
        UsageError: there is no such model, or its backbone is another.
    """
    if name is None:
        return None
    found = bundle.find(name)
    matched = match_heads(backbone, attributes, found)
    taken, fresh = (", ".join(names) or "none" for names in (matched.taken, matched.fresh))
    log.info("starting from %s: heads taken: %s; fresh: %s", found.spec.name, taken, fresh)
    return found


def _given(config: TrainConfig, settings: type) -> dict[str, Any]:
    """The flags that replace fields of these settings."""
    names = {f.name for f in dataclasses.fields(settings)}
    flags = {f.name: getattr(config, f.name) for f in dataclasses.fields(config) if f.name in names}
    return {n: value for n, value in flags.items() if value is not None and value is not False}


def build_recipe(config: TrainConfig, preset: TrainPreset) -> Recipe:
    """The preset's recipe with the flags that replace parts of it.

    Raises:
        UsageError: they do not go together.
    """
    try:
        recipe = dataclasses.replace(
            preset.recipe,
            **_given(config, Recipe),
            losses=dataclasses.replace(preset.recipe.losses, **_given(config, LossSettings)),
        )
    except ValueError as err:
        raise UsageError(f"settings do not go together: {err}") from err
    most = config.worker_range[1]
    if recipe.batch_size < 2 * most * recipe.accumulate:
        raise UsageError(
            f"batch size {recipe.batch_size} must leave each part 2 samples or more: it is cut into"
            f" --workers {most} times --accumulate {recipe.accumulate} parts"
        )
    build_augmentation(recipe.augmentation, preset.crop_size_hw)
    return recipe


def check_metric(recipe: Recipe, attributes: Sequence[Attribute]) -> None:
    """Refuse a metric that these attributes do not have.

    Raises:
        UsageError: naming those they have.
    """
    if recipe.best_metric not in ("score", "loss") and all(a.kind is Kind.AGE for a in attributes):
        raise UsageError(
            f"--best-metric {recipe.best_metric} is a mean over attributes without age, and there"
            " is no other: use score or loss"
        )


def build_plan(
    config: TrainConfig, preset: TrainPreset, attributes: tuple[Attribute, ...]
) -> TrainPlan:
    """The preset, with flags applied, for these attributes.

    Raises:
        UsageError: settings that do not go together, a backbone that does not exist or take the
            preset's crops, or first weights that are not there.
    """
    backbone, recipe = config.backbone or preset.backbone, build_recipe(config, preset)
    check_crop_size(backbone, reduced_hw(preset.crop_size_hw, recipe, 0))
    check_metric(recipe, attributes)
    init = "none" if config.init_from else config.init or preset.init
    checkpoint_file = init_weights(init, backbone)
    if checkpoint_file:  # refused here, not in a worker
        load_backbone(AttributeNet(backbone, attributes), checkpoint_file)
    return TrainPlan(
        backbone=backbone,
        attributes=attributes,
        recipe=recipe,
        seed=config.seed,
        init_weights=checkpoint_file.read_bytes() if checkpoint_file else None,
        init_bundle=init_bundle(config.init_from, backbone, attributes),
    )


def shares(plan: TrainPlan, workers: tuple[int, int]) -> str:
    """One line: what a step is made of, and how much of it a worker has."""
    recipe, (least, most) = plan.recipe, workers
    fewest, largest = recipe.batch_size // most, -(-recipe.batch_size // least)
    each = f"{fewest}" if fewest == largest else f"{fewest} to {largest}"
    who = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"batches of {recipe.batch_size} at learning rate {recipe.learning_rate:g}, of all workers"
        f" together: {who} with {each} samples each"
    )


def settings_of(
    config: TrainConfig,
    preset: TrainPreset,
    plan: TrainPlan,
    train: Sequence[DatasetSplit],
    valid: Sequence[DatasetSplit],
) -> dict[str, Any]:
    """What decides a run's result, as JSON: an output belongs to one of these.

    Not by how many workers, on which machine, and from which folder.
    """
    recipe = dataclasses.asdict(plan.recipe)
    recipe |= recipe.pop("losses")
    weights = plan.init_weights and hashlib.sha256(plan.init_weights).hexdigest()
    settings = {name: value for name, value in recipe.items() if name not in WITHOUT_EFFECT} | {
        "preset": config.preset,
        "backbone": plan.backbone,
        "seed": plan.seed,
        "init": plan.init_bundle.model_id if plan.init_bundle else weights or "none",
        "crop_rule": preset.crop_rule,
        "crop_size": preset.crop_size_hw,
        "attributes": [a.name for a in plan.attributes],
        "data": digests((*train, *valid)),
        "detector": detectors.find(config.detector).sha256,
        "detect_size": config.detect_size,
        "score_threshold": config.score_threshold,
        "nms_iou_threshold": config.nms_iou_threshold,
    }
    return dict(json.loads(json.dumps(settings)))  # as they will be read again


def digests(splits: Sequence[DatasetSplit]) -> list[list[Any]]:
    """Name, split, number of images and a digest of each, as JSON."""
    return [[s.name, s.split, len(s.samples), _digest(s)] for s in splits]


def _digest(split: DatasetSplit) -> str:
    """Of the names of a split's images below their common folder, and of their labels."""
    uris = [sample.image_uri for sample in split.samples]
    root = os.path.commonprefix(uris).rpartition("/")[0]  # noqa: RUF071 -- a whole folder of it
    digest = hashlib.sha256(repr(split.attributes).encode())
    for sample in split.samples:
        name = sample.image_uri.removeprefix(root)
        digest.update(repr((name, sorted(sample.targets.items()))).encode())
    return digest.hexdigest()[:16]


def describe(
    config: TrainConfig, preset: TrainPreset, plan: TrainPlan, splits: Sequence[DatasetSplit]
) -> dict[str, Any]:
    """How the model was made, without paths: for the bundle, its card and ``run.json``."""
    data = " ".join(f"--data {split.name}:DIR" for split in splits)
    given = _given(config, Recipe) | _given(config, LossSettings)
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    flags = "".join(
        f"--{name.replace('_', '-')} " + ("" if value is True else f"{value} ")
        for name, value in given.items()
    )
    flags += "".join(
        f"--{name.replace('_', '-')} {Path(str(value)).name} "
        for name in ("backbone", "limit", "detector", "detect_size", "seed", "workers")
        if (value := getattr(config, name)) != defaults[name]
    )
    start = Path(config.init or preset.init).name
    flags += f"--init {start} " if config.init else ""
    if plan.init_bundle:
        flags += f"--init-from {plan.init_bundle.spec.name} "
        start = f"{plan.init_bundle.spec.name} {plan.init_bundle.model_id}"
    source = detectors.find(config.detector)
    return {
        "command": f"python jobs/train.py --preset {config.preset} {flags}{data} --output DIR",
        "preset": config.preset,
        "recipe": dataclasses.asdict(plan.recipe) | {"seed": plan.seed, "init": start},
        "detector": {
            "name": source.name,
            "sha256": source.sha256,
            "detect_size": config.detect_size,
        },
        "data": [{"name": s.name, "images": len(s.samples), "licence": s.licence} for s in splits],
    }
