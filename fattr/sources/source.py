"""Where images come from: a folder, a prefix, one image, a list of files, or an S3 Inventory."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.records import Status
from fattr.sources.globs import uri_filter
from fattr.sources.inventory import inventory_bucket, read_inventory
from fattr.storage import FileEntry, ReadOptions

READ_ROWS = 8192
_COLUMNS = ("image_uri", "size_bytes", "etag")
_INVENTORY = ".json"

Rows = Iterator[tuple[str, Mapping[str, object]]]


def read_source(
    images: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    options: ReadOptions | None = None,
) -> Iterator[FileEntry]:
    """The images that ``images`` names, streamed, in its own order.

    It is a folder or S3 prefix (see ``storage.list_files``), a single image, the ``manifest.json``
    of an S3 Inventory, or a manifest: a ``.txt`` file with one URI or path a line (blank lines and
    lines starting with ``#`` are left out), or a ``.csv`` or ``.parquet`` file with the column
    ``image_uri`` and optionally ``size_bytes`` and ``etag``. A relative path in a manifest starts
    at the manifest's own folder.

    Args:
        images: A path or URI.
        include: Patterns of what is meant, see ``globs.uri_filter``; nothing means all.
        exclude: Patterns of what is not, even if included.
        options: How the store of the images is read.

    Raises:
        UsageError: Nothing there, not allowed, no image named, none left by the patterns, or a
            manifest that cannot be read.
        StorageError: The store is unavailable.
    """
    uri = storage.canonical_uri(images)
    is_listed = is_listing(uri)
    is_meant = uri_filter(uri if is_listed else None, include=include, exclude=exclude)
    entries = storage.list_files(uri, options=options) if is_listed else _named(uri, options)
    num_seen = num_meant = 0
    for entry in entries:
        num_seen += 1
        if is_meant is None or is_meant(entry.uri):
            num_meant += 1
            yield entry
    if not num_seen:
        raise UsageError(f"{uri} names no image: expected one or more; check how it was made")
    if not num_meant:
        raise UsageError(
            f"--include and --exclude leave none of the {num_seen} files of {uri}: expected one or"
            " more; a pattern without a slash is a file's name, one with a slash its whole path"
        )


def is_listing(images: str) -> bool:
    """Whether ``images`` is listed itself, a folder, prefix or image, and is no list of others.

    Raises:
        UsageError: It may not be read.
        StorageError: The store is unavailable.
    """
    uri = storage.canonical_uri(images)
    if _suffix(uri) not in {_INVENTORY, *_ROWS_BY_SUFFIX}:
        return True
    try:
        return not storage.exists(uri)
    except StorageError as error:
        if error.status != Status.DENIED:
            raise
        raise UsageError(f"cannot read {error}; check permissions and credentials") from None


def complete_roots(images: str, *, options: ReadOptions | None = None) -> list[str] | None:
    """URIs below which ``images`` names all that is there, so that what it lacks is gone.

    None for a manifest, which may name any part of a collection.
    """
    uri = storage.canonical_uri(images)
    if is_listing(uri):
        return [uri]
    return [inventory_bucket(uri, options=options)] if _suffix(uri) == _INVENTORY else None


def _suffix(uri: str) -> str:
    return PurePosixPath(uri).suffix.lower()


def _named(uri: str, options: ReadOptions | None) -> Iterator[FileEntry]:
    """The entries of a file that lists others."""
    if _suffix(uri) == _INVENTORY:
        yield from read_inventory(uri, options=options)
        return
    for where, row in _ROWS_BY_SUFFIX[_suffix(uri)](uri, options):
        yield _entry_of(row, uri, where)


def _text_rows(uri: str, options: ReadOptions | None) -> Rows:
    with _open_text(uri, options) as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield f"line {number}", {"image_uri": text}


def _csv_rows(uri: str, options: ReadOptions | None) -> Rows:
    with _open_text(uri, options) as lines:
        rows = csv.DictReader(lines)
        _check_columns(uri, rows.fieldnames or [])
        try:
            for row in rows:
                yield f"line {rows.line_num}", row
        except csv.Error as error:
            raise UsageError(f"{uri}, after line {rows.line_num}: not valid CSV: {error}") from None


def _parquet_rows(uri: str, options: ReadOptions | None) -> Rows:
    files, path = storage.filesystem(uri, options)
    with files.open_input_file(path) as file:
        try:
            # Not buffered ahead: else all that was read stays in memory.
            table = pq.ParquetFile(file, pre_buffer=False)
        except pa.ArrowInvalid:
            raise UsageError(f"{uri} is not a Parquet file: expected one; check the name") from None
        _check_columns(uri, table.schema_arrow.names)
        wanted = [name for name in _COLUMNS if name in table.schema_arrow.names]
        number = itertools.count(1)
        for batch in table.iter_batches(READ_ROWS, columns=wanted):
            for row in batch.to_pylist():
                yield f"row {next(number)}", row


def _open_text(uri: str, options: ReadOptions | None) -> io.TextIOWrapper:
    files, path = storage.filesystem(uri, options)
    # File names need not be UTF-8; -sig because spreadsheets begin a file with a mark.
    return io.TextIOWrapper(
        files.open_input_stream(path), "utf-8-sig", errors="surrogateescape", newline=""
    )


def _check_columns(uri: str, names: Iterable[str]) -> None:
    names = list(names)
    if "image_uri" not in names:
        raise UsageError(
            f"{uri} has no column image_uri: found {', '.join(names) or 'none'};"
            " rename the column that holds the URIs"
        )


def _entry_of(row: Mapping[str, object], uri: str, where: str) -> FileEntry:
    try:
        text, etag = row["image_uri"], row.get("etag")
        if not isinstance(text, str):
            raise UsageError(f"image_uri must be text, got {text!r}")
        return FileEntry(
            storage.canonical_uri(text, beside=uri),
            _size(row.get("size_bytes")),
            str(etag) if etag else None,
        )
    except UsageError as error:
        raise UsageError(f"{uri}, {where}: {error}") from None


def _size(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        size = int(float(str(value)))  # pandas writes 123.0 where another row has no size
    except (ValueError, OverflowError):
        size = -1
    if size < 0:
        raise UsageError(f"size_bytes must be a count of bytes, got {value!r}")
    return size


_ROWS_BY_SUFFIX: Mapping[str, Callable[[str, ReadOptions | None], Rows]] = {
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
