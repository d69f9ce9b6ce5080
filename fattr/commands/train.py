"""``jobs/train.py``: data sets in, a bundle out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fattr import bundle
from fattr.attributes import Attribute, Kind
from fattr.build import build_classifier, cpu_count, resolve_device
from fattr.bundle import CARD, Bundle
from fattr.classify.backbones import check_crop_size
from fattr.classify.cost import cost_table, measure
from fattr.classify.imagenet import imagenet_checkpoint
from fattr.classify.network import AttributeNet, load_backbone
from fattr.classify.transforms import build_augmentation
from fattr.commands.train_data import (
    check_data,
    choose_attributes,
    cut_crops,
    held_out_splits,
    read_split,
    refuse_unlabelled,
)
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import DatasetSplit
from fattr.detect import source as detectors
from fattr.errors import RunError, UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.session import ray_session
from fattr.on_ray.train import CHECKPOINTS, fit_on_ray
from fattr.outputs import local_folder, refuse_used_output
from fattr.presets import TrainPreset, train_preset
from fattr.report.model_card import model_card
from fattr.report.training import crops_grid, training_curves
from fattr.runs.record import new_run_id, versions, write_json
from fattr.train import checkpoint
from fattr.train.batches import examples, reduced_hw
from fattr.train.finish import make_bundle
from fattr.train.loss_settings import LossSettings
from fattr.train.plan import Recipe, TrainPlan
from fattr.train.tracking import Tracker, write_history
from fattr.train.transfer import match_heads
from fattr.train.verdict import verdict

log = logging.getLogger(__name__)

COST_BATCH_SIZE = 16
SHOWN_SAMPLES, SHOWN_EPOCHS = 8, 9  # in crops.png: one row a sample


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
    num_parts = config.workers * recipe.accumulate
    if recipe.batch_size % num_parts or recipe.batch_size < 2 * num_parts:
        raise UsageError(
            f"batch size {recipe.batch_size} must be a multiple of --workers {config.workers}"
            f" times --accumulate {recipe.accumulate}, and leave each part 2 samples or more"
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


def log_cost(config: TrainConfig, preset: TrainPreset, plan: TrainPlan) -> None:
    """What labelling with the network will cost on this machine, as a row of a table."""
    cost = measure(
        plan.backbone,
        plan.attributes,
        preset.crop_size_hw,
        device=resolve_device("auto" if config.gpus else "cpu"),
        batch_size=COST_BATCH_SIZE,
    )
    for line in cost_table([cost]).splitlines():
        log.info("%s", line)


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


def log_epoch(metrics: Mapping[str, float]) -> None:
    """One line an epoch."""
    log.info(
        "epoch %d: train loss %.4f, valid loss %.4f, valid score %.4f, %.0f s",
        metrics["epoch"],
        metrics["train_loss"],
        metrics["valid_loss"],
        metrics["valid_score"],
        metrics["seconds"],
    )


def fit(
    config: TrainConfig, plan: TrainPlan, train: LabelledCrops, valid: LabelledCrops, output: Path
) -> checkpoint.TrainState:
    """Train on Ray, with TensorBoard and ``crops.png`` on the way; the last state."""
    with Tracker(output) as tracker, ray_session():
        shown = examples(train, plan, num_samples=SHOWN_SAMPLES, num_epochs=SHOWN_EPOCHS)
        crops_grid(shown, output / "crops.png")
        tracker.crops(shown)

        def on_epoch(metrics: Mapping[str, float]) -> None:
            log_epoch(metrics)
            tracker.epoch(metrics)

        last = fit_on_ray(
            plan,
            train,
            valid,
            num_workers=config.workers,
            use_gpu=config.gpus,
            output=output,
            on_epoch=on_epoch,
        )
    return checkpoint.load(last)


def summarize(
    made: Bundle, state: checkpoint.TrainState, valid: LabelledCrops, output: Path
) -> None:
    """History, curves, precision-recall curves, and the verdict in a line."""
    write_history(output, state.history)
    said = verdict(state.history)
    training_curves(
        state.history,
        best_epoch=state.best_epoch,
        title=f"{made.spec.name}: {said.fit}. {said.reason}",
        path=output / "curves.png",
    )
    probs = build_classifier(made, device="cpu", num_threads=cpu_count()).predict_proba(valid.crops)
    with Tracker(output) as tracker:
        tracker.precision_recall(made.spec.attributes, valid.targets, probs, state.best_epoch)
    log.info("%s fit: %s", said.fit, said.reason)


def train(config: TrainConfig) -> int:
    """Run the job; 0 when the bundle is written.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: training could not finish.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = local_folder(config.output)
    refuse_used_output(output)
    preset = train_preset(config.preset)
    train_splits = [read_split(spec, "train", config.limit) for spec in config.data]
    valid_splits = [read_split(spec, "valid", config.limit) for spec in config.data]
    attributes = choose_attributes(preset, train_splits)
    for splits in (train_splits, valid_splits):
        refuse_unlabelled(splits, attributes)
    plan = build_plan(config, preset, attributes)
    test_splits = held_out_splits(config.data, config.limit)
    train_splits, valid_splits = check_data(train_splits, valid_splits, test_splits)
    log_cost(config, preset, plan)
    train_crops = cut_crops(config, preset, attributes, train_splits)
    valid_crops = cut_crops(config, preset, attributes, valid_splits)
    if len(train_crops) < plan.recipe.batch_size:
        raise UsageError(
            f"{len(train_crops)} training images are fewer than one batch of "
            f"{plan.recipe.batch_size}: lower --batch-size"
        )
    output.mkdir(parents=True, exist_ok=True)
    try:
        state = fit(config, plan, train_crops, valid_crops, output)
    except RunError as err:
        _write_run(output, started, time.monotonic() - clock, exit_code=3, error=str(err))
        raise
    made = make_bundle(
        output / "bundle",
        name=config.preset,
        plan=plan,
        rule=named_rule(preset.crop_rule, preset.crop_size_hw),
        state=state,
        valid=valid_crops,
        splits=train_splits,
        training=describe(config, preset, plan, train_splits),
    )
    _finish(output, made, started, time.monotonic() - clock)
    summarize(made, state, valid_crops, output)
    (output / "_SUCCESS").write_bytes(b"")
    return 0


def _write_run(output: Path, started: datetime, seconds: float, **outcome: object) -> None:
    run = {
        "run_id": new_run_id(started),
        "job": "train",
        "started": started.isoformat(),
        "seconds": round(seconds, 1),
        "versions": versions(),
        "checkpoints": CHECKPOINTS,
    }
    write_json(output.as_uri() + "/run.json", run | outcome)


def _finish(output: Path, made: Bundle, started: datetime, seconds: float) -> None:
    (made.folder / CARD).write_text(model_card(made.spec, made.model_id, figures={}))
    _write_run(
        output,
        started,
        seconds,
        exit_code=0,
        model_id=made.model_id,
        training=made.spec.training,
        licence=made.spec.licence,
    )
    macro_accuracy = made.spec.training["valid"]["macro"]["accuracy"]
    log.info("valid macro accuracy %.4f; bundle in %s", macro_accuracy, made.folder)
    if made.spec.research_only:
        log.warning("model %s is for research only: %s", made.spec.name, made.spec.licence)
