"""Writes that only one of several may win, on a disk, in moto and in stores without conditions."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from s3_server import Answer, FaultyStore, faulty_store

from fattr import storage
from fattr.errors import StorageError
from fattr.storage import ReadOptions, conditional, retries, s3


@pytest.fixture(params=["local", "local-without-links", "s3", "s3-without-conditions"])
def root(request, tmp_path, monkeypatch) -> str:
    """An empty place of each kind."""
    if request.param == "local-without-links":
        monkeypatch.setattr(os, "link", no_links)
    if request.param.startswith("local"):
        return storage.canonical_uri(str(tmp_path / "root"))
    bucket = request.getfixturevalue("s3_bucket")
    if request.param == "s3-without-conditions":
        real = s3.put
        monkeypatch.setattr(s3, "put", lambda place, uri, data, _=None: real(place, uri, data))
        monkeypatch.setattr(conditional, "FALLBACK_PAUSE_S", 0.01)
        assert not storage.conditional_writes(bucket)
    return f"{bucket}/root"


def no_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")


def test_only_the_first_creates(root):
    uri = f"{root}/a/lease.json"
    assert storage.read_version(uri) is None
    version = storage.write_new(uri, b"first")
    assert storage.read_version(uri) == (b"first", version)
    assert storage.write_new(uri, b"second") is None
    assert storage.read_bytes(uri) == b"first"


def test_only_who_knows_the_version_replaces(root):
    uri = f"{root}/lease.json"
    assert storage.replace(uri, b"x", "0" * 32) is None
    one = storage.write_new(uri, b"one")
    two = storage.replace(uri, b"two", one)
    assert two not in (None, one)
    assert storage.replace(uri, b"three", one) is None
    assert storage.read_version(uri) == (b"two", two)
    storage.write_bytes(uri, b"four")
    assert storage.replace(uri, b"five", two) is None
    assert storage.replace(uri, b"six", storage.read_version(uri)[1])
    assert storage.read_bytes(uri) == b"six"


def test_nothing_else_is_left(root):
    uri = f"{root}/lease.json"
    version = storage.write_new(uri, b"one")
    storage.write_new(uri, b"two")
    storage.replace(uri, b"three", "other")
    storage.replace(uri, b"four", version)
    assert [entry.uri for entry in storage.list_tree(root)] == [uri]


def test_the_same_content_is_another_version_on_a_disk(tmp_path):
    uri = str(tmp_path / "a")
    versions = [storage.write_new(uri, b"same")]
    for _ in range(5):
        versions.append(storage.replace(uri, b"same", versions[-1]))
    assert None not in versions
    assert len(set(versions)) == 6
    assert storage.replace(uri, b"other", versions[0]) is None


@pytest.mark.parametrize("kind", ["local", "local-without-links", "s3"])
class TestRaces:
    @pytest.fixture
    def uri(self, kind, request, tmp_path, monkeypatch) -> str:
        if kind == "local-without-links":
            monkeypatch.setattr(os, "link", no_links)
        if kind == "s3":
            return request.getfixturevalue("s3_bucket") + "/race"
        return storage.canonical_uri(str(tmp_path / "race"))

    def test_one_of_many_creates(self, uri):
        with ThreadPoolExecutor(8) as pool:
            data = [b"%d" % n for n in range(24)]
            versions = list(pool.map(lambda one: storage.write_new(uri, one), data))
        (winner,) = [n for n, version in enumerate(versions) if version is not None]
        assert storage.read_version(uri) == (data[winner], versions[winner])

    def test_no_replacement_is_lost(self, uri):
        storage.write_new(uri, b"0")

        def count_up(_):
            while True:
                data, version = storage.read_version(uri)
                if storage.replace(uri, b"%d" % (int(data) + 1), version) is not None:
                    return

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(count_up, range(40)))
        assert storage.read_bytes(uri) == b"40"


class TestInS3:
    def test_moto_obeys(self, s3_bucket):
        assert storage.conditional_writes(f"{s3_bucket}/out")
        assert list(storage.list_tree(s3_bucket)) == []

    def test_a_disk_does(self, tmp_path):
        assert storage.conditional_writes(str(tmp_path / "none"))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("code", ["NotImplemented", "InvalidArgument"])
    def test_a_store_that_refuses_conditions(self, s3_bucket, monkeypatch, code):
        real = s3.put

        def put(place, uri, data, conditions=None):
            if conditions:
                raise StorageError("unavailable", uri, f"{code} (HTTP 501)")
            return real(place, uri, data)

        monkeypatch.setattr(s3, "put", put)
        monkeypatch.setattr(conditional, "FALLBACK_PAUSE_S", 0)
        assert not storage.conditional_writes(s3_bucket)
        assert storage.write_new(f"{s3_bucket}/a", b"x")
        assert storage.write_new(f"{s3_bucket}/a", b"y") is None

    def test_without_conditions_the_last_writer_wins(self, s3_bucket, monkeypatch):
        def others_write(_):
            s3.client().put_object(Bucket=s3_bucket[5:], Key="a", Body=b"theirs")

        monkeypatch.setattr(conditional, "conditional_writes", lambda _: False)
        monkeypatch.setattr(time, "sleep", others_write)
        assert storage.write_new(f"{s3_bucket}/a", b"ours") is None
        version = storage.read_version(f"{s3_bucket}/a")[1]
        assert storage.replace(f"{s3_bucket}/a", b"ours", version) is None

    def test_no_bucket(self, s3_bucket):
        for call in (storage.read_version, lambda uri: storage.write_new(uri, b"")):
            with pytest.raises(StorageError, match="NoSuchBucket"):
                call("s3://not-there/lease.json")

    @pytest.mark.parametrize("is_theirs", [False, True])
    def test_an_answer_that_got_lost(self, use_endpoint, monkeypatch, is_theirs):
        """The first attempt wrote, but said 503; the second is refused by what the first wrote."""
        store = FaultyStore({}, [Answer(503, "SlowDown")])
        if is_theirs:
            store.before = lambda s: s.objects.update({"/bucket/a": b"theirs"})
        monkeypatch.setattr(conditional, "conditional_writes", lambda _: True)
        monkeypatch.setattr(retries, "FIRST_WAIT_S", 0.001)
        monkeypatch.setattr(conditional, "ReadOptions", lambda: ReadOptions(attempts=3))
        with faulty_store(store) as url:
            use_endpoint(url)
            version = storage.write_new("s3://bucket/a", b"ours")
            assert (version is None) == is_theirs
            assert [request.method for request in store.requests] == ["PUT", "PUT", "GET"]
