"""Reading whole objects from a store that is slow, busy, changing or breaks off."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from s3_server import Answer, Cut, Drip, FaultyStore, faulty_store, set_aws_environment

from fattr import storage
from fattr.errors import RunError, StorageError
from fattr.records import Status
from fattr.storage import ReadOptions, retries, s3

URI = "s3://bucket/a.jpg"
DATA = random.Random(0).randbytes(10_000)
BUSY = Answer(503, "SlowDown")


@pytest.fixture(scope="module")
def server():
    """One store for all tests, since a client for another one takes its time."""
    store = FaultyStore({})
    with pytest.MonkeyPatch.context() as patch, faulty_store(store) as url:
        set_aws_environment(patch, url)
        patch.setattr(retries, "FIRST_WAIT_S", 0.001)
        s3._client_of_process.cache_clear()
        yield store
    s3._client_of_process.cache_clear()


@pytest.fixture
def store_of(server):
    """A function that gives the store one object, and faults."""

    def prepare(*faults, data=DATA, **more):
        new = FaultyStore({"/bucket/a.jpg": data}, list(faults), **more)
        vars(server).update(vars(new))
        return server

    return prepare


def read(**options) -> bytes:
    return storage.read_bytes(URI, options=ReadOptions(**{"attempts": 4} | options))


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        Answer(429, "TooManyRequests"),
        Answer(400, "RequestTimeout"),
        Answer(400, "RequestLimitExceeded"),
        Answer(403, "ThrottlingException"),
        Answer(500, "InternalError"),
        Answer(502),
        Answer(504),
        Answer(502, body=b"<html>not from a store</html>"),
        Cut(0),
        Cut(5_000),
        Cut(5_000, reset=True),
    ],
    ids=str,
)
def test_what_may_go_away_is_tried_again(store_of, fault):
    store = store_of(fault, fault, fault)
    assert read() == DATA
    assert len(store.requests) == 4


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Answer(403, "AccessDenied"), Status.DENIED),
        (Answer(404, "NoSuchKey"), Status.MISSING),
        (Answer(400, "InvalidRequest"), Status.UNAVAILABLE),
        (Answer(501, "NotImplemented"), Status.UNAVAILABLE),
        (Answer(403, "InvalidObjectState"), Status.UNAVAILABLE),
    ],
    ids=str,
)
def test_what_stays_is_asked_once(store_of, fault, status):
    store = store_of(fault)
    with pytest.raises(StorageError) as error:
        read()
    assert error.value.status == status
    assert len(store.requests) == 1


def test_expired_credentials_end_the_run_at_once(store_of):
    store = store_of(Answer(400, "ExpiredToken"))
    with pytest.raises(RunError, match="expired"):
        read()
    assert len(store.requests) == 1


def test_the_last_failure_is_told_with_the_number_of_attempts(store_of):
    store = store_of(*[BUSY] * 9)
    with pytest.raises(StorageError) as error:
        read(attempts=3)
    assert str(error.value) == f"{URI}: unavailable: SlowDown (HTTP 503), 3 attempts"
    assert type(error.value) is StorageError
    assert len(store.requests) == 3


@pytest.mark.parametrize("part_bytes", [1_000, 3_333, 9_999, 10_000, 10_001])
def test_large_objects_come_in_parts_and_small_ones_at_once(store_of, part_bytes):
    store = store_of()
    assert read(part_bytes=part_bytes) == DATA
    stops = [*range(part_bytes, len(DATA), part_bytes), len(DATA)]
    spans = [f"bytes={start}-{stop - 1}" for start, stop in itertools.pairwise(stops)]
    assert store.ranges == [None, *spans]


def test_an_empty_object(store_of):
    store = store_of(data=b"")
    assert read() == b""
    assert len(store.requests) == 1


def test_a_broken_part_is_repeated_alone(store_of):
    store = store_of(None, None, Cut(100), BUSY)
    assert read(part_bytes=4_000) == DATA
    assert store.ranges == [None, "bytes=4000-7999"] + ["bytes=8000-9999"] * 3


def test_each_part_has_its_own_attempts(store_of):
    store = store_of(BUSY, BUSY, BUSY, None, BUSY, BUSY, BUSY)
    assert read(part_bytes=5_000) == DATA
    assert len(store.requests) == 8


def test_versions_of_an_object_are_never_mixed(store_of):
    new = bytes(reversed(DATA))

    def change(store):
        if len(store.requests) == 3:
            store.objects["/bucket/a.jpg"] = new

    store = store_of(before=change)
    assert read(part_bytes=2_000) == new
    assert store.ranges.count(None) == 2


def test_an_object_that_always_changes_is_given_up(store_of):
    def change(store):
        store.objects["/bucket/a.jpg"] = random.Random(len(store.requests)).randbytes(10_000)

    store_of(before=change)
    with pytest.raises(StorageError, match="unavailable: changed while"):
        read(part_bytes=2_000)


def test_the_store_ignores_ranges(store_of):
    store_of(None, Answer(200, body=DATA))
    with pytest.raises(StorageError, match="byte ranges"):
        read(part_bytes=6_000)


@pytest.mark.parametrize("given", [{"max_bytes": 9_999}, {"max_bytes": 5, "part_bytes": 2}])
def test_too_large_is_told_before_the_body_comes(store_of, given):
    store = store_of(Drip(10))
    with pytest.raises(StorageError, match=r"too_large: has 10000 bytes, at most (9999|5)$"):
        read(**given)
    assert len(store.requests) == 1


def test_the_smaller_limit_holds(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    for one, other in ((4, 9), (9, 4)):
        with pytest.raises(StorageError, match="at most 4"):
            storage.read_bytes(
                str(tmp_path / "a"), max_bytes=one, options=ReadOptions(max_bytes=other)
            )


class TestDeadline:
    @pytest.fixture(autouse=True)
    def client(self, server):
        """Made before the time runs."""
        s3.client(ReadOptions(timeout_s=0.5))

    def test_of_a_body_that_drips(self, store_of):
        store_of(Drip(0.02))
        started = time.monotonic()
        with pytest.raises(StorageError) as error:
            read(timeout_s=0.5)
        assert error.value.status == Status.TIMEOUT
        assert error.value.reason == "not read within 0.5 s"
        assert time.monotonic() - started < 2

    def test_of_an_answer_that_does_not_come(self, store_of):
        started = time.monotonic()
        store_of(before=lambda _: time.sleep(3))
        with pytest.raises(StorageError) as error:
            read(timeout_s=0.5, attempts=99)
        assert error.value.status == Status.TIMEOUT
        assert time.monotonic() - started < 2.9

    def test_of_all_attempts_together(self, store_of, monkeypatch):
        monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.1)
        store = store_of(*[BUSY] * 99)
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"timeout: not read within 0.5 s: SlowDown"):
            read(timeout_s=0.5, attempts=99)
        assert len(store.requests) > 1
        assert time.monotonic() - started < 2


def test_a_wrong_checksum_is_seen_and_read_again(store_of):
    store = store_of(headers={"x-amz-checksum-crc32": "AAAAAA=="})
    with pytest.raises(StorageError, match="unavailable: FlexibleChecksumError, 4 attempts"):
        read()
    assert len(store.requests) == 4


def test_a_connection_serves_many_objects(store_of):
    store = store_of()
    for _ in range(5):
        assert read() == DATA
    assert len(store.connections) == 1


@pytest.mark.parametrize("anonymous", [False, True])
@pytest.mark.parametrize("requester_pays", [False, True])
def test_who_asks_and_who_pays(store_of, anonymous, requester_pays):
    options = {"anonymous": anonymous, "requester_pays": requester_pays}
    listing = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
    store = store_of(None, None, Answer(200, body=listing), Answer(200, body=listing))
    read(**options, part_bytes=6_000)
    list(storage.list_files("s3://bucket/a.jpg", options=ReadOptions(**options)))
    assert [r.method for r in store.requests] == ["GET"] * 4 + ["HEAD"]
    for request in store.requests:
        assert ("authorization" not in request.headers) == anonymous
        assert request.headers.get("x-amz-request-payer") == ("requester" * requester_pays or None)


def test_attempts_are_those_of_the_environment(monkeypatch):
    for said, expected in (("3", 3), ("0", 1), ("many", 6), (None, 6)):
        monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
        if said is not None:
            monkeypatch.setenv("AWS_MAX_ATTEMPTS", said)
        assert ReadOptions().attempts == expected
