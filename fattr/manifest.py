"""What to do: the list of input images, as small Parquet files of one row an image.

Knows how images are listed and named, not how they are read.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import FattrError, StorageError, UsageError
from fattr.records import Status
from fattr.storage import FileEntry

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)
ROWS_PER_GROUP = 1024  # a Ray Data read never splits a row group: 1024 images are one task's work
ROWS_PER_FILE = 262_144  # about 30 MB of URIs, held in memory until the file is written
READ_ROWS = 8192
_COLUMNS = ("image_uri", "size_bytes", "etag")

Digest = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class ManifestSummary:
    """What was written; ``total_bytes`` adds up the sizes that are known."""

    num_images: int
    num_duplicates: int
    total_bytes: int


def sha256(data: bytes) -> bytes:
    """The SHA-256 digest."""
    return hashlib.sha256(data).digest()


def image_id(uri: str, *, digest: Digest = sha256) -> int:
    """The first 8 bytes of the URI's digest, big-endian, as a signed integer."""
    return int.from_bytes(digest(uri.encode())[:8], "big", signed=True)


class ImageIds:
    """The ids given so far: tells a URI that came before from one whose digest starts alike.

    A later URI whose id is taken gets the id of ``{uri}#1``, then ``{uri}#2``, and so on. Of each
    URI only 12 bytes of its digest are kept: about 120 bytes of memory an image.
    """

    def __init__(self, digest: Digest = sha256) -> None:
        self._digest = digest
        self._checks: dict[int, int] = {}
        self.num_duplicates = 0

    def add(self, uri: str) -> int | None:
        """The id of a new URI; None, counted in ``num_duplicates``, where it came before."""
        check = int.from_bytes(self._digest(uri.encode())[8:12], "big")
        for name in itertools.chain([uri], (f"{uri}#{count}" for count in itertools.count(1))):
            number = image_id(name, digest=self._digest)
            if number not in self._checks:
                self._checks[number] = check
                return number
            if self._checks[number] == check:
                break
        self.num_duplicates += 1
        return None


# What the user names


def read_source(images: str) -> Iterator[FileEntry]:
    """The images that ``images`` names, in order, streamed.

    It is a folder or S3 prefix (see ``storage.list_files``), a single image, or a manifest: a
    ``.txt`` file with one URI or path a line (blank lines and lines starting with ``#`` are left
    out), or a ``.csv`` or ``.parquet`` file with the column ``image_uri`` and optionally
    ``size_bytes`` and ``etag``. A relative path in a manifest starts at the manifest's own folder.

    Raises:
        UsageError: Nothing there, not allowed, no image named, or a manifest that cannot be read.
        StorageError: The store is unavailable.
    """
    uri = storage.canonical_uri(images)
    rows_of = _ROWS_BY_SUFFIX.get(PurePosixPath(uri).suffix.lower())
    if rows_of is None or not _is_manifest(uri):
        yield from storage.list_files(uri)
        return
    is_empty = True
    for where, row in rows_of(uri):
        is_empty = False
        yield _entry_of(row, uri, where)
    if is_empty:
        raise UsageError(f"{uri} names no image: expected one or more; check how it was made")


def _is_manifest(uri: str) -> bool:
    try:
        return storage.exists(uri)
    except StorageError as error:
        if error.status != Status.DENIED:
            raise
        raise UsageError(f"cannot read {error}; check permissions and credentials") from None


def _text_rows(uri: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    with _open_text(uri) as lines:
        for number, line in enumerate(lines, 1):
            text = line.strip()
            if text and not text.startswith("#"):
                yield f"line {number}", {"image_uri": text}


def _csv_rows(uri: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    with _open_text(uri) as lines:
        rows = csv.DictReader(lines)
        _check_columns(uri, rows.fieldnames or [])
        try:
            for row in rows:
                yield f"line {rows.line_num}", row
        except csv.Error as error:
            raise UsageError(f"{uri}, after line {rows.line_num}: not valid CSV: {error}") from None


def _parquet_rows(uri: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    files, path = storage.filesystem(uri)
    with files.open_input_file(path) as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid:
            raise UsageError(f"{uri} is not a Parquet file: expected one; check the name") from None
        _check_columns(uri, table.schema_arrow.names)
        wanted = [name for name in _COLUMNS if name in table.schema_arrow.names]
        number = itertools.count(1)
        for batch in table.iter_batches(READ_ROWS, columns=wanted):
            for row in batch.to_pylist():
                yield f"row {next(number)}", row


def _open_text(uri: str) -> io.TextIOWrapper:
    files, path = storage.filesystem(uri)
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


_ROWS_BY_SUFFIX: Mapping[str, Callable[[str], Iterator[tuple[str, Mapping[str, object]]]]] = {
    ".txt": _text_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


# The manifest of a run


def write_manifest(
    entries: Iterable[FileEntry],
    folder_uri: str,
    *,
    limit: int | None = None,
    rows_per_file: int = ROWS_PER_FILE,
) -> ManifestSummary:
    """Write ``part-00000.parquet`` and so on into a folder of our own, in the order given.

    Of entries with the same URI the first is kept. No entries give one file without rows. If
    listing the entries fails, the folder is deleted.

    Args:
        entries: Consumed as a stream, and no further than ``limit`` asks.
        folder_uri: Holds nothing yet.
        limit: Most images to write; None writes all.
        rows_per_file: Most rows a file.

    Raises:
        FattrError: Whatever ``entries`` raises, or a file could not be written.
    """
    ids = ImageIds()
    rows = itertools.islice(_distinct(entries, ids), limit)
    num_images = total_bytes = 0
    try:
        for number in itertools.count():
            part = list(itertools.islice(rows, rows_per_file))
            if not part and number:
                break
            _write_part(part, storage.join(folder_uri, f"part-{number:05d}.parquet"))
            num_images += len(part)
            total_bytes += sum(entry.size_bytes or 0 for _, entry in part)
    except FattrError:
        storage.delete_tree(folder_uri)
        raise
    return ManifestSummary(num_images, ids.num_duplicates, total_bytes)


def read_manifest(folder_uri: str, batch_size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest as batches of at most ``batch_size``, in the order written."""
    for entry in storage.list_files(folder_uri):
        files, path = storage.filesystem(entry.uri)
        with files.open_input_file(path) as file:
            yield from pq.ParquetFile(file).iter_batches(batch_size)


def _distinct(entries: Iterable[FileEntry], ids: ImageIds) -> Iterator[tuple[int, FileEntry]]:
    for entry in entries:
        if (number := ids.add(entry.uri)) is not None:
            yield number, entry


def _write_part(part: list[tuple[int, FileEntry]], uri: str) -> None:
    columns = [
        [number for number, _ in part],
        [entry.uri for _, entry in part],
        [entry.size_bytes for _, entry in part],
        [entry.etag for _, entry in part],
    ]
    table = pa.Table.from_arrays(
        [
            pa.array(column, field.type)
            for column, field in zip(columns, MANIFEST_SCHEMA, strict=True)
        ],
        schema=MANIFEST_SCHEMA,
    )
    sink = pa.BufferOutputStream()
    pq.write_table(
        table, sink, row_group_size=ROWS_PER_GROUP, compression="zstd", use_dictionary=False
    )
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
