"""Staged rows by ranges of URIs: how many unordered files become sorted ones in little memory.

Knows files, row groups and the column ``image_uri``; not what a row means.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from fattr import storage
from fattr.published.parts import part_uris

ROWS_PER_BATCH = 8192
NUM_THREADS = 4  # a read from S3 waits; decoding has Arrow's own threads
KEY = "image_uri"


@dataclass(frozen=True, slots=True)
class StagedRanges:
    """Which row groups of which staged files hold rows of each range of URIs.

    Range ``i`` begins with ``starts[i]`` and ends before ``starts[i + 1]``; the first has no lower
    end and the last no upper one, so that every row is in one.
    """

    files: FileSystem  # one for all: each has connections of its own
    schema: pa.Schema
    starts: tuple[str, ...]
    groups: tuple[Mapping[str, tuple[int, ...]], ...]  # of each range: path -> row groups

    def read(self, number: int) -> pa.Table:
        """The rows of a range, in no order, rows that were made twice included.

        Raises:
            StorageError: The store is unavailable.
        """
        low = self.starts[number] if number else None
        high = self.starts[number + 1] if number + 1 < len(self.starts) else None

        def rows(item: tuple[str, tuple[int, ...]]) -> list[pa.Table]:
            found = _rows_between(self.files, *item, low, high)
            return [table.cast(self.schema) for table in found if table.num_rows]

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = [
                table for part in pool.map(rows, self.groups[number].items()) for table in part
            ]
        return pa.concat_tables([self.schema.empty_table(), *found])


def find_ranges(folder_uri: str, schema: pa.Schema, starts: Sequence[str]) -> StagedRanges:
    """Look through the footers of all staged files.

    A row group whose first and last URI lie in ranges apart is looked through row by row, so that
    one stray row does not have it read for every range between.

    Args:
        folder_uri: Parquet files with the columns of ``schema``, rows in any order.
        schema: What ``StagedRanges.read`` gives.
        starts: First URI of each range, rising; one or more.

    Raises:
        StorageError: The store is unavailable.
    """
    groups: list[dict[str, tuple[int, ...]]] = [{} for _ in starts]
    files, root = storage.filesystem(folder_uri)
    names = (storage.relative_path(uri, folder_uri) for uri in part_uris(folder_uri))
    paths = [f"{root}/{name}" for name in names]
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        found = pool.map(lambda path: _touched(files, path, starts), paths)
        for path, touched in zip(paths, found, strict=True):
            for number, row_groups in touched.items():
                groups[number][path] = tuple(row_groups)
    return StagedRanges(files, schema, tuple(starts), tuple(groups))


def _touched(files: FileSystem, path: str, starts: Sequence[str]) -> dict[int, list[int]]:
    """Of one file: number of a range -> its row groups with rows of that range."""
    touched: dict[int, list[int]] = defaultdict(list)
    with files.open_input_file(path) as file, pq.ParquetFile(file) as part:
        column = part.schema.names.index(KEY)  # among leaves, of which a list's may come before
        for group in range(part.num_row_groups):
            for number in _ranges_of_group(part, group, column, starts):
                touched[number].append(group)
    return touched


def _ranges_of_group(
    part: pq.ParquetFile, group: int, column: int, starts: Sequence[str]
) -> Sequence[int]:
    metadata = part.metadata.row_group(group)
    if not metadata.num_rows:
        return ()
    told = metadata.column(column).statistics
    if told is not None and told.has_min_max:
        first, last = range_of(told.min, starts), range_of(told.max, starts)
        if last - first <= 1:
            return range(first, last + 1)
    numbers: set[int] = set()
    for batch in part.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=[KEY]):
        uris = batch.column(0).to_numpy(zero_copy_only=False)
        found = np.searchsorted(np.array(starts[1:], dtype=object), uris, side="right")
        numbers.update(found.tolist())
    return sorted(numbers)


def range_of(uri: str, starts: Sequence[str]) -> int:
    """The number of the range that a URI is in."""
    return bisect.bisect_right(starts, uri, lo=1) - 1


def _rows_between(
    files: FileSystem,
    path: str,
    row_groups: tuple[int, ...],
    low: str | None,
    high: str | None,
) -> Iterator[pa.Table]:
    with files.open_input_file(path) as file, pq.ParquetFile(file, pre_buffer=True) as part:
        for batch in part.iter_batches(ROWS_PER_BATCH, row_groups=list(row_groups)):
            keys, keep = batch.column(KEY), None
            if low is not None:
                keep = pc.greater_equal(keys, low)
            if high is not None:
                below = pc.less(keys, high)
                keep = below if keep is None else pc.and_(keep, below)
            yield pa.Table.from_batches([batch if keep is None else batch.filter(keep)])
