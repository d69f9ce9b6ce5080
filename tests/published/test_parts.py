"""Parts of a table: how they roll over, and that a reader never meets a part of a part."""

from __future__ import annotations

import gc
import hashlib
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.errors import StorageError
from fattr.published.parts import PartWriter, part_uris, read_part

SCHEMA = pa.schema([pa.field("n", pa.int64(), nullable=False)], metadata={"kept": "yes"})


def numbers(start: int, count: int) -> pa.Table:
    return pa.table({"n": range(start, start + count)}, SCHEMA)


@pytest.fixture(params=["local", "s3"])
def folder_uri(request, tmp_path) -> str:
    if request.param == "local":
        return storage.canonical_uri(str(tmp_path / "table"))
    return request.getfixturevalue("s3_bucket") + "/table"


def part_names(folder_uri: str) -> list[str]:
    return [entry.uri.rpartition("/")[2] for entry in storage.list_tree(folder_uri)]


def rows_per_part(folder_uri: str) -> list[int]:
    counts = []
    for entry in storage.list_tree(folder_uri):
        files, path = storage.filesystem(entry.uri)
        with files.open_input_file(path) as file:
            part = pq.ParquetFile(file)
            assert part.schema_arrow.equals(SCHEMA, check_metadata=True)
            counts.append(part.metadata.num_rows)
    return counts


def read_all(folder_uri, *, batch_rows):
    uris = part_uris(folder_uri)
    return [rows for uri in uris for rows in read_part(uri, batch_rows=batch_rows)]


@pytest.mark.parametrize("writes", [[], [0], [0, 0]])
def test_a_table_without_rows_is_one_part(folder_uri, writes):
    with PartWriter(folder_uri, SCHEMA) as writer:
        for count in writes:
            writer.write(numbers(0, count))
    assert part_names(folder_uri) == ["part-00000.parquet"]
    assert rows_per_part(folder_uri) == [0]
    assert read_all(folder_uri, batch_rows=8) == []


def test_parts_roll_over_once_full_and_read_back_in_order(folder_uri):
    with PartWriter(folder_uri, SCHEMA, rows_per_part=5) as writer:
        for start in range(0, 21, 3):
            writer.write(numbers(start, 3))
    assert part_names(folder_uri) == [f"part-{i:05d}.parquet" for i in range(4)]
    assert rows_per_part(folder_uri) == [6, 6, 6, 3]
    batches = read_all(folder_uri, batch_rows=4)
    assert max(len(rows) for rows in batches) <= 4
    assert [n for rows in batches for n in rows.column("n").to_pylist()] == list(range(21))


def test_a_part_is_not_seen_before_it_is_whole(folder_uri):
    with PartWriter(folder_uri, SCHEMA, rows_per_part=3) as writer:
        writer.write(numbers(0, 3))
        visible = [n for n in part_names(folder_uri) if not n.startswith(".")]
        assert visible == []
        writer.write(numbers(3, 3))
        visible = [n for n in part_names(folder_uri) if not n.startswith(".")]
        assert visible == ["part-00000.parquet"]
    assert rows_per_part(folder_uri) == [3, 3]


def test_a_part_that_fails_leaves_nothing(folder_uri):
    def fail() -> None:
        with PartWriter(folder_uri, SCHEMA, rows_per_part=3) as writer:
            writer.write(numbers(0, 3))
            writer.write(numbers(3, 3))
            raise RuntimeError("the machine is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        fail()
    gc.collect()  # an open upload that is forgotten completes itself
    assert part_names(folder_uri) == ["part-00000.parquet"]
    assert rows_per_part(folder_uri) == [3]


@contextmanager
def small_files(most_bytes: int) -> Iterator[None]:
    """No file of this process may grow beyond that; to write more fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("rows_per_write", [5_000, 10_000], ids=["at the rollover", "before"])
def test_a_full_disk_is_told_as_such_and_leaves_nothing(tmp_path, rows_per_write):
    schema = pa.schema([("text", pa.string())])

    def rows(start: int) -> pa.Table:
        texts = [
            hashlib.sha256(b"%d" % n).hexdigest() for n in range(start, start + rows_per_write)
        ]
        return pa.table({"text": texts}, schema)

    def fill() -> None:
        with PartWriter(tmp_path.as_uri(), schema, rows_per_part=rows_per_write) as writer:
            for number in range(3):
                writer.write(rows(number * rows_per_write))

    with small_files(100_000):
        with pytest.raises(StorageError, match="File too large"):
            fill()
        gc.collect()
    assert list(tmp_path.iterdir()) == []
    opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in opened if path.is_relative_to(tmp_path)]


def test_rows_of_another_schema_are_refused(folder_uri):
    with pytest.raises(ValueError, match="schema"), PartWriter(folder_uri, SCHEMA) as writer:
        writer.write(pa.table({"m": [1]}))
    gc.collect()
    assert part_names(folder_uri) == []
