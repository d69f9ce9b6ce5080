"""A search on Ray Tune: trainings of one worker each, of which ASHA ends the worse ones early."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray.cloudpickle
import ray.tune
import torch
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune import TuneError
from ray.tune.schedulers import ASHAScheduler
from torch import nn

from fattr import storage
from fattr.errors import CannotTrainError, FattrError, RunError, UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.patience import last_line
from fattr.runs.checkpoints import CheckpointStore, name_of
from fattr.train.context import Group
from fattr.train.loop import fit
from fattr.train.plan import TrainPlan
from fattr.tuning.room import Room
from fattr.tuning.trials import REQUEST, State, Trial, checkpoints_of

RETRIES = 3  # of a trial whose process was lost or whose code failed, from its newest checkpoint
AGAIN = "what is done is kept: run the same command again"
# Ray's words where a process ended by itself: not with its node, nor only out of reach. Its error
# keeps no other sign of it.
PROCESS_DIED = "its worker process has died"
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
FAILURE = "failure"  # instead of an epoch's figures: why these settings cannot be trained


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What all trials of a search share.

    Attributes:
        output: Its URI; all nodes must see it.
        plans: What each trial trains, by its number.
        room: How many run at once, and what each holds.
        grace_epochs: No trial is ended before.
        reduction: One of so many goes on at each rung.
        num_processes: That make the batches of each trial.
    """

    output: str
    plans: Mapping[int, TrainPlan]
    room: Room
    grace_epochs: int
    reduction: int
    num_processes: int = 0

    @property
    def metric(self) -> str:
        """What trials are compared by; equal for all."""
        return self.plans[min(self.plans)].recipe.best_metric

    @property
    def max_epochs(self) -> int:
        """Of the longest trial."""
        return max(plan.recipe.epochs for plan in self.plans.values())

    def store(self, number: int) -> CheckpointStore:
        """Where a trial's checkpoints are."""
        return CheckpointStore(
            checkpoints_of(self.output, number),
            num_best=0,
            metric=f"valid_{self.metric}",
            lower_is_better=self.metric == "loss",
        )


class TuneContext(Group):
    """``train.context.TrainContext`` of a trial's only worker."""

    rank, world_size = 0, 1

    def __init__(self, store: CheckpointStore, device: torch.device) -> None:
        self._store, self.device = store, device

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        return model.to(self.device)

    def checkpoints(self) -> Iterator[Path]:
        """See ``TrainContext``."""
        return self._store.folders()

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``.

        The epoch is told first, and put down before this goes on: a checkpoint is never ahead of
        the trial's record, and a trial that ends here leaves none.

        Raises:
            RunError: The checkpoint could not be written.
        """
        try:
            if metrics:
                ray.tune.report(dict(metrics))
            if checkpoint:
                self._store.put(name_of(checkpoint), checkpoint, metrics)
        finally:
            if checkpoint:
                shutil.rmtree(checkpoint)


def _run_trial(
    config: Mapping[str, Any], *, search: Search, train: LabelledCrops, valid: LabelledCrops
) -> None:
    """One trial, in its process; Tune gives the number."""
    if not storage.exists(storage.join(search.output, REQUEST)):
        raise UsageError(
            f"--output {search.output} is not on all nodes of the cluster: give an s3:// URI or a"
            " folder that they share"
        )
    number = config["number"]
    torch.set_num_threads(search.room.num_threads)
    device = torch.device("cuda" if search.room.gpus else "cpu")
    context = TuneContext(search.store(number), device)
    try:
        fit(context, search.plans[number], train, valid, num_processes=search.num_processes)
    except CannotTrainError as err:
        ray.tune.report({f"valid_{search.metric}": math.nan, FAILURE: str(err)})


class _Asha(ASHAScheduler):
    """ASHA that knows what trials did in earlier runs of the search, though Tune does not."""

    def __init__(self, past: Sequence[Trial], **options: Any) -> None:  # noqa: ANN401
        super().__init__(**options)
        self._past = {trial.number: trial for trial in past}
        for trial in past:
            if trial.is_over:
                self._replay(SimpleNamespace(trial_id=f"over-{trial.name}"), trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:  # noqa: ANN401
        """A trial that goes on has its place on the rungs that it reached before."""
        self._replay(trial, self._past[trial.config["number"]])

    def _replay(self, trial: Any, past: Trial) -> None:  # noqa: ANN401
        nobody: Any = None  # ASHA asks nothing of Tune's controller
        super().on_trial_add(nobody, trial)
        for row in past.history:
            self.on_trial_result(nobody, trial, dict(row))


class _Recorder(ray.tune.Callback):
    """Turns Tune's events into the states of trials.

    Attributes:
        trials: As they were last put down, by their numbers.
        hindrances: Why trials could not be run to their end that are not at fault themselves.
        error: What ``on_change`` raised, if it did: the search ends with it. Tune would tell of it
            as a traceback's text, or try the trial again.
    """

    def __init__(
        self,
        plans: Mapping[int, TrainPlan],
        trials: Sequence[Trial],
        on_change: Callable[[Trial], None],
    ) -> None:
        self.trials = {trial.number: trial for trial in trials}
        self.hindrances: set[str] = set()
        self._hindered: set[int] = set()  # trials that met one in this run
        self.error: Exception | None = None
        self._plans, self._on_change = plans, on_change

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles it for a restore that is never done, and a lease cannot be."""
        return {}

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401
        result: dict[str, Any],
        **info: Any,  # noqa: ANN401
    ) -> None:
        """An epoch's figures, a failure, or the scheduler's word that this was the last epoch."""
        number = trial.config["number"]
        if FAILURE in result:
            self._change(self.trials[number].ended(State.FAILED, result[FAILURE]))
            return
        row = {name: value for name, value in result.items() if name in self._names(result)}
        changed = self.trials[number].with_epoch(row)
        if result.get("done") and changed.epochs < self._plans[number].recipe.epochs:
            changed = changed.ended(State.STOPPED)
        self._change(changed)

    @staticmethod
    def _names(result: Mapping[str, Any]) -> set[str]:
        """The figures that are the loop's, without those that Tune adds."""
        own = ("epoch", "learning_rate", "seconds", "data_wait_share")
        return {name for name in result if name in own or name.startswith(("train_", "valid_"))}

    def on_trial_complete(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401
        **info: Any,  # noqa: ANN401
    ) -> None:
        """It ran to its end, unless it is known that it did not."""
        known = self.trials[trial.config["number"]]
        if not known.is_over:
            self._change(known.ended(State.FINISHED))

    def on_trial_recover(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401
        **info: Any,  # noqa: ANN401
    ) -> None:
        """It is tried again."""
        self._blame(trial)

    def on_trial_error(
        self,
        iteration: int,
        trials: list[Any],
        trial: Any,  # noqa: ANN401
        **info: Any,  # noqa: ANN401
    ) -> None:
        """It is not tried again; it failed, if each time it was at fault itself."""
        number, reason = trial.config["number"], self._blame(trial)
        if reason and number not in self._hindered:
            self._change(self.trials[number].ended(State.FAILED, reason))

    def _blame(self, trial: Any) -> str:  # noqa: ANN401
        """Why it is at fault; empty where it is not, which is put down."""
        if trial.pickled_error_file is None:  # no failure of its process: Tune's own
            return ""
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        reason = _fault_of_its_own(error)
        if not reason:
            self._hindered.add(trial.config["number"])
            self.hindrances.add(last_line(error))
        return reason

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ANN401
        """End the search where an event's change could not be put down."""
        if self.error:
            raise self.error

    def _change(self, trial: Trial) -> None:
        if self.error:  # what came before is not known: nothing more is
            return
        try:
            self._on_change(trial)
        except Exception as err:
            self.error = err
            raise
        self.trials[trial.number] = trial


def _fault_of_its_own(error: Exception) -> str:
    """Why a trial that failed is at fault; empty where a node, storage or data are."""
    if isinstance(error, RayActorError):
        if PROCESS_DIED not in str(error):
            return ""
        return f"its process died, the last of {RETRIES + 1} failures: out of memory, or a crash"
    if isinstance(error, RayTaskError) and not isinstance(error.cause, FattrError):
        return last_line(error)
    return ""


def search_on_ray(
    search: Search,
    trials: Sequence[Trial],
    train: LabelledCrops,
    valid: LabelledCrops,
    on_change: Callable[[Trial], None],
) -> list[Trial]:
    """Run, within a Ray session, the trials that are not over, from their newest checkpoints on.

    Args:
        search: What they share.
        trials: All of them; those that are over count in ASHA's decisions.
        train: Faces to learn from; they go to the object store once.
        valid: Faces to measure on.
        on_change: Gets a trial whenever its state is another, in this process.

    Returns:
        All trials as they are now.

    Raises:
        RunError: Some could not be run to their end, or Ray failed; what they did is kept.
        Exception: What ``on_change`` raised, which ends the search.
    """
    if all(trial.is_over for trial in trials):
        return list(trials)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    recorder = _Recorder(search.plans, trials, on_change)
    with (
        _ending(recorder),
        tempfile.TemporaryDirectory(prefix="fattr-tune-") as scratch,
        contextlib.redirect_stdout(io.StringIO()),  # Tune prints where it is, however silent
    ):
        trainable = ray.tune.with_parameters(_run_trial, search=search, train=train, valid=valid)
        _tuner(search, trials, trainable, recorder, scratch).fit()
    now = [recorder.trials[trial.number] for trial in trials]
    if left := [trial for trial in now if not trial.is_over]:
        said = "; ".join(sorted(recorder.hindrances)) or "interrupted"
        raise RunError(f"{len(left)} of {len(now)} trials did not end ({said}); {AGAIN}")
    return now


@contextlib.contextmanager
def _ending(recorder: _Recorder) -> Iterator[None]:
    """What ``on_change`` raised; else errors of Ray, or of the system, as one line."""
    try:
        yield
    except (RayError, TuneError, RuntimeError, OSError) as err:
        if recorder.error:
            raise recorder.error from None
        said = _said_of(err)
        if not said:
            raise
        raise RunError(f"{said}; {AGAIN}") from err


def _said_of(error: Exception) -> str:
    """What ended a search, in words; empty for a bug.

    Tune wraps some of Ray's errors in others that name them in their text alone, and some of Ray's
    are the system's too.
    """
    for cause in (error, error.__cause__, error.__context__):
        if isinstance(cause, OutOfMemoryError):
            return (
                "Ray ended a trial for want of memory: lower --concurrent or the space's batch_size"
            )
        if isinstance(cause, RayError):
            return f"the Ray engine failed: {last_line(cause)}"
    if not isinstance(error, OSError):
        return ""
    if error.errno in UNWRITABLE or error.filename:
        return f"cannot write in {tempfile.gettempdir()}: {storage.words_of(error)}"
    return f"the search failed: {storage.words_of(error)}"


def _tuner(
    search: Search,
    trials: Sequence[Trial],
    trainable: Callable[..., None],
    recorder: _Recorder,
    scratch: str,
) -> ray.tune.Tuner:
    """Tune's own files go to ``scratch``, to be thrown away."""
    asha = _Asha(
        trials,
        time_attr="epoch",
        metric=f"valid_{search.metric}",
        mode="min" if search.metric == "loss" else "max",
        max_t=search.max_epochs,
        grace_period=search.grace_epochs,
        reduction_factor=search.reduction,
        stop_last_trials=False,
    )
    numbers = [trial.number for trial in trials if not trial.is_over]
    held = {"cpu": search.room.cpus, "gpu": search.room.gpus}
    return ray.tune.Tuner(
        ray.tune.with_resources(trainable, held),
        param_space={"number": ray.tune.grid_search(numbers)},
        tune_config=ray.tune.TuneConfig(
            scheduler=asha, max_concurrent_trials=search.room.num_trials, reuse_actors=True
        ),
        run_config=ray.tune.RunConfig(
            name="tune",
            storage_path=scratch,
            failure_config=ray.tune.FailureConfig(max_failures=RETRIES),
            callbacks=[recorder],
            verbose=0,
        ),
    )
