"""Bytes by URI, on local disk or in S3; the only room that knows a URI scheme or a credential.

Every function takes any spelling that ``canonical_uri`` takes. S3 is set up by the standard AWS
environment alone (credentials, region, ``AWS_ENDPOINT_URL``, ``AWS_MAX_ATTEMPTS``); no message
repeats what an AWS library said, since that may quote an endpoint or a signature. A store that
refuses today's checksums may need ``AWS_REQUEST_CHECKSUM_CALCULATION=when_required``.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import posixpath
import re
import shutil
import stat
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes, urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
)
from pyarrow.fs import FileSystem, LocalFileSystem, S3FileSystem

from fattr.errors import FattrError, RunError, StorageError, UsageError
from fattr.records import Status

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 64
BODY_ATTEMPTS = 3  # botocore retries a request, not a body that breaks off half-way
DELETE_BATCH = 1000  # the most keys S3 takes in one DeleteObjects

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")
_AWS_HOST = re.compile(r"s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?")
_PATH_SAFE = "/!$&'()*+,;=:@~"  # what RFC 3986 allows in a path besides letters, digits and -._
_HIDDEN = (".", "_")

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
)
_EXPIRED_CODES = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_WRONG_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_STATUS_BY_CODE = {
    "RequestTimeout": Status.TIMEOUT,
    "InvalidObjectState": Status.UNAVAILABLE,  # archived: a 403, yet no permission is lacking
}
_STATUS_BY_HTTP = {401: Status.DENIED, 403: Status.DENIED, 404: Status.MISSING}
_STATUS_BY_ERRNO = {
    errno.ENOENT: Status.MISSING,
    errno.ENOTDIR: Status.MISSING,
    errno.EACCES: Status.DENIED,
    errno.EPERM: Status.DENIED,
    errno.ETIMEDOUT: Status.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a listing; size and etag are None where nobody has looked yet."""

    uri: str
    size_bytes: int | None = None
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    bucket: str
    key: str  # "" is the whole bucket

    @property
    def folder(self) -> str:
        return f"{self.key}/" if self.key else ""


# Names


def canonical_uri(text: str, *, beside: str | None = None) -> str:
    """The one spelling of a place: ``file:///absolute/path`` or ``s3://bucket/key``.

    A file URI is percent-encoded as RFC 3986 asks (``%20`` for a space, ``%23`` for ``#``, UTF-8
    bytes beyond ASCII, undecodable bytes as they are), so every file name survives the round trip.
    A plain path is never decoded: ``100%25.jpg`` is that very name. ``.`` and ``..`` are folded;
    symlinks are kept. An S3 key stays as it is; only slashes at its end are dropped.

    Args:
        text: A path, a file URI or an S3 URI.
        beside: URI of a file whose folder a relative path starts from; None is the process's.

    Raises:
        UsageError: Another scheme, or something that can name no file.
    """
    match = _URI.fullmatch(text)
    if match is None:
        return _uri_of_path(text, beside)
    scheme, rest = match[1].lower(), match[2]
    if scheme == "s3":
        return _s3_uri(rest)
    if scheme == "file":
        return _file_uri(rest)
    # A web address may carry a password or a signature.
    shown = re.split(r"[?#]", rest)[0].rpartition("@")[2]
    raise UsageError(
        f"{scheme}://{shown} cannot be used: expected a path, file:///absolute/path or"
        " s3://bucket/key; copy the files to one of these"
    )


def join(uri: str, *parts: str) -> str:
    """The place ``parts`` below ``uri``; parts are plain names or relative paths, not encoded."""
    root = canonical_uri(uri)
    names = parts if root.startswith("s3://") else [_quote(part) for part in parts]
    return _folder(root) + "/".join(names)


def relative_path(uri: str, folder_uri: str) -> str:
    """The plain path of ``uri`` below a folder, equal wherever the folder lies; undoes ``join``.

    Raises:
        ValueError: It is not below that folder.
    """
    child, folder = canonical_uri(uri), _folder(canonical_uri(folder_uri))
    if not child.startswith(folder):
        raise ValueError(f"{child} is not below {folder}")
    path = child.removeprefix(folder)
    return path if child.startswith("s3://") else _unquote(path)


def is_within(child_uri: str, parent_uri: str) -> bool:
    """Whether ``child_uri`` is ``parent_uri`` or below it, symlinks followed."""
    child, parent = _locate(child_uri), _locate(parent_uri)
    if isinstance(child, Path) and isinstance(parent, Path):
        return child.resolve().is_relative_to(parent.resolve())
    if isinstance(child, _Key) and isinstance(parent, _Key):
        return child.bucket == parent.bucket and child.folder.startswith(parent.folder)
    return False


def _locate(uri: str) -> Path | _Key:
    uri = canonical_uri(uri)
    if uri.startswith("s3://"):
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        return _Key(bucket, key)
    return Path(_unquote(uri.removeprefix("file://")))


def _uri_of_path(text: str, beside: str | None) -> str:
    if not text or "\0" in text:
        raise UsageError(f"{text!r} names no file: expected a path or an s3:// URI")
    anchor = None if beside is None else _locate(beside)
    if isinstance(anchor, _Key) and not text.startswith("/"):
        folder = posixpath.dirname(anchor.key)
        return _s3_uri(f"{anchor.bucket}/{posixpath.normpath(posixpath.join(folder, text))}")
    start = anchor.parent if isinstance(anchor, Path) else Path.cwd()
    path = os.path.normpath(start / text)
    return "file:///" + _quote(path.lstrip("/"))


def _file_uri(rest: str) -> str:
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise UsageError("a file URI has three slashes: expected file:///absolute/path")
    return _uri_of_path(f"/{_unquote(path)}", None)


def _s3_uri(rest: str) -> str:
    bucket, _, key = rest.partition("/")
    if not _BUCKET.fullmatch(bucket):
        # Not repeated: some tools write s3://KEY:SECRET@bucket.
        raise UsageError("an s3:// URI names no bucket: expected s3://bucket/key, nothing else")
    if re.search("[\ud800-\udfff]", key):
        raise UsageError(f"a key in s3://{bucket} is not UTF-8: {key!r}; rename the object")
    return f"s3://{bucket}/{key}".rstrip("/")


def _folder(uri: str) -> str:
    return uri if uri.endswith("/") else uri + "/"


def _quote(path: str) -> str:
    return quote_from_bytes(os.fsencode(path), safe=_PATH_SAFE)


def _unquote(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(os.fsencode(path)))


# Single files


def read_bytes(uri: str, *, max_bytes: int | None = None) -> bytes:
    """The whole file.

    Raises:
        StorageError: With status missing, denied, unavailable, timeout, or too_large where the
            file exceeds ``max_bytes``.
        UsageError: No credentials, or wrong ones.
        RunError: The credentials expired.
    """
    place = _locate(uri)
    if isinstance(place, Path):
        return _read_local(place, uri, max_bytes)
    for attempt in itertools.count(1):
        try:
            return _read_s3(place, uri, max_bytes)
        except _BrokenBodyError as error:
            if attempt == BODY_ATTEMPTS:
                raise StorageError(error.status, uri, error.reason) from None
    raise AssertionError("unreachable")


def write_bytes(uri: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, replacing any that is there.

    Raises:
        StorageError: It could not be written; nothing was left behind.
    """
    place = _locate(uri)
    if isinstance(place, Path):
        with _os_errors(uri):
            _write_local(place, data)
        return
    with _s3_errors(uri):
        _client().put_object(Bucket=place.bucket, Key=place.key, Body=data)


def exists(uri: str) -> bool:
    """Whether there is a file; a folder is none, for S3 has no folders.

    Raises:
        StorageError: It cannot be told, for example because access is denied.
    """
    try:
        _entry(uri)
    except StorageError as error:
        if error.status == Status.MISSING:
            return False
        raise
    return True


def _entry(uri: str) -> FileEntry:
    place, uri = _locate(uri), canonical_uri(uri)
    if isinstance(place, Path):
        with _os_errors(uri):
            return _local_entry(uri, place.stat())
    if not place.key:
        raise StorageError(Status.MISSING, uri, "names a bucket, not an object")
    with _s3_errors(uri):
        head = _client().head_object(Bucket=place.bucket, Key=place.key)
    return FileEntry(uri, head["ContentLength"], head["ETag"].strip('"'))


def _local_entry(uri: str, info: os.stat_result) -> FileEntry:
    if stat.S_ISDIR(info.st_mode):
        raise StorageError(Status.MISSING, uri, "is a folder, not a file")
    return FileEntry(uri, info.st_size, f"{info.st_mtime_ns}-{info.st_size}")


def _read_local(path: Path, uri: str, max_bytes: int | None) -> bytes:
    with _os_errors(uri):
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # reading a pipe or a device may never end
            raise StorageError(Status.UNAVAILABLE, uri, "is not a regular file")
        _check_size(info.st_size, uri, max_bytes)
        return path.read_bytes()


class _BrokenBodyError(StorageError):
    """The body of an S3 object ended early."""


def _read_s3(place: _Key, uri: str, max_bytes: int | None) -> bytes:
    if not place.key:
        raise StorageError(Status.MISSING, uri, "names a bucket, not an object")
    with _s3_errors(uri):
        response = _client().get_object(Bucket=place.bucket, Key=place.key)
    with closing(response["Body"]) as body:
        _check_size(response["ContentLength"], uri, max_bytes)
        try:
            with _s3_errors(uri):
                data: bytes = body.read()
                return data
        except StorageError as error:
            raise _BrokenBodyError(error.status, uri, error.reason) from None


def _check_size(size_bytes: int, uri: str, max_bytes: int | None) -> None:
    if max_bytes is not None and size_bytes > max_bytes:
        raise StorageError(Status.TOO_LARGE, uri, f"has {size_bytes} bytes, at most {max_bytes}")


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave an empty file under the real name
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


# Folders


def list_files(prefix_uri: str) -> Iterator[FileEntry]:
    """Every file below a folder, subfolders included, in the order of their URIs.

    ``s3://bucket/photos`` and ``s3://bucket/photos/`` both mean the folder ``photos/``, never
    ``photos2/``. The URI of one file yields that file. Left out are files whose name, or the name
    of any folder on the way down, starts with ``.`` or ``_``, and whatever is no file (pipes, S3
    folder markers). Symlinks are followed, a link back up is not; a dangling one is an entry
    without size. Errors are raised on the first ``next``, or when the listing gets there.

    Raises:
        UsageError: Nothing there, no such bucket, or listing it is denied.
        StorageError: The store is unavailable.
    """
    root, is_empty = canonical_uri(prefix_uri), True
    try:
        for entry in _visible(root):
            is_empty = False
            yield entry
    except StorageError as error:
        raise _refused("list", error, "s3:ListBucket") from None
    if is_empty:
        raise UsageError(
            f"no files under {root}: expected one or more whose name does not start with . or _;"
            " check the path"
        )


def list_tree(uri: str) -> Iterator[FileEntry]:
    """Every file below a folder, hidden ones too, in the order of their URIs; none where none is.

    Raises:
        StorageError: It cannot be listed.
    """
    place, uri = _locate(uri), canonical_uri(uri)
    if isinstance(place, _Key):
        yield from _s3_tree(place, uri)
        return
    with _os_errors(uri):
        is_folder = place.is_dir()
    if is_folder:
        yield from _local_tree(uri, str(place), skip_hidden=False)


def delete_tree(uri: str) -> None:
    """Delete a folder of our own and all that is in it; nothing to delete is fine.

    Raises:
        StorageError: Something could not be deleted.
        ValueError: The root of a disk or of a bucket.
    """
    place, uri = _locate(uri), canonical_uri(uri)
    if isinstance(place, Path):
        if place == place.parent:
            raise ValueError(f"refusing to delete {uri}: it is the root of the disk")
        with _os_errors(uri):
            if place.exists():
                shutil.rmtree(place)
        return
    if not place.key:
        raise ValueError(f"refusing to delete {uri}: it is a whole bucket")
    keys = (entry.uri.removeprefix(f"s3://{place.bucket}/") for entry in _s3_tree(place, uri))
    while batch := list(itertools.islice(keys, DELETE_BATCH)):
        _delete_keys(place.bucket, batch, uri)


def check_writable(output_uri: str) -> None:
    """Refuse a place that cannot be written; nothing is left behind.

    Raises:
        UsageError: No such bucket, no permission, or a file in the way.
        StorageError: The store is unavailable.
    """
    place, uri = _locate(output_uri), canonical_uri(output_uri)
    try:
        if isinstance(place, Path):
            _check_writable_local(place, uri)
        else:
            _check_writable_s3(place, uri)
    except StorageError as error:
        raise _refused("write to", error, "s3:PutObject") from None


def filesystem(uri: str) -> tuple[FileSystem, str]:
    """A pyarrow file system and the path in it, for Parquet.

    Credentials come from the same standard sources, looked up by pyarrow itself so that
    temporary ones are renewed. Buckets are never made.

    Raises:
        StorageError: The store is unavailable.
        UsageError: No credentials, or wrong ones.
    """
    place = _locate(uri)
    if isinstance(place, Path):
        return LocalFileSystem(), str(place)
    with _s3_errors(uri):
        region = _region_of(place.bucket)
    scheme, override = _endpoint()
    store = S3FileSystem(region=region, scheme=scheme, endpoint_override=override)
    return store, f"{place.bucket}/{place.key}".rstrip("/")


def _visible(root: str) -> Iterator[FileEntry]:
    place = _locate(root)
    if isinstance(place, Path):
        with _os_errors(root):
            is_folder = place.is_dir()
        if is_folder:
            yield from _local_tree(root, str(place), skip_hidden=True)
        else:
            yield _entry(root)
        return
    is_empty = True
    for entry in _s3_tree(place, root):
        is_empty = False
        names = entry.uri.removeprefix(root).split("/")
        if not any(name.startswith(_HIDDEN) for name in names):
            yield entry
    if is_empty and place.key:
        yield _entry(root)


def _local_tree(
    uri: str, folder: str, *, skip_hidden: bool, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[FileEntry]:
    with _os_errors(uri):
        info = Path(folder).stat()
        with os.scandir(folder) as found:
            kept = [item for item in found if not (skip_hidden and item.name.startswith(_HIDDEN))]
    here = (info.st_dev, info.st_ino)
    if here in above:
        return
    for item in sorted(kept, key=_uri_order):
        item_uri = _folder(uri) + _quote(item.name)
        if _is_folder(item):
            yield from _local_tree(
                item_uri, item.path, skip_hidden=skip_hidden, above=above | {here}
            )
        elif (entry := _scanned_entry(item_uri, item)) is not None:
            yield entry


def _uri_order(item: os.DirEntry[str]) -> str:
    return _quote(item.name) + "/" if _is_folder(item) else _quote(item.name)


def _is_folder(item: os.DirEntry[str]) -> bool:
    try:
        return item.is_dir()
    except OSError:  # a symlink to itself
        return False


def _scanned_entry(uri: str, item: os.DirEntry[str]) -> FileEntry | None:
    try:
        info = item.stat()
    except OSError:  # gone or dangling: reading it will say why
        return FileEntry(uri)
    return _local_entry(uri, info) if stat.S_ISREG(info.st_mode) else None


def _s3_tree(place: _Key, uri: str) -> Iterator[FileEntry]:
    with _s3_errors(uri):
        pages = _client().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=place.bucket, Prefix=place.folder):
            for item in page.get("Contents", []):
                if not item["Key"].endswith("/"):
                    item_uri = f"s3://{place.bucket}/{item['Key']}"
                    yield FileEntry(item_uri, item["Size"], item["ETag"].strip('"'))


def _delete_keys(bucket: str, keys: list[str], uri: str) -> None:
    with _s3_errors(uri):
        response = _client().delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )
    if failed := response.get("Errors"):
        status = Status.DENIED if failed[0].get("Code") == "AccessDenied" else Status.UNAVAILABLE
        raise StorageError(status, uri, f"{len(failed)} objects could not be deleted")


def _check_writable_local(path: Path, uri: str) -> None:
    with _os_errors(uri):
        nearest = next(folder for folder in [path, *path.parents] if folder.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass


def _check_writable_s3(place: _Key, uri: str) -> None:
    # An upload begun and given up asks for the right to write, yet no reader ever sees an object.
    key = f"{place.folder}.{uuid.uuid4().hex}"
    with _s3_errors(uri):
        upload = _client().create_multipart_upload(Bucket=place.bucket, Key=key)
        _client().abort_multipart_upload(Bucket=place.bucket, Key=key, UploadId=upload["UploadId"])
        if _endpoint()[1] is not None:
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
    _client().delete_object(Bucket=bucket, Key=key)


# The S3 client


def _client() -> S3Client:
    with _client_lock:  # boto3 sessions are not thread-safe while they make a client
        return _client_of_process(os.getpid())


_client_lock = threading.Lock()


@functools.lru_cache(maxsize=1)
def _client_of_process(process_id: int) -> S3Client:
    """One client for each process: its connections must not be shared by a fork."""
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard"},
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError:  # its message repeats the URL, which may hold a password
        raise UsageError(
            "the S3 endpoint or region is not valid: expected AWS_ENDPOINT_URL like"
            " https://host:port and AWS_REGION like eu-central-1"
        ) from None


def _endpoint() -> tuple[str, str | None]:
    """Scheme and host for pyarrow; no host where AWS itself is found by region."""
    url = urlsplit(_client().meta.endpoint_url)
    host = url.netloc.rpartition("@")[2]
    is_aws = _AWS_HOST.fullmatch(host) is not None
    return url.scheme, None if is_aws else host + url.path.rstrip("/")


def _region_of(bucket: str) -> str:
    """The bucket's own region: unlike boto3, pyarrow does not follow a redirect to it."""
    client = _client()
    try:
        headers = client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
    except ClientError as error:  # denied or elsewhere, but the region is told
        headers = error.response["ResponseMetadata"]["HTTPHeaders"]
    return str(headers.get("x-amz-bucket-region", client.meta.region_name))


# Errors


@contextmanager
def _os_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        status = _STATUS_BY_ERRNO.get(error.errno or 0, Status.UNAVAILABLE)
        raise StorageError(status, canonical_uri(uri), error.strerror or "I/O error") from None


@contextmanager
def _s3_errors(uri: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _answered(error, uri) from None
    except _NO_CREDENTIALS:
        raise UsageError(
            f"no usable AWS credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " or AWS_PROFILE, or run where a role is attached"
        ) from None
    except BotoCoreError as error:
        is_timeout = isinstance(error, ConnectTimeoutError | ReadTimeoutError)
        status = Status.TIMEOUT if is_timeout else Status.UNAVAILABLE
        raise StorageError(status, uri, type(error).__name__) from None


def _answered(error: ClientError, uri: str) -> FattrError:
    code = error.response["Error"].get("Code", "")
    http = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    if code in _EXPIRED_CODES:
        return RunError(f"the AWS credentials for {uri} expired: renew them and run again")
    if code in _WRONG_KEY_CODES:
        return UsageError(f"the AWS credentials for {uri} are wrong ({code}): check key and secret")
    status = _STATUS_BY_CODE.get(code) or _STATUS_BY_HTTP.get(http, Status.UNAVAILABLE)
    reason = f"HTTP {http}" if code in ("", str(http)) else f"{code} (HTTP {http})"
    return StorageError(status, uri, reason)


def _refused(verb: str, error: StorageError, permission: str) -> FattrError:
    """What the user must change, where it is up to the user."""
    is_s3 = error.uri.startswith("s3://")
    if error.status == Status.MISSING:
        remedy = "check bucket, key and AWS_ENDPOINT_URL" if is_s3 else "check the path"
    elif error.status == Status.DENIED:
        remedy = f"the credentials need {permission}" if is_s3 else "change its permissions"
    elif not is_s3:
        remedy = "choose another folder"
    else:
        return error
    return UsageError(f"cannot {verb} {error.uri}: {error.reason}; {remedy}")
