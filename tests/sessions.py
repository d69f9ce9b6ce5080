"""A command of which no process is left, whatever becomes of the test that runs it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def started(argv: Sequence[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """It runs in a session of its own, which Ray's processes share, and what is left is killed.

    Ctrl-C reaches it even where this process was started in the background, which ignores it.
    """
    heeding = ["env", "--default-signal=INT", *argv]
    with subprocess.Popen(
        heeding, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            for number in _members(process.pid):
                with suppress(ProcessLookupError):  # it went with another
                    os.kill(number, signal.SIGKILL)


def _members(session: int) -> list[int]:
    """The processes of a session, its leader first."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(ValueError, ProcessLookupError):  # no process, or one that just ended
            if os.getsid(int(entry.name)) == session:
                found.append(int(entry.name))
    return sorted(found, key=lambda number: number != session)
