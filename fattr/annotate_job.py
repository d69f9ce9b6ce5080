"""``jobs/annotate.py``: photographs in, two Parquet tables out."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from fattr import manifest, storage, tables
from fattr.build import (
    AnnotatePlan,
    build_annotate,
    cpu_count,
    plan_annotate,
    settings_id,
    settings_of,
)
from fattr.config import AnnotateConfig
from fattr.errors import FattrError, RunError, UsageError
from fattr.local_engine import annotate_locally
from fattr.parts import read_parts
from fattr.progress import AnnotateBar
from fattr.publish import Totals, check_counts, publish
from fattr.runinfo import new_run_id, versions, write_json

log = logging.getLogger(__name__)

PUBLISH_ROWS = 8192


class Run:
    """Where a run keeps what it makes, and what it will say of itself."""

    def __init__(self, output: str) -> None:
        self.started, self._clock = datetime.now(UTC), time.monotonic()
        self.run_id = new_run_id(self.started)
        self.output = storage.canonical_uri(output)
        self.folder = storage.join(self.output, "_runs", self.run_id)
        self.manifest = storage.join(self.folder, "manifest")
        self.staging = storage.join(self.folder, "staging")

    def table(self, name: str) -> str:
        """Folder of this run's part of a table."""
        day = f"dt={self.started:%Y-%m-%d}"
        return storage.join(self.output, name, day, f"run={self.run_id}")

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self._clock


def refuse_used_output(output: str) -> None:
    """Refuse an output that holds anything of a run.

    Raises:
        UsageError: naming the run.
    """
    for name in ("_runs", "images", "faces"):
        held = next(storage.list_tree(storage.join(output, name)), None)
        if held is not None:
            run = held.uri.removeprefix(output + "/")
            raise UsageError(f"--output {output} holds {run} of an earlier run: choose another")


def check_places(config: AnnotateConfig, output: str) -> None:
    """Refuse an output inside the images or the other way round; make sure it can be written.

    Raises:
        UsageError: saying which.
    """
    images = storage.canonical_uri(config.images)
    if storage.is_within(output, images) or storage.is_within(images, output):
        raise UsageError(f"--output {output} and --images {images} overlap: keep them apart")
    storage.check_writable(output)
    refuse_used_output(output)


def annotate(config: AnnotateConfig) -> int:
    """Run the job; 0 when both tables are published.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run could not finish.
    """
    plan = plan_annotate(config)
    run = Run(config.output)
    entries = manifest.read_source(config.images)
    check_places(config, run.output)
    say_licences(plan)
    listed = manifest.write_manifest(entries, run.manifest, limit=config.limit)
    log.info("run %s: %d images", run.run_id, listed.num_images)
    if listed.num_duplicates:
        log.warning("%d URIs came more than once and are done once", listed.num_duplicates)
    info = describe(plan, run) | {"num_duplicates": listed.num_duplicates}
    try:
        run_engine(plan, run, listed.num_images)
        totals = publish_run(plan, run, info)
        check_counts(listed.num_images, totals)
    except (FattrError, OSError) as err:
        problem = str(err)
        if isinstance(err, OSError):  # Arrow's own words may quote an endpoint
            problem = f"cannot write {run.output}: {err.strerror or type(err).__name__}"
        info |= {"exit_code": 3, "error": problem, "seconds": round(run.seconds, 2)}
        write_json(storage.join(run.folder, "run.json"), info)
        raise RunError(problem) from err
    finish(run, info, totals)
    return 0


def say_licences(plan: AnnotatePlan) -> None:
    """One line for each bundle that is not free to use."""
    for bundle, _ in plan.models:
        if bundle.spec.research_only:
            log.warning("model %s is for research only: %s", bundle.spec.name, bundle.spec.licence)


def describe(plan: AnnotatePlan, run: Run) -> dict[str, Any]:
    """What ``run.json`` says before the run."""
    settings = settings_of(plan)
    return {
        "run_id": run.run_id,
        "job": "annotate",
        "started": run.started.isoformat(),
        "images": storage.canonical_uri(plan.config.images),
        "engine": plan.config.engine,
        "device": plan.device,
        "purpose": plan.config.purpose,
        "settings_id": settings_id(settings),
        "settings": settings,
        "detector": plan.source.name,
        "models": [
            {
                "name": bundle.spec.name,
                "model_id": bundle.model_id,
                "licence": bundle.spec.licence,
                "research_only": bundle.spec.research_only,
                "attributes": [a.name for a in attributes],
                "not_written": sorted(
                    {a.name for a in bundle.spec.attributes} - {a.name for a in attributes}
                ),
            }
            for bundle, attributes in plan.models
        ],
        "versions": versions(),
    }


def run_engine(plan: AnnotatePlan, run: Run, num_images: int) -> None:
    """Manifest to staged rows, on show."""
    with AnnotateBar(num_images) as bar:
        if plan.config.engine == "local":
            stage = build_annotate(plan)
            annotate_locally(
                run.manifest,
                run.staging,
                stage,
                tables.staged_schema(plan.attributes),
                num_threads=cpu_count(),
                on_counts=bar.add,
            )
            return
        from fattr.on_ray.annotate import annotate_on_ray
        from fattr.on_ray.session import ray_session

        with ray_session():
            annotate_on_ray(
                plan, run.manifest, run.staging, num_images=num_images, on_counts=bar.add
            )


def staged_rows(plan: AnnotatePlan, run: Run) -> Iterator[pa.Table]:
    """The staged rows in the schema they were made with."""
    schema = tables.staged_schema(plan.attributes)
    for rows in read_parts(run.staging, batch_rows=PUBLISH_ROWS):
        yield rows.cast(schema)


def publish_run(plan: AnnotatePlan, run: Run, info: dict[str, Any]) -> Totals:
    """Write both tables of the run."""
    model_ids = [bundle.model_id for bundle, _ in plan.models]
    return publish(
        staged_rows(plan, run),
        images_uri=run.table("images"),
        faces_uri=run.table("faces"),
        attributes=plan.attributes,
        model_id="+".join(model_ids),
        metadata={
            "fattr.run_id": run.run_id,
            "fattr.settings_id": info["settings_id"],
            "fattr.models": json.dumps(info["models"]),
            "fattr.purpose": plan.config.purpose,
        },
    )


def finish(run: Run, info: dict[str, Any], totals: Totals) -> None:
    """Clear the staging, write ``run.json``, and last of all ``_SUCCESS``."""
    storage.delete_tree(run.staging)
    info |= {
        "exit_code": 0,
        "seconds": round(run.seconds, 2),
        "num_images": totals.num_images,
        "num_faces": totals.num_faces,
        "by_status": dict(totals.by_status),
        "stage_seconds": {name: round(s, 3) for name, s in totals.stage_seconds.items()},
        "images_per_second": round(totals.num_images / max(run.seconds, 1e-9), 2),
    }
    write_json(storage.join(run.folder, "run.json"), info)
    storage.write_bytes(storage.join(run.folder, "_SUCCESS"), b"")
    counts = ", ".join(f"{count} {status}" for status, count in totals.by_status.most_common())
    log.info(
        "done: %d faces in %d images (%s), %.1f s, tables in %s",
        totals.num_faces,
        totals.num_images,
        counts,
        run.seconds,
        run.output,
    )
