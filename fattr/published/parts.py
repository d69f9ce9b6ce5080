"""Parquet parts of a table: few well-sized files, each of which appears whole or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem, LocalFileSystem

from fattr import storage
from fattr.errors import RunError

HIDDEN = (".", "_")  # as a part not yet whole

log = logging.getLogger(__name__)

ROWS_PER_PART = 1_000_000
ROWS_PER_GROUP = 8192  # of a part: small groups let a reader of a range skip the rest of a file


class DamagedError(RunError):
    """A Parquet file of ours that is none, or not a whole one."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self.uri = uri

    def __str__(self) -> str:
        return f"{self.uri} is damaged: see what fattr verify says, and repair it"


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what Arrow says while it reads Parquet into ``StorageError`` and ``DamagedError``."""
    try:
        with storage.os_errors(uri):
            yield
    except pa.ArrowInvalid:
        raise DamagedError(uri) from None


class PartWriter:
    """Writes ``part-00000.parquet`` and so on under a folder; a table without rows has one part."""

    def __init__(
        self, folder_uri: str, schema: pa.Schema, *, rows_per_part: int = ROWS_PER_PART
    ) -> None:
        self._folder_uri, self._schema, self._rows_per_part = folder_uri, schema, rows_per_part
        self._num_parts = self._rows = 0
        self._part: Part | None = None

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
        self._part = Part(storage.join(self._folder_uri, name), self._schema)
        self._num_parts, self._rows = self._num_parts + 1, 0

    def _close(self) -> None:
        part, self._part = self._part, None  # one that fails to close abandons itself
        if part:
            part.close()


class Part:
    """One file, written as a stream; with ``with``, it is there at the block's end, or not at all.

    S3 shows an object once its upload is complete; local files are renamed last.

    Raises:
        StorageError: It cannot be written; nothing is left behind.
    """

    def __init__(self, uri: str, schema: pa.Schema) -> None:
        self._uri = uri
        self._files, self._path = storage.filesystem(uri)
        self._temporary = _temporary_path(self._files, self._path)
        with storage.os_errors(uri):
            if self._temporary != self._path:  # S3 has no folders, only objects that mark one
                self._files.create_dir(self._path.rpartition("/")[0], recursive=True)
            self._stream = self._writer = self._files.open_output_stream(self._temporary)
            try:
                self._writer = pq.ParquetWriter(self._stream, schema, compression="zstd")
            except BaseException:  # as when the disk is full at the first bytes
                self.abandon()
                raise
        self._schema = schema
        self._held: list[pa.Table] = []
        self._num_held = 0

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def write(self, table: pa.Table) -> None:
        """Append rows of the schema."""
        if not table.schema.equals(self._schema):
            raise ValueError(f"rows of the schema {self._schema.names} expected: {table.schema}")
        self._held.append(table)
        self._num_held += table.num_rows
        if self._num_held >= ROWS_PER_GROUP:
            self._flush()

    def close(self) -> None:
        """All is written: show it."""
        try:
            self._flush()
            with storage.os_errors(self._uri):
                self._writer.close()
                self._stream.close()
                if self._temporary != self._path:
                    self._files.move(self._temporary, self._path)
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Leave nothing behind."""
        for stream in (self._writer, self._stream):  # S3 completes an upload that is forgotten
            try:
                stream.close()
            except OSError as err:  # where the disk is full, for the end of the file as well
                log.debug("%s is abandoned and does not close: %s", self._temporary, err)
        try:
            self._files.delete_file(self._temporary)
        except OSError:  # as when credentials expired: what made the run fail matters more
            log.warning("an unfinished %s may be left behind: delete it", self._temporary)

    def _flush(self) -> None:
        if self._held:
            rows = pa.concat_tables(self._held)
            with storage.os_errors(self._uri):
                self._writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
        self._held, self._num_held = [], 0


def _temporary_path(files: FileSystem, path: str) -> str:
    name = PurePosixPath(path)
    return str(name.with_name("." + name.name)) if isinstance(files, LocalFileSystem) else path


def part_uris(folder_uri: str) -> list[str]:
    """The Parquet files of a folder of our own, in order; none where nothing is there.

    Raises:
        StorageError: It cannot be listed.
    """
    uris = (entry.uri for entry in storage.list_tree(folder_uri))
    return [
        uri
        for uri in uris
        if uri.endswith(".parquet") and not uri.rpartition("/")[2].startswith(HIDDEN)
    ]


def read_part(
    uri: str, *, batch_rows: int, columns: Sequence[str] | None = None
) -> Iterator[pa.Table]:
    """The rows of one Parquet file, some at a time; all columns where none are named.

    Raises:
        DamagedError: It is no whole Parquet file.
        StorageError: It cannot be read.
    """
    files, path = storage.filesystem(uri)
    with (
        reading(uri),
        files.open_input_file(path) as file,
        pq.ParquetFile(file, pre_buffer=True) as part,
    ):
        for batch in part.iter_batches(batch_rows, columns=columns):
            yield pa.Table.from_batches([batch])
