"""Which run of an OUTPUT to do: a new one, or the one that did not finish."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fattr import storage
from fattr.errors import UsageError
from fattr.runs.record import RunRecord, write_json
from fattr.runs.run import TABLES, Run, list_runs, next_run, read_info, successes

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Past:
    """The runs of an OUTPUT, oldest first."""

    finished: tuple[Run, ...]
    unfinished: tuple[Run, ...]

    @property
    def latest(self) -> Run | None:
        """The run that began last."""
        return max((*self.finished, *self.unfinished), key=lambda run: run.run_id, default=None)

    def told(self) -> tuple[Run, dict[str, Any]] | None:
        """The latest run with what its ``run.json`` says; one that died while listing has none."""
        runs = sorted((*self.finished, *self.unfinished), key=lambda run: run.run_id, reverse=True)
        return next(((run, info) for run in runs if (info := read_info(run))), None)


def read_past(output: str) -> Past:
    """Which runs an OUTPUT holds."""
    said = list(successes(list_runs(output)))
    return Past(
        tuple(run for run, success in said if success is not None),
        tuple(run for run, success in said if success is None),
    )


def check_settings(past: Past, settings_id: str, settings: Mapping[str, Any]) -> None:
    """An OUTPUT belongs to one set of settings.

    Raises:
        UsageError: It was made with others; says which differ.
    """
    told = past.told()
    if told is None:
        return
    latest, info = told
    if info["settings_id"] == settings_id:
        return
    before = info.get("settings", {})
    differ = sorted(name for name in {*before, *settings} if before.get(name) != settings.get(name))
    raise UsageError(
        f"{latest.output} was made with other settings ({', '.join(differ) or 'unknown'}):"
        " choose another --output, or the settings of its runs"
    )


def take_up(
    output: str,
    past: Past,
    description: Mapping[str, Any],
    *,
    now: datetime,
    discard_unfinished: bool,
) -> tuple[Run, RunRecord]:
    """The unfinished run, if ``description`` asks for the same, else a new one.

    ``description`` is what ``run.json`` says of the run; its ``request`` is what must be equal.

    Raises:
        UsageError: The unfinished run was asked for by another command.
    """
    for run in past.unfinished:
        info = read_info(run)
        if discard_unfinished:
            log.warning("run %s, unfinished, is thrown away", run.run_id)
            discard(run)
        elif "increment" not in info:  # it died while it listed: nothing is lost
            storage.delete_tree(run.folder)
            return run, RunRecord(run.file("run.json"), described(run, description))
        else:
            check_request(run, info, description)
            log.info("run %s did not finish: going on with it", run.run_id)
            return run, RunRecord(run.file("run.json"), info | attempt(info, description))
    run = next_run(output, [*past.finished, *past.unfinished], now)
    return run, RunRecord(run.file("run.json"), described(run, description))


def discard(run: Run) -> None:
    """Delete all that an unfinished run made: its own folder last, which says that it was."""
    write_json(run.file("run.json"), {})  # from here on nobody goes on with it
    for table in TABLES:
        storage.delete_tree(run.table(table))
    storage.delete_tree(run.folder)


def described(run: Run, description: Mapping[str, Any]) -> dict[str, Any]:
    """What ``run.json`` says from the start."""
    return {"run_id": run.run_id, "started": run.started.isoformat(), **description}


def attempt(info: Mapping[str, Any], description: Mapping[str, Any]) -> dict[str, Any]:
    """What changes in ``run.json`` when a run is gone on with; not who began it, if it is known."""
    changes = {name: description[name] for name in ("engine", "device", "versions")}
    changes["who"] = info.get("who", description["who"])
    return changes | {"num_continued": info.get("num_continued", 0) + 1}


def check_request(run: Run, info: Mapping[str, Any], description: Mapping[str, Any]) -> None:
    """Only the command that began a run goes on with it.

    Raises:
        UsageError: It was another one.
    """
    asked, now = info.get("request", {}), description["request"]
    if asked == now:
        return
    differ = [f"{name} {asked.get(name)!r}" for name in now if asked.get(name) != now[name]]
    raise UsageError(
        f"{run.output} holds run {run.run_id}, unfinished, of another command"
        f" ({', '.join(differ)}): run that again, or add --discard-unfinished"
    )
