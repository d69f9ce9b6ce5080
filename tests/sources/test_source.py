"""What a user may name as images."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import Answer, canned_server

from fattr import storage
from fattr.errors import StorageError, UsageError
from fattr.runs.manifest import UriNames, named_rows, write_manifest
from fattr.sources.source import complete_roots, is_listing, read_source
from fattr.storage import FileEntry, ReadOptions


def write(folder: Path, name: str, text: str | bytes) -> str:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def uris(images: str, **patterns: list[str]) -> list[str]:
    return [entry.uri for entry in read_source(images, **patterns)]


def some_entries(count: int) -> list[FileEntry]:
    return [FileEntry(f"s3://bucket/{n}.jpg", n, f"tag{n}") for n in range(count)]


def test_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.jpg", "sub/a b.jpg", ".hidden", "notes.txt", "list.csv"):
        write(tmp_path, name, "x")
    root = storage.canonical_uri(str(tmp_path))
    names = ["b.jpg", "list.csv", "notes.txt", "sub/a%20b.jpg"]
    assert uris(str(tmp_path)) == [f"{root}/{name}" for name in names]


def test_one_image(tmp_path):
    image = write(tmp_path, "a.jpg", "x")
    assert uris(image) == [storage.canonical_uri(image)]


def test_folder_with_the_name_of_a_manifest(tmp_path):
    (tmp_path / "set.csv").mkdir()
    image = write(tmp_path / "set.csv", "a.jpg", "x")
    assert uris(str(tmp_path / "set.csv")) == [storage.canonical_uri(image)]


@pytest.mark.parametrize("name", ["none", "none.jpg", "none.txt", "none.csv", "none.parquet"])
def test_nothing_there(tmp_path, name):
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
def test_empty_manifest(tmp_path, name, content):
    with pytest.raises(UsageError, match=r"list.* names no image: expected one or more"):
        uris(write(tmp_path, name, content))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_text(tmp_path, newline):
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


def test_text_with_undecodable_name(tmp_path):
    assert uris(write(tmp_path, "list.txt", b"/a\xff.jpg\n")) == ["file:///a%FF.jpg"]


def test_csv(tmp_path):
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
def test_parquet(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    first = FileEntry("file:///a", 1, "t") if "etag" in columns else FileEntry("file:///a")
    assert list(read_source(str(tmp_path / "list.parquet"))) == [first, FileEntry("file:///b")]


def test_own_manifest_is_a_source(tmp_path):
    write_manifest([named_rows(some_entries(3), UriNames())], str(tmp_path))
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
def test_bad_manifest(tmp_path, name, content, message):
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
def test_bad_parquet(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    with pytest.raises(UsageError, match=message):
        uris(str(tmp_path / "list.parquet"))


def test_in_s3(s3_bucket):
    storage.write_bytes(f"{s3_bucket}/in/a.jpg", b"x")
    storage.write_bytes(f"{s3_bucket}/lists/l.txt", b"../in/a.jpg\n/local.jpg\n")
    storage.write_bytes(f"{s3_bucket}/lists/l.csv", b"image_uri\na b.jpg\n")
    write_manifest([named_rows(some_entries(2), UriNames())], f"{s3_bucket}/m")
    assert uris(f"{s3_bucket}/in") == [f"{s3_bucket}/in/a.jpg"]
    assert uris(f"{s3_bucket}/in/a.jpg") == [f"{s3_bucket}/in/a.jpg"]
    assert uris(f"{s3_bucket}/lists/l.txt") == [f"{s3_bucket}/in/a.jpg", "file:///local.jpg"]
    assert uris(f"{s3_bucket}/lists/l.csv") == [f"{s3_bucket}/lists/a b.jpg"]
    assert list(read_source(f"{s3_bucket}/m/part-00000.parquet")) == some_entries(2)


@pytest.mark.parametrize(("status", "kind"), [(403, UsageError), (503, StorageError)])
def test_manifest_in_a_failing_store(use_endpoint, status, kind):
    with canned_server(Answer(status)) as url:
        use_endpoint(url)
        with pytest.raises(kind, match=rf"s3://bucket/l.txt: .*HTTP {status}"):
            uris("s3://bucket/l.txt")


def test_streams(tmp_path):
    source = read_source(write(tmp_path, "list.txt", "/a\nhttp://bad\n"))
    assert next(source).uri == "file:///a"
    source.close()


# Patterns


def test_patterns_on_a_folder(tmp_path):
    (tmp_path / "2025" / "a b").mkdir(parents=True)
    for name in ("x.jpg", "x.PNG", "2025/y.jpg", "2025/a b/z.jpg"):
        write(tmp_path, name, "x")
    root = storage.canonical_uri(str(tmp_path))

    def found(**patterns: list[str]) -> list[str]:
        return [uri.removeprefix(f"{root}/") for uri in uris(str(tmp_path), **patterns)]

    assert found(include=["*.jpg"]) == ["2025/a%20b/z.jpg", "2025/y.jpg", "x.jpg"]
    assert found(include=["2025/*.jpg"]) == ["2025/y.jpg"]
    assert found(include=["2025/a b/"]) == ["2025/a%20b/z.jpg"]
    assert found(exclude=["**/y.jpg", "*.PNG"]) == ["2025/a%20b/z.jpg", "x.jpg"]


@pytest.mark.parametrize("name", ["x.jpg", "list.txt"])
def test_patterns_that_leave_nothing(tmp_path, name):
    write(tmp_path, "x.jpg", "x")
    write(tmp_path, "list.txt", "x.jpg\n")
    with pytest.raises(UsageError, match=r"leave none of the 1 files of file:///.*"):
        uris(str(tmp_path / name), exclude=["*.jpg"])


def test_patterns_on_a_manifest_are_of_whole_paths(tmp_path):
    lines = "s3://bucket/a/x.jpg\ns3://bucket/b/x.jpg\n/a/x 1.jpg\n"
    listed = write(tmp_path, "list.txt", lines)
    assert uris(listed, include=["a/**"]) == ["s3://bucket/a/x.jpg", "file:///a/x%201.jpg"]
    assert uris(listed, include=["/a/x ?.jpg"]) == ["file:///a/x%201.jpg"]


# What is listed as a whole


def test_where_a_missing_image_is_gone(tmp_path):
    image = write(tmp_path, "a.jpg", "x")
    listed = write(tmp_path, "list.csv", "image_uri\n/a\n")
    root = storage.canonical_uri(str(tmp_path))
    assert complete_roots(str(tmp_path)) == [root]
    assert complete_roots(image) == [f"{root}/a.jpg"]
    assert complete_roots(listed) is None
    assert [is_listing(name) for name in (str(tmp_path), image, listed)] == [True, True, False]
    assert is_listing(str(tmp_path / "no.csv"))


def test_options_reach_the_store(monkeypatch):
    asked = []
    monkeypatch.setattr(storage, "list_files", lambda uri, *, options: asked.append(options) or [])
    options = ReadOptions(requester_pays=True)
    with pytest.raises(UsageError, match="names no image"):
        list(read_source("s3://bucket/photos", options=options))
    assert asked == [options]
