"""Ranges of staged rows: all rows of a range, and no file read for rows that it does not hold."""

from __future__ import annotations

import bisect
import random

import pyarrow as pa
import pytest
from small_output import put_parquet

from fattr import storage
from fattr.published.staging import find_ranges, range_of

SCHEMA = pa.schema(
    [("before", pa.list_(pa.int64())), ("image_uri", pa.string()), ("number", pa.int64())]
)


def rows(uris: list[str]) -> pa.Table:
    numbers = list(range(len(uris)))
    lists = pa.array([[n, n] for n in numbers], pa.list_(pa.int64()))
    return pa.table({"before": lists, "image_uri": pa.array(uris), "number": numbers}, SCHEMA)


@pytest.mark.parametrize("with_statistics", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_every_row_is_in_its_range_and_in_no_other(tmp_path, seed, with_statistics):
    draw = random.Random(seed)
    uris = [f"s3://ü/{draw.randrange(10**6):06d}" for _ in range(300)]
    starts = sorted(draw.sample(sorted(set(uris)), draw.choice([1, 2, 17])))
    for number in range(0, 300, 60):
        put_parquet(
            rows(uris[number : number + 60]),
            str(tmp_path / f"{number}.parquet"),
            row_group_size=draw.choice([1, 7, 60]),
            write_statistics=with_statistics,
        )
    ranges = find_ranges(str(tmp_path), SCHEMA, starts)
    found = [ranges.read(i).column("image_uri").to_pylist() for i in range(len(starts))]
    wanted: list[list[str]] = [[] for _ in starts]
    for uri in uris:
        wanted[max(bisect.bisect_right(starts, uri) - 1, 0)].append(uri)
    assert [sorted(keys) for keys in found] == [sorted(keys) for keys in wanted]
    assert all(range_of(uri, starts) == i for i, keys in enumerate(found) for uri in keys)


def test_a_stray_row_has_its_group_read_for_its_own_range_alone(tmp_path):
    uris = [f"s3://b/{number:03d}" for number in range(100)]
    put_parquet(rows([*uris[:9], uris[95]]), str(tmp_path / "a.parquet"))
    put_parquet(rows([*uris[9:95], *uris[96:]]), str(tmp_path / "b.parquet"), row_group_size=5)
    ranges = find_ranges(str(tmp_path), SCHEMA, uris[::10])
    held = [{path.rpartition("/")[2] for path in groups} for groups in ranges.groups]
    assert [i for i, files in enumerate(held) if "a.parquet" in files] == [0, 9]
    assert max(len(g) for of in ranges.groups for path, g in of.items() if "b.p" in path) <= 3


def test_nothing_staged_and_hidden_files_are_no_rows(tmp_path):
    assert find_ranges(str(tmp_path), SCHEMA, ["a"]).read(0).num_rows == 0
    storage.write_bytes(str(tmp_path / ".half.parquet"), b"half")
    storage.write_bytes(str(tmp_path / "note.txt"), b"note")
    ranges = find_ranges(str(tmp_path), SCHEMA, ["a", "b"])
    assert [ranges.read(i).schema.equals(SCHEMA) for i in range(2)] == [True, True]
