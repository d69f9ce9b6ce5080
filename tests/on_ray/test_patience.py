"""When a training ends that gets nowhere: Ray Train's own controller over workers made up here."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace

import pytest
import ray.train
from ray.exceptions import ActorDiedError
from ray.train.v2._internal.constants import (
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
)
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import controller as controllers
from ray.train.v2._internal.execution.controller.state import ErroredState, FinishedState
from ray.train.v2._internal.execution.failure_handling import create_failure_policy
from ray.train.v2._internal.execution.preemption import PreemptionInfo
from ray.train.v2._internal.execution.scaling_policy import (
    NoopDecision,
    ResizeDecision,
    ScalingPolicy,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus
from ray.train.v2._internal.execution.worker_group.poll import WorkerStatus
from ray.train.v2._internal.util import ObjectRefWrapper

from fattr.errors import RunError
from fattr.on_ray import patience
from fattr.on_ray.patience import Patience, RoomWatch

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own, of settings from the environment


class Posted:
    """What is said, and what the driver asks for."""

    def __init__(self, stop: str = ""):
        self.lines, self._stop = [], stop

    def post(self, line):
        self.lines.append(line)

    def asked_to_stop(self):
        return self._stop


class Policy(ScalingPolicy):
    """Always room for two workers; or never any."""

    def __init__(self, scaling, has_room):
        super().__init__(scaling)
        self._has_room = has_room

    def make_decision_for_non_running_worker_group(self):
        return ResizeDecision(2, {"CPU": 1}) if self._has_room else NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state, worker_group_status):
        return NoopDecision()

    def _get_num_workers_for_resource_request(self):
        return 2

    def after_controller_start(self, train_run_context):
        pass


class Group:
    """Two workers, of whom each look finds what was written down; the last for ever."""

    def __init__(self, found, callbacks):
        self._found, self._last = iter(found), None
        self._callbacks = [c for c in callbacks if isinstance(c, Patience)]
        for callback in self._callbacks:
            callback.after_worker_group_start(self)

    def poll_status(self, timeout):
        self._last = status = next(self._found, self._last)
        for callback in self._callbacks:
            callback.after_worker_group_poll_status(status)
        return status

    def get_worker_group_state(self):
        return SimpleNamespace()

    def get_latest_poll_status(self):
        return self._last

    def get_workers(self):
        return []

    def __len__(self):
        return 2

    def shutdown(self):
        pass


def status(*errors, preemption=None, is_running=True):
    return WorkerGroupPollStatus(
        {
            rank: WorkerStatus(is_running and not error, error, None, preemption_info=preemption)
            for rank, error in enumerate(errors)
        }
    )


GOES_ON, DONE = status(None, None), status(None, None, is_running=False)


def dead(*, is_preempted):
    """As Ray tells that a worker's process is gone; anew at each look."""
    death = ActorDiedError()
    death._preempted = is_preempted
    return WorkerHealthCheckFailedError("A worker health check failed.", death)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the controller over groups of workers, as ``train.run_loop`` does."""
    monkeypatch.setenv(ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR, "0")
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
    monkeypatch.setenv(HEALTH_CHECK_INTERVAL_S_ENV_VAR, "0")
    monkeypatch.setattr(controllers, "time_seconds", itertools.count().__next__)

    def run(callbacks, groups=(), *, has_room=True):
        made = iter(groups)

        class Controller(controllers.TrainController):
            class worker_group_cls:  # noqa: N801 -- Ray's name
                @staticmethod
                def create(train_run_context, worker_group_context, callbacks):
                    found = next(made)
                    if isinstance(found, Exception):
                        raise found
                    return Group(found, callbacks)

        config = ray.train.RunConfig(
            name="run",
            storage_path=str(tmp_path),
            failure_config=ray.train.FailureConfig(max_failures=-1, controller_failure_limit=-1),
        )
        scaling = ray.train.ScalingConfig(num_workers=2)
        ours = Controller(
            ObjectRefWrapper.__new__(ObjectRefWrapper),
            TrainRunContext(
                run_config=config,
                train_loop_config=None,
                scaling_config=scaling,
                backend_config=None,
                dataset_config=None,
            ),
            Policy(scaling, has_room),
            create_failure_policy(config.failure_config),
            callbacks,
        )

        async def until_the_end():
            while not ours.get_state().is_terminal():
                await ours._run_control_loop_iteration()

        asyncio.run(until_the_end())
        return ours.get_state()

    return run


def message(state):
    assert isinstance(state, ErroredState)
    failure = state.training_failed_error.controller_failure
    assert isinstance(failure, RunError)
    return str(failure)


def test_a_node_that_is_taken_back_is_no_failure_and_told_once(run):
    """Ray looks at its dead worker until the deadline, here ten times or more."""
    notice = PreemptionInfo(deadline_ms=20_000, preempted_node_to_ranks={"node": [1]})
    looks = [status(None, dead(is_preempted=True), preemption=notice) for _ in range(15)]
    sender = Posted()
    groups = [[GOES_ON, status(None, None, preemption=notice), *looks], [GOES_ON, DONE]]
    assert isinstance(run([Patience(sender)], groups), FinishedState)
    assert sender.lines == [
        "1 of the workers were lost with a node that was taken back (The actor died unexpectedly"
        " before finishing this task.): all begin again at the newest checkpoint, once there is"
        " room for them"
    ]


def test_nodes_that_are_taken_back_without_notice_never_end_a_run(run):
    lost = [[GOES_ON, status(None, dead(is_preempted=True))] for _ in range(9)]
    sender = Posted()
    assert isinstance(run([Patience(sender)], [*lost, [GOES_ON, DONE]]), FinishedState)
    assert len(sender.lines) == 9


@pytest.mark.parametrize(
    ("error", "limit", "said"),
    [
        pytest.param(
            ValueError("a\nbug"), 5, "training failed 5 times without getting on: bug", id="bug"
        ),
        pytest.param(
            dead(is_preempted=False),
            5,
            "training failed 5 times without getting on: The actor died unexpectedly before"
            " finishing this task.",
            id="dead",
        ),
        pytest.param(RunError("no luck"), 2, "no luck", id="own"),
    ],
)
def test_failures_without_progress_end_a_run(run, error, limit, said):
    sender = Posted()
    state = run([Patience(sender)], itertools.repeat([GOES_ON, status(None, error)]))
    assert message(state) == said
    assert len(sender.lines) == limit - 1
    assert all(line.startswith("1 of the workers failed (") for line in sender.lines)


def test_a_checkpoint_is_progress():
    sender = Posted()
    asked = Patience(sender)
    for number in range(12):
        asked.after_worker_group_start(None)
        asked.after_worker_group_poll_status(status(None, ValueError("a bug")))
        asked.after_report(SimpleNamespace(checkpoint=number % 4 == 3), [])
    assert len(sender.lines) == 12


def test_a_driver_that_wants_the_end_gets_it(run):
    times = itertools.count()  # seconds, one at each look at the clock
    asked = Patience(Posted("the lease was lost"), clock=times.__next__)
    assert message(run([asked], [itertools.repeat(GOES_ON)])) == "the lease was lost"


@pytest.fixture
def pauses(monkeypatch):
    """How long each was; none is made."""
    made = []
    monkeypatch.setattr(patience.time, "sleep", made.append)
    return made


@pytest.mark.usefixtures("pauses")
def test_so_it_does_where_there_is_no_room(run):
    watch = RoomWatch(
        Posted("the lease was lost"), least=2, room=str, clock=itertools.count().__next__
    )
    assert message(run([watch], has_room=False)) == "the lease was lost"


def test_waiting_for_room_is_told_each_minute_and_ends(run, pauses):
    sender = Posted()
    watch = RoomWatch(
        sender, least=2, room=lambda: "there is none", clock=itertools.count(0, 20).__next__
    )
    assert message(run([watch], has_room=False)) == (
        "no 2 workers could begin in 30 minutes: there is none; add nodes, or run the same command"
        " with fewer --workers: what is done is kept"
    )
    assert sender.lines == ["waiting for 2 workers: there is none"] * 29
    assert len(pauses) >= 29


LATE = WorkerGroupStartupTimeoutError(2)


def test_workers_that_cannot_begin_are_told_with_the_reason(run, pauses):
    """Here each minute they fail, or begin anew; after a failure there is a pause."""
    sender = Posted()
    watch = RoomWatch(
        sender, least=2, room=lambda: "there is some", clock=itertools.count(0, 60).__next__
    )
    assert isinstance(run([watch], [LATE, LATE, LATE, [DONE]]), FinishedState)
    waiting = "waiting for 2 workers: there is some"
    assert sender.lines == [f"{waiting} (the last try: {LATE})", waiting] * 3
    assert pauses == [patience.PAUSE_S] * 3


@pytest.mark.usefixtures("pauses")
def test_workers_that_never_begin_end_the_run_with_the_reason(run):
    watch = RoomWatch(
        Posted(), least=2, room=lambda: "there is some", clock=itertools.count(0, 40).__next__
    )
    assert message(run([watch], itertools.repeat(LATE))) == (
        f"no 2 workers could begin in 30 minutes: there is some (the last try: {LATE}); add nodes,"
        " or run the same command with fewer --workers: what is done is kept"
    )


def test_only_waiting_in_a_row_counts():
    """A run that works for most of the time may wait as often as it likes."""
    states = controllers
    clock = itertools.count(0, 1000).__next__
    sender = Posted()
    watch = RoomWatch(sender, least=1, room=str, clock=clock)
    for _ in range(10):
        watch.after_controller_state_update(None, states.RestartingState(None))
        watch.after_controller_state_update(None, states.SchedulingState(None))
        watch.after_controller_state_update(None, states.RunningState())
    assert sender.lines == ["waiting for 1 workers: "] * 10
