"""Small OUTPUTs of known rows: manifest and staged rows published as a run does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage, tables
from fattr.attributes import Attribute, attribute
from fattr.published.catalog import REPLACED_SCHEMA
from fattr.published.publish import Published, publish
from fattr.runs.manifest import image_id
from fattr.runs.run import Run

ATTRIBUTES = (attribute("smiling"), attribute("perceived_gender_presentation"))
PLACE = {
    "box_x1": 1.0,
    "box_y1": 2.0,
    "box_x2": 31.0,
    "box_y2": 42.0,
    "det_score": 0.75,
    "landmarks": [float(i) for i in range(10)],
    "face_px": 30.0,
}


@dataclass(frozen=True)
class Photo:
    """An image and what is in it; ``faces`` say what differs from a face without labels."""

    uri: str
    faces: Sequence[dict[str, Any]] = ()
    status: str = "ok"
    reason: str = ""
    etag: str | None = "1"
    size_bytes: int | None = 1000
    seconds: float = field(default=0.25, compare=False)

    @property
    def image_id(self) -> int:
        return image_id(self.uri)


def staged(photos: Iterable[Photo], attributes: Sequence[Attribute] = ATTRIBUTES) -> pa.Table:
    """The rows that an engine would make of these."""
    empty = {f.name: None for a in attributes for f in tables.attribute_fields(a)}
    rows = [
        {
            "image_id": photo.image_id,
            "image_uri": photo.uri,
            "etag": photo.etag,
            "size_bytes": photo.size_bytes,
            "width": 640,
            "height": 480,
            "num_faces": len(photo.faces),
            "status": photo.status,
            "reason": photo.reason,
            "faces": [PLACE | empty | f | {"face_index": i} for i, f in enumerate(photo.faces)],
            **dict.fromkeys(tables.STAGE_SECONDS, photo.seconds),
        }
        for photo in photos
    ]
    return pa.Table.from_pylist(rows, tables.staged_schema(attributes))


def put_parquet(table: pa.Table, uri: str, **settings: Any) -> None:
    """Write a Parquet file at a URI."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **settings)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


def get_parquet(uri: str) -> pa.Table:
    """Read one."""
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read()


def put_manifest(run: Run, photos: Iterable[Photo], rows_per_file: int = 1000) -> None:
    """The run's manifest, sorted by URI."""
    chosen = sorted(photos, key=lambda photo: photo.uri)
    rows = pa.table(
        {
            "image_id": pa.array([photo.image_id for photo in chosen], pa.int64()),
            "image_uri": pa.array([photo.uri for photo in chosen], pa.string()),
            "fetch_uri": pa.nulls(len(chosen), pa.string()),
            "size_bytes": pa.array([photo.size_bytes for photo in chosen], pa.int64()),
            "etag": pa.array([photo.etag for photo in chosen], pa.string()),
        }
    )
    for number, start in enumerate(range(0, max(len(chosen), 1), rows_per_file)):
        uri = storage.join(run.manifest, f"part-{number:05d}.parquet")
        put_parquet(rows.slice(start, rows_per_file), uri, row_group_size=7)


def publish_run(
    run: Run, attributes: Sequence[Attribute] = ATTRIBUTES, rows_per_file: int = 100, **others: Any
) -> Published:
    """Publish what lies staged."""
    metadata = {"fattr.run_id": run.run_id, "fattr.settings_id": "s"}
    return publish(
        run,
        attributes=attributes,
        model_id="model",
        metadata=metadata,
        rows_per_file=rows_per_file,
        **others,
    )


def add_run(
    output: str,
    run_id: str,
    photos: Sequence[Photo],
    *,
    replaced: Sequence[tuple[str, str]] = (),
    attributes: Sequence[Attribute] = ATTRIBUTES,
    rows_per_file: int = 100,
) -> Run:
    """A finished run; ``replaced`` are (id of an older run, URI)."""
    run = Run(storage.canonical_uri(output), run_id)
    put_manifest(run, photos)
    if photos:
        uri = storage.join(run.staging, "a.parquet")
        put_parquet(staged(photos, attributes), uri, row_group_size=7)
    published = publish_run(run, attributes, rows_per_file)
    storage.delete_tree(run.staging)
    if replaced:
        pairs = [{"run_id": old, "image_id": image_id(uri)} for old, uri in replaced]
        put_parquet(pa.Table.from_pylist(pairs, REPLACED_SCHEMA), run.file("replaced.parquet"))
    finish(run, published.totals.num_images, published.totals.num_faces)
    return run


def finish(run: Run, num_images: int, num_faces: int) -> None:
    """Its ``_SUCCESS``."""
    said = {"num_images": num_images, "num_faces": num_faces}
    storage.write_bytes(run.file("_SUCCESS"), json.dumps(said).encode() + b"\n")
