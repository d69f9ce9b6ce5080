"""What feeds a training worker: torch's DataLoader (``fattr.train.input``) or Ray Data?

    python -m benchmarks.train_input --data fairface:DIR --report train_input.json

The same streamed faces (read, decoded, cut, mirrored and augmented for each epoch) go through both,
side by side in turns, each in a fresh process whose consumer does nothing. Speed and CPU time are
those from the first batch on, start-up is all before it, memory the peak of all processes
together, shared pages counted once. Then: which samples each of four workers would get. The feed
leaves out an epoch's incomplete last batch on purpose: the next epoch has another.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tyro
from ray.data import DataIterator  # noqa: TID251

from benchmarks.train_input_ray import ray_dataset
from fattr.build import build_detector, cpu_count
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import read_dataset, synthetic
from fattr.detect import source as detectors
from fattr.labelled_crops import LabelledCrops, StreamedCrops, labelled_crops
from fattr.on_ray.session import ray_session
from fattr.presets import train_preset
from fattr.progress import track
from fattr.report.markdown import table
from fattr.train.batches import batch_positions
from fattr.train.input import Feed
from fattr.train.plan import TrainPlan

EVERY_S = 0.2
NUM_WORKERS = 4  # of the comparison of what each gets
T = TypeVar("T")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    data: str = ""
    """Data set as NAME:DIR; empty: synthetic faces."""
    preset: str = "demographics"
    """Whose crops, augmentation and batch size."""
    count: int = 2000
    """Images of an epoch."""
    rounds: int = 3
    processes: tuple[int, ...] = (0, 1, 2)
    """Numbers of processes to try."""
    held: bool = False
    """Hold the crops in memory instead: what the DataLoader costs there."""
    report: str = ""
    """File for the figures as JSON."""


# The data


def faces(settings: Settings, folder: Path) -> tuple[LabelledCrops, TrainPlan]:
    """The faces, found once, and how they are trained on."""
    spec = settings.data
    if not spec:
        synthetic.write(folder / "faces", settings.count * 5 // 4, seed=0, image_px=224)
        spec = f"synthetic:{folder / 'faces'}"
    preset, split = train_preset(settings.preset), read_dataset(spec, "train")
    samples = split.samples[: settings.count]
    names = preset.attributes if settings.data else ()
    attributes = tuple(a for a in split.attributes if not names or a.name in names)
    config = TrainConfig(preset="", data=("",), output="")
    cut = labelled_crops(
        samples,
        attributes,
        named_rule(preset.crop_rule, preset.crop_size_hw),
        detector=build_detector(detectors.find(config.detector), config, device="cpu"),
        num_threads=cpu_count(),
        progress=lambda items: track(items, what="finding faces", total=len(samples)),
        held=settings.held,
    )
    return cut, TrainPlan(
        backbone=preset.backbone,
        attributes=attributes,
        recipe=preset.recipe,
        seed=0,
        init_weights=None,
    )


# What it costs


def descendants(root_pid: int) -> list[int]:
    """A process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
    found = [root_pid]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


@dataclass(slots=True)
class Meter:
    """Peak memory and CPU time of this process and its descendants, watched from a thread."""

    peak_bytes: int = 0
    cpu_s: dict[int, float] = field(default_factory=dict)  # by process, also of those that ended
    _end: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Meter:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()

    def total_cpu_s(self) -> float:
        """CPU seconds until now."""
        self._look()
        return sum(self.cpu_s.values())

    def _watch(self) -> None:
        while not self._end.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        held = 0
        for pid in descendants(os.getpid()):
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            held += int(rollup.partition("\nPss:")[2].split()[0]) << 10
            self.cpu_s[pid] = (int(times[11]) + int(times[12])) / TICKS_PER_S
        self.peak_bytes = max(self.peak_bytes, held)


def measured(batches: Callable[[], Iterator[int]]) -> dict[str, float]:
    """Figures of one epoch; ``batches`` yields how many samples each batch has."""
    with Meter() as meter:
        started = time.monotonic()
        counts = batches()
        next(counts)
        first, cpu_s = time.monotonic(), meter.total_cpu_s()
        num_images = sum(counts)
        seconds = time.monotonic() - first
        cpu_s = meter.total_cpu_s() - cpu_s
    return {
        "images_per_s": num_images / seconds,
        "cpu_ms_per_image": 1e3 * cpu_s / num_images,
        "start_s": first - started,
        "peak_mb": meter.peak_bytes / 1e6,
    }


# The two sides


def run_feed(data: LabelledCrops, plan: TrainPlan, num_processes: int) -> dict[str, float]:
    """By torch's DataLoader."""

    def batches() -> Iterator[int]:
        with Feed(data, plan, num_processes=num_processes) as feed:
            for crops, _ in feed.epoch(0, 0, 0, 1):
                yield len(crops)

    return measured(batches)


def run_ray(data: LabelledCrops, plan: TrainPlan, _: int) -> dict[str, float]:
    """By Ray Data; starting Ray is not counted, since Ray Train has done it."""

    with ray_session():

        def batches() -> Iterator[int]:
            options = {"batch_size": plan.recipe.batch_size, "prefetch_batches": 2}
            for batch in ray_dataset(data, plan).iter_torch_batches(**options):
                yield len(batch["crops"])

        return measured(batches)


# What each of several workers gets


def shares_of_feed(data: LabelledCrops, plan: TrainPlan) -> list[list[list[int]]]:
    """Positions by worker and batch."""
    shape = (len(data), plan.recipe.batch_size)
    return [
        [list(p) for p in batch_positions(*shape, first_position=0, rank=r, world_size=NUM_WORKERS)]
        for r in range(NUM_WORKERS)
    ]


def shares_of_ray(data: LabelledCrops, plan: TrainPlan, _: int) -> list[list[list[int]]]:
    """The same by ``streaming_split(equal=True)``, whose workers read at the same time."""
    out: list[list[list[int]]] = [[] for _ in range(NUM_WORKERS)]
    own = plan.recipe.batch_size // NUM_WORKERS

    def read(rank: int, shard: DataIterator) -> None:
        for batch in shard.iter_batches(batch_size=own):
            out[rank].append(batch["position"].tolist())

    with ray_session():
        shards = ray_dataset(data, plan).streaming_split(NUM_WORKERS, equal=True)
        threads = [threading.Thread(target=read, args=each) for each in enumerate(shards)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return out


def shares_figures(shares: list[list[list[int]]], data: LabelledCrops, batch_size: int) -> str:
    """In words: how many samples were seen, and how many global batches are those of one worker."""
    seen = [position for worker in shares for batch in worker for position in batch]
    wanted = [set(range(b, b + batch_size)) for b in range(0, len(data), batch_size)]
    joint = [set(chain.from_iterable(parts)) for parts in zip(*shares, strict=False)]
    same = sum(a == b for a, b in zip(joint, wanted, strict=False))
    whole = len(data) // batch_size
    return (
        f"{len(set(seen))} of {len(data)} samples, {len(seen) - len(set(seen))} twice;"
        f" {same} of {whole} global batches are those of one worker"
    )


# All of it


def alone(function: Callable[..., T], *arguments: object) -> T:
    """What a function returns in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure, and the least and most of the speed."""
    out = {name: float(np.median([turn[name] for turn in turns])) for name in turns[0]}
    speeds = [turn["images_per_s"] for turn in turns]
    return out | {"slowest": min(speeds), "fastest": max(speeds)}


def main(settings: Settings) -> int:
    """Measure, print a table, write the figures."""
    sides: dict[str, tuple[Callable[..., Any], int]] = {
        f"DataLoader, {n} processes": (run_feed, n) for n in settings.processes
    }
    if not settings.held:
        sides["Ray Data"] = (run_ray, 0)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    shares = {}
    with tempfile.TemporaryDirectory() as folder:
        data, plan = faces(settings, Path(folder))
        for _ in range(settings.rounds):
            for name, (run, n) in sides.items():
                turns[name].append(alone(run, data, plan, n))
                print(name, turns[name][-1], file=sys.stderr)
        if isinstance(data.crops, StreamedCrops):
            found = {"DataLoader": shares_of_feed(data, plan)}
            found["Ray Data"] = alone(shares_of_ray, data, plan, 0)
            size = plan.recipe.batch_size
            shares = {side: shares_figures(got, data, size) for side, got in found.items()}
    figures = {name: medians(each) for name, each in turns.items()}
    show(figures, shares)
    if settings.report:
        result = {"figures": figures, "turns": turns, "shares": shares, "num_cpus": cpu_count()}
        Path(settings.report).write_text(json.dumps(result, indent=1) + "\n")
    return 0


def show(figures: dict[str, dict[str, float]], shares: dict[str, str]) -> None:
    """The table, and what each of several workers got."""
    rows = [
        [
            name,
            f"{f['images_per_s']:.0f} ({f['slowest']:.0f}-{f['fastest']:.0f})",
            f"{f['cpu_ms_per_image']:.2f}",
            f"{f['start_s']:.1f}",
            f"{f['peak_mb']:.0f}",
        ]
        for name, f in figures.items()
    ]
    header = ["side", "images/s", "CPU ms an image", "start, s", "peak memory, MB"]
    print(*table(header, rows), sep="\n")
    for side, said in shares.items():
        print(f"{side}, {NUM_WORKERS} workers: {said}")


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
