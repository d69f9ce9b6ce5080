"""Writes to S3 that depend on what is there, also in stores that know no such writes.

The version of an object is its etag, which is another one for another content.
"""

from __future__ import annotations

import functools
import os
import threading
import time
import uuid
from collections.abc import Callable

from fattr.errors import StorageError
from fattr.records import Status
from fattr.storage import s3
from fattr.storage.names import Key
from fattr.storage.reading import read_object
from fattr.storage.records import ReadOptions
from fattr.storage.retries import retry

FALLBACK_PAUSE_S = 1.0  # for another writer, who saw nothing either, to be done

_NOT_KNOWN = ("NotImplemented", "InvalidArgument", "InvalidRequest", "HTTP 501", "HTTP 400")


def read_version(place: Key, uri: str) -> tuple[bytes, str] | None:
    """Content and version, None where nothing is."""
    try:
        return read_object(place, uri, ReadOptions())
    except StorageError as error:
        if error.status == Status.MISSING and "NoSuchBucket" not in error.reason:
            return None
        raise


def write_new(place: Key, uri: str, data: bytes) -> str | None:
    """Create the object unless there is one; its version, or None."""
    if conditional_writes(place):
        return _put_if(place, uri, data, {"IfNoneMatch": "*"})
    if read_version(place, uri) is not None:
        return None
    return _put_and_look(place, uri, data)


def replace(place: Key, uri: str, data: bytes, version: str) -> str | None:
    """Replace the object if its version is still that; the new version, or None."""
    if conditional_writes(place):
        return _put_if(place, uri, data, {"IfMatch": f'"{version}"'})
    found = read_version(place, uri)
    if found is None or found[1] != version:
        return None
    return _put_and_look(place, uri, data)


def conditional_writes(place: Key) -> bool:
    """Whether this store refuses a write whose condition does not hold; asked once a process."""
    asked = (os.getpid(), s3.client().meta.endpoint_url, place.bucket)
    with _asking:
        if asked not in _obeying:
            _obeying[asked] = _obeys_conditions(place)
        return _obeying[asked]


_asking = threading.Lock()
_obeying: dict[tuple[int, str, str], bool] = {}  # by process, endpoint and bucket


def _put_if(place: Key, uri: str, data: bytes, condition: dict[str, str]) -> str | None:
    asked_before = False

    def put() -> str:
        nonlocal asked_before
        try:
            return s3.put(place, uri, data, condition)
        except s3.PreconditionError:
            # The answer to an earlier attempt may have got lost: then what is there is ours.
            found = read_version(place, uri) if asked_before else None
            if found is not None and found[0] == data:
                return found[1]
            raise
        finally:
            asked_before = True

    try:
        return retry(put, uri, attempts=ReadOptions().attempts)
    except s3.PreconditionError:
        return None
    except StorageError as error:
        if error.status == Status.MISSING and "IfMatch" in condition:  # deleted meanwhile
            return None
        raise


def _put_and_look(place: Key, uri: str, data: bytes) -> str | None:
    """The last of several writers wins: write, let them finish, and see who it was."""
    write_object(place, uri, data)
    time.sleep(FALLBACK_PAUSE_S)
    found = read_version(place, uri)
    return None if found is None or found[0] != data else found[1]


def write_object(place: Key, uri: str, data: bytes) -> str:
    """Write an object, whatever is there; its version."""
    return retry(lambda: s3.put(place, uri, data), uri, attempts=ReadOptions().attempts)


def _obeys_conditions(place: Key) -> bool:
    """Whether writes that must fail do fail, tried with an object that is deleted again."""
    folder, _, _ = place.key.rpartition("/")
    probe = Key(place.bucket, f"{folder}/.{uuid.uuid4().hex}".lstrip("/"))
    uri = f"s3://{probe.bucket}/{probe.key}"
    write_object(probe, uri, b"fattr")
    try:
        return all(
            _is_refused(functools.partial(s3.put, probe, uri, b"fattr", condition), uri)
            for condition in ({"IfNoneMatch": "*"}, {"IfMatch": f'"{"0" * 32}"'})
        )
    finally:
        s3.delete(probe.bucket, [probe.key], uri, ReadOptions())


def _is_refused(put: Callable[[], str], uri: str) -> bool:
    try:
        retry(put, uri, attempts=ReadOptions().attempts)
    except s3.PreconditionError:
        return True
    except StorageError as error:
        if error.reason.startswith(_NOT_KNOWN):
            return False
        raise
    return False
