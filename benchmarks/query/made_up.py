"""A made-up OUTPUT as annotate leaves it: both bundles' columns, several nights, rows done again.

Values are random but shaped as real ones (shares, coverage, sizes compress alike); files are the
product's own, by ``publish.encode``. There is no manifest, which readers do not need.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.increment import etags_of, mixed, uris_of
from fattr import storage, tables
from fattr.attributes import AGE, CELEBA40, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind
from fattr.published import catalog
from fattr.published.publish import FILES, FILES_SCHEMA, ROWS_PER_FILE, PublishedFile, encode
from fattr.records import Status
from fattr.runs.run import SUCCESS, Run

ATTRIBUTES = (AGE, *CELEBA40[:20], PERCEIVED_GENDER_PRESENTATION, *CELEBA40[21:])
FACES_PER_IMAGE = 3.06
IMAGES_PER_BLOCK = 25_000
REDONE_EVERY = 100  # each night does one in so many images of the nights before again
MIN_FACE_PX = 32
STATUSES = {
    Status.OK: 0.935,
    Status.NO_FACE: 0.05,
    Status.UNREADABLE: 0.01,
    Status.MISSING: 0.003,
    Status.TOO_LARGE: 0.002,
}
MODEL_ID = "+".join(hashlib.sha256(name).hexdigest() for name in (b"demographics", b"celeba40"))
FIRST_NIGHT = datetime(2026, 6, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Nights:
    """Which images every run holds; an image is done again by one later run at most."""

    runs: tuple[Run, ...]
    images_per_run: int

    def new(self, night: int) -> np.ndarray:
        """Numbers of the images that are new in a run."""
        return np.arange(night * self.images_per_run, (night + 1) * self.images_per_run)

    def redone(self, night: int) -> np.ndarray:
        """Numbers of images of earlier runs that a run does again."""
        return np.arange(night, night * self.images_per_run, REDONE_EVERY)

    def replaced(self, night: int) -> pa.Table:
        """What a run lists in ``replaced.parquet``."""
        numbers = self.redone(night)
        run_ids = np.array([run.run_id for run in self.runs], dtype=object)
        columns = [run_ids[numbers // self.images_per_run], image_ids(numbers)]
        arrays = [
            pa.array(c, f.type) for c, f in zip(columns, catalog.REPLACED_SCHEMA, strict=True)
        ]
        return pa.Table.from_arrays(arrays, schema=catalog.REPLACED_SCHEMA)


def make_output(folder: Path, *, num_faces: int, num_runs: int, num_threads: int) -> None:
    """Write an OUTPUT of about so many faces, those done again not counted.

    Memory is that of a file's rows for each thread.
    """
    output = storage.canonical_uri(str(folder))
    started = (FIRST_NIGHT + timedelta(days=night) for night in range(num_runs))
    runs = tuple(Run(output, f"{when:%Y%m%dT%H%M%SZ}-000000") for when in started)
    nights = Nights(runs, round(num_faces / FACES_PER_IMAGE / num_runs))
    with ThreadPoolExecutor(num_threads) as pool:
        list(pool.map(lambda night: _make_run(nights, night), range(num_runs)))
    catalog.write_views(output, runs)


def image_ids(numbers: np.ndarray) -> np.ndarray:
    """As good as a hash of the image's URI."""
    return mixed(numbers).astype(np.int64)


def _make_run(nights: Nights, night: int) -> None:
    run = nights.runs[night]
    numbers = np.concatenate([nights.redone(night), nights.new(night)])
    said = {"fattr.run_id": run.run_id, "fattr.settings_id": "made up"}
    parts = {
        "images": Parts(run, "images", with_metadata(tables.IMAGES, said)),
        "faces": Parts(run, "faces", with_metadata(tables.faces_schema(ATTRIBUTES), said)),
    }
    for block in _blocks(numbers):
        rng = np.random.default_rng([night, int(block[0])])
        images = image_rows(rng, block, parts["images"].schema)
        parts["images"].add(images)
        parts["faces"].add(face_rows(rng, images, parts["faces"].schema))
    files = [file for part in parts.values() for file in part.finish()]
    _finish(run, files, nights.replaced(night))


def _blocks(numbers: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(numbers), IMAGES_PER_BLOCK):
        yield numbers[start : start + IMAGES_PER_BLOCK]


def _finish(run: Run, files: Sequence[PublishedFile], replaced: pa.Table) -> None:
    rows = [dict(zip(FILES_SCHEMA.names, astuple(file), strict=True)) for file in files]
    _write(run.file(FILES), pa.Table.from_pylist(rows, FILES_SCHEMA))
    _write(run.file(catalog.REPLACED), replaced)
    counts = {
        f"num_{name}": sum(file.num_rows for file in files if file.table == name)
        for name in ("images", "faces")
    }
    storage.write_bytes(run.file(SUCCESS), json.dumps(counts).encode())


def _write(uri: str, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


class Parts:
    """The files of one table of a run, each of the product's number of rows but the last."""

    def __init__(self, run: Run, table: str, schema: pa.Schema) -> None:
        self.schema = schema
        self._run, self._table = run, table
        self._held = schema.empty_table()
        self._files: list[PublishedFile] = []

    def add(self, rows: pa.Table) -> None:
        """Append rows; write what makes a whole file."""
        self._held = pa.concat_tables([self._held, rows])
        while self._held.num_rows >= ROWS_PER_FILE:
            self._write(self._held.slice(0, ROWS_PER_FILE))
            self._held = self._held.slice(ROWS_PER_FILE)

    def finish(self) -> list[PublishedFile]:
        """Write the rest; all files."""
        if self._held.num_rows or not self._files:
            self._write(self._held)
        return self._files

    def _write(self, rows: pa.Table) -> None:
        uri = storage.join(self._run.table(self._table), f"part-{len(self._files):05d}.parquet")
        data = encode(rows)
        storage.write_bytes(uri, data)
        path = storage.relative_path(uri, self._run.output)
        digest = hashlib.sha256(data).hexdigest()
        self._files.append(PublishedFile(path, self._table, rows.num_rows, len(data), digest))


def with_metadata(schema: pa.Schema, said: Mapping[str, str]) -> pa.Schema:
    """The schema with more metadata."""
    return schema.with_metadata({**(schema.metadata or {}), **said})


# Rows


def image_rows(rng: np.random.Generator, numbers: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Rows of ``images``, in the order of the numbers."""
    count = len(numbers)
    status = rng.choice([str(s) for s in STATUSES], count, p=list(STATUSES.values()))
    is_ok, is_read = status == Status.OK, np.isin(status, [Status.OK, Status.NO_FACE])
    faces = rng.geometric(STATUSES[Status.OK] / FACES_PER_IMAGE, count)
    width = rng.choice([1024, 1600, 3024, 4032], count)
    columns = {
        "image_id": image_ids(numbers),
        "image_uri": uris_of(numbers),
        "etag": etags_of(numbers),
        "size_bytes": rng.integers(50_000, 4_000_000, count),
        "width": pa.array(width, mask=~is_read),
        "height": pa.array(width * 3 // 4, mask=~is_read),
        "num_faces": np.where(is_ok, faces, 0),
        "status": status.astype(object),
        "reason": np.where(is_read, "", "made up").astype(object),
    }
    return table_of(columns, schema)


def face_rows(rng: np.random.Generator, images: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows of ``faces``, image after image."""
    per_image = images.column("num_faces").to_numpy()
    owners = np.repeat(np.arange(len(per_image)), per_image)
    count, first = len(owners), np.repeat(np.cumsum(per_image) - per_image, per_image)
    columns: dict[str, Any] = {
        name: images.column(name).take(owners) for name in ("image_id", "image_uri")
    }
    columns |= place_columns(rng, np.arange(count) - first)
    is_small = columns["face_px"] < MIN_FACE_PX
    for attribute in ATTRIBUTES:
        columns |= attribute_columns(rng, attribute, is_small)
    columns["model_id"] = pa.repeat(MODEL_ID, count)
    return table_of(columns, schema)


def place_columns(rng: np.random.Generator, face_index: np.ndarray) -> dict[str, Any]:
    """Boxes of log-normal size, a tenth of them below the smallest that gets labels."""
    count = len(face_index)
    x1, y1 = rng.uniform(0, 3000, (2, count)).astype(np.float32)
    side = np.exp(rng.normal(4.6, 0.9, count)).astype(np.float32)
    points = rng.uniform(0, 3000, count * 10).astype(np.float32)
    return {
        "face_index": face_index,
        **{"box_x1": x1, "box_y1": y1, "box_x2": x1 + side, "box_y2": y1 + side * 1.2},
        "det_score": 1 - rng.beta(1, 8, count).astype(np.float32) / 2,
        "landmarks": pa.FixedSizeListArray.from_arrays(pa.array(points), 10),
        "face_px": side,
    }


def attribute_columns(
    rng: np.random.Generator, attribute: Attribute, is_small: np.ndarray
) -> dict[str, pa.Array]:
    """The columns of an attribute; labels are null where the face is small or in doubt."""
    count, name = len(is_small), attribute.name
    logits = rng.standard_normal((count, attribute.num_logits), dtype=np.float32) * 3
    if attribute.kind is Kind.BINARY:
        prevalence = 3 * (len(name) % 4) - 6  # a different share of each, here and at every call
        probs = 1 / (1 + np.exp(-logits[:, 0] - prevalence / 2))
        labels = {name: pa.array(probs > 0.5, mask=is_small | (abs(probs - 0.5) < 0.1))}
        return tables.label_columns(attribute, labels, probs)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = weights / weights.sum(axis=1, keepdims=True)
    in_doubt = is_small | (probs.max(axis=1) < 0.6)
    if attribute.kind is Kind.AGE:
        years = probs @ np.convolve(attribute.bin_edges, [0.5, 0.5], "valid").astype(np.float32)
        ends = {"": years, "_low": years - 10, "_high": years + 10}
        labels = {f"{name}{end}": pa.array(v, mask=in_doubt) for end, v in ends.items()}
    else:
        words = np.array(attribute.classes, dtype=object)[probs.argmax(axis=1)]
        labels = {name: pa.array(words, mask=in_doubt)}
    return tables.label_columns(attribute, labels, probs)


def table_of(columns: Mapping[str, Any], schema: pa.Schema) -> pa.Table:
    """The columns, arrays of Arrow or numpy, in the schema's order and types."""
    arrays = [
        (pa.array(values) if isinstance(values, np.ndarray) else values).cast(field.type)
        for field, values in ((field, columns[field.name]) for field in schema)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
