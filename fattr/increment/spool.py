"""Streams of rows kept on the local disk, so that they can be joined: one pass, bounded memory."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fattr.runs.manifest import MANIFEST_SCHEMA, UriNames, named_rows
from fattr.storage import FileEntry

ROWS_PER_BATCH = 65_536


@dataclass(frozen=True, slots=True)
class Spool:
    """A local Parquet file; ``is_ascending`` where each image_uri is greater than the last."""

    path: Path
    num_rows: int
    is_ascending: bool = False


def spool_entries(
    entries: Iterable[FileEntry],
    names: UriNames,
    path: Path,
    *,
    on_listed: Callable[[int], None] | None = None,
) -> Spool:
    """Keep the rows of a listing, in its order, duplicates too, in ``MANIFEST_SCHEMA``.

    Raises:
        FattrError: Whatever ``entries`` raises.
    """
    num_rows, is_ascending, last = 0, True, ""
    rest = iter(entries)
    with _writer(path, MANIFEST_SCHEMA) as writer:
        while batch := list(itertools.islice(rest, ROWS_PER_BATCH)):
            rows = named_rows(batch, names)
            writer.write_table(rows)
            uris = rows.column("image_uri").to_pylist() if names.is_hashed else _uris(batch)
            is_ascending = is_ascending and last < uris[0] and _is_ascending(uris)
            num_rows, last = num_rows + len(uris), uris[-1]
            if on_listed is not None:
                on_listed(len(uris))
    return Spool(path, num_rows, is_ascending)


def spool_tables(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> Spool:
    """Keep tables as they come: those of their columns that ``schema`` has."""
    num_rows = 0
    with _writer(path, schema) as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema))
            num_rows += table.num_rows
    return Spool(path, num_rows)


def read_spool(spool: Spool) -> Iterator[pa.Table]:
    """The rows in the order kept, some at a time."""
    # What is buffered ahead stays in memory until the whole file is read.
    with pq.ParquetFile(spool.path, pre_buffer=False) as file:
        for batch in file.iter_batches(ROWS_PER_BATCH):
            yield pa.Table.from_batches([batch])


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    repeated = [name for name in ("status", "run_id") if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=repeated)


def _uris(entries: Iterable[FileEntry]) -> list[str]:
    return [entry.uri for entry in entries]


def _is_ascending(uris: Sequence[str]) -> bool:
    return all(map(operator.lt, uris, itertools.islice(uris, 1, None)))
