"""``fattr annotate --dry-run``: what would be done, by whom, and how long it would take."""

from __future__ import annotations

import logging
import tempfile
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage
from fattr.build import AnnotatePlan, build_annotate, cpu_count, images_per_detection
from fattr.commands.engine import engine_for, fit_to_cluster
from fattr.commands.work import Work, list_work, read_options
from fattr.increment.plan import Increment
from fattr.progress import ListingBar
from fattr.runs.run import Run, next_run
from fattr.runs.take_up import Past
from fattr.sizing import Sizing, describe
from fattr.stages import Fetch

log = logging.getLogger(__name__)

SAMPLE_IMAGES, WARM_UP_IMAGES = 24, 4
STAGES = (
    "manifest  the driver: what is new or changed",
    "fetch     tasks: bytes from the storage, many requests in flight",
    "annotate  actors: decode, detect, crop, classify",
    "write     tasks: staged rows, with Ray Data's checkpoint",
    "publish   the driver: the tables, sorted by URI",
)
EXIT_DONE = 0


def dry_run(plan: AnnotatePlan, work: Work, past: Past) -> int:
    """Say the plan; nothing is written but a listing in a temporary folder.

    Raises:
        UsageError: the images cannot be listed.
    """
    entries = work.entries()
    with tempfile.TemporaryDirectory(prefix="fattr-") as folder:
        scratch = next_run(storage.canonical_uri(folder), [], datetime.now(UTC))
        with ListingBar() as bar:
            found = list_work(work, scratch, past, entries, bar.advance)
        log.info("%s", found.describe())
        if not found.num_images:
            log.info("nothing to do")
            return EXIT_DONE
        seconds = seconds_an_image(plan, sample_rows(scratch))
    engine = engine_for(plan.config, found.num_images, is_risky=bool(past.unfinished))
    plan, sizing = (plan, None) if engine == "local" else fit_here(plan, found)
    say(plan, found.num_images, sizing, seconds)
    return EXIT_DONE


def sample_rows(scratch: Run) -> pa.Table:
    """Some rows of a manifest, from all over its first file."""
    first = next(storage.list_files(scratch.manifest))
    files, path = storage.filesystem(first.uri)
    rows = pq.read_table(path, filesystem=files)
    count = WARM_UP_IMAGES + SAMPLE_IMAGES
    return rows.take(list(range(0, rows.num_rows, -(-rows.num_rows // count))))


def seconds_an_image(plan: AnnotatePlan, rows: pa.Table) -> tuple[float, float]:
    """Seconds to fetch an image, one after another, and to label one, in this process."""
    annotate = build_annotate(plan)
    fetch = Fetch(options=read_options(plan.config), num_in_flight=1)
    annotate(fetch(rows[:WARM_UP_IMAGES]))
    sample = rows[WARM_UP_IMAGES:] if rows.num_rows > WARM_UP_IMAGES else rows
    started = time.perf_counter()
    fetched = fetch(sample)
    between = time.perf_counter()
    annotate(fetched)
    ended = time.perf_counter()
    return (between - started) / sample.num_rows, (ended - between) / sample.num_rows


def fit_here(plan: AnnotatePlan, found: Increment) -> tuple[AnnotatePlan, Sizing]:
    """What the cluster that Ray finds has room for."""
    from fattr.on_ray.session import ray_session

    with ray_session():
        return fit_to_cluster(plan, num_images=found.num_images, total_bytes=found.total_bytes)


def say(
    plan: AnnotatePlan, num_images: int, sizing: Sizing | None, seconds: tuple[float, float]
) -> None:
    """The stages, who does them, and the time they take: on Ray, that of the slower one."""
    fetch_s, annotate_s = seconds
    here = f"here      {cpu_count()} threads of this process: fetch, decode, detect, crop, classify"
    who = describe(sizing, batch_size=images_per_detection(plan)) if sizing else []
    lines = [*STAGES, *who] if sizing else [STAGES[0], here, STAGES[-1]]
    workers = sizing.initial_actors if sizing else cpu_count()
    if sizing:
        total = num_images * max(annotate_s, fetch_s / sizing.num_in_flight) / workers
    else:  # a thread fetches, then labels
        total = num_images * (annotate_s + fetch_s) / workers
    for line in lines:
        log.info("%s", line)
    log.info(
        "measured here on a few images: fetch %.1f ms, decode to labels %.1f ms an image",
        1000 * fetch_s,
        1000 * annotate_s,
    )
    log.info("%d images with %d at work: about %s", num_images, workers, duration(total))
    log.info("dry run: nothing was written to %s", storage.canonical_uri(plan.config.output))


def duration(seconds: float) -> str:
    """Rounded for people: ``3 h 20 min``."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{max(1, round(seconds))} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
