"""Sorted streams side by side: every row once, in its own window, whatever the batches."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from fattr.published.windows import UnsortedError, windows

SCHEMA = pa.schema([("image_uri", pa.string()), ("number", pa.int64())])


def stream(keys: list[str], draw: random.Random):
    yield SCHEMA.empty_table()
    start = 0
    while start < len(keys):
        size = draw.randint(0, 4)
        part = keys[start : start + size]
        numbers = list(range(start, start + len(part)))
        yield pa.table({"image_uri": pa.array(part, pa.string()), "number": numbers}, SCHEMA)
        start += size


@pytest.mark.parametrize("seed", range(30))
def test_all_rows_of_a_uri_are_in_one_window_and_windows_rise(seed):
    draw = random.Random(seed)
    sides = [
        sorted(f"é{draw.randint(0, 30):02d}" for _ in range(draw.choice([0, 1, 5, 40])))
        for _ in range(3)
    ]
    seen: list[list[str]] = [[], [], []]
    above = ""
    for tables in windows([stream(keys, draw) for keys in sides]):
        keys = [table.column("image_uri").to_pylist() for table in tables]
        inside = [key for side in keys for key in side]
        assert all(key > above for key in inside)
        above = max(inside, default=above)
        for whole, side in zip(seen, keys, strict=True):
            whole.extend(side)
    assert seen == sides


def test_an_unsorted_stream_is_told():
    def streams(keys: list[str]):
        return [stream(["a", "b"], random.Random(0)), stream(keys, random.Random(1))]

    list(windows(streams(["a", "a", "c"])))
    for keys in (["a", "c", "b"], ["b", "a"], [*"abcdefghi", "a"]):
        with pytest.raises(UnsortedError) as caught:
            list(windows(streams(keys)))
        assert caught.value.number == 1
