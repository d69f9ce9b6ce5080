"""pyarrow's file systems, with the endpoint, the certificates and the credentials of boto3.

pyarrow finds and renews by itself what the environment, a profile with keys, a web identity, or the
machine's or container's role gives. It knows neither profiles that assume a role nor sign-ins: for
these, boto3 is asked for the credentials of the moment whenever a file is opened, so that they are
renewed as well; a single file must be read or written within one life of them. Buckets where the
requester pays cannot be read by pyarrow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pyarrow import NativeFile
from pyarrow.fs import (
    AwsStandardS3RetryStrategy,
    FileInfo,
    FileSelector,
    FileSystem,
    FileSystemHandler,
    LocalFileSystem,
    PyFileSystem,
    S3FileSystem,
)

from fattr.storage import s3
from fattr.storage.names import Key, canonical_uri, locate
from fattr.storage.records import ReadOptions

ATTEMPTS = 10

_AWS_HOST = re.compile(r"s3[a-z0-9.-]*\.amazonaws\.com(\.cn)?")
_FOUND_BY_PYARROW = {  # botocore's names of the sources of credentials
    "assume-role-with-web-identity",
    "config-file",
    "container-role",
    "env",
    "iam-role",
    "shared-credentials-file",
}


def filesystem(uri: str, options: ReadOptions | None = None) -> tuple[FileSystem, str]:
    """A pyarrow file system and the path in it, for Parquet. Buckets are never made.

    Raises:
        StorageError: The store is unavailable.
        UsageError: No credentials, or wrong ones.
    """
    place = locate(uri)
    if isinstance(place, Path):
        return LocalFileSystem(), str(place)
    options = options or ReadOptions()
    path = f"{place.bucket}/{place.key}".rstrip("/")
    arguments = _arguments(place, canonical_uri(uri), options)
    login = None if options.anonymous else s3.login(uri)
    if login is None or login.method in _FOUND_BY_PYARROW:
        return _s3(arguments, anonymous=options.anonymous), path
    return PyFileSystem(_Folderless(_SignedIn(canonical_uri(uri), arguments))), path


def folderless(uri: str) -> tuple[FileSystem, str]:
    """As ``filesystem``, for libraries that make a folder before they write; in S3 they make none.

    Raises:
        StorageError: The store is unavailable.
        UsageError: No credentials, or wrong ones.
    """
    files, path = filesystem(uri)
    return (
        PyFileSystem(_Folderless(_Known(files))) if isinstance(files, S3FileSystem) else files
    ), path


def endpoint(url: str) -> tuple[str, str | None]:
    """Scheme and host for pyarrow; no host where AWS itself is found by region."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    is_aws = _AWS_HOST.fullmatch(host) is not None
    return parts.scheme, None if is_aws else host + parts.path.rstrip("/")


def _arguments(place: Key, uri: str, options: ReadOptions) -> dict[str, Any]:
    scheme, host = endpoint(s3.client(options).meta.endpoint_url)
    certificates = s3.ca_bundle(uri)
    return {
        "region": s3.region_of(place.bucket, uri, options),
        "scheme": scheme,
        "endpoint_override": host,
    } | ({"tls_ca_file_path": certificates} if certificates else {})


def _s3(arguments: dict[str, Any], **credentials: str | bool | None) -> S3FileSystem:
    """As patient as boto3: on a slow line, Arrow's own 3 s end what only waits for its turn."""
    return S3FileSystem(
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        connect_timeout=s3.CONNECT_TIMEOUT_S,
        request_timeout=s3.READ_TIMEOUT_S,
        **arguments,
        **credentials,
    )


class _Folderless(FileSystemHandler):  # type: ignore[misc]
    """S3 in which no folder is made: keys need none, and to make one takes rights on the bucket."""

    def __init__(self, connect: Callable[[], S3FileSystem]) -> None:
        self._connect = connect

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Folderless) and self._connect == other._connect

    def __hash__(self) -> int:
        return hash(type(self._connect))

    @property
    def _now(self) -> S3FileSystem:
        return self._connect()

    def get_type_name(self) -> str:
        return "s3"

    def normalize_path(self, path: str) -> str:
        return str(self._now.normalize_path(path))

    def get_file_info(self, paths: list[str]) -> list[FileInfo]:
        return list(self._now.get_file_info(paths))

    def get_file_info_selector(self, selector: FileSelector) -> list[FileInfo]:
        return list(self._now.get_file_info(selector))

    def create_dir(self, path: str, recursive: bool) -> None:
        pass

    def delete_dir(self, path: str) -> None:
        self._now.delete_dir(path)

    def delete_dir_contents(self, path: str, missing_dir_ok: bool = False) -> None:
        self._now.delete_dir_contents(path, missing_dir_ok=missing_dir_ok)

    def delete_root_dir_contents(self) -> None:
        raise NotImplementedError("all buckets are never deleted")

    def delete_file(self, path: str) -> None:
        self._now.delete_file(path)

    def move(self, src: str, dest: str) -> None:
        self._now.move(src, dest)

    def copy_file(self, src: str, dest: str) -> None:
        self._now.copy_file(src, dest)

    def open_input_stream(self, path: str) -> NativeFile:
        return self._now.open_input_stream(path)

    def open_input_file(self, path: str) -> NativeFile:
        return self._now.open_input_file(path)

    def open_output_stream(self, path: str, metadata: Mapping[str, str] | None) -> NativeFile:
        return self._now.open_output_stream(path, metadata=metadata)

    def open_append_stream(self, path: str, metadata: Mapping[str, str] | None) -> NativeFile:
        return self._now.open_append_stream(path, metadata=metadata)


@dataclass(frozen=True, slots=True)
class _Known:
    """A store as it is."""

    files: S3FileSystem

    def __call__(self) -> S3FileSystem:
        return self.files


@dataclass(frozen=True, slots=True)
class _SignedIn:
    """A store with the credentials that boto3 has at the moment of each call.

    It is pickled without any: another process looks for its own.
    """

    uri: str
    arguments: dict[str, Any]

    def __call__(self) -> S3FileSystem:
        login = s3.login(self.uri)
        if login is None:
            return _s3(self.arguments)
        return _s3(
            self.arguments,
            access_key=login.key_id,
            secret_key=login.secret,
            session_token=login.token,
        )
