"""The bytes of a sample's image: a file, or a cell of a Parquet file.

A cell's URI is that of the file with a fragment, ``.../part.parquet#row=12&column=image``; rows
count from 0 over the whole file.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.records import Status

MAX_ROW_GROUPS = 4  # kept in memory; readers go through a file in order

_CELL = re.compile(r"(.+)#row=(\d+)&column=([^#&]+)", re.DOTALL)
_lock = threading.Lock()  # else threads that need the same row group would each read it


def parquet_image_uri(uri: str, row: int, column: str) -> str:
    """The URI of the image in one cell of the Parquet file ``uri``."""
    return f"{uri}#row={row}&column={quote(column, safe='')}"


def read_image(uri: str) -> bytes:
    """The encoded image of a sample, from wherever its data set keeps it. May be called by threads.

    Raises:
        StorageError: it is not there, may not be read, or the storage failed.
        UsageError: the file that holds it is not Parquet, or its column holds no bytes.
    """
    match = _CELL.fullmatch(uri)
    if match is None:
        return storage.read_bytes(uri)
    file, row, column = match[1], int(match[2]), unquote(match[3])
    with _lock:
        ends = _row_group_ends(file)
        group = bisect.bisect_right(ends, row)
        if group == len(ends):
            raise StorageError(Status.MISSING, uri, f"the file has {ends[-1] if ends else 0} rows")
        images = _row_group(file, group, column)
    data = images[row - (ends[group - 1] if group else 0)].as_py()
    if data is None:
        raise StorageError(Status.MISSING, uri, "the row has no image")
    return bytes(data)


@contextmanager
def open_parquet(uri: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file to read from.

    Raises:
        UsageError: it is not a Parquet file.
        StorageError: it cannot be read.
    """
    files, path = storage.filesystem(uri)
    try:
        with files.open_input_file(path) as file:
            yield pq.ParquetFile(file)
    except pa.ArrowInvalid as err:
        raise UsageError(
            f"{uri} is not a sound Parquet file: get it again or check the name"
        ) from err
    except OSError as err:
        statuses = {FileNotFoundError: Status.MISSING, PermissionError: Status.DENIED}
        status = statuses.get(type(err), Status.UNAVAILABLE)
        raise StorageError(status, uri, storage.words_of(err)) from err


@functools.lru_cache(maxsize=256)
def _row_group_ends(uri: str) -> tuple[int, ...]:
    """Of each row group, the number of the first row after it."""
    with open_parquet(uri) as file:
        groups = range(file.num_row_groups)
        return tuple(itertools.accumulate(file.metadata.row_group(i).num_rows for i in groups))


@functools.lru_cache(maxsize=MAX_ROW_GROUPS)
def _row_group(uri: str, group: int, column: str) -> pa.ChunkedArray:
    """The images of one row group, which may be within a struct, as Hugging Face writes them."""
    with open_parquet(uri) as file:
        if column not in file.schema_arrow.names:
            raise UsageError(f"{uri} has no column {column!r}")
        images = file.read_row_group(group, columns=[column]).column(column)
    if pa.types.is_struct(images.type) and images.type.get_field_index("bytes") >= 0:
        images = pa.chunked_array(
            [chunk.field("bytes") for chunk in images.chunks], images.type.field("bytes").type
        )
    if not (pa.types.is_binary(images.type) or pa.types.is_large_binary(images.type)):
        raise UsageError(f"{uri}: column {column!r} must hold image bytes, it holds {images.type}")
    return images
