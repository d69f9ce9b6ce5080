"""What became of each trial: ``OUTPUT/trials/NNN/trial.json``, written again after each epoch.

These files, and not Ray Tune's own state, are what a search is continued from. Tune writes its
state every 10 s or less often, leaves the scheduler's rungs out, and unpickles what it finds there.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fattr import storage
from fattr.errors import UsageError
from fattr.outputs import names_in, refuse_held
from fattr.tuning.space import Value

REQUEST, TRIALS = "search.json", "trials"
USED = "used"  # in the request: digests of the images, known once all were looked at


class State(StrEnum):
    """How far a trial got."""

    WAITING = "waiting"
    RUNNING = "running"  # or interrupted
    FINISHED = "finished"  # all epochs, or no better one for ``patience``
    STOPPED = "stopped"  # others were better at the same epoch
    FAILED = "failed"  # these settings cannot be trained


OVER = (State.FINISHED, State.STOPPED, State.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One choice of settings."""

    number: int
    settings: Mapping[str, Value]
    state: State = State.WAITING
    reason: str = ""  # of a failure
    history: tuple[Mapping[str, float], ...] = ()  # one row an epoch, without single attributes

    @property
    def name(self) -> str:
        """The number as folders spell it."""
        return name_of(self.number)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run."""
        return self.state in OVER

    @property
    def epochs(self) -> int:
        """How many were reached."""
        return int(self.history[-1]["epoch"]) if self.history else 0

    def with_epoch(self, metrics: Mapping[str, float]) -> Trial:
        """After one more epoch; one that is run again replaces what it said before."""
        row = {name: value for name, value in metrics.items() if "/" not in name}
        before = tuple(old for old in self.history if old["epoch"] < row["epoch"])
        return dataclasses.replace(self, state=State.RUNNING, history=(*before, row))

    def ended(self, state: State, reason: str = "") -> Trial:
        """With nothing left to run."""
        return dataclasses.replace(self, state=state, reason=reason)

    def scores(self, metric: str) -> list[float]:
        """The metric after each epoch."""
        return [row[f"valid_{metric}"] for row in self.history]

    def best(self, metric: str) -> tuple[float, int] | None:
        """The best value of the metric, with its epoch; None before the first."""
        if not self.history:
            return None
        choose = min if metric == "loss" else max
        value = choose(self.scores(metric))
        return value, int(self.history[self.scores(metric).index(value)]["epoch"])


def name_of(number: int) -> str:
    """What a trial's folder is called."""
    return f"{number:03}"


def checkpoints_of(output: str, number: int) -> str:
    """URI of the folder of a trial's checkpoints."""
    return storage.join(output, TRIALS, name_of(number), "checkpoints")


def _record_of(output: str, number: int) -> str:
    return storage.join(output, TRIALS, name_of(number), "trial.json")


def write_trial(output: str, trial: Trial) -> None:
    """Put down how far a trial got.

    Raises:
        StorageError: It could not be written; what was there is whole.
    """
    _write(_record_of(output, trial.number), dataclasses.asdict(trial))


def read_trial(output: str, fresh: Trial) -> Trial:
    """What is known of a trial; ``fresh`` itself where nothing is.

    Raises:
        UsageError: the file is of other settings, or none of ours.
        StorageError: It cannot be read.
    """
    uri = _record_of(output, fresh.number)
    content = _read(uri)
    if content is None:
        return fresh
    try:
        content |= {"state": State(content["state"]), "history": tuple(content["history"])}
        found = Trial(**content)
    except (KeyError, TypeError, ValueError) as err:
        raise UsageError(
            f"{uri}: not a trial that fattr wrote ({err}); delete its folder"
        ) from None
    if found.settings != fresh.settings:
        raise UsageError(
            f"{uri} has the settings {found.settings}, expected {fresh.settings}: choose another"
            " --output"
        )
    return found


def begin_search(output: str, request: Mapping[str, Any]) -> None:
    """Put down what is searched, unless an earlier run of the same search did.

    Raises:
        UsageError: See ``check_search``.
        StorageError: It cannot be read or written.
    """
    if not check_search(output, request):
        _write(storage.join(output, REQUEST), request)


def check_search(output: str, request: Mapping[str, Any]) -> bool:
    """Whether the output holds this very search; False where it is empty.

    Where the request does not say yet which images are used, that is not compared.

    Raises:
        UsageError: it holds another search, the message says in what; or something else.
        StorageError: It cannot be read.
    """
    before = _read(storage.join(output, REQUEST))
    if before is None:
        refuse_held(output, names_in(output))
        return False
    now = json.loads(json.dumps(request))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    names = [name for name in names if name != USED or USED in now]
    if names:
        said = "; ".join(f"{name} was {before.get(name)}, is {now.get(name)}" for name in names)
        raise UsageError(
            f"--output {output} holds a search with other settings ({said}): choose another one"
        )
    return True


def _write(uri: str, content: Mapping[str, Any]) -> None:
    storage.write_bytes(uri, json.dumps(content, indent=1).encode() + b"\n")


def _read(uri: str) -> dict[str, Any] | None:
    found = storage.read_version(uri)
    if found is None:
        return None
    try:
        content = json.loads(found[0])
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UsageError(f"{uri}: a JSON object expected; choose another --output, or delete it")
    return content
