"""Two runs begun at once on one output: one is refused, the other completes.

    python -m benchmarks.faults.two_runs --images 200
    python -m benchmarks.faults.two_runs --images 200 --s3          # in buckets of a real server

The one refused must end with 2, write nothing, and name the owner and the expiry of the lease.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import Places, places, unless
from benchmarks.faults.pictures import write_photographs
from benchmarks.faults.verdict import Verdict, conclude, room

EXPIRY = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\d\d:\d\d:\d\d")


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 200
    """How many photographs."""
    rounds: int = 3
    """How often two runs meet, each time on an output of their own."""
    engine: str = "ray"
    s3: bool = False
    """Images and tables lie in buckets of a real local S3 server."""
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("two_runs")
    with places(folder, in_s3=settings.s3) as place:
        write_photographs(place.path("photos"), settings.images, settings.seed)
        argv = _command(settings, place, "calm/night")
        ended = annotating.run(argv, folder / "calm.log", place.environment)
        verdict.check("a calm run ends with 0", *unless(0, ended))
        for number in range(settings.rounds):
            _meet(verdict, settings, folder, place, number)
    verdict.figures |= {"images": settings.images, "rounds": settings.rounds}
    return verdict


def _command(settings: Settings, place: Places, output: str) -> list[str]:
    return annotating.command(place.uri("photos"), place.uri(output), engine=settings.engine)


def _meet(verdict: Verdict, settings: Settings, folder: Path, place: Places, number: int) -> None:
    name, environment = f"tables/night-{number}", place.environment
    argv, output = _command(settings, place, name), place.path(name)
    both = [annotating.start(argv, folder / f"run-{number}-{one}.log", environment) for one in "ab"]
    refused, winner = sorted((one.wait() for one in both), key=lambda ended: -ended.code)
    verdict.check(f"round {number}: one completes", *unless(0, winner))
    verdict.check(f"round {number}: one is refused", *unless(2, refused), *_unless_named(refused))
    said = annotating.verify(place.uri(name), folder / f"verify-{number}.log", environment)
    verdict.check(f"round {number}: fattr verify is content", *unless(0, said))
    runs = sorted(path.name for path in (output / "_runs").iterdir() if path.is_dir())
    verdict.check(f"round {number}: one run is there", "" if len(runs) == 1 else f"{runs}")
    equal = annotating.differences(output, place.path("calm/night"))
    verdict.check(f"round {number}: tables equal a calm run's", *equal)
    verdict.figures[f"refused_{number}"] = refused.last_line


def _unless_named(refused: annotating.Ended) -> list[str]:
    """The owner is the process that won; the expiry is a time."""
    line = refused.last_line
    return [
        "" if EXPIRY.search(line) else f"no expiry is named: {line}",
        "" if re.search(r"pid|process|owner|held by|host", line) else f"no owner is named: {line}",
        "a traceback was shown" if "Traceback" in refused.said else "",
    ]


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
