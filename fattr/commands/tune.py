"""``jobs/tune.py``: a space of settings in, the best of them out as a training command."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from fattr import storage
from fattr.attributes import Attribute
from fattr.classify.backbones import check_crop_size
from fattr.commands.recorded import read_record, recorded
from fattr.commands.train_data import (
    choose_attributes,
    cut_crops,
    read_split,
    refuse_unlabelled,
    usable_splits,
)
from fattr.commands.train_plan import build_plan, build_recipe, digests, settings_of
from fattr.config import TrainConfig, TuneConfig
from fattr.datasets import DatasetSplit
from fattr.errors import UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.pool import resources
from fattr.on_ray.session import ray_session
from fattr.on_ray.train import KEEP_FREED_MEMORY, REPEATABLE_ON_GPU
from fattr.on_ray.tune import Search, search_on_ray
from fattr.presets import TrainPreset, train_preset
from fattr.report.tuning import search_picture
from fattr.runs.lease import Lease, hold_lease
from fattr.runs.record import RunRecord
from fattr.train.batches import reduced_hw
from fattr.train.input import default_processes
from fattr.train.plan import TrainPlan
from fattr.train.tracking import FOLDER
from fattr.tuning.events import events
from fattr.tuning.preset_file import resolved, settable
from fattr.tuning.results import best_of, points, results_parquet, results_table
from fattr.tuning.room import Room, room_for
from fattr.tuning.space import LogUniform, Space, Value, draw, to_json
from fattr.tuning.space_file import as_toml, find_space
from fattr.tuning.trials import (
    USED,
    Trial,
    begin_search,
    check_search,
    checkpoints_of,
    read_trial,
    write_trial,
)

log = logging.getLogger(__name__)


def trial_config(config: TuneConfig, settings: Mapping[str, Value], output: str) -> TrainConfig:
    """The training that a trial is."""
    common = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainConfig)}
    return TrainConfig(**(common | dict(settings) | {"output": output}))


def given(config: TrainConfig) -> dict[str, Any]:
    """The flags whose values are not their defaults."""
    flags = {f.name: (getattr(config, f.name), f.default) for f in dataclasses.fields(config)}
    return {name: value for name, (value, default) in flags.items() if value != default}


def train_command(config: TrainConfig) -> str:
    """The command line that spells these settings."""
    words = ["python", "jobs/train.py"]
    for name, value in given(config).items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag, str(one)]
    return shlex.join(words)


def check_flags(config: TuneConfig, space: Space) -> None:
    """Refuse flags of a training that a search has no use for.

    Raises:
        UsageError: naming the flag.
    """
    defaults = {f.name: f.default for f in dataclasses.fields(TrainConfig)}
    if config.workers != defaults["workers"]:
        raise UsageError("--workers: a trial has one worker; say --concurrent for trials at once")
    if config.gpus:
        raise UsageError("--gpus: say --gpus-per-trial 1, or a share such as 0.5")
    for name in space:
        if getattr(config, name) != defaults[name]:
            raise UsageError(
                f"--{name.replace('_', '-')} is searched by --space {config.space}: leave out one"
            )


def build_plans(
    config: TuneConfig,
    preset: TrainPreset,
    attributes: tuple[Attribute, ...],
    trials: Sequence[Trial],
) -> dict[int, TrainPlan]:
    """What each trial trains; first weights are read once for each backbone.

    Raises:
        UsageError: a trial's settings do not go together.
    """
    plans: dict[int, TrainPlan] = {}
    bases: dict[tuple[str | None, str | None], TrainPlan] = {}
    for trial in trials:
        one = trial_config(config, trial.settings, config.output)
        try:
            base = bases.get((one.backbone, one.init)) or build_plan(one, preset, attributes)
            recipe = build_recipe(one, preset)
            check_crop_size(base.backbone, reduced_hw(preset.crop_size_hw, recipe, 0))
        except UsageError as err:
            said = as_toml(dict(trial.settings)).strip().replace("\n", ", ")
            raise UsageError(
                f"trial {trial.name} of --space {config.space} ({said}): {err}"
            ) from None
        bases[one.backbone, one.init] = base
        plans[trial.number] = dataclasses.replace(base, recipe=recipe)
    longest = max(plan.recipe.epochs for plan in plans.values())
    if config.grace_epochs > longest:
        raise UsageError(f"--grace-epochs {config.grace_epochs}: {longest} or fewer expected")
    return plans


def request_of(
    config: TuneConfig,
    preset: TrainPreset,
    space: Space,
    plan: TrainPlan,
    splits: tuple[Sequence[DatasetSplit], Sequence[DatasetSplit]],
) -> dict[str, Any]:
    """What makes two searches the same; ``plan`` is any trial's. They may differ in how many."""
    searched = {*space, "init"} if "backbone" in space else {*space}
    common = settings_of(config, preset, plan, *splits)
    return (
        {name: value for name, value in common.items() if name not in searched}
        | {f"space {name}": form for name, form in to_json(space).items()}
        | {"grace_epochs": config.grace_epochs, "reduction": config.reduction}
    )


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """A request with all that it names found and checked."""

    config: TuneConfig
    preset: TrainPreset
    space: Space
    plans: Mapping[int, TrainPlan]  # of each trial, by its number
    train: Sequence[DatasetSplit]
    valid: Sequence[DatasetSplit]
    output: str  # canonical URI
    request: dict[str, Any]

    @property
    def metric(self) -> str:
        """What trials are compared by."""
        return self.plans[0].recipe.best_metric

    def trials(self) -> list[Trial]:
        """What is known of them now."""
        return [read_trial(self.output, fresh) for fresh in fresh_trials(self.config, self.space)]


def fresh_trials(config: TuneConfig, space: Space) -> list[Trial]:
    """The trials before anything was run."""
    return [
        Trial(number=number, settings=draw(space, config.seed, number))
        for number in range(config.trials)
    ]


def plan_job(config: TuneConfig) -> Job:
    """Find and check all that a request names, but for the pixels.

    Raises:
        UsageError: something does not exist, or does not go together.
    """
    space = find_space(config.space)
    check_flags(config, space)
    config = resolved(config)
    preset = train_preset(config.preset)
    train = [read_split(spec, "train", config.limit) for spec in config.data]
    valid = [read_split(spec, "valid", config.limit) for spec in config.data]
    attributes = choose_attributes(preset, train)
    for splits in (train, valid):
        refuse_unlabelled(splits, attributes)
    plans = build_plans(config, preset, attributes, fresh_trials(config, space))
    output = storage.canonical_uri(config.output)
    request = request_of(config, preset, space, plans[0], (train, valid))
    return Job(config, preset, space, plans, train, valid, output, request)


class Progress:
    """Puts down what becomes of the trials, as JSON, for TensorBoard, and in the log."""

    def __init__(self, job: Job, lease: Lease, record: RunRecord) -> None:
        self._output, self._metric, self._plans = job.output, job.metric, job.plans
        self._lease, self._record = lease, record
        self._over = sum(trial.is_over for trial in job.trials())

    def __call__(self, trial: Trial) -> None:
        """See ``search_on_ray``.

        Raises:
            RunError: another search may be at it: the lease was lost.
            StorageError: It could not be put down.
        """
        self._lease.check()
        write_trial(self._output, trial)
        if trial.history:
            self._write_events(trial)
        if trial.is_over:
            storage.delete_tree(checkpoints_of(self._output, trial.number))
            self._over += 1
            self._record.timeline.sample(self._record.seconds, self._over)
            self._record.note("trial", trials_over=self._over)
        self._log(trial)

    def _log(self, trial: Trial) -> None:
        words = [f"trial {trial.name}"]
        if trial.is_over:
            words.append(str(trial.state))
        words.append(f"epoch {trial.epochs} of {self._plans[trial.number].recipe.epochs}")
        if trial.reason:
            words.append(trial.reason)
        elif trial.history:
            words.append(f"valid_{self._metric} {trial.scores(self._metric)[-1]:.4f}")
        log.info(", ".join(words))

    def _write_events(self, trial: Trial) -> None:
        """A file an epoch: TensorBoard reads them in order, and one done again replaces its own."""
        name = f"events.out.tfevents.{trial.epochs:05}"
        uri = storage.join(self._output, FOLDER, trial.name, name)
        storage.write_bytes(uri, events(trial.history[-1]))


def processes_of(config: TuneConfig, room: Room) -> int:
    """How many make the batches of a trial."""
    if config.input_processes is not None:
        return config.input_processes
    return default_processes(room.num_threads, on_gpu=room.gpus > 0)


def run_missing(job: Job) -> int:
    """Run the trials that are not over, and write the results; see ``finish``.

    Raises:
        UsageError: an image cannot be used, there is no such GPU, or another search is at it.
        RunError: not all could be run to their end.
    """
    config = job.config
    with ray_session(REPEATABLE_ON_GPU if config.gpus_per_trial else KEEP_FREED_MEMORY):
        room = room_for(
            resources(), at_once=config.concurrent, gpus_per_trial=config.gpus_per_trial
        )
        log.info("%d trials at once, %d threads each", room.num_trials, room.num_threads)
        job = checked(job)
        crops = cut(job)
        search = Search(
            output=job.output,
            plans=job.plans,
            room=room,
            grace_epochs=config.grace_epochs,
            reduction=config.reduction,
            num_processes=processes_of(config, room),
        )
        with hold_lease(job.output) as lease:
            begin_search(job.output, job.request)
            with record_of(job, lease) as record:
                search_on_ray(search, job.trials(), *crops, Progress(job, lease, record))
                return finish(job, lease, record)


def record_of(job: Job, lease: Lease) -> AbstractContextManager[RunRecord]:
    """``run.json`` of the search, also where an earlier command began it; see ``recorded``."""
    return recorded(
        job.output,
        read_record(job.output),
        job="tune",
        settings=job.request,
        check=lease.check,
        trials=job.config.trials,
    )


def checked(job: Job) -> Job:
    """The job with those images alone that it may use, and its request with their digests.

    Raises:
        UsageError: an image is missing or damaged.
    """
    train, valid = usable_splits(job.config, job.train, job.valid)
    request = job.request | {USED: digests((*train, *valid))}
    return dataclasses.replace(job, train=train, valid=valid, request=request)


def cut(job: Job) -> tuple[LabelledCrops, LabelledCrops]:
    """The crops to learn from and to measure on, for all trials.

    Raises:
        UsageError: they are fewer than a batch.
    """
    config, attributes = job.config, job.plans[0].attributes
    crops = cut_crops(config, job.preset, attributes, job.train)
    largest = max(plan.recipe.batch_size for plan in job.plans.values())
    if len(crops) < largest:
        raise UsageError(f"{len(crops)} training images are fewer than one batch of {largest}")
    return crops, cut_crops(config, job.preset, attributes, job.valid)


def finish(job: Job, lease: Lease, record: RunRecord) -> int:
    """Results of a search whose trials are all over: 0 if there is a best one, else 1.

    Raises:
        RunError: the lease was lost.
        StorageError: Something could not be written.
    """
    lease.check()
    trials = job.trials()
    for trial in trials:  # a kill may have come between a trial's last word and this
        storage.delete_tree(checkpoints_of(job.output, trial.number))
    code = write_results(job, trials)
    record.note("finished", exit_code=code)
    return code


def write_results(job: Job, trials: Sequence[Trial]) -> int:
    """Table, picture, and the best settings; the first and the last are also logged.

    The result is 1, and there is the table alone, where no trial could be trained.
    """
    metric = job.metric
    _put(job, "trials.parquet", results_parquet(trials, metric))
    _say(results_table(trials, metric))
    best = best_of(trials, metric)
    if best is None:
        log.error(
            "no trial could be trained (%s): choose another --space or other flags, and another"
            " --output",
            trials[0].reason,
        )
        return 1
    picture = search_picture(
        {name: points(trials, name, metric) for name in sorted(job.space)},
        logarithmic={name for name, form in job.space.items() if isinstance(form, LogUniform)},
        score=f"valid {metric}",
    )
    _put(job, "search.png", picture)
    text = best_settings(job, best, len(trials))
    _put(job, "best.toml", text.encode())
    _say(text)
    return 0


def best_settings(job: Job, best: Trial, num_trials: int) -> str:
    """``best.toml``: the best trial's settings as a preset, and its training as a command."""
    output = job.config.output.rstrip("/") + "/best"
    chosen = trial_config(job.config, best.settings, output)
    settings = {name: value for name, value in given(chosen).items() if name in settable()}
    score, epoch = best.best(job.metric) or (0.0, 0)
    return (
        f"# trial {best.name} of {num_trials}: valid_{job.metric} {score:.4f} at epoch {epoch}\n"
        f"# {train_command(chosen)}\n"
        f"{as_toml(settings)}"
    )


def _put(job: Job, name: str, data: bytes) -> None:
    storage.write_bytes(storage.join(job.output, name), data)


def _say(text: str) -> None:
    for line in text.splitlines():
        log.info("%s", line)


def tune(config: TuneConfig) -> int:
    """Run the job; 0 when all trials came to an end, 1 when none of them could be trained.

    Raises:
        UsageError: the request is wrong, or another than the output's; nothing was run.
        RunError: not all trials came to an end; what is done is kept.
    """
    job = plan_job(config)
    storage.check_writable(job.output)
    check_search(job.output, job.request)
    trials = job.trials()
    log.info("%d trials, %d of them over", len(trials), sum(t.is_over for t in trials))
    if not all(trial.is_over for trial in trials):
        return run_missing(job)
    with hold_lease(job.output) as lease, record_of(job, lease) as record:
        return finish(job, lease, record)
