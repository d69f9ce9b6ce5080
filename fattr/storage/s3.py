"""Requests to S3 and what its answers mean; the only file that knows boto3 and a credential.

No message repeats what an AWS library said, since that may quote an endpoint or a signature.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError
from botocore.response import StreamingBody

from fattr.errors import FattrError, RunError, StorageError, UsageError
from fattr.records import Status
from fattr.storage.errors import EXPIRED_CODES
from fattr.storage.names import Key
from fattr.storage.records import FileEntry, ReadOptions
from fattr.storage.retries import TransientError, retry

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, ListObjectsV2OutputTypeDef

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
MAX_CONNECTIONS = 256
DELETE_BATCH = 1000  # the most keys S3 takes in one DeleteObjects

Body: TypeAlias = StreamingBody

_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    InvalidConfigError,
)
_GARBLED = (
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    FlexibleChecksumError,
    ResponseParserError,
)
_SIGNED_OUT = (SSOError, LoginError, TokenRetrievalError)
_WRONG_KEY_CODES = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_STATUS_BY_CODE = {
    "RequestTimeout": Status.TIMEOUT,
    "InvalidObjectState": Status.UNAVAILABLE,  # archived: a 403, yet no permission is lacking
}
_STATUS_BY_HTTP = {401: Status.DENIED, 403: Status.DENIED, 404: Status.MISSING}
_BUSY_CODES = {
    "BandwidthLimitExceeded",
    "ConditionalRequestConflict",
    "LimitExceededException",
    "OperationAborted",
    "PriorRequestNotComplete",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "RequestTimeout",
    "RequestTimeoutException",
    "SlowDown",
    "Throttling",
    "ThrottledException",
    "ThrottlingException",
    "TooManyRequestsException",
}
_BUSY_HTTP = {408, 429, 500, 502, 503, 504}


class PreconditionError(StorageError):
    """The object is not the one that the request was about."""


# The client


def client(options: ReadOptions | None = None) -> S3Client:
    """This process's client; it sends each request once."""
    anonymous = options is not None and options.anonymous
    timeout_s = READ_TIMEOUT_S if options is None else min(READ_TIMEOUT_S, options.timeout_s)
    with _client_lock:  # boto3 sessions are not thread-safe while they make a client
        return _client_of_process(os.getpid(), anonymous, timeout_s)


_client_lock = threading.Lock()


@functools.lru_cache(maxsize=4)
def _client_of_process(process_id: int, anonymous: bool, read_timeout_s: float) -> S3Client:
    """One client for each process: its connections must not be shared by a fork."""
    config = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=read_timeout_s,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 1},  # see retries.py
        signature_version=UNSIGNED if anonymous else None,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except ValueError:  # its message repeats the URL, which may hold a password
        raise UsageError(
            "the S3 endpoint or region is not valid: expected AWS_ENDPOINT_URL like"
            " https://host:port and AWS_REGION like eu-central-1"
        ) from None


def region_of(bucket: str, uri: str, options: ReadOptions) -> str:
    """The bucket's own region: unlike boto3, pyarrow does not follow a redirect to it."""
    store = client(options)

    def ask() -> str:
        with s3_errors(uri):
            try:
                headers = store.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
            except ClientError as error:  # denied or elsewhere, but the region is told
                if _is_busy(error):
                    raise
                headers = error.response["ResponseMetadata"]["HTTPHeaders"]
        return str(headers.get("x-amz-bucket-region", store.meta.region_name))

    return retry(ask, uri, attempts=options.attempts)


@dataclass(frozen=True, slots=True)
class Login:
    """Where the credentials come from, and what they are now; nothing shows them."""

    method: str  # botocore's name of the source
    key_id: str
    secret: str
    token: str | None

    def __repr__(self) -> str:
        return f"Login({self.method})"


def login(uri: str) -> Login | None:
    """The credentials of this moment, renewed where they had to be; None where there are none."""
    with s3_errors(uri):
        found = _session_of_process(os.getpid()).get_credentials()
        if found is None:
            return None
        frozen = found.get_frozen_credentials()
    return Login(found.method, frozen.access_key or "", frozen.secret_key or "", frozen.token)


def ca_bundle(uri: str) -> str | None:
    """File of the certificates to trust, where the environment or profile names one."""
    with s3_errors(uri):
        said = _session_of_process(os.getpid()).get_config_variable("ca_bundle")
    return said and str(said)


@functools.lru_cache(maxsize=1)
def _session_of_process(process_id: int) -> botocore.session.Session:
    return botocore.session.Session()


# Requests, each sent once


def get(
    place: Key,
    uri: str,
    options: ReadOptions,
    *,
    span: tuple[int, int] | None = None,
    etag: str | None = None,
) -> GetObjectOutputTypeDef:
    """The answer with an object's body not yet read.

    Args:
        place: The object.
        uri: What errors call it.
        options: How to ask.
        span: First byte and the one after the last; None is all.
        etag: It must still be that version; none, or an empty one, does not matter.

    Raises:
        PreconditionError: It is another version.
    """
    asked: dict[str, Any] = {"Bucket": place.bucket, "Key": object_key(place, uri)}
    if span is not None:
        asked["Range"] = f"bytes={span[0]}-{span[1] - 1}"
    if etag:
        asked["IfMatch"] = etag
    with s3_errors(uri):
        return client(options).get_object(**asked, **_payer(options))


def head(place: Key, uri: str, options: ReadOptions) -> FileEntry:
    """What is known of an object."""
    key = object_key(place, uri)

    def ask() -> FileEntry:
        with s3_errors(uri):
            said = client(options).head_object(Bucket=place.bucket, Key=key, **_payer(options))
        return FileEntry(uri, said["ContentLength"], said["ETag"].strip('"'))

    return retry(ask, uri, attempts=options.attempts)


def put(place: Key, uri: str, data: bytes, conditions: Mapping[str, Any] | None = None) -> str:
    """Write an object; its etag.

    Raises:
        PreconditionError: A condition (``IfMatch``, ``IfNoneMatch``) does not hold.
    """
    with s3_errors(uri):
        answer = client().put_object(
            Bucket=place.bucket, Key=object_key(place, uri), Body=data, **(conditions or {})
        )
    return answer["ETag"].strip('"')


def list_page(
    bucket: str, prefix: str, uri: str, options: ReadOptions, arguments: Mapping[str, Any]
) -> ListObjectsV2OutputTypeDef:
    """One page of the keys that begin with ``prefix``; ``arguments`` as of ``list_objects_v2``."""

    def ask() -> ListObjectsV2OutputTypeDef:
        with s3_errors(uri):
            return client(options).list_objects_v2(
                Bucket=bucket, Prefix=prefix, **arguments, **_payer(options)
            )

    return retry(ask, uri, attempts=options.attempts)


def delete(bucket: str, keys: Sequence[str], uri: str, options: ReadOptions) -> None:
    """Delete at most ``DELETE_BATCH`` objects; those that are not there are no error."""

    def ask() -> list[str]:
        with s3_errors(uri):
            answer = client().delete_objects(
                Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        return [error.get("Code", "") for error in answer.get("Errors", [])]

    if codes := retry(ask, uri, attempts=options.attempts):
        status = Status.DENIED if codes[0] == "AccessDenied" else Status.UNAVAILABLE
        raise StorageError(status, uri, f"{len(codes)} objects could not be deleted")


def try_upload(bucket: str, key: str, uri: str, options: ReadOptions) -> None:
    """Begin an upload and give it up: it takes the right to write, yet nobody sees an object."""

    def ask() -> None:
        with s3_errors(uri):
            upload_id = client().create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
            client().abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)

    retry(ask, uri, attempts=options.attempts)


def object_key(place: Key, uri: str) -> str:
    """The key of an object.

    Raises:
        StorageError: A bucket is none.
    """
    if not place.key:
        raise StorageError(Status.MISSING, uri, "names a bucket, not an object")
    return place.key


def _payer(options: ReadOptions) -> dict[str, Any]:
    return {"RequestPayer": "requester"} if options.requester_pays else {}


# Errors


@contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Turn what boto3 says of ``uri`` into fattr's errors, transient ones marked as such."""
    try:
        yield
    except ClientError as error:
        raise _answered(error, uri) from None
    except _NO_CREDENTIALS:
        raise UsageError(
            f"no usable AWS credentials for {uri}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
            " or AWS_PROFILE, or run where a role is attached"
        ) from None
    except _SIGNED_OUT:
        raise RunError(
            f"the AWS sign-in for {uri} is missing or has expired: sign in (aws sso login) and"
            " run again"
        ) from None
    except (BotoCoreError, ResponseParserError) as error:
        raise _unanswered(error, uri) from None


def _unanswered(error: Exception, uri: str) -> StorageError:
    is_timeout = isinstance(error, ConnectTimeoutError | ReadTimeoutError)
    kind = TransientError if isinstance(error, _GARBLED) else StorageError
    status = Status.TIMEOUT if is_timeout else Status.UNAVAILABLE
    return kind(status, uri, type(error).__name__)


def _answered(error: ClientError, uri: str) -> FattrError:
    code, http = _code(error), _http(error)
    if code in EXPIRED_CODES:
        return RunError(f"the AWS credentials for {uri} expired: renew them and run again")
    if code in _WRONG_KEY_CODES:
        return UsageError(f"the AWS credentials for {uri} are wrong ({code}): check key and secret")
    if error.operation_name.startswith("AssumeRole") and not _is_busy(error):
        return UsageError(
            f"the role for {uri} cannot be assumed ({code}): check role_arn of the AWS profile and"
            " who may assume that role"
        )
    status = _STATUS_BY_CODE.get(code) or _STATUS_BY_HTTP.get(http, Status.UNAVAILABLE)
    reason = f"HTTP {http}" if code in ("", str(http)) else f"{code} (HTTP {http})"
    if http == 412:
        return PreconditionError(status, uri, reason)
    return (TransientError if _is_busy(error) else StorageError)(status, uri, reason)


def _is_busy(error: ClientError) -> bool:
    return _code(error) in _BUSY_CODES or _http(error) in _BUSY_HTTP


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _http(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
