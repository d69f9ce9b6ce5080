"""Bytes by URI, on local disk or in S3; the only room that knows a URI scheme or a credential.

Every function takes any spelling that ``canonical_uri`` takes. S3 is set up by the standard AWS
environment alone: credentials of any kind that boto3 finds, assumed roles and sign-ins included
(``AWS_PROFILE``), region, ``AWS_ENDPOINT_URL``, ``AWS_CA_BUNDLE``, ``AWS_MAX_ATTEMPTS``. A store
that refuses today's checksums may need ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required``.
"""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace as with_changes
from pathlib import Path

from fattr.errors import StorageError, UsageError
from fattr.records import Status
from fattr.storage import arrow, conditional, local, reading, s3
from fattr.storage.arrow import filesystem, folderless
from fattr.storage.errors import os_errors, refused, words_of
from fattr.storage.listing import list_files, list_folders, list_tree
from fattr.storage.names import Key, canonical_uri, is_within, join, locate, relative_path
from fattr.storage.records import FileEntry, ReadOptions

__all__ = [
    "FileEntry",
    "ReadOptions",
    "canonical_uri",
    "check_writable",
    "conditional_writes",
    "delete_tree",
    "exists",
    "filesystem",
    "folderless",
    "is_within",
    "join",
    "list_files",
    "list_folders",
    "list_tree",
    "local_path",
    "os_errors",
    "read_bytes",
    "read_version",
    "relative_path",
    "replace",
    "words_of",
    "write_bytes",
    "write_new",
]


def local_path(uri: str) -> Path | None:
    """Where a file or folder is on this machine; None of one in S3."""
    place = locate(uri)
    return place if isinstance(place, Path) else None


def read_bytes(
    uri: str, *, max_bytes: int | None = None, options: ReadOptions | None = None
) -> bytes:
    """The whole file.

    Args:
        uri: The file.
        max_bytes: Larger files are refused unread; the smaller of this and that of ``options``.
        options: How S3 is asked.

    Raises:
        StorageError: With status missing, denied, unavailable, timeout, or too_large.
        UsageError: No credentials, or wrong ones.
        RunError: The credentials expired.
    """
    options = options or ReadOptions()
    limits = [n for n in (max_bytes, options.max_bytes) if n is not None]
    options = with_changes(options, max_bytes=min(limits, default=None))
    place = locate(uri)
    if isinstance(place, Path):
        return local.read(place, uri, options.max_bytes)
    return reading.read_object(place, uri, options)[0]


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, replacing any that is there.

    Raises:
        StorageError: It could not be written; nothing was left behind.
    """
    place = locate(uri)
    if isinstance(place, Key):
        conditional.write_object(place, uri, data)
        return
    with os_errors(uri):
        local.write(place, data)


def read_version(uri: str) -> tuple[bytes, str] | None:
    """Content and version of a file, None where none is; the version is for ``replace``.

    Raises:
        StorageError: It cannot be told.
    """
    place = locate(uri)
    if isinstance(place, Key):
        return conditional.read_version(place, uri)
    with os_errors(uri):
        return local.read_version(place)


def write_new(uri: str, data: bytes) -> str | None:
    """Create a file unless there is one: of several who try, one gets its version, others None.

    Of two writers in S3 their data must differ. Where ``conditional_writes`` is false, who comes
    first is only looked up before and after, and may in rare cases be told wrongly.

    Raises:
        StorageError: It could not be written.
    """
    place = locate(uri)
    if isinstance(place, Key):
        return conditional.write_new(place, uri, data)
    with os_errors(uri):
        return local.write_new(place, data)


def replace(uri: str, data: bytes, version: str) -> str | None:
    """Replace a file if its version is still ``version``; the new version, or None.

    See ``write_new``.

    Raises:
        StorageError: It could not be written.
    """
    place = locate(uri)
    if isinstance(place, Key):
        return conditional.replace(place, uri, data, version)
    with os_errors(uri):
        return local.replace(place, data, version)


def conditional_writes(uri: str) -> bool:
    """Whether ``write_new`` and ``replace`` can be relied upon here.

    A disk does; of an S3 store it is tried once, with an object beside ``uri`` that is deleted.

    Raises:
        StorageError: It cannot be told.
    """
    place = locate(uri)
    return isinstance(place, Path) or conditional.conditional_writes(place)


def exists(uri: str) -> bool:
    """Whether there is a file; a folder is none, for S3 has no folders.

    Raises:
        StorageError: It cannot be told, for example because access is denied.
    """
    place, uri = locate(uri), canonical_uri(uri)
    try:
        if isinstance(place, Path):
            local.entry(place, uri)
        else:
            s3.head(place, uri, ReadOptions())
    except StorageError as error:
        if error.status == Status.MISSING:
            return False
        raise
    return True


def delete_tree(uri: str) -> None:
    """Delete a folder of our own and all that is in it; nothing to delete is fine.

    Raises:
        StorageError: Something could not be deleted.
        ValueError: The root of a disk or of a bucket.
    """
    place, uri = locate(uri), canonical_uri(uri)
    if isinstance(place, Path):
        local.delete_tree(place, uri)
        return
    if not place.key:
        raise ValueError(f"refusing to delete {uri}: it is a whole bucket")
    keys = (entry.uri.removeprefix(f"s3://{place.bucket}/") for entry in list_tree(uri))
    while batch := list(itertools.islice(keys, s3.DELETE_BATCH)):
        s3.delete(place.bucket, batch, uri, ReadOptions())


def check_writable(output_uri: str) -> None:
    """Refuse a place that cannot be written; nothing is left behind.

    Raises:
        UsageError: No such bucket, no permission, or a file in the way.
        StorageError: The store is unavailable.
    """
    place, uri = locate(output_uri), canonical_uri(output_uri)
    try:
        if isinstance(place, Path):
            local.check_writable(place, uri)
        else:
            _check_writable_s3(place, uri)
    except StorageError as error:
        raise refused("write to", error, "s3:PutObject") from None


def _check_writable_s3(place: Key, uri: str) -> None:
    key = f"{place.folder}.{uuid.uuid4().hex}"
    s3.try_upload(place.bucket, key, uri, ReadOptions())
    if arrow.endpoint(s3.client().meta.endpoint_url)[1] is not None:
        _check_upload(place.bucket, key, uri)


def _check_upload(bucket: str, key: str, uri: str) -> None:
    """Some S3-compatible stores refuse how pyarrow uploads: better known now than at the end."""
    store, path = filesystem(f"s3://{bucket}/{key}")
    try:
        with store.open_output_stream(path) as stream:
            stream.write(b"fattr")
    except OSError:
        raise UsageError(
            f"cannot write to {uri}: the store refused a Parquet upload;"
            " set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        ) from None
    s3.delete(bucket, [key], uri, ReadOptions())
