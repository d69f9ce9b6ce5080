"""A stage in a child process, one row at a time: what crashes or hangs there costs that row only.

Knows no stage in particular. For images that have ended their process before.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import TypeAlias

import pyarrow as pa

from fattr.errors import RunError
from fattr.records import Status
from fattr.stages import Pulse, Stage, mark_failed

Build: TypeAlias = Callable[[Pulse], Stage]

TRIES = 2
START_TIMEOUT_S = 600.0  # to load the networks in
# So many images raise the same, and none gets through: it is the code. Fewer may be the odd files
# of one folder; with more, which may each cost two child processes, it is told late.
MAX_RAISED = 20
_TIMES = {1: "once", 2: "twice"}


class Alarm:
    """The kernel ends this process unless called again in time; no thread or lock can hold it up.

    A decoder in an endless loop answers to nothing else.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s

    def __call__(self) -> None:
        """Wind it up; callable from any thread."""
        signal.setitimer(signal.ITIMER_REAL, self._timeout_s)

    @staticmethod
    def stop() -> None:
        """Let the process live on."""
        signal.setitimer(signal.ITIMER_REAL, 0)


class ChildEndedError(RunError):
    """The child ended over a row; the message says how, as in ``was killed by signal 11``."""


class RaisedError(ChildEndedError):
    """The stage raised over the row, an exception of the type ``kind``."""

    def __init__(self, kind: str, trace: str) -> None:
        super().__init__(kind, trace)
        self.kind, self.trace = kind, trace

    def __str__(self) -> str:
        return f"raised {self.kind}"

    @classmethod
    def of(cls, error: Exception) -> RaisedError:
        """As told of the exception."""
        return cls(type(error).__name__, "".join(traceback.format_exception(error)))


class BugError(RunError):
    """The code, or a model, is broken; the message also says how to go on."""


class Suspicion:
    """Whether what images raise is the fault of the code: as long as none got through, it may be.

    Not to be used by several threads at once.
    """

    def __init__(self, *, is_cleared: bool = False) -> None:
        self._image_ids: defaultdict[str, set[int]] = defaultdict(set)
        self._is_cleared = is_cleared

    def clear(self) -> None:
        """An image got through."""
        self._is_cleared = True

    def raised(self, kind: str, image_id: int) -> int:
        """An image raised it; how many have, and 0 where the code is cleared."""
        if self._is_cleared:
            return 0
        self._image_ids[kind].add(image_id)
        return len(self._image_ids[kind])


def refuse_bug(kind: str, num_raised: int) -> None:
    """End a run whose code is at fault; ``num_raised`` is what ``Suspicion.raised`` told.

    Raises:
        BugError: ``MAX_RAISED`` images raised the same.
    """
    if num_raised >= MAX_RAISED:
        raise bug_found(kind, num_raised)


def bug_found(kind: str, num_raised: int) -> BugError:
    """What ends a run in which images raised the same and none got through."""
    return BugError(
        f"{num_raised} images raised {kind} and none got through: expected of a bug or a broken"
        " model, not of images; mend it and run the same command again, or, if they are all odd,"
        " leave them out by fattr annotate with --discard-unfinished and --exclude"
    )


class Sandbox:
    """``build(pulse)`` in a child process, which is started when it is needed and kept.

    Args:
        build: A function of a module, or a partial of one: the child imports it.
        image_timeout_s: From one call of ``pulse`` to the next; a row begins with one.
        start_timeout_s: For ``build``.
    """

    def __init__(
        self, build: Build, *, image_timeout_s: float, start_timeout_s: float = START_TIMEOUT_S
    ) -> None:
        self._build, self._image_timeout_s = build, image_timeout_s
        self._start_timeout_s = start_timeout_s
        self._child: tuple[multiprocessing.process.BaseProcess, Connection] | None = None

    def __call__(self, row: pa.Table) -> pa.Table:
        """What the stage makes of the row.

        Raises:
            RaisedError: the stage raised over the row.
            ChildEndedError: the row ended the child otherwise.
            RunError: the child did not start.
        """
        if self._child is None:
            self._start()
        assert self._child is not None
        _, connection = self._child
        try:
            connection.send(row)
            answer = connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise ChildEndedError(self._how_it_ended()) from None
        if isinstance(answer, RaisedError):
            self.close()
            raise answer
        return answer

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            process, connection = self._child
            connection.close()
            process.kill()
            process.join()
            self._child = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # forked threads and locks would hang
        ours, theirs = context.Pipe()
        timeouts = (self._start_timeout_s, self._image_timeout_s)
        process = context.Process(
            target=_run, args=(theirs, self._build, *timeouts), name="fattr sandbox", daemon=True
        )
        process.start()
        theirs.close()
        self._child = process, ours
        try:
            ours.recv()
        except (EOFError, ConnectionResetError):
            raise RunError(
                f"the networks could not be loaded in a child process, which"
                f" {self._how_it_ended(self._start_timeout_s)}"
            ) from None

    def _how_it_ended(self, timeout_s: float | None = None) -> str:
        assert self._child is not None
        process, _ = self._child
        process.join()
        code = process.exitcode or 0
        self.close()
        if code == -signal.SIGALRM:
            return f"took longer than {timeout_s or self._image_timeout_s:g} s"
        if code < 0:
            return f"was killed by signal {-code}"
        return f"ended with code {code}"


def _run(
    connection: Connection, build: Build, start_timeout_s: float, image_timeout_s: float
) -> None:
    """The child's life; it ends with its parent, at the latest when an alarm goes off."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    Alarm(start_timeout_s)()
    alarm = Alarm(image_timeout_s)
    stage = build(alarm)
    alarm.stop()
    connection.send("ready")
    while True:
        try:
            row = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        alarm()
        try:
            staged = stage(row)
        except Exception as error:  # noqa: BLE001 -- told to the parent, which raises it
            connection.send(RaisedError.of(error))
            return
        alarm.stop()
        connection.send(staged)


def try_row(
    row: pa.Table,
    sandbox: Stage,
    stage: Stage,
    on_raised: Callable[[RaisedError], None] = lambda _: None,
) -> pa.Table:
    """What the sandbox makes of a row; one with status ``poison`` if it ends the child each time.

    Args:
        row: One.
        sandbox: A ``Sandbox``, or what raises the same.
        stage: The same stage in this process, which never sees the bytes of such a row.
        on_raised: Told what was raised in the last try.

    Raises:
        BugError: what ``on_raised`` raises; or the stage raises even where there are no bytes.
    """
    ended = None
    for _ in range(TRIES):
        try:
            return sandbox(row)
        except ChildEndedError as err:
            ended = err
    if isinstance(ended, RaisedError):
        on_raised(ended)
    return mark_poison(row, f"its process {ended} {_TIMES[TRIES]}", stage)


def mark_poison(row: pa.Table, reason: str, stage: Stage) -> pa.Table:
    """The row with status ``poison``.

    Raises:
        BugError: the stage raises even where there are no bytes.
    """
    try:
        return stage(mark_failed(row, Status.POISON, reason))
    except Exception as error:
        raise BugError(
            f"a row without an image raised {type(error).__name__}: expected of a bug or a broken"
            " model only; mend it and run the same command again"
        ) from error
