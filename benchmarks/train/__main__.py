"""What does fattr's training loop cost beside a minimal torch loop, and Ray Train beside both?

    python -m benchmarks.train
    python -m benchmarks.train --engines minimal,local --threads 1 --report train.json

``minimal`` is benchmarks/train/minimal.py, the yardstick; ``local`` fattr's loop without Ray;
``ray`` the same on one worker of Ray Train. Same network, batch size, float32, augmentation,
optimiser and loss; same drawn faces, held in memory as the same bytes; same settings of the memory
allocator, as many threads and processes.

All train all the time, each in processes of its own, and all but one are stopped, with all their
processes: each has a slice of a few seconds in every turn. A slice's first steps, which begin where
the last one was stopped, do not count. An epoch's end, where fattr's loop validates on 16 faces and
keeps a checkpoint, falls into every few slices and shows in the slowest.

Small crops and batches are hard on the loop: what it does is the same for larger ones.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tyro

from benchmarks.annotate.report import hardware, write
from benchmarks.train.engines import ENGINES, Training, draw, log_of
from benchmarks.train.turns import Runner, measure, speeds_beside
from fattr.build import cpu_count
from fattr.errors import UsageError
from fattr.on_ray.train import KEEP_FREED_MEMORY
from fattr.report.markdown import table
from fattr.runs.record import versions

HEADER = ("engine", "images/s", "lowest, highest", "ms a step")

Seconds = Mapping[str, Sequence[float]]  # of a step, by engine and slice


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    training: Training = field(default_factory=Training)
    engines: str = ",".join(ENGINES)
    """Comma-separated; each is compared with those before it."""
    turns: int = 20
    """How many slices each has."""
    slice_s: float = 2.5
    """Seconds of a slice."""
    report: str = ""
    """File for the figures as JSON."""


def chosen_engines(names: str) -> list[str]:
    """Those to measure.

    Raises:
        UsageError: One of them is unknown.
    """
    chosen = [name.strip() for name in names.split(",")]
    if unknown := [name for name in chosen if name not in ENGINES]:
        raise UsageError(f"--engines {unknown[0]}: one of {', '.join(ENGINES)} expected")
    return chosen


def runner(engine: str, training: Training, folder: Path) -> Runner:
    """A process that trains on this engine."""
    module = [sys.executable, "-W", "ignore", "-m", "benchmarks.train.engines"]
    command = [*module, engine, str(folder), json.dumps(asdict(training))]
    on_ray = engine == "ray"  # which sets them itself, for its workers alone
    return Runner(command, {} if on_ray else KEEP_FREED_MEMORY, log_of(folder, engine))


def shares(found: Seconds) -> dict[str, list[float]]:
    """Speed of each engine as a share of each one's before it: lower quartile, median, upper."""
    return {
        f"{engine} of {base}": np.percentile(
            speeds_beside(found[engine], found[base]), [25, 50, 75]
        ).tolist()
        for base, engine in itertools.combinations(found, 2)
    }


def lines(found: Seconds, batch: int) -> list[str]:
    """The table, and what the engines' speeds are to one another."""
    rows = []
    for engine, seconds in found.items():
        low, middle, high = batch / np.percentile(seconds, [100, 50, 0])
        rows.append(
            [engine, f"{middle:.1f}", f"{low:.1f}, {high:.1f}", f"{1e3 * batch / middle:.1f}"]
        )
    told = [
        f"{pair}: {middle:.3f} of its images/s (quartiles {low:.3f}, {high:.3f})"
        for pair, (low, middle, high) in shares(found).items()
    ]
    return [*table(HEADER, rows), "", *told]


def content(settings: Settings, found: Seconds) -> dict[str, Any]:
    """All that was measured, and on what."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.train", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "threads": settings.training.threads or cpu_count(),
        "settings": asdict(settings),
        "shares": shares(found),
        "seconds_a_step": {engine: list(seconds) for engine, seconds in found.items()},
    }


def compare(settings: Settings) -> None:
    """Measure, print the table, and write the report where asked.

    Raises:
        UsageError: Something named does not exist, or the packages that draw are not installed.
    """
    engines = chosen_engines(settings.engines)
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, settings.training.crop_px)
        runners = {engine: runner(engine, settings.training, folder) for engine in engines}
        found = measure(runners, num_turns=settings.turns, slice_s=settings.slice_s)
    told = content(settings, found)
    print(*lines(found, settings.training.batch), "", sep="\n")
    print(
        told["command"], f"{told['threads']} threads", told["hardware"], told["versions"], sep="\n"
    )
    if settings.report:
        write(Path(settings.report), told)


def main(settings: Settings) -> int:
    """The exit code: 2 for a wrong request."""
    try:
        compare(settings)
    except UsageError as err:
        print(err, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    told = tyro.cli(Settings, description=__doc__, config=(tyro.conf.OmitArgPrefixes,))
    sys.exit(main(told))
