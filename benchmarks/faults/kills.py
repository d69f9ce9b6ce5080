"""A run whose driver, actors and nodes are killed at random moments.

    python -m benchmarks.faults.kills --images 2000 --kills 20
    python -m benchmarks.faults.kills --images 2000 --kills 20 --s3   # in buckets of a real server

The driver is killed with SIGKILL and begun again with the same command, as an operations team
would, and so is one that gives up with 3 over a killed actor or a killed node (its raylet; another
node takes its place).
Where the run completes before all kills are spent, it is done over with ``--all``. The tables must
be those of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import Ended, Places, Process, places, unless
from benchmarks.faults.pictures import write_photographs
from benchmarks.faults.ray_nodes import NUM_WORKER_NODES, Nodes, ray_nodes, wait_for_actors
from benchmarks.faults.verdict import Verdict, conclude, room

POLL_S = 0.1
ACTOR_WAIT_S = 60.0
MAX_RUNS = 100
EXIT_UNFINISHED = 3


class Victim(StrEnum):
    """What is killed."""

    DRIVER = "driver"
    ACTOR = "actor"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 2000
    """How many photographs."""
    kills: int = 20
    """How many kills, a third each of driver, actor and node, in random order."""
    spread_s: float = 20.0
    """A kill comes 0 to this many seconds after the one before, or after the driver's start."""
    patience_s: float = 900.0
    """How long a rerun waits for the lease of a killed driver."""
    s3: bool = False
    """Images and tables lie in buckets of a real local S3 server."""
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


@dataclass(slots=True)
class Killer:
    """The kills still to come, and what has been done."""

    nodes: Nodes
    rng: np.random.Generator
    planned: list[Victim]
    spread_s: float
    done: list[Victim] = field(default_factory=list)

    def watch(self, process: Process) -> None:
        """Kill, time after time, until the driver has ended, or been killed, or no kill is left."""
        while self.planned and process.is_running():
            if not _still_running_after(process, float(self.rng.uniform(0, self.spread_s))):
                return
            victim = self.planned[0]
            if self._kill(victim, process):
                self.done.append(self.planned.pop(0))
            if victim is Victim.DRIVER:
                return

    def _kill(self, victim: Victim, process: Process) -> bool:
        if victim is Victim.DRIVER:
            process.kill()
            return True
        if victim is Victim.NODE:
            self.nodes.kill_node(int(self.rng.integers(NUM_WORKER_NODES)))
            return True
        pids = wait_for_actors(self.nodes, ACTOR_WAIT_S if process.is_running() else 0)
        if not pids:
            return False
        try:
            os.kill(int(self.rng.choice(pids)), signal.SIGKILL)
        except ProcessLookupError:  # it has just ended by itself
            return False
        return True


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("kills")
    with places(folder, in_s3=settings.s3) as place:
        write_photographs(place.path("photos"), settings.images, settings.seed)
        _kill(verdict, settings, folder, place)
        said = annotating.verify(
            place.uri("tables/night"), folder / "verify.log", place.environment
        )
        verdict.check("fattr verify is content", *unless(0, said))
        tables = [place.path(name) for name in ("tables/night", "calm/night")]
    verdict.check("tables equal a calm run's", *annotating.differences(*tables))
    verdict.figures["images"] = settings.images
    return verdict


def _kill(verdict: Verdict, settings: Settings, folder: Path, place: Places) -> None:
    """A calm run and one with all kills, on nodes whose workers know the storage as well."""
    calm, argv = (
        annotating.command(place.uri("photos"), place.uri(f"{name}/night"))
        for name in ("calm", "tables")
    )
    with patch.dict(os.environ, place.environment), ray_nodes() as nodes:
        environment = os.environ | {"RAY_ADDRESS": nodes.address}
        ended = annotating.run(calm, folder / "calm.log", environment)
        verdict.check("a calm run ends with 0", *unless(0, ended))
        verdict.figures["seconds_calm"] = round(ended.seconds, 1)
        rng = np.random.default_rng(settings.seed)
        killer = Killer(nodes, rng, planned_kills(settings.kills, rng), settings.spread_s)
        runs = list(_runs(killer, argv, environment, settings, folder))
    judge(verdict, killer, runs)


def planned_kills(count: int, rng: np.random.Generator) -> list[Victim]:
    """As many of each kind as can be, in random order."""
    victims = [list(Victim)[i % len(Victim)] for i in range(count)]
    return [victims[i] for i in rng.permutation(count)]


def _runs(
    killer: Killer, argv: list[str], environment: dict[str, str], settings: Settings, folder: Path
) -> Iterator[Ended]:
    """Begin the run until it has ended with 0 and every kill is spent."""
    is_done_over, waited = False, 0.0
    for number in range(MAX_RUNS):
        flags = ["--all"] if is_done_over else []
        process = annotating.start([*argv, *flags], folder / f"run-{number}.log", environment)
        killer.watch(process)
        ended = process.wait()
        if annotating.is_lease_refusal(ended) and waited < settings.patience_s:
            time.sleep(annotating.LEASE_POLL_S)
            waited += ended.seconds + annotating.LEASE_POLL_S
            continue
        yield ended
        waited = 0.0
        if ended.code == 0 and not killer.planned:
            return
        is_done_over = is_done_over or ended.code == 0


def judge(verdict: Verdict, killer: Killer, runs: list[Ended]) -> None:
    """A run may give up with 3, which asks for a rerun; any other error is wrong."""
    codes = [ended.code for ended in runs]
    wrong = [ended for ended in runs if ended.code not in (0, EXIT_UNFINISHED, -signal.SIGKILL)]
    as_killed = codes.count(-signal.SIGKILL) == killer.done.count(Victim.DRIVER)
    verdict.check("every kill was spent", f"{len(killer.planned)} left" if killer.planned else "")
    verdict.check("the last run ends with 0", *unless(0, runs[-1]))
    verdict.check(
        "no run ends otherwise than done or to be continued",
        *(f"exit {ended.code}, said: {ended.last_line}" for ended in wrong),
    )
    verdict.check("as many drivers died as were killed", "" if as_killed else f"exits {codes}")
    verdict.figures |= {
        "kills": dict(Counter(map(str, killer.done))),
        "runs": len(runs),
        "gave_up": [ended.last_line for ended in runs if ended.code == EXIT_UNFINISHED],
        "seconds": round(sum(ended.seconds for ended in runs), 1),
    }


def _still_running_after(process: Process, seconds: float) -> bool:
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if not process.is_running():
            return False
        time.sleep(POLL_S)
    return process.is_running()


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
