"""Rows on the local disk: all of them, in order, and not in memory."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from fattr.increment import spool
from fattr.increment.spool import read_spool, spool_entries, spool_tables
from fattr.runs.manifest import UriNames
from fattr.storage import FileEntry


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(spool, "ROWS_PER_BATCH", 1000)


@pytest.mark.parametrize(
    ("uris", "expected"),
    [
        ([], True),
        (["a"], True),
        (["a", "b", "é", "\U0001f600"], True),
        (["a", "a"], False),
        (["b", "a"], False),
        ([f"{n:04d}" for n in range(1000)] + ["0999"], False),  # between two batches
        ([f"{n:04d}" for n in range(1000)] + ["1000"], True),
    ],
)
def test_order_is_noticed(tmp_path, uris, expected):
    kept = spool_entries(map(FileEntry, uris), UriNames(), tmp_path / "a.parquet")
    assert (kept.num_rows, kept.is_ascending) == (len(uris), expected)
    assert [u for rows in read_spool(kept) for u in rows.column("image_uri").to_pylist()] == uris


def test_columns_are_chosen(tmp_path):
    table = pa.table({"a": pa.array([1, 2], pa.int32()), "b": ["x", "y"]})
    schema = pa.schema([pa.field("a", pa.int64())])
    kept = spool_tables([table, table], schema, tmp_path / "a.parquet")
    assert pa.concat_tables(read_spool(kept)).equals(pa.table({"a": [1, 2, 1, 2]}, schema=schema))


def test_reading_does_not_gather_memory(tmp_path):
    draw = random.Random(0)
    entries = (FileEntry(f"s3://bucket/{draw.randbytes(250).hex()}") for _ in range(40_000))
    kept = spool_entries(entries, UriNames(), tmp_path / "a.parquet")
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in read_spool(kept))
    assert 100_000 < most < 5_000_000  # of 20 MB
