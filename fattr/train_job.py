"""``jobs/train.py``: data sets in, a bundle out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from fattr import weights
from fattr.attributes import Attribute, attribute
from fattr.build import build_detector, cpu_count, resolve_device
from fattr.bundle import CARD, Bundle
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import DatasetSplit, read_dataset
from fattr.datasets.check import (
    check_images,
    digest,
    problems,
    refuse_problems,
    without_leaks,
)
from fattr.detect import source as detectors
from fattr.errors import UsageError
from fattr.labelled_crops import LabelledCrops, labelled_crops
from fattr.on_ray.session import ray_session
from fattr.on_ray.train import CHECKPOINTS, fit_on_ray
from fattr.outputs import refuse_used_output
from fattr.presets import TrainPreset, train_preset
from fattr.progress import track
from fattr.records import UInt8Array
from fattr.report.model_card import model_card
from fattr.runinfo import new_run_id, versions, write_json
from fattr.train import checkpoint
from fattr.train.finish import make_bundle, write_history
from fattr.train.loop import TrainPlan

log = logging.getLogger(__name__)


def choose_attributes(preset: TrainPreset, splits: Sequence[DatasetSplit]) -> tuple[Attribute, ...]:
    """The preset's attributes, or all that the data sets label, in their order.

    Raises:
        UsageError: a wanted attribute is labelled by none.
    """
    labelled = {a.name: a for a in chain.from_iterable(split.attributes for split in splits)}
    if not preset.attributes:
        return tuple(labelled.values())
    if missing := [name for name in preset.attributes if name not in labelled]:
        raise UsageError(f"no --data labels {', '.join(missing)}, which the preset trains")
    return tuple(attribute(name) for name in preset.attributes)


def init_weights(init: str) -> Path | None:
    """Where the backbone's first weights are; None for random ones.

    Raises:
        UsageError: they are not there.
    """
    if init == "none":
        return None
    if init == "imagenet":
        return weights.imagenet_mobilenet_v2()
    if not Path(init).is_file():
        raise UsageError(f"--init {init}: a torchvision checkpoint, imagenet or none expected")
    return Path(init)


def build_plan(
    config: TrainConfig, preset: TrainPreset, attributes: tuple[Attribute, ...]
) -> TrainPlan:
    """The preset with the flags that replace parts of it.

    Raises:
        UsageError: the batch cannot be shared by the workers.
    """
    batch_size = config.batch_size or preset.batch_size
    if batch_size % config.workers:
        raise UsageError(
            f"batch size {batch_size} must be a multiple of --workers {config.workers}"
        )
    return TrainPlan(
        backbone=preset.backbone,
        attributes=attributes,
        augmentation=preset.augmentation,
        epochs=config.epochs or preset.epochs,
        batch_size=batch_size,
        learning_rate=config.learning_rate or preset.learning_rate,
        weight_decay=preset.weight_decay,
        warmup_frac=preset.warmup_frac,
        ema_decay=preset.ema_decay,
        dropout=preset.dropout,
        seed=config.seed,
        init_weights=init_weights(config.init or preset.init),
    )


def read_split(spec: str, split: str, limit: int | None) -> DatasetSplit:
    """The first images of a split, or all.

    Raises:
        UsageError: the data set cannot be read.
    """
    read = read_dataset(spec, split)
    return dataclasses.replace(read, samples=read.samples[:limit])


def held_out_splits(specs: Sequence[str], limit: int | None) -> list[DatasetSplit]:
    """The test splits that are there: their pictures are kept out of the others."""
    found = []
    for spec in specs:
        try:
            found.append(read_split(spec, "test", limit))
        except UsageError as err:
            log.warning("no test split to keep apart: %s", err)
    return found


def check_data(
    train: Sequence[DatasetSplit], valid: Sequence[DatasetSplit], test: Sequence[DatasetSplit]
) -> tuple[list[DatasetSplit], list[DatasetSplit]]:
    """The train and valid splits, without pictures that are also in a split that measures them.

    Raises:
        UsageError: a row's labels were refused, an image of train or valid is missing or damaged,
            or nothing is left of a split.
        StorageError: the storage failed, perhaps only for now.
    """
    splits = [*train, *valid, *test]
    facts = check_images(splits, num_threads=cpu_count())
    refuse_problems(
        problems([*train, *valid], facts),
        remedy="mend or remove them; fattr describe-data --data NAME:DIR --output DIR lists all",
    )
    for line in digest(problems(splits, facts)):
        log.warning(line)
    kept, leaks = without_leaks(splits, facts)
    for name, count in Counter(leak.split for leak in leaks).items():
        log.warning("left out of %s: %d images that leak", name, count)
    return kept[: len(train)], kept[len(train) : len(train) + len(valid)]


def cut_crops(
    config: TrainConfig,
    preset: TrainPreset,
    attributes: tuple[Attribute, ...],
    splits: Sequence[DatasetSplit],
) -> LabelledCrops:
    """Crops of all the splits, one after another."""
    samples = list(chain.from_iterable(s.samples for s in splits))
    source = detectors.find(config.detector)
    detector = build_detector(source, config, device=resolve_device(config.device))

    def progress(items: Iterator[tuple[UInt8Array, float]]) -> Iterator[tuple[UInt8Array, float]]:
        return track(items, what=f"cropping {splits[0].split}", total=len(samples))

    cut = labelled_crops(
        samples,
        attributes,
        named_rule(preset.crop_rule, preset.crop_size_hw),
        detector=detector,
        num_threads=cpu_count(),
        progress=progress,
    )
    log.info("%s: %d faces, %.4f detected", splits[0].split, len(cut), cut.found.mean())
    return cut


def describe(
    config: TrainConfig, preset: TrainPreset, plan: TrainPlan, splits: Sequence[DatasetSplit]
) -> dict[str, Any]:
    """How the model was made, without paths: for the bundle, its card and ``run.json``."""
    data = " ".join(f"--data {split.name}:DIR" for split in splits)
    source = detectors.find(config.detector)
    recipe = {
        name: getattr(plan, name)
        for name in ("epochs", "batch_size", "learning_rate", "weight_decay", "warmup_frac")
    }
    recipe |= {"ema_decay": plan.ema_decay, "dropout": plan.dropout, "seed": plan.seed}
    return {
        "command": f"python jobs/train.py --preset {config.preset} {data} --output DIR",
        "preset": config.preset,
        "recipe": recipe | {"augmentation": plan.augmentation, "init": config.init or preset.init},
        "detector": {
            "name": source.name,
            "sha256": source.sha256,
            "detect_size": config.detect_size,
        },
        "data": [{"name": s.name, "images": len(s.samples), "licence": s.licence} for s in splits],
    }


def train(config: TrainConfig) -> int:
    """Run the job; 0 when the bundle is written.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: training could not finish.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = Path(config.output).absolute()
    refuse_used_output(output)
    preset = train_preset(config.preset)
    train_splits = [read_split(spec, "train", config.limit) for spec in config.data]
    valid_splits = [read_split(spec, "valid", config.limit) for spec in config.data]
    attributes = choose_attributes(preset, train_splits)
    plan = build_plan(config, preset, attributes)
    test_splits = held_out_splits(config.data, config.limit)
    train_splits, valid_splits = check_data(train_splits, valid_splits, test_splits)
    train_crops = cut_crops(config, preset, attributes, train_splits)
    valid_crops = cut_crops(config, preset, attributes, valid_splits)
    if len(train_crops) < plan.batch_size:
        raise UsageError(
            f"{len(train_crops)} training images are fewer than one batch of {plan.batch_size}: "
            "lower --batch-size"
        )
    output.mkdir(parents=True, exist_ok=True)
    with ray_session():
        last = fit_on_ray(
            plan,
            train_crops,
            valid_crops,
            num_workers=config.workers,
            use_gpu=config.gpus,
            output=output,
        )
    state = checkpoint.load(last)
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
    write_history(output, state.history)
    _finish(output, made, started, time.monotonic() - clock)
    return 0


def _finish(output: Path, made: Bundle, started: datetime, seconds: float) -> None:
    (made.folder / CARD).write_text(model_card(made.spec, made.model_id, figures={}))
    run = {
        "run_id": new_run_id(started),
        "job": "train",
        "started": started.isoformat(),
        "seconds": round(seconds, 1),
        "exit_code": 0,
        "model_id": made.model_id,
        "training": made.spec.training,
        "licence": made.spec.licence,
        "versions": versions(),
        "checkpoints": CHECKPOINTS,
    }
    write_json(output.as_uri() + "/run.json", run)
    (output / "_SUCCESS").write_bytes(b"")
    macro_accuracy = made.spec.training["valid"]["macro"]["accuracy"]
    log.info("valid macro accuracy %.4f; bundle in %s", macro_accuracy, made.folder)
    if made.spec.research_only:
        log.warning("model %s is for research only: %s", made.spec.name, made.spec.licence)
