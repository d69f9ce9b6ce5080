"""How long a training on Ray Train may get nowhere: asked in Ray Train's controller.

What these callbacks raise there ends the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import (
    ControllerCallback,
    ReportCallback,
    WorkerGroupCallback,
)
from ray.train.v2._internal.execution.controller.state import (
    InitializingState,
    ReschedulingState,
    RestartingState,
    SchedulingState,
    TrainControllerState,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus
from ray.train.v2.api.exceptions import ControllerError

from fattr.errors import FattrError, RunError
from fattr.on_ray.mailbox import Sender

FAILURES_WITHOUT_PROGRESS = 5  # in a row, then the run ends
OWN_ERRORS_WITHOUT_PROGRESS = 2  # the same of errors that fattr raises: these seldom go away
LOOK_EVERY_S = 5.0  # whether the driver wants the run to end

SAY_EVERY_S = 60.0  # that there is no room
WITHOUT_ROOM_S = 1800.0  # then the run ends
PAUSE_S = 0.5

WAITING = (InitializingState, SchedulingState, ReschedulingState, RestartingState)


def own_error(worker_exceptions: Mapping[int, Exception]) -> FattrError | None:
    """What fattr itself raised, where all workers that failed did."""
    own = [error for error in worker_exceptions.values() if isinstance(error, FattrError)]
    return own[0] if own and len(own) == len(worker_exceptions) else None


def last_line(error: BaseException) -> str:
    """What an error says at its end, or what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


class _Wish:
    """The driver's wish that the run ends, asked every few seconds."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._next_look = -math.inf

    def heed(self, now: float) -> None:
        """End the run if it is to end; ``now`` is in seconds.

        Raises:
            RunError: It is, with the driver's reason.
        """
        if now < self._next_look:
            return
        self._next_look = now + LOOK_EVERY_S
        if words := self._sender.asked_to_stop():
            raise RunError(words)


class Patience(WorkerGroupCallback, ReportCallback):
    """Ends a run that fails again and again without getting any further, or that shall end.

    Ray Train's own limit counts all failures of a run, however long it goes on well in between.
    Here a group of workers fails once, however often it is looked at: while a node is being taken
    back, Ray looks again and again at the workers it had. Such a preemption is no failure.
    """

    def __init__(self, sender: Sender, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._sender, self._clock, self._wish = sender, clock, _Wish(sender)
        self._failures, self._is_told = 0, False

    def after_worker_group_start(self, worker_group: object) -> None:
        """A new group has not failed yet."""
        self._is_told = False

    def after_report(self, training_report: Any, metrics: object) -> None:  # noqa: ANN401
        """Progress, if there is a new checkpoint."""
        if training_report.checkpoint:
            self._failures = 0

    def after_worker_group_poll_status(self, worker_group_status: WorkerGroupPollStatus) -> None:
        """Raise what the workers raised, or died of, if it is enough; else say it, once.

        Raises:
            FattrError: The run must end.
        """
        self._wish.heed(self._clock())
        if not worker_group_status.errors or self._is_told:
            return
        self._is_told = True
        self._judge(worker_group_status)

    def _judge(self, status: WorkerGroupPollStatus) -> None:
        errors, what = status.errors, "failed"
        reason, own = last_line(next(iter(errors.values()))), own_error(errors)
        # Where one worker is taken away, the others fail for want of it.
        if status.has_preempted_worker() or status.get_preemption_info():
            what = "were lost with a node that was taken back"
        else:
            self._failures += 1
        if self._failures >= (OWN_ERRORS_WITHOUT_PROGRESS if own else FAILURES_WITHOUT_PROGRESS):
            raise own or RunError(
                f"training failed {self._failures} times without getting on: {reason}"
            )
        self._sender.post(
            f"{len(errors)} of the workers {what} ({reason}): all begin again at the newest"
            " checkpoint, once there is room for them"
        )


class RoomWatch(ControllerCallback):
    """Says that no group of workers can begin, and ends the run at last, or when it shall end.

    Ray Train waits for ever without a word, and where it counts on more nodes it asks for them
    without a pause, on a whole core; so it tries again where a group fails to begin at once.

    Args:
        sender: For what is said.
        least: So many workers make a group.
        room: Says what the cluster has.
        clock: Seconds.
    """

    def __init__(
        self,
        sender: Sender,
        *,
        least: int,
        room: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sender, self._least, self._room, self._clock = sender, least, room, clock
        self._wish = _Wish(sender)
        self._since: float | None = None
        self._said = 0.0

    def after_controller_state_update(
        self, previous_state: TrainControllerState, current_state: TrainControllerState
    ) -> None:
        """At each step of Ray Train's.

        Raises:
            RunError: It has waited long enough, or the driver wants no more of it.
        """
        if not isinstance(current_state, WAITING):
            self._since = None
            return
        now = self._clock()
        self._wish.heed(now)
        if self._since is None:
            self._since = self._said = now
        if now - self._since >= WITHOUT_ROOM_S:
            raise RunError(
                f"no {self._least} workers could begin in {WITHOUT_ROOM_S / 60:g} minutes:"
                f" {self._room()}{_why(current_state)}; add nodes, or run the same command with"
                " fewer --workers: what is done is kept"
            )
        if now - self._said >= SAY_EVERY_S:
            self._said = now
            self._sender.post(
                f"waiting for {self._least} workers: {self._room()}{_why(current_state)}"
            )
        is_failed = isinstance(current_state, ReschedulingState)
        if is_failed or type(current_state) is type(previous_state):
            time.sleep(PAUSE_S)


def room_of(resource: str) -> str:
    """How many CPUs or GPUs the cluster of this session has, in words."""
    there, free = (
        found.get(resource, 0) for found in (ray.cluster_resources(), ray.available_resources())
    )
    return f"the cluster has {there:g} {resource}s, {free:g} of them free"


def _why(state: TrainControllerState) -> str:
    """What ended the workers that were about to begin, if anything did."""
    error = getattr(state, "training_failed_error", None)
    if not isinstance(state, ReschedulingState) or not isinstance(error, ControllerError):
        return ""
    return f" (the last try: {last_line(error.controller_failure)})"
