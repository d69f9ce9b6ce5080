"""``run.json`` of a training or a search: what it is, with which versions, and how it ended."""

from __future__ import annotations

import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from fattr import storage
from fattr.build import settings_id
from fattr.commands.exit_codes import EXIT_SIGNAL, EXIT_UNFINISHED, EXIT_USAGE
from fattr.commands.outcome import problem_at
from fattr.errors import FattrError, RunError, StorageError, UsageError
from fattr.records import Status
from fattr.runs.record import RunRecord, new_run_id, versions

log = logging.getLogger(__name__)

RUN = "run.json"


def read_record(output: str) -> dict[str, Any]:
    """What ``run.json`` of an output says; empty where there is none.

    Raises:
        UsageError: it is damaged.
        StorageError: it cannot be read.
    """
    try:
        return dict(json.loads(storage.read_bytes(storage.join(output, RUN))))
    except ValueError:
        raise UsageError(f"{output}/{RUN} is damaged: choose another --output") from None
    except StorageError as error:
        if error.status != Status.MISSING or "NoSuchBucket" in error.reason:
            raise
    return {}


@contextmanager
def recorded(
    output: str,
    said: Mapping[str, Any],
    *,
    job: str,
    settings: Mapping[str, Any],
    check: Callable[[], None],
    **more: Any,  # noqa: ANN401 -- JSON
) -> Iterator[RunRecord]:
    """``run.json`` of a run that begins, or goes on; a failure is put down in it.

    Args:
        output: Its URI.
        said: What ``run.json`` says, where the run goes on.
        job: What it is a run of.
        settings: What makes two runs the same.
        check: Raises where the lease is lost: ``run.json`` is another's then, and left alone.
        more: What else is said of it from now on.

    Raises:
        RunError: the block failed; what is done is kept.
    """
    started = datetime.now(UTC)
    new = {
        "run_id": new_run_id(started),
        "job": job,
        "started": started.isoformat(),
        "settings_id": settings_id(settings),
        "settings": dict(settings),
    }
    content = (dict(said) or new) | {"versions": versions(), "exit_code": None} | more
    record = RunRecord(storage.join(output, RUN), content)
    record.note("continued" if said else "began", error=None)
    try:
        yield record
    except UsageError as error:
        _note_end(record, check, "failed", exit_code=EXIT_USAGE, error=str(error))
        raise
    except (FattrError, OSError) as error:
        problem = problem_at(error, output)
        _note_end(record, check, "failed", exit_code=EXIT_UNFINISHED, error=problem)
        raise RunError(problem) from error
    except (KeyboardInterrupt, SystemExit) as stop:  # SIGTERM is an exit
        number = signal.SIGINT if isinstance(stop, KeyboardInterrupt) else signal.SIGTERM
        _note_end(record, check, "stopped", exit_code=EXIT_SIGNAL + number)
        raise


def _note_end(
    record: RunRecord,
    check: Callable[[], None],
    event: str,
    **said: Any,  # noqa: ANN401 -- JSON
) -> None:
    try:
        check()
        record.note(event, **said)
    except FattrError as unsaid:  # as when the disk is full: what made the run end matters
        log.warning("run.json could not be written: %s", unsaid)
