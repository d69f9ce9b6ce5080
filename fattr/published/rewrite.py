"""A Parquet file again, without some of its rows and otherwise in the same form."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_CODECS = {"UNCOMPRESSED": "NONE"}  # which pyarrow reads under another name than it writes


def without_rows(data: bytes, drop: Callable[[pa.Table], pa.Array]) -> tuple[bytes, int, int]:
    """A Parquet file without the rows for which ``drop`` is true; the rows kept, and dropped.

    Schema, metadata, row groups, compression, and which columns have a dictionary, statistics and
    an order stay as they are.
    """
    sink, num_kept = io.BytesIO(), 0
    with pq.ParquetFile(pa.BufferReader(data)) as part:
        settings = _settings(part.metadata)
        with pq.ParquetWriter(sink, part.schema_arrow, **settings) as writer:
            for number in range(part.num_row_groups):
                rows = part.read_row_group(number)
                kept = rows.filter(pc.invert(drop(rows)))
                if kept.num_rows:
                    writer.write_table(kept, row_group_size=kept.num_rows)
                num_kept += kept.num_rows
        return sink.getvalue(), num_kept, part.metadata.num_rows - num_kept


def _settings(metadata: pq.FileMetaData) -> dict[str, Any]:
    if not metadata.num_row_groups:
        return {}
    group = metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    return {
        "compression": {
            c.path_in_schema: _CODECS.get(c.compression, c.compression) for c in columns
        },
        "use_dictionary": [c.path_in_schema for c in columns if c.has_dictionary_page],
        "write_statistics": [c.path_in_schema for c in columns if c.is_stats_set],
        "sorting_columns": group.sorting_columns or None,
    }
