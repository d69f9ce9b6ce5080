"""S3 Inventory: the daily list of a bucket that AWS writes, as a source of images.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory.html
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any
from urllib.parse import unquote_plus

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.records import Status
from fattr.storage import FileEntry

READ_ROWS = 65_536
_CHUNK_BYTES = 8 << 20
_GZIP_START = b"\x1f\x8b"
_HIDDEN = (".", "_")
_FORMATS = ("CSV", "Parquet")
# As CSV and as Parquet spell them, without case and underscores.
_COLUMNS = ("key", "islatest", "isdeletemarker", "size", "etag")


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of the list; ``md5`` is empty where the manifest tells none."""

    key: str
    md5: str


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a ``manifest.json`` says."""

    uri: str
    bucket: str
    destination: str
    file_format: str
    columns: tuple[str, ...]  # of the CSV files, as ``_COLUMNS`` spells them
    files: tuple[DataFile, ...]


def read_inventory(uri: str, *, options: storage.ReadOptions | None = None) -> Iterator[FileEntry]:
    """The objects that an S3 Inventory lists, streamed, in the order of its files.

    Only newest versions; no delete markers, no folder markers, and no object whose name, or the
    name of a folder on the way to it, starts with ``.`` or ``_``. The data files are looked for
    where AWS puts them relative to the manifest, so that a copied inventory works, and then in the
    bucket that the manifest names. One at a time is kept on the local disk while it is read.

    Args:
        uri: Canonical URI of the inventory's ``manifest.json``.
        options: How the files are read.

    Raises:
        UsageError: No such inventory, one in ORC, or a file that is missing or not what the
            manifest says.
        StorageError: The store is unavailable.
    """
    inventory = _read_manifest(uri, options)
    for file in inventory.files:
        place = _find(inventory, file)
        with _downloaded(place, file.md5, options) as data:
            for batch in _batches(inventory, data, place):
                yield from _entries(batch, inventory, place)


def inventory_bucket(uri: str, *, options: storage.ReadOptions | None = None) -> str:
    """URI of the bucket that an inventory lists."""
    return f"s3://{_read_manifest(uri, options).bucket}"


def _read_manifest(uri: str, options: storage.ReadOptions | None) -> Inventory:
    try:
        said = json.loads(storage.read_bytes(uri, options=_unlimited(options)))
        inventory = Inventory(
            uri,
            _bucket_name(said["sourceBucket"]),
            _bucket_name(said["destinationBucket"]),
            str(said["fileFormat"]),
            tuple(_plain(name) for name in said["fileSchema"].split(",")),
            tuple(map(_data_file, said["files"])),
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UsageError(
            f"{uri} is not the manifest.json of an S3 Inventory, as which a file called .json is"
            " read; name a folder, a prefix, or a .txt, .csv or .parquet file of URIs"
        ) from None
    if inventory.file_format not in _FORMATS:
        raise UsageError(
            f"{uri} is an inventory in {inventory.file_format}: expected CSV or Parquet;"
            " change the format of the inventory configuration"
        )
    return inventory


def _data_file(said: dict[str, Any]) -> DataFile:
    """A file as the manifest tells it.

    Raises:
        TypeError: Key or checksum are no text.
    """
    key, md5 = said["key"], said.get("MD5checksum") or ""
    if not (isinstance(key, str) and isinstance(md5, str)):
        raise TypeError(f"text expected, got {key!r} and {md5!r}")
    return DataFile(key, md5)


def _unlimited(options: storage.ReadOptions | None) -> storage.ReadOptions | None:
    return options and replace(options, max_bytes=None)  # the limit is for images


def _bucket_name(text: str) -> str:
    """``name`` of ``arn:aws:s3:::name``."""
    return text.rpartition(":")[2]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "")


# Data files


def _find(inventory: Inventory, file: DataFile) -> str:
    name = file.key.rpartition("/")[2]
    beside = [f"../data/{name}", f"data/{name}", name]
    depth = inventory.uri.count("/") - 2  # of the manifest below its disk or bucket
    above = ["../" * level + file.key for level in range(depth)]
    for path in dict.fromkeys([*beside, *above]):
        place = storage.canonical_uri(path, beside=inventory.uri)
        if _is_there(place):
            return place
    place = f"s3://{inventory.destination}/{file.key}"
    if _is_there(place):
        return place
    raise UsageError(
        f"{inventory.uri} names {file.key}, which is neither beside it nor in"
        f" s3://{inventory.destination}: copy the inventory with its data folder"
    )


def _is_there(uri: str) -> bool:
    try:
        return storage.exists(uri)
    except StorageError as error:
        if error.status == Status.DENIED:  # what S3 says of a missing key where listing is denied
            return False
        raise


@contextmanager
def _downloaded(uri: str, md5: str, options: storage.ReadOptions | None) -> Iterator[IO[bytes]]:
    """A local copy, whose checksum costs no second read: Parquet is not read from its start."""
    with tempfile.TemporaryFile() as copy:
        found = _copy(uri, copy, options)
        if md5 and found != md5.lower():
            raise UsageError(
                f"{uri} is not the file that its inventory lists (MD5 {found}, expected {md5}):"
                " copy it again, or take another day's inventory"
            )
        copy.seek(0)
        yield copy


def _copy(uri: str, copy: IO[bytes], options: storage.ReadOptions | None) -> str:
    """Read a file into a local one; its MD5 in hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    files, path = storage.filesystem(uri, options)
    try:
        # As it is: otherwise Arrow unpacks what is called .gz, and the checksum is of the packed.
        with files.open_input_stream(path, compression=None) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
    except OSError:  # Arrow's own words may quote an endpoint
        raise StorageError(Status.UNAVAILABLE, uri, "cannot be read") from None
    return digest.hexdigest()


# Rows


def _batches(inventory: Inventory, data: IO[bytes], place: str) -> Iterator[pa.RecordBatch]:
    """Batches with those of ``_COLUMNS`` that the inventory has."""
    read = _parquet_batches if inventory.file_format == "Parquet" else _csv_batches
    try:
        for batch in read(data, inventory.columns):
            if "key" not in batch.schema.names:
                raise UsageError(f"{place} has no key column: expected an S3 Inventory")
            yield batch
    except (pa.ArrowException, EOFError, gzip.BadGzipFile):
        raise UsageError(
            f"{place} cannot be read as {inventory.file_format}, as its inventory says it can:"
            " copy it again, or take another day's inventory"
        ) from None


def _parquet_batches(data: IO[bytes], _: Sequence[str]) -> Iterator[pa.RecordBatch]:
    table = pq.ParquetFile(data, pre_buffer=False)  # else all that was read stays in memory
    wanted = [name for name in table.schema_arrow.names if _plain(name) in _COLUMNS]
    for batch in table.iter_batches(READ_ROWS, columns=wanted):
        yield batch.rename_columns([_plain(name) for name in batch.schema.names])


def _csv_batches(data: IO[bytes], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    is_gzip = data.read(len(_GZIP_START)) == _GZIP_START
    data.seek(0)
    lines: Any = gzip.GzipFile(fileobj=data) if is_gzip else data
    if not lines.read(1):
        return
    lines.seek(0)
    types = {
        name: pa.int64() if name == "size" else pa.string() for name in columns if name in _COLUMNS
    }
    yield from pa_csv.open_csv(
        lines,
        read_options=pa_csv.ReadOptions(column_names=list(columns), block_size=_CHUNK_BYTES),
        convert_options=pa_csv.ConvertOptions(include_columns=list(types), column_types=types),
    )


def _entries(batch: pa.RecordBatch, inventory: Inventory, place: str) -> Iterator[FileEntry]:
    names = batch.schema.names
    if "islatest" in names:
        batch = batch.filter(pc.invert(_says(batch, "islatest", "false")))
    if "isdeletemarker" in names:
        batch = batch.filter(pc.invert(_says(batch, "isdeletemarker", "true")))
    none = [None] * batch.num_rows
    keys = batch.column("key").to_pylist()
    sizes = batch.column("size").to_pylist() if "size" in names else none
    etags = batch.column("etag").to_pylist() if "etag" in names else none
    is_encoded = inventory.file_format == "CSV"
    for raw, size, etag in zip(keys, sizes, etags, strict=True):
        key = _decoded(raw, place) if is_encoded else raw
        if not (key.endswith("/") or key.startswith(_HIDDEN) or "/." in key or "/_" in key):
            uri = f"s3://{inventory.bucket}/{key}"
            yield FileEntry(uri, size, etag.strip('"') if etag else None)


def _says(batch: pa.RecordBatch, name: str, word: str) -> pa.Array:
    """Where a column of booleans, or of their names, says ``word``."""
    words = pc.utf8_lower(pc.cast(batch.column(name), pa.string()))
    return pc.fill_null(pc.equal(words, word), fill_value=False)


def _decoded(key: str, place: str) -> str:
    if "%" not in key and "+" not in key:
        return key
    try:
        return unquote_plus(key, errors="strict")  # a space is written as a plus
    except UnicodeDecodeError:
        raise UsageError(f"{place}: the key {key} is not UTF-8; rename the object") from None
