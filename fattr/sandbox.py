"""A stage in a child process, one row at a time: what crashes or hangs there costs that row only.

Knows no stage in particular. For images that have ended their process before.
"""

from __future__ import annotations

import multiprocessing
import signal
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
            ChildEndedError: the row ended the child.
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
        if isinstance(answer, str):
            self.close()
            raise ChildEndedError(f"raised {answer}")
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
        except Exception as error:
            connection.send(type(error).__name__)
            raise
        alarm.stop()
        connection.send(staged)


def try_row(row: pa.Table, sandbox: Callable[[pa.Table], pa.Table], stage: Stage) -> pa.Table:
    """What the sandbox makes of a row; one with status ``poison`` if it ends the child each time.

    ``stage`` is the same stage in this process, which never sees the bytes of such a row.
    """
    how = ""
    for _ in range(TRIES):
        try:
            return sandbox(row)
        except ChildEndedError as err:
            how = str(err)
    return stage(mark_failed(row, Status.POISON, f"its process {how} {_TIMES[TRIES]}"))
