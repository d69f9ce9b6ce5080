"""The runs of an OUTPUT: where each keeps what it makes, and which of them are finished."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fattr import storage
from fattr.errors import StorageError
from fattr.records import Status
from fattr.runs.record import new_run_id

TABLES = ("images", "faces")
SUCCESS = "_SUCCESS"
_NUM_PARALLEL = 16
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class Run:
    """One run's places below an OUTPUT."""

    output: str  # canonical URI
    run_id: str

    @property
    def started(self) -> datetime:
        """When it first started, UTC, to the second."""
        return datetime.strptime(self.run_id.partition("-")[0], _TIME).replace(tzinfo=UTC)

    @property
    def day(self) -> str:
        """Its ``dt``: the UTC date on which it first started."""
        return f"{self.started:%Y-%m-%d}"

    @property
    def folder(self) -> str:
        """Its own folder: all but its part of the tables."""
        return storage.join(self.output, "_runs", self.run_id)

    @property
    def manifest(self) -> str:
        """What it has to do."""
        return self.file("manifest")

    @property
    def staging(self) -> str:
        """Rows made and not yet published."""
        return self.file("staging")

    @property
    def checkpoint(self) -> str:
        """Ray Data's record of the rows made."""
        return self.file("checkpoint")

    def file(self, name: str) -> str:
        """A file of its folder."""
        return storage.join(self.folder, name)

    def table(self, name: str) -> str:
        """Folder of its part of a table."""
        return storage.join(self.output, name, f"dt={self.day}", f"run={self.run_id}")


def list_runs(output: str) -> list[Run]:
    """All runs of an OUTPUT, oldest first."""
    names = storage.list_folders(storage.join(output, "_runs"))
    return [Run(output, name) for name in sorted(names)]


def successes(runs: list[Run]) -> Iterator[tuple[Run, dict[str, Any] | None]]:
    """Each run with what its ``_SUCCESS`` says, None where it is not finished."""
    with ThreadPoolExecutor(_NUM_PARALLEL) as pool:
        yield from zip(runs, pool.map(_success, runs), strict=True)


def _success(run: Run) -> dict[str, Any] | None:
    try:
        said = storage.read_bytes(run.file(SUCCESS))
    except StorageError as error:
        if error.status == Status.MISSING:
            return None
        raise
    return dict(json.loads(said or b"{}"))


def finished_runs(output: str) -> list[Run]:
    """The runs that readers may see, oldest first."""
    return [run for run, success in successes(list_runs(output)) if success is not None]


def unfinished_runs(output: str) -> list[Run]:
    """The runs that began and did not end, oldest first."""
    return [run for run, success in successes(list_runs(output)) if success is None]


def read_info(run: Run) -> dict[str, Any]:
    """Its ``run.json``; empty where it died before writing one."""
    try:
        return dict(json.loads(storage.read_bytes(run.file("run.json"))))
    except StorageError as error:
        if error.status == Status.MISSING:
            return {}
        raise


def next_run(output: str, runs: list[Run], now: datetime) -> Run:
    """A new run whose id sorts after all others', even where a clock went back."""
    latest = max((run.started for run in runs), default=now - timedelta(seconds=1))
    return Run(output, new_run_id(max(now, latest + timedelta(seconds=1))))
