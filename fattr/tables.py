"""Records to Arrow and back: the only place that names the columns of the tables."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fattr.attributes import Attribute, Kind
from fattr.boxes import short_sides
from fattr.records import Detections, FloatArray

SCHEMA_VERSION = 1
STAGE_SECONDS = ("fetch_s", "decode_s", "detect_s", "crop_s", "classify_s")

FETCHED_COLUMNS = (
    pa.field("image_bytes", pa.large_binary()),  # null where the fetch failed
    pa.field("fetch_status", pa.string(), nullable=False),
    pa.field("fetch_reason", pa.string(), nullable=False),
    pa.field("fetch_s", pa.float32(), nullable=False),
)

IMAGES = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("etag", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("width", pa.int32()),  # upright, null where unreadable
        pa.field("height", pa.int32()),
        pa.field("num_faces", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # empty where ok
    ],
    metadata={"fattr.schema": f"images/{SCHEMA_VERSION}"},
)

FACTS = pa.schema(
    [
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),  # empty where ok
        pa.field("sha256", pa.string()),  # of the file's bytes, null where they cannot be read
        pa.field("size_bytes", pa.int64()),
        pa.field("width", pa.int32()),  # upright; from here on null where not ok
        pa.field("height", pa.int32()),
        pa.field("brightness", pa.float32()),
        pa.field("contrast", pa.float32()),
        pa.field("sharpness", pa.float32()),
    ],
    metadata={"fattr.schema": "facts/1"},
)

_PLACE = (
    pa.field("face_index", pa.int32(), nullable=False),
    pa.field("box_x1", pa.float32(), nullable=False),
    pa.field("box_y1", pa.float32(), nullable=False),
    pa.field("box_x2", pa.float32(), nullable=False),
    pa.field("box_y2", pa.float32(), nullable=False),
    pa.field("det_score", pa.float32(), nullable=False),
    pa.field("landmarks", pa.list_(pa.float32(), 10), nullable=False),
    pa.field("face_px", pa.float32(), nullable=False),
)


def attribute_fields(attribute: Attribute) -> list[pa.Field]:
    """The columns of one attribute; the order of ``_probs`` is in its column's metadata."""
    name = attribute.name
    probs = pa.field(
        f"{name}_probs",
        pa.list_(pa.float32()),
        metadata={"fattr.classes": json.dumps(list(attribute.classes))},
    )
    match attribute.kind:
        case Kind.BINARY:
            return [pa.field(name, pa.bool_()), pa.field(f"{name}_prob", pa.float32())]
        case Kind.CATEGORICAL:
            label = pa.field(name, pa.string())
            return [label, pa.field(f"{name}_prob", pa.float32()), probs]
        case Kind.AGE:
            years = [pa.field(f"{name}{end}", pa.float32()) for end in ("", "_low", "_high")]
            return [*years, probs]


def face_fields(attributes: Sequence[Attribute]) -> list[pa.Field]:
    """What the engine carries of one face: its place and its attributes."""
    return [*_PLACE, *(field for a in attributes for field in attribute_fields(a))]


def faces_schema(attributes: Sequence[Attribute]) -> pa.Schema:
    """The ``faces`` table."""
    keys = [IMAGES.field("image_id"), IMAGES.field("image_uri")]
    model = pa.field("model_id", pa.string(), nullable=False)
    return pa.schema(
        [*keys, *face_fields(attributes), model],
        metadata={"fattr.schema": f"faces/{SCHEMA_VERSION}"},
    )


def staged_schema(attributes: Sequence[Attribute]) -> pa.Schema:
    """What crosses the engine: one row an image, its faces as a list, seconds spent on it."""
    faces = pa.field("faces", pa.list_(pa.struct(face_fields(attributes))), nullable=False)
    seconds = [pa.field(name, pa.float32(), nullable=False) for name in STAGE_SECONDS]
    return pa.schema([*IMAGES, faces, *seconds])


def place_columns(per_image: Sequence[Detections]) -> dict[str, pa.Array]:
    """Where the faces are, image after image, in full-resolution pixels."""
    xyxy = np.concatenate([np.zeros((0, 4), np.float32), *(d.boxes_xyxy for d in per_image)])
    scores = np.concatenate([np.zeros(0, np.float32), *(d.scores for d in per_image)])
    points = np.concatenate([np.zeros((0, 5, 2), np.float32), *(d.landmarks for d in per_image)])
    ranks = np.concatenate([np.zeros(0, np.int32), *(np.arange(len(d)) for d in per_image)])
    edges = {f"box_{edge}": xyxy[:, i] for i, edge in enumerate(("x1", "y1", "x2", "y2"))}
    values = {"face_index": ranks, **edges, "det_score": scores, "face_px": short_sides(xyxy)}
    flat = pa.array(points.reshape(-1), pa.float32())
    landmarks = pa.FixedSizeListArray.from_arrays(flat, 10)
    return {name: pa.array(column) for name, column in values.items()} | {"landmarks": landmarks}


def label_columns(
    attribute: Attribute, labels: Mapping[str, Any], probs: FloatArray
) -> dict[str, pa.Array]:
    """Columns of one attribute for N faces.

    ``labels`` as from ``calibration.labels``; ``probs`` (N,) of true or (N, K).
    """
    name = attribute.name
    columns = {key: pa.array(values) for key, values in labels.items()}
    if attribute.kind is Kind.BINARY:
        return columns | {f"{name}_prob": pa.array(probs, pa.float32())}
    columns[f"{name}_probs"] = pa.FixedSizeListArray.from_arrays(
        pa.array(probs.reshape(-1), pa.float32()), probs.shape[1]
    ).cast(pa.list_(pa.float32()))
    if attribute.kind is Kind.CATEGORICAL:
        best = probs.max(axis=1, initial=0)
        columns[f"{name}_prob"] = pa.array(best, pa.float32())
    return columns


def face_lists(
    attributes: Sequence[Attribute],
    columns: Mapping[str, pa.Array],
    faces_per_image: NDArray[np.integer],
) -> pa.ListArray:
    """``list<struct>`` of one entry an image from columns over all faces, image after image."""
    fields = face_fields(attributes)
    struct = pa.StructArray.from_arrays(
        [columns[f.name].cast(f.type) for f in fields], fields=fields
    )
    offsets = np.concatenate([[0], np.cumsum(faces_per_image)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), struct)


def staged_table(
    manifest: pa.Table, made: Mapping[str, Any], attributes: Sequence[Attribute]
) -> pa.Table:
    """Staged rows: columns of ``made``, and what the manifest's rows said already."""
    schema = staged_schema(attributes)
    columns = [
        made[f.name] if f.name in made else manifest.column(f.name).combine_chunks() for f in schema
    ]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, f.type)
        for column, f in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, names=schema.names).cast(schema)


def images_table(staged: pa.Table) -> pa.Table:
    """The ``images`` rows of staged rows."""
    return staged.select(IMAGES.names).cast(IMAGES)


def faces_table(staged: pa.Table, schema: pa.Schema, model_id: str) -> pa.Table:
    """The ``faces`` rows of staged rows."""
    batches = list(_face_batches(staged, schema, model_id))
    return pa.Table.from_batches(batches, schema)


def _face_batches(staged: pa.Table, schema: pa.Schema, model_id: str) -> Iterator[pa.RecordBatch]:
    for batch in staged.to_batches():
        faces = batch.column("faces")
        parents = pc.list_parent_indices(faces)
        struct = pc.list_flatten(faces)
        keys = [pc.take(batch.column(name), parents) for name in ("image_id", "image_uri")]
        names = [field.name for field in struct.type]
        parts = dict(zip(names, struct.flatten(), strict=True))
        model = pa.array(np.full(len(struct), model_id, dtype=object), pa.string())
        columns = [*keys, *(parts[f.name] for f in list(schema)[2:-1]), model]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
