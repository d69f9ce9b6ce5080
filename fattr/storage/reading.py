"""Objects of S3 read whole: with retries, in parts where they are large, and before a deadline."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from fattr.errors import StorageError
from fattr.records import Status
from fattr.storage import s3
from fattr.storage.local import check_size
from fattr.storage.names import Key
from fattr.storage.records import ReadOptions
from fattr.storage.retries import Deadline, TransientError, retry

_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Part:
    """Bytes of one version of an object."""

    data: bytes
    size_bytes: int  # of the whole object
    etag: str


def read_object(place: Key, uri: str, options: ReadOptions) -> tuple[bytes, str]:
    """Content and etag of an object, all of it of one version.

    An object of up to ``options.part_bytes`` takes one request. Of a larger one, the first request
    gives the first part, and further ones ask for one range each, of that same version.

    Raises:
        StorageError: With status missing, denied, too_large, unavailable or timeout.
        UsageError: No credentials, or wrong ones.
        RunError: The credentials expired.
    """
    deadline = Deadline(options.timeout_s)
    for _ in range(options.attempts):
        try:
            return _read_version(place, uri, options, deadline)
        except s3.PreconditionError:
            deadline.check(uri)
    raise StorageError(Status.UNAVAILABLE, uri, "changed while it was read")


def _read_version(
    place: Key, uri: str, options: ReadOptions, deadline: Deadline
) -> tuple[bytes, str]:
    def first_part() -> _Part:
        return _first_part(place, uri, options, deadline)

    first = retry(first_part, uri, attempts=options.attempts, deadline=deadline)
    if len(first.data) == first.size_bytes:
        return first.data, first.etag
    data = bytearray(first.data)
    while len(data) < first.size_bytes:
        span = (len(data), min(first.size_bytes, len(data) + options.part_bytes))

        def next_part(span: tuple[int, int] = span) -> bytes:
            return _span(place, uri, options, deadline, span, first.etag)

        data += retry(next_part, uri, attempts=options.attempts, deadline=deadline)
    return bytes(data), first.etag


def _first_part(place: Key, uri: str, options: ReadOptions, deadline: Deadline) -> _Part:
    # Asked for without a range: only then does the store send the checksum of an object, and
    # most are read whole here. Of a large one, the rest of this answer is not waited for.
    answer = s3.get(place, uri, options)
    size_bytes, etag = answer["ContentLength"], answer.get("ETag", "").strip('"')
    with closing(answer["Body"]) as body:
        check_size(size_bytes, uri, options.max_bytes)
        num_bytes = min(size_bytes, options.part_bytes)
        return _Part(_received(body, num_bytes, size_bytes, uri, deadline), size_bytes, etag)


def _span(
    place: Key,
    uri: str,
    options: ReadOptions,
    deadline: Deadline,
    span: tuple[int, int],
    etag: str,
) -> bytes:
    answer = s3.get(place, uri, options, span=span, etag=etag)
    with closing(answer["Body"]) as body:
        num_bytes = span[1] - span[0]
        if answer["ContentLength"] != num_bytes:
            raise StorageError(Status.UNAVAILABLE, uri, "the store does not send byte ranges")
        return _received(body, num_bytes, num_bytes, uri, deadline)


def _received(
    body: s3.Body, num_bytes: int, size_bytes: int, uri: str, deadline: Deadline
) -> bytes:
    """The first ``num_bytes`` of a body that has ``size_bytes``."""
    chunks, missing = [], num_bytes
    for chunk in _chunks(body, uri, deadline):
        chunks.append(chunk[:missing])
        missing -= len(chunks[-1])
        if missing == 0 and num_bytes < size_bytes:  # else read on to its end, which is checked
            break
    if missing:
        raise TransientError(Status.UNAVAILABLE, uri, "the answer ended early")
    return b"".join(chunks)


def _chunks(body: s3.Body, uri: str, deadline: Deadline) -> Iterator[bytes]:
    body._raw_stream = _AsItComes(body._raw_stream)  # type: ignore[attr-defined]
    while True:
        with s3.s3_errors(uri):
            chunk = body.read(_CHUNK_BYTES)
        if not chunk:
            return
        deadline.check(uri)
        yield chunk


class _AsItComes:
    """An HTTP body that hands out what has come instead of waiting for more.

    A store that sends a byte now and then would otherwise never let a deadline be looked at.
    """

    def __init__(self, stream: object) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def read(self, num_bytes: int) -> bytes:
        """At most ``num_bytes``; none at the end."""
        return bytes(self._stream.read1(num_bytes))  # type: ignore[attr-defined]
