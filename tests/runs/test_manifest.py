"""The manifest: how images are named, and the Parquet files of what a run has to do."""

from __future__ import annotations

import hashlib
import hmac

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.runs.manifest import (
    MANIFEST_SCHEMA,
    ROWS_PER_GROUP,
    UriNames,
    hide_uris,
    image_id,
    named_rows,
    read_manifest,
    write_manifest,
)
from fattr.storage import FileEntry

KEY = b"a secret of some length"


def some_rows(count: int, names: UriNames | None = None) -> pa.Table:
    entries = [FileEntry(f"s3://bucket/{n}.jpg", n, f"tag{n}") for n in range(count)]
    return named_rows(entries, names or UriNames())


class TestNames:
    def test_known_vectors(self):
        # sha256sum: ba7816bf8f01cfea..., e3b0c44298fc1c14...
        assert image_id("abc") == 0xBA7816BF8F01CFEA - 2**64
        assert image_id("") == 0xE3B0C44298FC1C14 - 2**64
        assert image_id("s3://b/é") == int.from_bytes(
            hashlib.sha256("s3://b/é".encode()).digest()[:8], "big", signed=True
        )

    def test_plain(self):
        uri = "s3://b/é"
        assert UriNames().name(uri) == (image_id(uri), uri, None)
        assert UriNames().other_id(uri, 2) == image_id("s3://b/é#2")

    def test_hashed(self):
        uri = "s3://b/é"
        digest = hmac.new(KEY, uri.encode(), hashlib.sha256)
        number = int.from_bytes(digest.digest()[:8], "big", signed=True)
        assert UriNames(KEY).name(uri) == (number, digest.hexdigest(), uri)
        other = hmac.new(KEY, f"{digest.hexdigest()}#1".encode(), hashlib.sha256).digest()
        assert UriNames(KEY).other_id(digest.hexdigest(), 1) == int.from_bytes(
            other[:8], "big", signed=True
        )

    def test_another_key_gives_other_names(self):
        assert UriNames(KEY).name("s3://b/a")[:2] != UriNames(KEY + b"!").name("s3://b/a")[:2]

    @pytest.mark.parametrize("names", [UriNames(), UriNames(KEY)], ids=["plain", "hashed"])
    def test_rows_are_named_as_one_by_one(self, names):
        entries = [FileEntry("s3://b/z"), FileEntry("file:///a%20b", 3, "t"), FileEntry("s3://b/é")]
        rows = named_rows(entries, names)
        assert rows.schema == MANIFEST_SCHEMA
        assert [tuple(row.values()) for row in rows.to_pylist()] == [
            (*names.name(e.uri), e.size_bytes, names.etag(e.etag)) for e in entries
        ]

    def test_an_etag_tells_no_content_under_a_key(self):
        assert UriNames().etag("5d41402abc4b2a76b9719d911017c592") == (
            "5d41402abc4b2a76b9719d911017c592"
        )
        expected = hmac.new(KEY, b"5d41402abc4b2a76b9719d911017c592", hashlib.sha256).hexdigest()
        assert UriNames(KEY).etag("5d41402abc4b2a76b9719d911017c592") == expected
        assert UriNames(KEY).etag(None) is None

    def test_no_rows(self):
        assert named_rows([], UriNames(KEY)).equals(MANIFEST_SCHEMA.empty_table())


class TestFiles:
    def test_no_rows(self, tmp_path):
        write_manifest([], str(tmp_path / "m"))
        assert list(read_manifest(str(tmp_path / "m"), 10)) == []
        assert pq.read_schema(tmp_path / "m" / "part-00000.parquet") == MANIFEST_SCHEMA

    @pytest.mark.parametrize("place", ["local", "s3"])
    def test_round_trip(self, place, request, tmp_path):
        folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3_bucket")
        rows = some_rows(10, UriNames(KEY))
        write_manifest([rows[:3], rows[3:9], rows[9:]], f"{folder}/m", rows_per_file=4)
        batches = list(read_manifest(f"{folder}/m", 3))
        assert [batch.num_rows for batch in batches] == [3, 1, 3, 1, 2]
        assert pa.Table.from_batches(batches, MANIFEST_SCHEMA).equals(rows)

    def test_a_full_last_file_is_followed_by_none(self, tmp_path):
        write_manifest([some_rows(8)], str(tmp_path), rows_per_file=4)
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["part-00000.parquet", "part-00001.parquet"]

    def test_row_groups_are_small(self, tmp_path):
        rows = some_rows(ROWS_PER_GROUP + 1)
        write_manifest([rows[:5], rows[5:]], str(tmp_path))
        metadata = pq.read_metadata(tmp_path / "part-00000.parquet")
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert groups == [ROWS_PER_GROUP, 1]

    def test_no_manifest(self, tmp_path):
        with pytest.raises(UsageError, match="cannot list"):
            list(read_manifest(str(tmp_path / "m"), 3))


class TestHiding:
    @pytest.mark.parametrize("place", ["local", "s3"])
    def test_nothing_of_a_uri_stays(self, place, request, tmp_path):
        folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3_bucket")
        rows = some_rows(10, UriNames(KEY))
        write_manifest([rows], f"{folder}/m", rows_per_file=4)
        hide_uris(f"{folder}/m")
        found = pa.Table.from_batches(read_manifest(f"{folder}/m", 100), MANIFEST_SCHEMA)
        assert found.drop_columns("fetch_uri").equals(rows.drop_columns("fetch_uri"))
        assert found.column("fetch_uri").null_count == 10
        for entry in storage.list_files(f"{folder}/m"):
            assert b"bucket/" not in storage.read_bytes(entry.uri)

    def test_goes_on_after_a_crash(self, tmp_path, monkeypatch):
        write_manifest([some_rows(10, UriNames(KEY))], str(tmp_path), rows_per_file=4)
        write_bytes, written = storage.write_bytes, []

        def fail_at_the_second(uri, data):
            written.append(uri)
            if len(written) == 2:
                raise StorageError("unavailable", uri, "gone")
            write_bytes(uri, data)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", fail_at_the_second)
            with pytest.raises(StorageError):
                hide_uris(str(tmp_path))
            hide_uris(str(tmp_path))
            hide_uris(str(tmp_path))
        assert [uri[-13:-8] for uri in written] == ["00000", "00001", "00001", "00002"]
        rows = pa.Table.from_batches(read_manifest(str(tmp_path), 100))
        assert (rows.num_rows, rows.column("fetch_uri").null_count) == (10, 10)
