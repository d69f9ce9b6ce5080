"""A search on Ray Tune, with every trial trained without Ray and to its end as the oracle."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import threading
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import ray.cloudpickle
import torch
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    RpcError,
)
from ray.tune import TuneError

from fattr.attributes import PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.errors import RunError, StorageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray import tune
from fattr.on_ray.tune import Search, search_on_ray
from fattr.runs.checkpoints import CheckpointStore, name_of
from fattr.train.context import LocalContext
from fattr.train.loop import fit
from fattr.train.plan import Recipe, TrainPlan
from fattr.tuning.room import Room
from fattr.tuning.trials import State, Trial, begin_search

EPOCHS = 4
RATES = (3e-2, 1e-6, 1e-5, 1e-2, 3e-6, 1e-4, 3e-5, 1e-7)  # 0.03 and 0.01 alone get anywhere
ROOM = Room(num_trials=2, cpus=1.0, gpus=0.0, num_threads=1)
PLAN = TrainPlan(
    backbone="tiny",
    attributes=(attribute("smiling"), PERCEIVED_GENDER_PRESENTATION),
    seed=3,
    init_weights=None,
    recipe=Recipe(
        augmentation="none", epochs=EPOCHS, batch_size=8, learning_rate=1e-2, ema_decay=0.8
    ),
)


def coloured(n, seed):
    """Red or blue tells one attribute, bright or dark another."""
    rng = np.random.default_rng(seed)
    is_red, is_bright = rng.integers(0, 2, (2, n))
    crops = rng.integers(0, 60, (n, 32, 24, 3))
    crops[np.arange(n), :, :, np.where(is_red, 0, 2)] += (80 + 100 * is_bright)[:, None, None]
    targets = np.stack([is_red, is_bright], axis=1).astype(np.int64)
    found = np.ones(n, bool)
    return LabelledCrops(crops.astype(np.uint8), targets, found, found.astype(np.float32), {})


@pytest.fixture(scope="module")
def crops():
    return coloured(80, 0), coloured(60, 1)


def plan_with(rate, **changes):
    recipe = dataclasses.replace(PLAN.recipe, learning_rate=rate, **changes)
    return dataclasses.replace(PLAN, recipe=recipe)


@dataclasses.dataclass
class Heard(LocalContext):
    """Keeps what is reported."""

    scores: list = dataclasses.field(default_factory=list)

    def report(self, metrics, checkpoint):
        self.scores.append(metrics["valid_score"])
        super().report(metrics, checkpoint)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As each trial has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def alone(rate, crops, folder):
    """The scores after each epoch without Ray."""
    context = Heard(folder)
    fit(context, plan_with(rate), *crops)
    return context.scores


@pytest.fixture(scope="module")
def scores_of_first(crops, tmp_path_factory):
    return alone(RATES[0], crops, tmp_path_factory.mktemp("alone"))


def search_of(output, plans, **changes):
    begin_search(output, {})
    options = {"room": ROOM, "grace_epochs": 1, "reduction": 2} | changes
    return Search(output=output, plans=dict(enumerate(plans)), **options)


def fresh(rates):
    return [Trial(number=n, settings={"learning_rate": rate}) for n, rate in enumerate(rates)]


@pytest.mark.drills
@pytest.mark.ray
def test_the_planted_learning_rate_is_found_with_less_work(ray_cluster, crops, tmp_path):
    scores_without_ray = [alone(rate, crops, tmp_path / f"alone/{rate}") for rate in RATES]
    search = search_of((tmp_path / "search").as_uri(), [plan_with(rate) for rate in RATES])
    seen = []
    ended = search_on_ray(search, fresh(RATES), *crops, seen.append)
    for trial, scores in zip(ended, scores_without_ray, strict=True):
        assert trial.scores("score") == scores[: trial.epochs]
    best = max(ended, key=lambda trial: trial.best("score")[0])
    assert best.settings["learning_rate"] in (3e-2, 1e-2)
    assert best.best("score")[0] == max(map(max, scores_without_ray))
    assert best.state == State.FINISHED
    assert any(trial.state == State.STOPPED for trial in ended)
    assert sum(trial.epochs for trial in ended) < EPOCHS * len(RATES) * 3 / 4
    assert {trial.number: trial for trial in seen} == {trial.number: trial for trial in ended}


class KilledError(Exception):
    """A process that is no more."""


@dataclasses.dataclass
class KilledInSecondEpoch(Heard):
    """Puts its first checkpoint into a trial's store, and is gone before the second."""

    store: CheckpointStore | None = None

    def report(self, metrics, checkpoint):
        if self.scores:
            raise KilledError
        self.scores.append(metrics["valid_score"])
        self.store.put(name_of(checkpoint), checkpoint, metrics)


@pytest.fixture(params=["disk", "s3"])
def output(request, tmp_path):
    return tmp_path.as_uri() if request.param == "disk" else request.getfixturevalue("s3_bucket")


@pytest.mark.drills
@pytest.mark.ray
def test_a_trial_goes_on_where_it_was_killed(output, ray_cluster, crops, scores_of_first, tmp_path):
    plan = plan_with(RATES[0])
    search = search_of(output, [plan, plan])
    with pytest.raises(KilledError):
        fit(KilledInSecondEpoch(tmp_path / "unused", store=search.store(1)), plan, *crops)
    rows = enumerate(scores_of_first[:2], start=1)
    history = tuple({"epoch": float(epoch), "valid_score": score} for epoch, score in rows)
    settings = {"learning_rate": RATES[0]}
    over = Trial(number=0, settings=settings, state=State.STOPPED, history=history[:1])
    cut = Trial(number=1, settings=settings, state=State.RUNNING, history=history)
    seen = []
    ended = search_on_ray(search, [over, cut], *crops, seen.append)
    assert ended[0] == over
    assert [(trial.number, trial.epochs) for trial in seen] == [(1, 2), (1, 3), (1, 4), (1, 4)]
    assert ended[1].scores("score") == scores_of_first
    assert ended[1].state == State.FINISHED
    assert len(search.store(1).names()) == 2


@pytest.mark.full
@pytest.mark.ray
def test_a_killed_process_costs_its_trial_nothing(
    ray_cluster, crops, scores_of_first, tmp_path, monkeypatch
):
    killed = []

    class Killer(tune._Recorder):
        def on_trial_result(self, iteration, trials, trial, result, **info):
            super().on_trial_result(iteration, trials, trial, result, **info)
            if result["epoch"] == 3 and not killed:
                killed.append(result["pid"])
                os.kill(result["pid"], signal.SIGKILL)

    monkeypatch.setattr(tune, "_Recorder", Killer)
    search = search_of(tmp_path.as_uri(), [plan_with(RATES[0])])
    seen = []
    (ended,) = search_on_ray(search, fresh(RATES[:1]), *crops, seen.append)
    assert killed
    assert [trial.epochs for trial in seen] == [1, 2, 3, 3, 4, 4]
    assert ended.scores("score") == scores_of_first


@pytest.mark.ray
def test_settings_that_cannot_be_trained_fail_alone(ray_cluster, crops, tmp_path):
    search = search_of(tmp_path.as_uri(), [plan_with(1e30), plan_with(1e-2, epochs=1)])
    broken, good = search_on_ray(search, fresh((1e30, 1e-2)), *crops, lambda trial: None)
    assert broken.state == State.FAILED
    assert broken.reason.startswith("the loss became NaN or infinite by epoch 1: lower --learning-")
    assert broken.history == ()
    assert (good.state, good.epochs) == (State.FINISHED, 1)


@pytest.mark.drills
@pytest.mark.ray
def test_a_trial_that_always_fails_by_itself_ends_alone(ray_cluster, crops, tmp_path, monkeypatch):
    run_trial = tune._run_trial

    def broken(config, **shared):
        match config["number"]:
            case 0:
                os._exit(1)
            case 1:
                raise ValueError("a bug")
            case 2:
                raise RunError("a process that makes batches failed")
        run_trial(config, **shared)

    monkeypatch.setattr(tune, "_run_trial", broken)
    monkeypatch.setattr(tune, "RETRIES", 1)
    search = search_of(tmp_path.as_uri(), [plan_with(1e-2, epochs=1)] * 4)
    ended = {}
    with pytest.raises(RunError) as caught:
        search_on_ray(search, fresh([1e-2] * 4), *crops, lambda t: ended.update({t.number: t}))
    assert str(caught.value) == (
        "1 of 4 trials did not end (fattr.errors.RunError: a process that makes batches failed);"
        " what is done is kept: run the same command again"
    )
    assert {number: (trial.state, trial.reason) for number, trial in ended.items()} == {
        0: (State.FAILED, "its process died, the last of 2 failures: out of memory, or a crash"),
        1: (State.FAILED, "ValueError: a bug"),
        3: (State.FINISHED, ""),
    }


class Full:
    """Storage that refuses trials in one state; like a lease, it cannot be pickled."""

    def __init__(self, state):
        self.state, self.put, self.lock = state, [], threading.Lock()

    def __call__(self, trial):
        if trial.state == self.state:
            raise StorageError("unavailable", "s3://b/trial.json", "503")
        self.put.append(trial)


@pytest.mark.drills
@pytest.mark.ray
@pytest.mark.parametrize(
    ("state", "num_put"),
    [(State.RUNNING, 0), (State.FINISHED, 1)],
)
def test_a_trial_that_cannot_be_put_down_ends_the_search(
    ray_cluster, crops, tmp_path, state, num_put
):
    """Tune makes a traceback's text of the one, and tries the trial again at the other."""
    search = search_of(tmp_path.as_uri(), [plan_with(1e-2, epochs=1)])
    storage = Full(state)
    with pytest.raises(StorageError, match=r"^s3://b/trial.json: unavailable: 503$"):
        search_on_ray(search, fresh([1e-2]), *crops, storage)
    assert len(storage.put) == num_put


def test_after_a_change_that_was_not_put_down_nothing_is():
    """Else an end would be, without the last epoch's figures."""
    storage = Full(State.RUNNING)
    (waiting,) = fresh([1e-2])
    recorder = tune._Recorder({0: PLAN}, [waiting], storage)
    trial = SimpleNamespace(config={"number": 0})
    recorder.on_step_end(0, [])
    with pytest.raises(StorageError):
        recorder.on_trial_result(0, [], trial, {"epoch": 4, "valid_score": 0.5})
    recorder.on_trial_complete(0, [], trial)
    assert recorder.trials == {0: waiting}
    assert storage.put == []
    with pytest.raises(StorageError):
        recorder.on_step_end(0, [])


def test_a_search_with_nothing_missing_starts_nothing(crops, tmp_path):
    over = [trial.ended(State.FAILED, "NaN") for trial in fresh(RATES[:2])]
    search = search_of(tmp_path.as_uri(), [PLAN, PLAN])
    assert search_on_ray(search, over, *crops, lambda trial: None) == over


def wrapped(error, inside):
    """An error as Ray's actor manager, or Tune's controller, raises it."""
    try:
        try:
            raise inside
        except RayError as err:
            raise error from (err if isinstance(error, RuntimeError) else None)
    except (RuntimeError, TuneError) as err:
        return err


AGAIN = "; what is done is kept: run the same command again"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RpcError("the head is\nnot there"), "the Ray engine failed: not there"),
        (
            wrapped(RuntimeError("Caught unexpected exception"), OutOfMemoryError("killed")),
            "Ray ended a trial for want of memory: lower --concurrent or the space's batch_size",
        ),
        (wrapped(TuneError("a traceback"), RpcError("lost")), "the Ray engine failed: lost"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/tmp/fattr-tune-1/error.pkl"),
            "cannot write in /scratch: No space left on device",
        ),
        (
            OSError(errno.EDQUOT, "of a message alone"),
            "cannot write in /scratch: Disk quota exceeded",
        ),
        (
            OSError(errno.EIO, "I/O error", "/tmp/fattr-tune-1/error.pkl"),
            "cannot write in /scratch: Input/output error",
        ),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "the search failed: Connection refused"),
        (GetTimeoutError("Get timed out"), "the Ray engine failed: Get timed out"),
    ],
)
def test_what_ray_or_its_files_fail_with_is_one_line(error, said, crops, tmp_path, monkeypatch):
    def fit():
        raise error

    monkeypatch.setattr(tune, "_tuner", lambda *_: SimpleNamespace(fit=fit))
    monkeypatch.setattr(tune.ray.tune, "with_parameters", lambda *_, **__: None)
    monkeypatch.setattr(tune.tempfile, "gettempdir", lambda: "/scratch")
    monkeypatch.setattr(tune.tempfile, "TemporaryDirectory", lambda **_: nullcontext(tmp_path))
    search = search_of(tmp_path.as_uri(), [PLAN])
    with pytest.raises(RunError) as caught:
        search_on_ray(search, fresh(RATES[:1]), *crops, lambda trial: None)
    assert str(caught.value) == said + AGAIN


@pytest.mark.parametrize("bug", [TuneError("a bug"), RuntimeError("a bug")])
def test_a_bug_is_told_as_such(bug):
    recorder = tune._Recorder({}, [], print)
    with pytest.raises(type(bug), match="a bug"), tune._ending(recorder):
        raise bug


def died(words):
    """As Ray makes it from what its head says of an actor."""
    said = ActorDiedErrorContext(actor_id=bytes(16), error_message=words)
    return ActorDiedError(cause=said)


NODE_DIED = "The actor died because its node has died. Node Id: 1\nit was terminated"
WORKER_DIED = "The actor is dead because its worker process has died. Worker exit type: SYSTEM"
CRASH = "its process died, the last of 4 failures: out of memory, or a crash"


@pytest.mark.parametrize(
    ("earlier", "last", "state", "hindrances"),
    [
        ([], died(NODE_DIED), State.WAITING, {"it was terminated"}),
        ([], ActorUnavailableError("no answer", None), State.WAITING, None),
        ([], died(WORKER_DIED), State.FAILED, set()),
        ([died(WORKER_DIED)], died(WORKER_DIED), State.FAILED, set()),
        ([died(NODE_DIED)], died(WORKER_DIED), State.WAITING, {"it was terminated"}),
        ([], RayTaskError("f", "ValueError: a bug", ValueError("a bug")), State.FAILED, set()),
    ],
)
def test_a_node_that_dies_is_no_fault_of_a_trial(tmp_path, earlier, last, state, hindrances):
    (waiting,) = fresh([1e-2])
    recorder = tune._Recorder({0: PLAN}, [waiting], lambda trial: None)
    path = tmp_path / "error.pkl"  # as Tune leaves it
    trial = SimpleNamespace(config={"number": 0}, pickled_error_file=str(path))
    for error in earlier:
        path.write_bytes(ray.cloudpickle.dumps(error))
        recorder.on_trial_recover(0, [], trial)
    path.write_bytes(ray.cloudpickle.dumps(last))
    recorder.on_trial_error(0, [], trial)
    assert recorder.trials[0].state == state
    if hindrances is not None:
        assert recorder.hindrances == hindrances
    if isinstance(last, ActorDiedError) and state == State.FAILED:
        assert recorder.trials[0].reason == CRASH


@pytest.mark.drills
@pytest.mark.ray
def test_an_output_that_a_node_does_not_see_ends_the_search(
    ray_cluster, crops, tmp_path, monkeypatch
):
    monkeypatch.setattr(tune, "RETRIES", 0)
    search = search_of(tmp_path.as_uri(), [plan_with(1e-2)])
    elsewhere = dataclasses.replace(search, output=(tmp_path / "elsewhere").as_uri())
    with pytest.raises(RunError, match=r"1 of 1 trials did not end \(.*is not on all nodes of the"):
        search_on_ray(elsewhere, fresh(RATES[:1]), *crops, lambda trial: None)


def test_what_earlier_runs_found_out_counts_for_later_trials():
    """By hand: of scores 0.9 and 0.8 after one epoch, half go on, so that 0.1 does not."""
    rows = [{"epoch": 1.0, "valid_score": score} for score in (0.9, 0.8)]
    past = [
        Trial(number=n, settings={}, state=State.STOPPED, history=(row,))
        for n, row in enumerate(rows)
    ]
    missing = Trial(number=2, settings={})
    trial = SimpleNamespace(trial_id="new", config={"number": 2})
    options = {"time_attr": "epoch", "metric": "valid_score", "mode": "max", "max_t": 4}
    for known, word in (([*past, missing], "STOP"), ([missing], "CONTINUE")):
        asha = tune._Asha(known, reduction_factor=2, stop_last_trials=False, **options)
        asha.on_trial_add(None, trial)
        assert asha.on_trial_result(None, trial, {"epoch": 1, "valid_score": 0.1}) == word
    asha = tune._Asha([*past, missing], reduction_factor=2, stop_last_trials=False, **options)
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, {"epoch": 1, "valid_score": 0.95}) == "CONTINUE"
