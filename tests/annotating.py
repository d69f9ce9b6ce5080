"""The Ray engine alone: a manifest by hand, staged rows, no publishing. Also a script to kill."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage, tables
from fattr.build import AnnotatePlan, build_annotate, plan_annotate
from fattr.config import AnnotateConfig
from fattr.local_engine import annotate_locally
from fattr.runs.manifest import MANIFEST_SCHEMA
from fattr.runs.run import Run
from fattr.sizing import Preset, Sizing, size_for
from fattr.stages import Fetch

RUN_ID = "20261123T211700Z-3f9c1a"


def write_manifest(run: Run, uris: Sequence[str], *, hashed: bool = False) -> None:
    """Ids are the rows' numbers; with ``hashed``, image_uri tells nothing."""
    names = [f"hash-{n:05d}" for n in range(len(uris))] if hashed else list(uris)
    columns = [
        range(len(uris)),
        names,
        list(uris) if hashed else [None] * len(uris),
        [None] * len(uris),
        [f"etag-{n}" for n in range(len(uris))],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, MANIFEST_SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=MANIFEST_SCHEMA), sink, row_group_size=64)
    uri = storage.join(run.manifest, "part-00000.parquet")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def plan_of(model: str | Path) -> AnnotatePlan:
    return plan_annotate(AnnotateConfig(images="x", output="y", model=(str(model),), device="cpu"))


def sizing_of(num_images: int, ask_for: Preset = "cpu", **changes: object) -> Sizing:
    """For this session's cluster, in small pieces."""
    from dataclasses import replace

    from fattr.on_ray.pool import resources

    sizing = size_for(ask_for, resources(), num_images=num_images, mean_bytes=0)
    return replace(sizing, **({"rows_per_block": 4, "rows_per_write": 4} | changes))


@dataclass
class Staged:
    """What a call staged and said."""

    rows: list[dict[str, object]]
    counts: Counter[str] = field(default_factory=Counter)


def annotate(
    plan: AnnotatePlan,
    run: Run,
    num_images: int,
    *,
    check: Callable[[], None] = lambda: None,
    image_timeout_s: float = 60.0,
    is_code_cleared: bool = False,
    **sizes: object,
) -> Staged:
    from fattr.on_ray.annotate import Blame, Listener, annotate_on_ray

    counts = Counter[str]()
    annotate_on_ray(
        plan,
        run,
        num_images=num_images,
        sizing=sizing_of(num_images, **sizes),
        blame=Blame(image_timeout_s, is_code_cleared),
        listener=Listener(counts.update),
        check=check,
    )
    return Staged(staged_rows(run), counts)


def staged_rows(run: Run) -> list[dict[str, object]]:
    """In the order of their ids, without times."""
    rows = []
    for entry in storage.list_tree(run.staging):
        files, path = storage.filesystem(entry.uri)
        rows += pq.read_table(path, filesystem=files).to_pylist()
    for row in rows:
        for name in tables.STAGE_SECONDS:
            row.pop(name)
    return sorted(rows, key=lambda row: row["image_id"])


def rows_without_ray(
    model: str | Path, uris: Sequence[str], folder: Path
) -> list[dict[str, object]]:
    """As ``annotate`` would stage them, made by the engine of this process."""
    plan, run = plan_of(model), Run(folder.as_uri(), RUN_ID)
    write_manifest(run, uris)
    annotate_locally(
        run.manifest,
        run.staging,
        build_annotate(plan),
        tables.staged_schema(plan.attributes),
        fetch=Fetch(),
        num_threads=1,
        is_cleared=False,
        on_counts=lambda _: None,
    )
    return staged_rows(run)


def main() -> None:
    """A driver of its own: JSON says what to do."""
    asked = json.loads(sys.argv[1])
    import ray

    from fattr.on_ray.session import ray_session

    if asked.get("num_cpus"):
        ray.init(
            address="local",
            num_cpus=asked["num_cpus"],
            include_dashboard=False,
            log_to_driver=False,
        )
    run = Run(asked["output"], RUN_ID)
    with ray_session():
        print("session", flush=True)
        if "notes" in asked:
            import whereabouts

            whereabouts.use(asked["notes"], asked["seconds_an_image"])
        sizes = {"ask_for": asked.get("preset", "cpu")} | asked.get("sizes", {})
        annotate(plan_of(asked["model"]), run, asked["num_images"], **sizes)
    print("done", flush=True)


if __name__ == "__main__":
    main()
