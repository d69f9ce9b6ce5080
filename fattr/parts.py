"""Parquet parts of a table: few well-sized files, each of which appears whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from fattr import storage

log = logging.getLogger(__name__)

ROWS_PER_PART = 1_000_000


class PartWriter:
    """Writes ``part-00000.parquet`` and so on under a folder; a table without rows has one part."""

    def __init__(
        self, folder_uri: str, schema: pa.Schema, *, rows_per_part: int = ROWS_PER_PART
    ) -> None:
        self._folder_uri, self._schema, self._rows_per_part = folder_uri, schema, rows_per_part
        self._num_parts = self._rows = 0
        self._part: _Part | None = None

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            if not self._num_parts:
                self._open()
            self._close()
        elif self._part:
            self._part.abandon()

    def write(self, table: pa.Table) -> None:
        """Append rows of the schema."""
        if self._part is None or self._rows >= self._rows_per_part:
            self._close()
            self._open()
        assert self._part is not None
        self._part.write(table)
        self._rows += table.num_rows

    def _open(self) -> None:
        name = f"part-{self._num_parts:05d}.parquet"
        self._part = _Part(storage.join(self._folder_uri, name), self._schema)
        self._num_parts, self._rows = self._num_parts + 1, 0

    def _close(self) -> None:
        if self._part:
            self._part.close()
            self._part = None


class _Part:
    """One file. S3 shows an object once its upload is complete; local files are renamed last."""

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._files, self._path = storage.filesystem(uri)
        self._temporary = _temporary_path(self._files, self._path)
        self._files.create_dir(self._path.rpartition("/")[0], recursive=True)
        self._stream = self._files.open_output_stream(self._temporary)
        self._writer = pq.ParquetWriter(self._stream, schema, compression="zstd")

    def write(self, table: pa.Table) -> None:
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer.close()
        self._stream.close()
        if self._temporary != self._path:
            self._files.move(self._temporary, self._path)

    def abandon(self) -> None:
        if self._temporary != self._path:
            self._files.delete_file(self._temporary)
            return
        try:  # an S3 stream that is merely forgotten completes its upload
            self._writer.close()
            self._stream.close()
            self._files.delete_file(self._path)
        except OSError:  # as when credentials expired: what made the run fail matters more
            log.warning("an unfinished %s may be left behind: delete it", self._path)


def _temporary_path(files: FileSystem, path: str) -> str:
    name = PurePosixPath(path)
    return str(name.with_name("." + name.name)) if isinstance(files, LocalFileSystem) else path


def read_parts(folder_uri: str, *, batch_rows: int) -> Iterator[pa.Table]:
    """The rows of all Parquet files in a folder, some at a time."""
    for entry in storage.list_files(folder_uri):
        files, path = storage.filesystem(entry.uri)
        with files.open_input_file(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_rows):
                yield pa.Table.from_batches([batch])
