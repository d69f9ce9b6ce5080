"""The manifest: what a user may name as images, and the Parquet files made of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import Answer, canned_server

from fattr import storage
from fattr.errors import FattrError, StorageError, UsageError
from fattr.manifest import (
    MANIFEST_SCHEMA,
    ROWS_PER_GROUP,
    ImageIds,
    ManifestSummary,
    image_id,
    read_manifest,
    read_source,
    write_manifest,
)
from fattr.storage import FileEntry


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def uris(images: str) -> list[str]:
    return [entry.uri for entry in read_source(images)]


def some_entries(count: int) -> list[FileEntry]:
    return [FileEntry(f"s3://bucket/{n}.jpg", n, f"tag{n}") for n in range(count)]


class TestIds:
    def test_known_vectors(self):
        # sha256sum: ba7816bf8f01cfea..., e3b0c44298fc1c14...
        assert image_id("abc") == 0xBA7816BF8F01CFEA - 2**64
        assert image_id("") == 0xE3B0C44298FC1C14 - 2**64
        assert image_id("s3://b/é") == int.from_bytes(
            hashlib.sha256("s3://b/é".encode()).digest()[:8], "big", signed=True
        )

    def test_duplicates(self):
        ids = ImageIds()
        assert [ids.add(uri) for uri in ("a", "b", "a", "a")] == [
            image_id("a"),
            image_id("b"),
            None,
            None,
        ]
        assert ids.num_duplicates == 2

    def test_collisions_are_not_duplicates(self):
        def digest(data: bytes) -> bytes:
            """Sends a, b, c and b#1 to the same id; the rest of the digest differs."""
            rest = hashlib.sha256(data).digest()
            start = bytes(8) if data in (b"a", b"b", b"c", b"c#1") else rest[:8]
            return start + rest[8:]

        ids = ImageIds(digest)
        found = [ids.add(uri) for uri in ("a", "b", "c", "b", "c", "a")]
        assert found == [0, image_id("b#1"), image_id("c#2"), None, None, None]
        assert ids.num_duplicates == 3


class TestSource:
    def test_folder(self, tmp_path):
        (tmp_path / "sub").mkdir()
        for name in ("b.jpg", "sub/a b.jpg", ".hidden", "notes.txt", "list.csv"):
            write(tmp_path, name, "x")
        root = storage.canonical_uri(str(tmp_path))
        names = ["b.jpg", "list.csv", "notes.txt", "sub/a%20b.jpg"]
        assert uris(str(tmp_path)) == [f"{root}/{name}" for name in names]

    def test_one_image(self, tmp_path):
        image = write(tmp_path, "a.jpg", "x")
        assert uris(image) == [storage.canonical_uri(image)]

    def test_folder_with_the_name_of_a_manifest(self, tmp_path):
        (tmp_path / "set.csv").mkdir()
        image = write(tmp_path / "set.csv", "a.jpg", "x")
        assert uris(str(tmp_path / "set.csv")) == [storage.canonical_uri(image)]

    @pytest.mark.parametrize("name", ["none", "none.jpg", "none.txt", "none.csv", "none.parquet"])
    def test_nothing_there(self, tmp_path, name):
        with pytest.raises(UsageError, match=rf"cannot list file:///.*/{name}: No such file"):
            uris(str(tmp_path / name))

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("list.txt", ""),
            ("list.txt", "\n# only a comment\n   \n"),
            ("list.csv", "image_uri\n"),
        ],
    )
    def test_empty_manifest(self, tmp_path, name, content):
        with pytest.raises(UsageError, match=r"list.* names no image: expected one or more"):
            uris(write(tmp_path, name, content))

    @pytest.mark.parametrize("newline", ["\n", "\r\n"])
    def test_text(self, tmp_path, newline):
        lines = [
            "\ufeff# images",
            "",
            "  a b%20#1.jpg ",
            "../up.jpg",
            "/abs/é.jpg",
            "s3://bucket/key with space.jpg",
            "file:///x%20y.jpg",
        ]
        root = storage.canonical_uri(str(tmp_path))
        assert uris(write(tmp_path, "list.txt", newline.join(lines))) == [
            f"{root}/a%20b%2520%231.jpg",
            f"{root.rpartition('/')[0]}/up.jpg",
            "file:///abs/%C3%A9.jpg",
            "s3://bucket/key with space.jpg",
            "file:///x%20y.jpg",
        ]

    def test_text_with_undecodable_name(self, tmp_path):
        assert uris(write(tmp_path, "list.txt", b"/a\xff.jpg\n")) == ["file:///a%FF.jpg"]

    def test_csv(self, tmp_path):
        content = (
            "\ufeffother,etag,image_uri,size_bytes\r\n"
            '1,t,"/a,b.jpg",12\r\n'
            "x,,s3://bucket/c.jpg,\r\n"
            '2,,"rel ""q"".jpg",3.0\r\n'
        )
        entries = list(read_source(write(tmp_path, "list.CSV", content)))
        root = storage.canonical_uri(str(tmp_path))
        assert entries == [
            FileEntry("file:///a,b.jpg", 12, "t"),
            FileEntry("s3://bucket/c.jpg"),
            FileEntry(f"{root}/rel%20%22q%22.jpg", 3),
        ]

    @pytest.mark.parametrize(
        "columns",
        [
            {"image_uri": ["/a", "/b"]},
            {"image_uri": ["/a", "/b"], "size_bytes": [1, None], "etag": ["t", None]},
            {
                "etag": ["t", None],
                "size_bytes": [1.0, None],
                "x": [[], [1]],
                "image_uri": ["/a", "/b"],
            },
            {"image_uri": pa.array(["/a", "/b"]).dictionary_encode()},
        ],
    )
    def test_parquet(self, tmp_path, columns):
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        first = FileEntry("file:///a", 1, "t") if "etag" in columns else FileEntry("file:///a")
        assert list(read_source(str(tmp_path / "list.parquet"))) == [first, FileEntry("file:///b")]

    def test_own_manifest_is_a_source(self, tmp_path):
        write_manifest(some_entries(3), str(tmp_path))
        assert list(read_source(str(tmp_path / "part-00000.parquet"))) == some_entries(3)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("list.csv", "", "no column image_uri: found none; rename"),
            ("list.csv", "uri,size\n/a,1\n", "no column image_uri: found uri, size; rename"),
            ("list.csv", "image_uri,size_bytes\n/a,1\n/b,big\n", "line 3: size_bytes must be"),
            ("list.csv", "image_uri,size_bytes\n/a,-1\n", "line 2: size_bytes must be"),
            ("list.csv", "image_uri,size_bytes\n/a,nan\n", "line 2: size_bytes must be"),
            ("list.csv", 'etag,image_uri\n"a\n', "line 2: image_uri must be text, got None"),
            (
                "list.csv",
                f"image_uri\n{'x' * 200_000}\n",
                "after line 1: not valid CSV: field larger",
            ),
            ("list.txt", "/a\n\nhttps://h/a?X-Amz-Signature=hush\n", "line 3: https://h/a cannot"),
            ("list.txt", "s3://bucket/\xff\n".encode("latin-1"), "line 1: a key in s3://bucket"),
            ("list.parquet", "PAR", "list.parquet is not a Parquet file"),
        ],
    )
    def test_bad_manifest(self, tmp_path, name, content, message):
        with pytest.raises(UsageError, match=message) as error:
            uris(write(tmp_path, name, content))
        assert "list." in str(error.value)
        assert "hush" not in str(error.value)

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"a": [1], "b": [2]}, "no column image_uri: found a, b"),
            ({"image_uri": ["/a", None]}, "row 2: image_uri must be text, got None"),
            ({"image_uri": [7]}, "row 1: image_uri must be text, got 7"),
        ],
    )
    def test_bad_parquet(self, tmp_path, columns, message):
        pq.write_table(pa.table(columns), tmp_path / "list.parquet")
        with pytest.raises(UsageError, match=message):
            uris(str(tmp_path / "list.parquet"))

    def test_in_s3(self, s3_bucket):
        storage.write_bytes(f"{s3_bucket}/in/a.jpg", b"x")
        storage.write_bytes(f"{s3_bucket}/lists/l.txt", b"../in/a.jpg\n/local.jpg\n")
        storage.write_bytes(f"{s3_bucket}/lists/l.csv", b"image_uri\na b.jpg\n")
        write_manifest(some_entries(2), f"{s3_bucket}/m")
        assert uris(f"{s3_bucket}/in") == [f"{s3_bucket}/in/a.jpg"]
        assert uris(f"{s3_bucket}/in/a.jpg") == [f"{s3_bucket}/in/a.jpg"]
        assert uris(f"{s3_bucket}/lists/l.txt") == [f"{s3_bucket}/in/a.jpg", "file:///local.jpg"]
        assert uris(f"{s3_bucket}/lists/l.csv") == [f"{s3_bucket}/lists/a b.jpg"]
        assert list(read_source(f"{s3_bucket}/m/part-00000.parquet")) == some_entries(2)

    @pytest.mark.parametrize(("status", "kind"), [(403, UsageError), (503, StorageError)])
    def test_manifest_in_a_failing_store(self, use_endpoint, status, kind):
        with canned_server(Answer(status)) as url:
            use_endpoint(url)
            with pytest.raises(kind, match=rf"s3://bucket/l.txt: .*HTTP {status}"):
                uris("s3://bucket/l.txt")

    def test_streams(self, tmp_path):
        source = read_source(write(tmp_path, "list.txt", "/a\nhttp://bad\n"))
        assert next(source).uri == "file:///a"
        source.close()


class TestManifest:
    def test_no_entries(self, tmp_path):
        assert write_manifest([], str(tmp_path / "m")) == ManifestSummary(0, 0, 0)
        assert list(read_manifest(str(tmp_path / "m"), 10)) == []
        assert pq.read_schema(tmp_path / "m" / "part-00000.parquet") == MANIFEST_SCHEMA

    @pytest.mark.parametrize("place", ["local", "s3"])
    def test_round_trip(self, place, request, tmp_path):
        folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3_bucket")
        entries = [*some_entries(5), FileEntry("file:///a%20b.jpg")]
        summary = write_manifest(entries, f"{folder}/m", rows_per_file=4)
        assert summary == ManifestSummary(6, 0, 10)
        batches = list(read_manifest(f"{folder}/m", 3))
        assert [batch.num_rows for batch in batches] == [3, 1, 2]
        assert all(batch.schema == MANIFEST_SCHEMA for batch in batches)
        assert pa.Table.from_batches(batches).to_pylist() == [
            {
                "image_id": image_id(entry.uri),
                "image_uri": entry.uri,
                "size_bytes": entry.size_bytes,
                "etag": entry.etag,
            }
            for entry in entries
        ]

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            (None, ManifestSummary(3, 2, 1 + 2 + 4)),
            (1, ManifestSummary(1, 0, 1)),
            (3, ManifestSummary(3, 1, 1 + 2 + 4)),
            (9, ManifestSummary(3, 2, 1 + 2 + 4)),
        ],
    )
    def test_duplicates_and_limit(self, tmp_path, limit, expected):
        sizes = [("/a", 1), ("/b", 2), ("/a", 8), ("/c", 4), ("/b", 16)]
        entries = [FileEntry(storage.canonical_uri(path), size) for path, size in sizes]
        assert write_manifest(entries, str(tmp_path), limit=limit) == expected

    def test_limit_reads_no_further(self, tmp_path):
        entries = iter(some_entries(5))
        write_manifest(entries, str(tmp_path), limit=2)
        assert next(entries).uri == "s3://bucket/2.jpg"

    def test_row_groups_are_small(self, tmp_path):
        write_manifest(some_entries(ROWS_PER_GROUP + 1), str(tmp_path))
        metadata = pq.read_metadata(tmp_path / "part-00000.parquet")
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        assert groups == [ROWS_PER_GROUP, 1]

    def test_failed_listing_leaves_nothing(self, tmp_path):
        def entries():
            yield from some_entries(3)
            raise UsageError("no more")

        with pytest.raises(FattrError, match="no more"):
            write_manifest(entries(), str(tmp_path / "m"), rows_per_file=1)
        assert list(tmp_path.iterdir()) == []

    def test_no_manifest(self, tmp_path):
        with pytest.raises(UsageError, match="cannot list"):
            list(read_manifest(str(tmp_path / "m"), 3))
