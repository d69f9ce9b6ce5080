"""Time and memory of publishing made-up staged rows, and of ``fattr verify`` over the tables.

    python -m benchmarks.publishing --images 1_000_000

Columns and values are those of both bundles, three faces an image; staged files are as the Ray
engine leaves them, each of rows from all over a stretch of the manifest. Staging, publishing and
verifying run in processes of their own, so that each peak of resident memory is that of one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.increment import PeakMemory, Seconds, etags_of, uris_of
from benchmarks.query.made_up import (
    ATTRIBUTES,
    MODEL_ID,
    face_rows,
    image_ids,
    image_rows,
    table_of,
)
from fattr import storage, tables
from fattr.published.publish import publish
from fattr.published.verify import verify
from fattr.runs.manifest import MANIFEST_SCHEMA, write_manifest
from fattr.runs.run import SUCCESS, Run

RUN_ID = "20261123T211700Z-000000"
STRETCH = 100_000  # rows of the manifest that are under way at a time


def main() -> None:
    """Stage, publish and verify; say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000, help="rows of images")
    parser.add_argument("--staged-rows", type=int, default=10_000, help="of one staged file")
    parser.add_argument("--scratch", type=Path, help="folder on a disk with room; default: TMPDIR")
    args = parser.parse_args()
    print(f"pyarrow {pa.__version__}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        run = Run(storage.canonical_uri(folder), RUN_ID)
        measured(stage, run, args.images, args.staged_rows)
        measured(publish_all, run)
        measured(verify_all, run)


def measured(step: Callable[..., str], *arguments: Any) -> None:  # noqa: ANN401 -- whatever it takes
    """Run a step in a fresh process; one that fails ends this one."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_measure, args=(step, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__} failed")


def _measure(step: Callable[..., str], *arguments: Any) -> None:  # noqa: ANN401 -- see above
    took = Seconds()
    with PeakMemory() as peak, took.count():
        said = step(*arguments)
    memory = f"peak {peak.bytes / 2**20:.0f} MiB, {peak.first / 2**20:.0f} at the start"
    print(f"{step.__name__}: {took}; {memory}; {said}", flush=True)


def stage(run: Run, num_images: int, staged_rows: int) -> str:
    """Write the manifest and staged files of a run."""
    write_manifest(_manifest_rows(num_images), run.manifest)
    rng, num_files = np.random.default_rng(0), 0
    for first in range(0, num_images, STRETCH):
        numbers = rng.permutation(np.arange(first, min(first + STRETCH, num_images)))
        for start in range(0, len(numbers), staged_rows):
            sink = pa.BufferOutputStream()
            pq.write_table(staged(rng, numbers[start : start + staged_rows]), sink)
            uri = storage.join(run.staging, f"made_{num_files:06d}-0.parquet")
            storage.write_bytes(uri, sink.getvalue().to_pybytes())
            num_files += 1
    return f"{num_images:,} images in {num_files:,} staged files"


def _manifest_rows(num_images: int) -> Iterator[pa.Table]:
    for start in range(0, num_images, STRETCH):
        numbers = np.arange(start, min(start + STRETCH, num_images))
        columns = {
            "image_id": image_ids(numbers),
            "image_uri": uris_of(numbers),
            "fetch_uri": pa.nulls(len(numbers)),
            "size_bytes": 100_000 + numbers % 1000,
            "etag": etags_of(numbers),
        }
        yield table_of(columns, MANIFEST_SCHEMA)


def staged(rng: np.random.Generator, numbers: np.ndarray) -> pa.Table:
    """Staged rows of these images, in this order."""
    images = image_rows(rng, numbers, tables.IMAGES)
    faces = face_rows(rng, images, tables.faces_schema(ATTRIBUTES))
    columns = {name: faces.column(name).combine_chunks() for name in faces.column_names}
    per_image = images.column("num_faces").to_numpy()
    made = {"faces": tables.face_lists(ATTRIBUTES, columns, per_image)}
    made |= {name: np.full(len(numbers), 0.01, np.float32) for name in tables.STAGE_SECONDS}
    return tables.staged_table(images, made, ATTRIBUTES)


def publish_all(run: Run) -> str:
    """Publish them, and finish the run."""
    said = {"fattr.run_id": run.run_id, "fattr.settings_id": "made up"}
    published = publish(run, attributes=ATTRIBUTES, model_id=MODEL_ID, metadata=said)
    totals = published.totals
    counts = {"num_images": totals.num_images, "num_faces": totals.num_faces}
    storage.write_bytes(run.file(SUCCESS), json.dumps(counts).encode())
    size = sum(file.size_bytes for file in published.files) / 2**20
    return f"{totals.num_faces:,} faces, {len(published.files)} files, {size:,.0f} MiB"


def verify_all(run: Run) -> str:
    """``fattr verify``, which must find nothing."""
    if problems := verify(run.output):
        raise SystemExit("\n".join(problems))
    return "all sound"


if __name__ == "__main__":
    main()
