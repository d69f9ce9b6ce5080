"""Does a run's memory grow with the number of its images?

    python -m benchmarks.memory --images 20000

Resident memory of the driver, the actors, the fetch tasks and Ray's own processes is read from
/proc every second, and drawn. Flat means: no kind of process has a median in the run's last quarter
that exceeds that of its second quarter by more than ``--tolerance``. The files are hard links to a
few hundred photographs.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.pictures import photographs
from benchmarks.faults.verdict import Verdict, conclude, room

NUM_DISTINCT = 400
EVERY_S = 1.0
MIN_GROWTH_BYTES = 32 << 20  # less is noise: an allocator's pages, a log line
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
KINDS = (  # word in a process's title -> what it is called; the first that fits
    ("AnnotateActor", "actors"),
    ("DecodeActor", "actors"),
    ("multiprocessing", "sandboxes"),
    ("ray::Map", "fetch and other tasks"),
    ("ray::", "fetch and other tasks"),
    ("raylet/raylet", "raylet"),
    ("gcs_server", "Ray, other"),
    ("/ray/", "Ray, other"),
    ("annotate.py", "driver"),
)


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 20_000
    """How many photographs."""
    engine: str = "ray"
    tolerance: float = 0.1
    """Share by which the last quarter may exceed the second."""
    seed: int = 0
    plot: str = ""
    """File for the picture as PNG."""
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


@dataclass(slots=True)
class Samples:
    """Bytes by kind of process, one value a time; 0 where there was none."""

    seconds: list[float] = field(default_factory=list)
    by_kind: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, seconds: float, held: Mapping[str, int]) -> None:
        """Note what each kind held at a time."""
        num_before = len(self.seconds)
        self.seconds.append(seconds)
        for kind in self.by_kind.keys() | held.keys():
            values = self.by_kind[kind]
            values += [0] * (num_before - len(values))
            values.append(held.get(kind, 0))


# What a process holds


def held_by_kind(root_pid: int) -> dict[str, int]:
    """Resident bytes of a process and its descendants, and of Ray's object store, by kind.

    Shared pages are left out, since the object store's are in every process that reads them.
    """
    held: dict[str, int] = defaultdict(int)
    for pid in descendants(root_pid):
        try:
            title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("latin-1")
            resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
            store = _store_bytes(pid) if "raylet/raylet" in title else 0
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        held[kind_of(title)] += (int(resident) - int(shared)) * PAGE_BYTES
        if store:
            held["object store"] += store
    return dict(held)


def kind_of(title: str) -> str:
    """What a process is called in the picture."""
    return next((kind for word, kind in KINDS if word in title), "other")


def descendants(root_pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            continue
        children[int(after_name[1])].append(int(folder.name))
    found, waiting = [], [root_pid]
    while waiting:
        found.append(waiting.pop())
        waiting += children[found[-1]]
    return found


def _store_bytes(raylet_pid: int) -> int:
    """Pages that the files of a raylet's object store take: all that it has held so far."""
    taken = {}
    for descriptor in Path(f"/proc/{raylet_pid}/fd").iterdir():
        try:
            name = str(descriptor.readlink())
            info = descriptor.stat()
        except FileNotFoundError:  # it has just been closed
            continue
        if "plasma" in name:
            taken[info.st_ino] = info.st_blocks * 512
    return sum(taken.values())


# The run


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("memory")
    link_photographs(folder / "photos", settings.images, settings.seed)
    argv = annotating.command(
        str(folder / "photos"), str(folder / "tables"), engine=settings.engine
    )
    process = annotating.start(argv, folder / "run.log")
    samples, is_over = Samples(), threading.Event()
    watching = threading.Thread(target=_watch, args=(process.pid, samples, is_over))
    watching.start()
    ended = process.wait()
    is_over.set()
    watching.join()
    verdict.check("the run ends with 0", *unless(0, ended))
    for kind, (second, last) in sorted(quarters(samples).items()):
        verdict.check(f"{kind} flat", growth(second, last, settings.tolerance))
        verdict.figures[f"{kind}, MB"] = f"{second / 1e6:.0f} to {last / 1e6:.0f}"
    verdict.figures |= {"images": settings.images, "seconds": round(ended.seconds, 1)}
    if settings.plot:
        draw(samples, settings.images, Path(settings.plot))
    return verdict


def link_photographs(folder: Path, count: int, seed: int) -> None:
    """``count`` files, a thousand to a subfolder, of a few hundred distinct photographs."""
    originals = []
    for number, (_, data) in enumerate(photographs(min(count, NUM_DISTINCT), seed)):
        originals.append(folder / "000" / f"{number:06d}.jpg")
        originals[-1].parent.mkdir(parents=True, exist_ok=True)
        originals[-1].write_bytes(data)
    for number in range(len(originals), count):
        path = folder / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.hardlink_to(originals[number % len(originals)])


def _watch(pid: int, samples: Samples, is_over: threading.Event) -> None:
    started = time.monotonic()
    while not is_over.wait(EVERY_S):
        samples.add(time.monotonic() - started, held_by_kind(pid))


def quarters(samples: Samples) -> dict[str, tuple[float, float]]:
    """Median bytes of each kind in the second and in the last quarter of the time."""
    count = len(samples.seconds)
    second, last = slice(count // 4, count // 2), slice(3 * count // 4, count)
    return {
        kind: (float(np.median(values[second])), float(np.median(values[last])))
        for kind, values in samples.by_kind.items()
        if count >= 8
    }


def growth(second: float, last: float, tolerance: float) -> str:
    """What to say of a kind that grew; empty where it did not."""
    grew = last - second
    if grew <= max(MIN_GROWTH_BYTES, tolerance * second):
        return ""
    return f"grew from {second / 1e6:.0f} to {last / 1e6:.0f} MB"


def draw(samples: Samples, num_images: int, path: Path) -> None:
    """Memory over time, a line for each kind of process."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), dpi=100)
    kinds: Sequence[str] = sorted(samples.by_kind, key=lambda k: -max(samples.by_kind[k]))
    for kind in kinds:
        values = np.asarray(samples.by_kind[kind]) / 1e6
        axes.plot(samples.seconds[: len(values)], values, label=kind, linewidth=1.2)
    axes.set(xlabel="seconds", ylabel="resident memory, MB", ylim=(0, None))
    axes.set_title(f"{num_images:,} images", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main(settings: Settings) -> int:
    """The whole measurement."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
