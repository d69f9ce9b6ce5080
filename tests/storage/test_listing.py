"""Order, completeness, requests and look-ahead of listings, against sorting all names."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from fattr import storage
from fattr.errors import StorageError
from fattr.storage import FileEntry, listing, s3, walk
from fattr.storage.names import HIDDEN

NAMES = ["a", "a-b", "a.b", "a b", "a0", "a~", "A", "-", "~", "é", "顔", ".h", "_h", "z%2F"]


def random_paths(seed: int, *, depth: int, num_files: int) -> set[str]:
    """Names that sort around the slash; no name is both a file and a folder."""
    rng = random.Random(seed)
    paths: set[str] = set()
    for _ in range(num_files):
        names = rng.choices(NAMES, k=rng.randint(1, depth))
        names[-1] += rng.choice(["", ".jpg", "-1", "0"]) + "~f"
        paths.add("/".join(names))
    return paths


def visible(paths: set[str]) -> list[str]:
    return [p for p in paths if not any(name.startswith(HIDDEN) for name in p.split("/"))]


@pytest.fixture
def requests(monkeypatch) -> list[dict[str, object]]:
    """Arguments of the pages asked for."""
    asked: list[dict[str, object]] = []
    real = s3.list_page

    def list_page(bucket, prefix, uri, options, arguments):
        asked.append({"prefix": prefix, **arguments})
        return real(bucket, prefix, uri, options, arguments)

    monkeypatch.setattr(s3, "list_page", list_page)
    return asked


@pytest.fixture
def small_pages(monkeypatch):
    """Pages of seven keys instead of a thousand."""
    real = s3.list_page

    def list_page(bucket, prefix, uri, options, arguments):
        return real(bucket, prefix, uri, options, {"MaxKeys": 7} | arguments)

    monkeypatch.setattr(s3, "list_page", list_page)


def put_all(bucket_uri: str, keys) -> None:
    store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # a request for each key would take its time
    for key in keys:
        store.put_object(bucket_uri.removeprefix("s3://"), key, b"x")


def uris(root: str, **more) -> list[str]:
    return [entry.uri for entry in storage.list_files(root, **more)]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("few_folders", [0, 2, 100])
def test_order_in_s3(s3_bucket, small_pages, monkeypatch, seed, few_folders):
    monkeypatch.setattr(listing, "FEW_FOLDERS", few_folders)
    paths = random_paths(seed, depth=1 + seed % 4, num_files=120)
    put_all(s3_bucket, [f"in/{path}" for path in paths] + ["in2/x", "in", "in/marker/"])
    for num_parallel in (1, 5):
        found = uris(f"{s3_bucket}/in", num_parallel=num_parallel)
        assert found == sorted(f"{s3_bucket}/in/{path}" for path in visible(paths))
        everything = storage.list_tree(f"{s3_bucket}/in", num_parallel=num_parallel)
        assert [e.uri for e in everything] == sorted(f"{s3_bucket}/in/{path}" for path in paths)


@pytest.mark.parametrize("seed", range(8))
def test_order_on_a_disk(tmp_path, monkeypatch, seed):
    monkeypatch.setattr(listing, "FILES_AT_ONCE", 3)
    paths = random_paths(seed, depth=1 + seed % 4, num_files=120)
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(path.encode())
    root = storage.canonical_uri(str(tmp_path))
    for num_parallel in (1, 5):
        entries = list(storage.list_files(root, num_parallel=num_parallel))
        expected = {storage.join(root, path): len(path.encode()) for path in visible(paths)}
        assert [e.uri for e in entries] == sorted(expected)
        assert {e.uri: e.size_bytes for e in entries} == expected
        everything = storage.list_tree(root, num_parallel=num_parallel)
        assert [e.uri for e in everything] == sorted(storage.join(root, p) for p in paths)


def test_keys_with_empty_names(s3_bucket, small_pages):
    keys = ["/a", "//b", "c//d", "c/e", "/f/g"]
    put_all(s3_bucket, keys)
    assert uris(s3_bucket) == sorted(f"{s3_bucket}/{key}" for key in keys)


class TestRequests:
    """How many pages are asked for, of a thousand keys at most."""

    def test_small_folders_take_no_request_each(self, s3_bucket, requests):
        put_all(s3_bucket, [f"{n:05d}/photo.jpg" for n in range(3_500)])
        assert len(uris(s3_bucket)) == 3_500
        assert len(requests) <= 4 + 2  # one to see that there are folders, one that they are small

    def test_large_folders_are_listed_on_their_own(self, s3_bucket, requests):
        put_all(s3_bucket, [f"{n}/{m:04d}.jpg" for n in range(5) for m in range(600)])
        assert len(uris(s3_bucket)) == 3_000
        asked = Counter(request["prefix"] for request in requests)
        assert asked == {"": 2} | {f"{n}/": 1 for n in range(5)}

    def test_a_flat_folder_takes_its_pages(self, s3_bucket, requests):
        put_all(s3_bucket, [f"{n:05d}.jpg" for n in range(2_500)])
        assert len(uris(s3_bucket)) == 2_500
        assert len(requests) == 3 + 1

    def test_hidden_folders_are_not_entered(self, s3_bucket, requests):
        put_all(s3_bucket, [f"_runs/{n:05d}" for n in range(2_500)] + ["a/b", "z"])
        assert uris(s3_bucket) == [f"{s3_bucket}/a/b", f"{s3_bucket}/z"]
        assert "_runs/" not in {request["prefix"] for request in requests}


def test_a_store_that_lists_out_of_order_is_refused(s3_bucket, monkeypatch):
    keys = [{"Key": key, "Size": 1, "ETag": '"x"'} for key in ("b", "a")]
    pages = {"": {"Contents": keys[:1], "IsTruncated": True, "NextContinuationToken": "2"}}
    pages["2"] = {"Contents": keys[1:], "IsTruncated": False}

    def list_page(bucket, prefix, uri, options, arguments):
        return pages[arguments.get("ContinuationToken", "")]

    monkeypatch.setattr(s3, "list_page", list_page)
    with pytest.raises(StorageError, match="out of order"):
        list(storage.list_files(s3_bucket))


def test_folders(s3_bucket, tmp_path, small_pages):
    names = ["b", "_runs", ".h", "a b", "é%", *(f"n{n}" for n in range(20))]
    for root in (s3_bucket + "/x", str(tmp_path / "x")):
        for name in names:
            storage.write_bytes(storage.join(root, name, "deep", "file"), b"")
        storage.write_bytes(storage.join(root, "file"), b"")
        assert storage.list_folders(root) == sorted(names)
        assert storage.list_folders(storage.join(root, "none")) == []
        assert storage.list_folders(storage.join(root, "file")) == []


class TestWalk:
    """A place is a path of numbers; each has ten below it, down to the third."""

    @staticmethod
    def scan(place: str):
        if len(place) == 3:
            return [[FileEntry(place)]]
        return [f"{place}{n}" for n in range(10)]

    def test_everything_in_order(self):
        for num_parallel in (1, 2, 16):
            found = [e.uri for e in walk.walk("", self.scan, num_parallel=num_parallel)]
            assert found == [f"{n:03d}" for n in range(1_000)]

    def test_several_places_at_once(self):
        together = threading.Barrier(8, timeout=10)  # passed only by eight at a time

        def scan(place: str):
            if len(place) == 3 and place < "008":
                together.wait()
            return self.scan(place)

        assert len(list(walk.walk("", scan, num_parallel=8))) == 1_000

    @pytest.mark.parametrize(("max_ahead", "most"), [(50_000, 8 * 4 + 30), (10, 10 + 4 + 30)])
    def test_it_does_not_run_away_from_a_slow_reader(self, monkeypatch, max_ahead, most):
        monkeypatch.setattr(walk, "MAX_AHEAD", max_ahead)
        seen = []

        def scan(place: str):
            seen.append(place)
            return self.scan(place)

        found = walk.walk("", scan, num_parallel=4)
        for _ in range(100):
            before = int(next(found).uri)
            time.sleep(0.001)
            assert max(int(p) for p in seen if len(p) == 3) - before <= most
        found.close()

    def test_an_error_comes_where_its_files_would(self):
        def scan(place: str):
            if place in ("05", "31"):
                raise OSError(place)
            return self.scan(place)

        found = []
        with pytest.raises(OSError, match="05"):
            found.extend(e.uri for e in walk.walk("", scan, num_parallel=16))
        # list.extend keeps what came before the error
        assert found == [f"{n:03d}" for n in range(50)]

    def test_closing_ends_the_threads(self):
        found = walk.walk("", self.scan, num_parallel=4)
        next(found)
        found.close()
        deadline = time.monotonic() + 5
        while any(t.name.startswith("listing") for t in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
