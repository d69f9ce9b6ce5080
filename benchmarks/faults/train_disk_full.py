"""A training into a disk that fills up, and its rerun once the disk is larger.

    python -m benchmarks.faults.train_disk_full        # needs the right to mount

OUTPUT lies on a tmpfs that holds a share of what a calm training leaves. The run must end with 3
and one line; the rerun into the enlarged tmpfs must end as the calm one did, to the bit.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults import annotating, train_kills
from benchmarks.faults.annotating import unless
from benchmarks.faults.disk_full import (
    ENLARGED_BYTES,
    PAGE,
    enlarge,
    small_disk,
    taken_bytes,
    why_no_mount,
)
from benchmarks.faults.verdict import Verdict, conclude, room
from fattr.datasets import synthetic


@dataclass(frozen=True, slots=True)
class Settings(train_kills.Settings):
    """See the module."""

    backbone: str = "tiny"
    steps: int = 100
    share: float = 0.5
    """Size of the disk, as a share of what the output of a calm run takes in the end."""


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("train disk full")
    data, calm = folder / "faces", folder / "calm"
    synthetic.write(data, settings.faces, seed=settings.seed, image_px=train_kills.IMAGE_PX)
    ended = annotating.run(_command(settings, data, calm), folder / "calm.log")
    verdict.check("a calm run ends with 0", *unless(0, ended))
    size = round(settings.share * taken_bytes(calm)) // PAGE * PAGE
    with small_disk(folder / "disk", size) as disk:
        output = disk / "training"
        argv = _command(settings, data, output)
        full = annotating.run(argv, folder / "full.log")
        verdict.check("the run ends with 3", *unless(3, full))
        verdict.check(
            "one line says that the disk is full",
            "" if "No space left" in full.last_line else f"it is: {full.last_line}",
            "a traceback was shown" if "Traceback" in full.said else "",
        )
        enlarge(disk, ENLARGED_BYTES)
        rerun = annotating.run_after_lease(argv, folder / "enlarged.log")
        verdict.check("with room the rerun ends with 0", *unless(0, rerun))
        is_continued = "going on after" in rerun.said
        verdict.check("it goes on", "" if is_continued else "it began at the beginning")
        verdict.check("it equals the calm run", *train_kills.differences(output, calm))
    verdict.figures |= {"disk_bytes": size, "seconds": round(full.seconds + rerun.seconds, 1)}
    return verdict


def _command(settings: Settings, data: Path, output: Path) -> list[str]:
    argv = train_kills.command(settings, data, output)
    argv[argv.index("--workers") + 1] = "1"
    return argv


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        if reason := why_no_mount(folder):
            print(f"train_disk_full: skipped: {reason}")
            return 0
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
