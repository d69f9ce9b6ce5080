"""The manifest of a run: what it has to do, as small Parquet files of one row an image.

Knows how images are named, not how they are listed or read.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fattr import storage
from fattr.storage import FileEntry

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("fetch_uri", pa.string()),  # where the object lies; null: at image_uri
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)
ROWS_PER_GROUP = 1024  # a Ray Data read never splits a row group: 1024 images are one task's work
ROWS_PER_FILE = 262_144  # about 30 MB of URIs, held in memory until the file is written
_ID_BYTES = 8

Digest = Callable[[bytes], bytes]


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest."""
    return hashlib.sha256(data).digest()


def image_id(uri: str, *, digest: Digest = sha256) -> int:
    """The first 8 bytes of the URI's digest, big-endian, as a signed integer."""
    return int.from_bytes(digest(uri.encode())[:_ID_BYTES], "big", signed=True)


class UriNames:
    """How images are called in tables: by their URI, or with a key by its HMAC-SHA256.

    With a key nobody without it learns a URI from the tables, or can tell whether a URI that they
    guess is among them.

    Args:
        key: Secret bytes; None for plain URIs.
        digest: What ids are the start of; None is SHA-256 or HMAC-SHA256 under the key.
    """

    def __init__(self, key: bytes | None = None, *, digest: Digest | None = None) -> None:
        self.is_hashed = key is not None
        self._digest = digest or (sha256 if key is None else _keyed(key))

    def name(self, uri: str) -> tuple[int, str, str | None]:
        """The columns image_id, image_uri and fetch_uri of a URI."""
        ids, uris, fetch_uris = self.columns([uri])
        return int(ids[0]), uris[0], fetch_uris[0] if fetch_uris else None

    def columns(
        self, uris: Sequence[str]
    ) -> tuple[NDArray[np.int64], Sequence[str], Sequence[str] | None]:
        """The columns image_id (N,), image_uri and fetch_uri (None: all null) of N URIs."""
        digests = [self._digest(uri.encode()) for uri in uris]
        ids = np.frombuffer(b"".join([d[:_ID_BYTES] for d in digests]), ">i8").astype(np.int64)
        if not self.is_hashed:
            return ids, uris, None
        return ids, [digest.hex() for digest in digests], uris

    def etag(self, etag: str | None) -> str | None:
        """An etag to compare by; under a key it is hashed, since S3's is the content's MD5."""
        return self._digest(etag.encode()).hex() if etag and self.is_hashed else etag

    def other_id(self, image_uri: str, count: int) -> int:
        """The id of an image whose own is another's already: that of ``{image_uri}#{count}``."""
        return image_id(f"{image_uri}#{count}", digest=self._digest)


def _keyed(key: bytes) -> Digest:
    return lambda data: hmac.digest(key, data, "sha256")


def named_rows(entries: Iterable[FileEntry], names: UriNames) -> pa.Table:
    """Rows of a manifest for entries with distinct URIs, in their order, none left out."""
    listed = list(entries)
    ids, uris, fetch_uris = names.columns([entry.uri for entry in listed])
    columns: list[Any] = [
        ids,
        uris,
        fetch_uris or [None] * len(listed),
        [entry.size_bytes for entry in listed],
        [names.etag(entry.etag) for entry in listed],
    ]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, MANIFEST_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=MANIFEST_SCHEMA)


def write_manifest(
    rows: Iterable[pa.Table], folder_uri: str, *, rows_per_file: int = ROWS_PER_FILE
) -> None:
    """Write ``part-00000.parquet`` and so on, in the order given; without rows, one empty file.

    Each file appears whole or not at all.

    Args:
        rows: Tables of ``MANIFEST_SCHEMA``, consumed as a stream.
        folder_uri: Holds nothing yet.
        rows_per_file: Most rows a file.

    Raises:
        StorageError: A file could not be written; those before it stay.
    """
    for number, part in enumerate(_parts(rows, rows_per_file)):
        storage.write_bytes(storage.join(folder_uri, f"part-{number:05d}.parquet"), _encoded(part))


def _parts(rows: Iterable[pa.Table], rows_per_file: int) -> Iterator[pa.Table]:
    held, num_parts = MANIFEST_SCHEMA.empty_table(), 0
    for more in rows:
        held = pa.concat_tables([held, more])
        while held.num_rows >= rows_per_file:
            yield held[:rows_per_file]
            held, num_parts = held[rows_per_file:], num_parts + 1
    if held.num_rows or not num_parts:
        yield held


def _encoded(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(
        rows, sink, row_group_size=ROWS_PER_GROUP, compression="zstd", use_dictionary=False
    )
    encoded: bytes = sink.getvalue().to_pybytes()
    return encoded


def read_manifest(folder_uri: str, batch_size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest as batches of at most ``batch_size``, in the order written."""
    for entry in storage.list_files(folder_uri):
        files, path = storage.filesystem(entry.uri)
        with files.open_input_file(path) as file:
            yield from pq.ParquetFile(file).iter_batches(batch_size)


def hide_uris(folder_uri: str) -> None:
    """Take what tells where the images lie out of a manifest with hashed URIs.

    File by file, each whole; doing it again, or going on with it, is fine.

    Raises:
        StorageError: A file could not be rewritten.
    """
    for entry in storage.list_files(folder_uri):
        rows = pq.read_table(pa.BufferReader(storage.read_bytes(entry.uri)))
        index = rows.schema.get_field_index("fetch_uri")
        if rows.column(index).null_count < rows.num_rows:
            nothing = pa.nulls(rows.num_rows, pa.string())
            hidden = rows.set_column(index, MANIFEST_SCHEMA.field(index), nothing)
            storage.write_bytes(entry.uri, _encoded(hidden))
