"""``jobs/train.py``: data sets in, a bundle out; the same command goes on where it was killed."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fattr import storage
from fattr.attributes import Attribute
from fattr.build import build_classifier, cpu_count, resolve_device
from fattr.bundle import CARD, Bundle
from fattr.classify.cost import cost_table, measure
from fattr.commands.recorded import read_record, recorded
from fattr.commands.train_data import (
    choose_attributes,
    cut_crops,
    read_split,
    refuse_unlabelled,
    usable_splits,
)
from fattr.commands.train_plan import build_plan, describe, digests, settings_of, shares
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import DatasetSplit
from fattr.errors import FattrError, RunError, UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.session import ray_session
from fattr.on_ray.train import Workers, check_room, fit_on_ray
from fattr.outputs import names_in, put, refuse_held, workplace
from fattr.presets import TrainPreset, train_preset
from fattr.report.model_card import model_card
from fattr.report.training import crops_grid, training_curves
from fattr.report.training_page import training_page
from fattr.runs.checkpoints import CheckpointStore
from fattr.runs.lease import Lease, hold_lease
from fattr.runs.record import RunRecord
from fattr.runs.run import SUCCESS
from fattr.train import checkpoint
from fattr.train.batches import examples
from fattr.train.finish import make_bundle
from fattr.train.plan import TrainPlan
from fattr.train.tracking import FOLDER as TENSORBOARD
from fattr.train.tracking import Tracker, write_history
from fattr.train.verdict import Verdict, verdict
from fattr.tuning.preset_file import resolved

log = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
COST_BATCH_SIZE = 16
SHOWN_SAMPLES, SHOWN_EPOCHS = 8, 9  # in crops.png: one row a sample


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A request with all that it names found and checked."""

    config: TrainConfig
    preset: TrainPreset
    plan: TrainPlan
    train: Sequence[DatasetSplit]
    valid: Sequence[DatasetSplit]
    output: str  # canonical URI
    settings: dict[str, Any]

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What the network predicts."""
        return self.plan.attributes

    @property
    def store(self) -> CheckpointStore:
        """Where its checkpoints are."""
        recipe = self.plan.recipe
        return CheckpointStore(
            storage.join(self.output, CHECKPOINTS),
            num_best=recipe.num_checkpoints,
            metric=f"valid_{recipe.best_metric}",
            lower_is_better=recipe.best_metric == "loss",
        )


def plan_job(config: TrainConfig) -> Job:
    """Find and check all that a request names, but for the pixels.

    Raises:
        UsageError: something does not exist, or does not go together.
    """
    config = resolved(config)
    preset = train_preset(config.preset)
    train = [read_split(spec, "train", config.limit) for spec in config.data]
    valid = [read_split(spec, "valid", config.limit) for spec in config.data]
    attributes = choose_attributes(preset, train)
    for splits in (train, valid):
        refuse_unlabelled(splits, attributes)
    plan = build_plan(config, preset, attributes)
    output = storage.canonical_uri(config.output)
    settings = settings_of(config, preset, plan, train, valid)
    return Job(config, preset, plan, train, valid, output, settings)


def train(config: TrainConfig) -> int:
    """Run the job, or the rest of it; 0 when the bundle is written, or was before.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: training could not finish; the same command goes on with it.
    """
    job = plan_job(config)
    storage.check_writable(job.output)
    if is_finished(job, read_run(job)):
        return 0
    with ray_session():
        check_room(config.worker_range[0], use_gpu=config.gpus)
        job = checked(job)
        crops = cut(job)
        log_cost(config, job.preset, job.plan)
        with hold_lease(job.output) as lease:
            said = read_run(job)  # again: another run may have been at it since
            if not is_finished(job, said):
                with record_of(job, said, lease) as record:
                    carry_out(job, *crops, record, lease)
    return 0


def read_run(job: Job) -> dict[str, Any]:
    """What ``run.json`` of the output says; empty where there is no run yet.

    Raises:
        UsageError: the output holds something else.
        StorageError: it cannot be read.
    """
    if said := read_record(job.output):
        return said
    refuse_held(job.output, names_in(job.output))
    return {}


def is_finished(job: Job, said: Mapping[str, Any]) -> bool:
    """Whether the output holds this very run, finished; the log tells it.

    Raises:
        UsageError: the output holds a run with other settings.
    """
    if not said:
        return False
    before, now = said.get("settings", {}), job.settings
    differ = [
        f"{name} {_short(before.get(name))}, not {_short(value)}"
        for name, value in sorted(now.items())
        if before.get(name) != value
    ]
    if differ:
        raise UsageError(
            f"--output {job.output} holds a run with other settings ({'; '.join(differ[:4])}):"
            " choose another --output, or the settings of that run"
        )
    if not storage.exists(storage.join(job.output, SUCCESS)):
        return False
    log.info("%s holds this run, finished: nothing to do", job.output)
    return True


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def record_of(job: Job, said: Mapping[str, Any], lease: Lease) -> AbstractContextManager[RunRecord]:
    """``run.json`` of the run; see ``recorded``."""
    return recorded(
        job.output,
        said,
        job="train",
        settings=job.settings,
        check=lease.check,
        checkpoints=CHECKPOINTS,
        workers=job.config.workers,
    )


def checked(job: Job) -> Job:
    """The job with those images alone that it may use, and its settings with their digests.

    Raises:
        UsageError: an image is missing or damaged.
    """
    train, valid = usable_splits(job.config, job.train, job.valid)
    settings = job.settings | {"used": digests((*train, *valid))}
    return dataclasses.replace(job, train=train, valid=valid, settings=settings)


def cut(job: Job) -> tuple[LabelledCrops, LabelledCrops]:
    """The crops to learn from and to measure on.

    Raises:
        UsageError: they are fewer than a batch.
    """
    crops = cut_crops(job.config, job.preset, job.attributes, job.train)
    batch_size = job.plan.recipe.batch_size
    if len(crops) < batch_size:
        raise UsageError(
            f"{len(crops)} training images are fewer than one batch of {batch_size}:"
            " lower --batch-size"
        )
    return crops, cut_crops(job.config, job.preset, job.attributes, job.valid)


def log_cost(config: TrainConfig, preset: TrainPreset, plan: TrainPlan) -> None:
    """What labelling with the network will cost on this machine, and what each worker gets."""
    cost = measure(
        plan.backbone,
        plan.attributes,
        preset.crop_size_hw,
        device=resolve_device("auto" if config.gpus else "cpu"),
        batch_size=COST_BATCH_SIZE,
    )
    for line in cost_table([cost]).splitlines():
        log.info("%s", line)
    log.info("%s", shares(plan, config.worker_range))


def log_epoch(metrics: Mapping[str, float]) -> None:
    """One line an epoch."""
    log.info(
        "epoch %d: train loss %.4f, valid loss %.4f, valid score %.4f, %.0f s, %.0f%% of it waiting"
        " for data",
        metrics["epoch"],
        metrics["train_loss"],
        metrics["valid_loss"],
        metrics["valid_score"],
        metrics["seconds"],
        100 * metrics["data_wait_share"],
    )


def carry_out(
    job: Job, train: LabelledCrops, valid: LabelledCrops, record: RunRecord, lease: Lease
) -> None:
    """Train, make the bundle and what is to be read beside it, and last of all ``_SUCCESS``."""
    with workplace(job.output) as folder:
        try:
            state = fit(job, train, valid, record, lease, folder)
            lease.check()
            made = finish(job, state, valid, record, folder)
        except (FattrError, OSError):
            put_what_is_there(folder, job.output, lease)
            raise
        lease.check()
        put(folder, job.output)
    lease.check()
    record.note(
        "finished",
        exit_code=0,
        model_id=made.model_id,
        training=made.spec.training,
        licence=made.spec.licence,
    )
    storage.write_bytes(storage.join(job.output, SUCCESS), b"")
    macro_accuracy = made.spec.training["valid"]["macro"]["accuracy"]
    bundle_uri = storage.join(job.output, "bundle")
    log.info("valid macro accuracy %.4f; bundle in %s", macro_accuracy, bundle_uri)
    if made.spec.research_only:
        log.warning("model %s is for research only: %s", made.spec.name, made.spec.licence)


def put_what_is_there(folder: Path, output: str, lease: Lease) -> None:
    """``put`` of a run that failed: what made it fail matters more than what becomes of this."""
    try:
        lease.check()
        put(folder, output)
    except FattrError as error:
        log.warning("TensorBoard's events were not put into %s: %s", output, error)


def fit(
    job: Job,
    train: LabelledCrops,
    valid: LabelledCrops,
    record: RunRecord,
    lease: Lease,
    folder: Path,
) -> checkpoint.TrainState:
    """Train on Ray from the last checkpoint on, with TensorBoard and ``crops.png`` on the way.

    Raises:
        RunError: training failed.
    """
    before = checkpoint.newest(job.store.folders())
    history = before.history if before else []
    if before:
        log.info("going on after epoch %d and %d samples", before.epoch, before.position)
    with Tracker(folder, is_whole=True) as tracker:
        shown = examples(train, job.plan, num_samples=SHOWN_SAMPLES, num_epochs=SHOWN_EPOCHS)
        crops_grid(shown, folder / "crops.png")
        tracker.crops(shown)
        for row in history:  # events of an earlier attempt may be lost
            tracker.epoch(row)
        last = len(history)
        least, most = job.config.worker_range

        def on_start(num_workers: int) -> None:
            log.info("workers: %d", num_workers)
            record.timeline.event("workers", datetime.now(UTC), workers=num_workers)

        def on_epoch(metrics: Mapping[str, float]) -> None:
            nonlocal last
            if metrics["epoch"] > last:  # one that was done again is known
                last = int(metrics["epoch"])
                log_epoch(metrics)
                tracker.epoch(metrics)
                note_epoch(job, record, lease, last, folder)

        fit_on_ray(
            job.plan,
            train,
            valid,
            workers=Workers(
                least=least,
                most=most,
                use_gpu=job.config.gpus,
                num_processes=job.config.input_processes,
            ),
            store=job.store,
            on_start=on_start,
            on_epoch=on_epoch,
            check=lease.check,
        )
    state = checkpoint.newest(job.store.folders())
    if state is None:
        raise RunError("training ended without a checkpoint: run the same command again")
    return state


def note_epoch(job: Job, record: RunRecord, lease: Lease, epoch: int, folder: Path) -> None:
    """Put down that an epoch is done; where the storage refuses it, training goes on without.

    Raises:
        RunError: the lease was lost.
    """
    lease.check()
    try:
        record.timeline.sample(record.seconds, epoch)
        record.note("epoch", epochs=epoch)
        put(folder / TENSORBOARD, storage.join(job.output, TENSORBOARD))
    except FattrError as error:
        log.warning("epoch %d was not put down in %s: %s", epoch, job.output, error)


def finish(
    job: Job, state: checkpoint.TrainState, valid: LabelledCrops, record: RunRecord, folder: Path
) -> Bundle:
    """Bundle with its card, history, curves, precision-recall curves, and the verdict in a line."""
    made = make_bundle(
        folder / "bundle",
        name=job.config.preset,
        plan=job.plan,
        rule=named_rule(job.preset.crop_rule, job.preset.crop_size_hw),
        state=state,
        valid=valid,
        splits=job.train,
        training=describe(job.config, job.preset, job.plan, job.train),
    )
    (made.folder / CARD).write_text(model_card(made.spec, made.model_id, figures={}))
    write_history(folder, state.history)
    said = verdict(state.history)
    curves = folder / "curves.png"
    title = f"{made.spec.name}: {said.fit}. {said.reason}"
    training_curves(state.history, best_epoch=state.best_epoch, title=title, path=curves)
    probs = build_classifier(made, device="cpu", num_threads=cpu_count()).predict_proba(valid.crops)
    with Tracker(folder) as tracker:
        tracker.precision_recall(made.spec.attributes, valid.targets, probs, state.best_epoch)
    write_page(job, made, state, said, record, folder)
    log.info("%s fit: %s", said.fit, said.reason)
    return made


def write_page(
    job: Job,
    made: Bundle,
    state: checkpoint.TrainState,
    said: Verdict,
    record: RunRecord,
    folder: Path,
) -> None:
    """``summary.html``: the run on one page."""
    page = training_page(
        name=made.spec.name,
        verdict=f"{said.fit} fit: {said.reason}",
        history=state.history,
        best_epoch=state.best_epoch,
        curves_png=(folder / "curves.png").read_bytes(),
        facts={
            "model": made.model_id,
            "command": made.spec.training["command"],
            "images": ", ".join(f"{s.name} {s.split}: {len(s.samples)}" for s in job.train),
            "seconds": f"{record.seconds:.0f}",
            "licence": made.spec.licence,
        },
        settings=job.settings,
    )
    (folder / "summary.html").write_text(page, encoding="utf-8")
