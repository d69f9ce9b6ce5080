"""Staged rows to the two tables, and the counts that must agree."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import tables
from fattr.attributes import attribute
from fattr.errors import RunError
from fattr.publish import Totals, check_counts, count_rows, publish

ATTRIBUTES = (attribute("smiling"),)
FACE = {
    "box_x1": 1.0,
    "box_y1": 2.0,
    "box_x2": 31.0,
    "box_y2": 42.0,
    "det_score": 0.75,
    "landmarks": [float(i) for i in range(10)],
    "face_px": 30.0,
    "smiling": None,
    "smiling_prob": 0.5,
}


def staged(*faces_by_status: tuple[str, int]) -> pa.Table:
    rows = [
        {
            "image_id": i,
            "image_uri": f"file:///{i}.jpg",
            "num_faces": count,
            "status": status,
            "reason": "",
            "faces": [{**FACE, "face_index": rank} for rank in range(count)],
            **dict.fromkeys(tables.STAGE_SECONDS, 0.25),
        }
        for i, (status, count) in enumerate(faces_by_status)
    ]
    return pa.Table.from_pylist(rows, tables.staged_schema(ATTRIBUTES))


def publish_into(folder, *batches: pa.Table) -> Totals:
    return publish(
        batches,
        images_uri=str(folder / "images"),
        faces_uri=str(folder / "faces"),
        attributes=ATTRIBUTES,
        model_id="a+b",
        metadata={"fattr.run_id": "r"},
    )


def read(folder) -> pa.Table:
    return pq.ParquetFile(folder / "part-00000.parquet").read()


@pytest.mark.parametrize("batches", [[], [staged()], [staged(("missing", 0))]])
def test_without_faces_there_are_two_readable_tables(tmp_path, batches):
    totals = publish_into(tmp_path, *batches)
    images, faces = read(tmp_path / "images"), read(tmp_path / "faces")
    assert images.num_rows == totals.num_images == sum(len(rows) for rows in batches)
    assert faces.num_rows == totals.num_faces == 0
    assert faces.schema.equals(tables.faces_schema(ATTRIBUTES))


def test_rows_and_totals(tmp_path):
    first = staged(("ok", 2), ("no_face", 0), ("unreadable", 0))
    second = staged(("ok", 1), ("missing", 0), ("ok", 3))
    totals = publish_into(tmp_path, first, second)
    images, faces = read(tmp_path / "images"), read(tmp_path / "faces")
    assert totals.by_status == {"ok": 3, "no_face": 1, "unreadable": 1, "missing": 1}
    assert (totals.num_images, totals.num_faces) == (images.num_rows, faces.num_rows) == (6, 6)
    assert totals.stage_seconds == dict.fromkeys(tables.STAGE_SECONDS, 6 * 0.25)
    assert images.column("num_faces").to_pylist() == [2, 0, 0, 1, 0, 3]
    assert faces.column("face_index").to_pylist() == [0, 1, 0, 0, 1, 2]
    assert faces.column("image_id").to_pylist() == [0, 0, 0, 2, 2, 2]
    assert set(faces.column("model_id").to_pylist()) == {"a+b"}


def test_every_file_says_its_run_and_its_schema(tmp_path):
    publish_into(tmp_path, staged(("ok", 1)))
    for table in ("images", "faces"):
        metadata = read(tmp_path / table).schema.metadata
        assert metadata[b"fattr.run_id"] == b"r"
        assert metadata[b"fattr.schema"] == f"{table}/1".encode()


def test_counts_of_rows():
    assert count_rows(staged()) == Counter(faces=0)
    assert count_rows(staged(("ok", 2), ("ok", 1), ("denied", 0))) == Counter(
        ok=2, denied=1, faces=3
    )


@pytest.mark.parametrize(("num_images", "agrees"), [(0, False), (2, False), (3, True), (4, False)])
def test_each_image_must_be_accounted_for_once(num_images, agrees):
    totals = Totals(Counter(ok=2, missing=1), num_faces=5)
    if agrees:
        check_counts(num_images, totals)
        return
    with pytest.raises(RunError, match=rf"^{num_images} images in the manifest, 3 rows made"):
        check_counts(num_images, totals)


def test_an_empty_manifest_agrees_with_no_rows():
    check_counts(0, Totals())
