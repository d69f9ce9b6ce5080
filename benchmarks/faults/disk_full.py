"""A run into a disk that fills up, and its rerun once the disk is larger.

    python -m benchmarks.faults.disk_full --images 400        # needs the right to mount

OUTPUT lies on a tmpfs that holds a share of what a calm run writes. The run must end with 3 and
one line; the rerun into the enlarged tmpfs must complete it.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.pictures import write_photographs
from benchmarks.faults.verdict import Verdict, conclude, room

PAGE = 4096  # what the smallest file takes in a tmpfs
ENLARGED_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 400
    """How many photographs."""
    share: float = 0.5
    """Size of the disk, as a share of what the output of a calm run takes in the end."""
    engine: str = "ray"
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def why_no_mount(folder: Path) -> str:
    """Why a tmpfs cannot be mounted here; empty where it can."""
    try:
        with small_disk(folder / "try", 1 << 20):
            return ""
    except (OSError, subprocess.CalledProcessError) as err:
        return f"needs the right to mount a tmpfs: {err}"


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """``folder`` as a disk of its own.

    Raises:
        OSError: There is no ``mount``.
        CalledProcessError: It may not be mounted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    subprocess.run(argv, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def enlarge(disk: Path, size_bytes: int) -> None:
    """Give a tmpfs another size."""
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(disk)], check=True)


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("disk_full")
    photos = folder / "photos"
    write_photographs(photos, settings.images, settings.seed)
    calm = folder / "calm"
    argv = annotating.command(str(photos), str(calm), engine=settings.engine)
    verdict.check("a calm run ends with 0", *unless(0, annotating.run(argv, folder / "calm.log")))
    size = max(4 * PAGE, round(settings.share * taken_bytes(calm)) // PAGE * PAGE)
    with small_disk(folder / "disk", size) as disk:
        output = disk / "tables"
        argv = annotating.command(str(photos), str(output), engine=settings.engine)
        _fill_and_enlarge(verdict, argv, disk, folder)
        said = annotating.verify(str(output), folder / "verify.log")
        verdict.check("fattr verify is content", *unless(0, said))
        verdict.check("tables equal a calm run's", *annotating.differences(output, calm))
    verdict.figures |= {"images": settings.images, "disk_bytes": size}
    return verdict


def taken_bytes(folder: Path) -> int:
    """What a folder's files take on a disk of pages."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return sum(-(-size // PAGE) * PAGE for size in sizes)


def _fill_and_enlarge(verdict: Verdict, argv: list[str], disk: Path, folder: Path) -> None:
    full = annotating.run(argv, folder / "full.log")
    verdict.check("the run ends with 3", *unless(3, full))
    is_said = "No space left" in full.last_line or "full" in full.last_line
    verdict.check(
        "one line says that the disk is full",
        "" if is_said else f"it is: {full.last_line}",
        "a traceback was shown" if "Traceback" in full.said else "",
    )
    enlarge(disk, ENLARGED_BYTES)
    rerun = annotating.run_after_lease(argv, folder / "enlarged.log")
    verdict.check("with room the rerun ends with 0", *unless(0, rerun))
    verdict.figures["seconds"] = round(full.seconds + rerun.seconds, 1)


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        if reason := why_no_mount(folder):
            print(f"disk_full: skipped: {reason}")
            return 0
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
