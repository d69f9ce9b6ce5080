"""S3 Inventories as AWS writes them, against a listing of the bucket that they describe."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote_plus

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.errors import UsageError
from fattr.sources.inventory import inventory_bucket, read_inventory
from fattr.sources.source import complete_roots, is_listing, read_source
from fattr.storage import FileEntry

CSV_SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag"
PARQUET_SCHEMA = (
    "message s3.inventory { required binary bucket (UTF8); required binary key (UTF8);}"
)
KEYS = ("a.jpg", 'b c+d%20/é&",.jpg', "no-folder/", "😀.jpg", "sub/_x/a.jpg", ".a", "x//y")


@dataclass(frozen=True)
class Version:
    """One line of an inventory."""

    key: str
    size: int | None = 5
    etag: str | None = "d41d8cd98f00b204e9800998ecf8427e"
    is_latest: bool = True
    is_deleted: bool = False


VERSIONS = [
    Version("a.jpg", 3, "e-1"),
    Version("a.jpg", 4, "old", is_latest=False),
    Version("gone.jpg", None, None, is_deleted=True),
    Version("folder/", 0),
    Version('b c+d%20/é&",.jpg'),
    Version("folder/_work/a.jpg"),
    Version(".hidden.jpg"),
    Version("_SUCCESS"),
    Version("archived.jpg", None, None),
    Version("folder/x_y.z.jpg"),
]
EXPECTED = [
    FileEntry("s3://photos/a.jpg", 3, "e-1"),
    FileEntry('s3://photos/b c+d%20/é&",.jpg', 5, Version("").etag),
    FileEntry("s3://photos/archived.jpg"),
    FileEntry("s3://photos/folder/x_y.z.jpg", 5, Version("").etag),
]


def csv_file(versions: Sequence[Version]) -> bytes:
    def quoted(*values: object) -> str:
        return ",".join(f'"{value}"' for value in values)

    lines = [
        quoted(
            "photos",
            quote_plus(v.key, safe="/"),
            "v1",
            str(v.is_latest).lower(),
            str(v.is_deleted).lower(),
            "" if v.size is None else v.size,
            "2026-11-22T10:00:00.000Z",
            v.etag or "",
        )
        for v in versions
    ]
    return "".join(f"{line}\n" for line in lines).encode()


def parquet_file(versions: Sequence[Version], *, without: Sequence[str] = ()) -> bytes:
    table = pa.table(
        {
            "bucket": ["photos"] * len(versions),
            "key": pa.array([v.key for v in versions], pa.string()),
            "is_latest": pa.array([v.is_latest for v in versions], pa.bool_()),
            "is_delete_marker": pa.array([v.is_deleted for v in versions], pa.bool_()),
            "size": pa.array([v.size for v in versions], pa.int64()),
            "e_tag": pa.array([v.etag for v in versions], pa.string()),
        }
    ).drop_columns(list(without))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@dataclass(frozen=True)
class Written:
    """An inventory to be put somewhere."""

    files: dict[str, bytes]  # name -> content
    file_format: str = "CSV"
    schema: str = CSV_SCHEMA
    destination: str = "arn:aws:s3:::lists"
    sums: dict[str, str] = field(default_factory=dict)  # name -> MD5, where it is not the right one
    prefix: str = "inv/photos/daily"

    def manifest(self) -> bytes:
        files = [
            {
                "key": f"{self.prefix}/data/{name}",
                "size": len(data),
                "MD5checksum": self.sums.get(name, hashlib.md5(data).hexdigest()),
            }
            for name, data in self.files.items()
        ]
        said = {
            "sourceBucket": "photos",
            "destinationBucket": self.destination,
            "version": "2016-11-30",
            "creationTimestamp": "1514944800000",
            "fileFormat": self.file_format,
            "fileSchema": self.schema,
            "files": files,
        }
        return json.dumps(said).encode()

    def put(self, root: str) -> str:
        """Where its manifest is, in the layout of AWS below ``root``."""
        for name, data in self.files.items():
            storage.write_bytes(f"{root}/{self.prefix}/data/{name}", data)
        place = f"{root}/{self.prefix}/2026-11-22T01-00Z/manifest.json"
        storage.write_bytes(place, self.manifest())
        return storage.canonical_uri(place)


CSV = Written({"1.csv.gz": gzip.compress(csv_file(VERSIONS[:5])), "2.csv": csv_file(VERSIONS[5:])})
PARQUET = Written(
    {"1.parquet": parquet_file(VERSIONS[:5]), "2.parquet": parquet_file(VERSIONS[5:])},
    "Parquet",
    PARQUET_SCHEMA,
)


@pytest.mark.parametrize("written", [CSV, PARQUET], ids=["csv", "parquet"])
@pytest.mark.parametrize("place", ["local", "s3"])
def test_an_inventory_is_a_source(written, place, request, tmp_path):
    root = str(tmp_path) if place == "local" else request.getfixturevalue("s3_bucket")
    uri = written.put(root)
    assert list(read_source(uri)) == EXPECTED
    assert not is_listing(uri)
    assert complete_roots(uri) == ["s3://photos"] == [inventory_bucket(uri)]
    names = ["s3://photos/a.jpg", "s3://photos/archived.jpg"]
    assert [e.uri for e in read_source(uri, include=["a*"])] == names
    assert [e.uri for e in read_source(uri, include=["folder/*"])] == [EXPECTED[3].uri]


@pytest.mark.parametrize("file_format", ["CSV", "Parquet"])
def test_like_a_listing_of_the_bucket(file_format, s3_bucket, tmp_path):
    for key in KEYS:
        put_key(s3_bucket, key)
    listed = list(storage.list_files(s3_bucket))
    name = s3_bucket.removeprefix("s3://")
    found = {e.uri.removeprefix(f"{s3_bucket}/"): e for e in listed}
    versions = [
        Version(key, found[key].size_bytes, found[key].etag) if key in found else Version(key)
        for key in sorted(KEYS, key=str.encode)
    ]
    make = csv_file if file_format == "CSV" else parquet_file
    written = Written({"1": make(versions)}, file_format)
    uri = written.put(str(tmp_path))
    said = json.loads(storage.read_bytes(uri)) | {"sourceBucket": f"arn:aws:s3:::{name}"}
    storage.write_bytes(uri, json.dumps(said).encode())
    assert list(read_inventory(uri)) == listed
    assert len(listed) == 4


def put_key(bucket: str, key: str) -> None:
    """As the store itself takes it; ``write_bytes`` would drop a slash at the end."""
    files, path = storage.filesystem(bucket)
    if key.endswith("/"):
        files.create_dir(f"{path}/{key}")
    else:
        storage.write_bytes(f"{bucket}/{key}", key.encode())


@pytest.mark.parametrize("columns", ["Bucket, Key", "Bucket, Key, ETag", "Key,Size , Bucket"])
def test_columns_may_be_missing_in_csv(columns, tmp_path):
    values = {"Bucket": "photos", "Key": "a.jpg", "ETag": "e", "Size": "7"}
    names = [name.strip() for name in columns.split(",")]
    line = ",".join(values[name] for name in names).encode() + b"\n"
    uri = Written({"1.csv": line}, schema=columns).put(str(tmp_path))
    size, etag = ("Size" in names and 7) or None, ("ETag" in names and "e") or None
    assert list(read_inventory(uri)) == [FileEntry("s3://photos/a.jpg", size, etag)]


def test_columns_may_be_missing_in_parquet(tmp_path):
    data = parquet_file(
        [Version("a.jpg")], without=["size", "e_tag", "is_latest", "is_delete_marker", "bucket"]
    )
    uri = replace(PARQUET, files={"1.parquet": data}).put(str(tmp_path))
    assert list(read_inventory(uri)) == [FileEntry("s3://photos/a.jpg")]


@pytest.mark.parametrize("data", [b"", gzip.compress(b"")], ids=["plain", "gzip"])
def test_an_empty_data_file(tmp_path, data):
    uri = Written({"1.csv.gz": data, "2.csv": csv_file(VERSIONS[:1])}).put(str(tmp_path))
    assert list(read_inventory(uri)) == EXPECTED[:1]


# Where the data files are


def beside_the_manifest(folder: Path) -> None:
    shutil.copytree(folder / "inv/photos/daily/data", folder / "copy/data")


def in_one_folder(folder: Path) -> None:
    shutil.copytree(folder / "inv/photos/daily/data", folder / "copy", dirs_exist_ok=True)


def whole_tree(folder: Path) -> None:
    shutil.copytree(folder / "inv", folder / "copy/inv")


@pytest.mark.parametrize("copy", [beside_the_manifest, in_one_folder, whole_tree])
def test_a_copied_inventory(tmp_path, copy: Callable[[Path], None]):
    CSV.put(str(tmp_path))
    place = tmp_path / "copy/manifest.json"
    place.parent.mkdir()
    place.write_bytes(CSV.manifest())
    copy(tmp_path)
    shutil.rmtree(tmp_path / "inv")
    assert list(read_inventory(place.as_uri())) == EXPECTED


def test_a_manifest_alone_finds_its_data_in_the_bucket_it_names(s3_bucket, tmp_path):
    written = replace(CSV, destination=f"arn:aws:s3:::{s3_bucket.removeprefix('s3://')}")
    written.put(s3_bucket)
    place = tmp_path / "manifest.json"
    place.write_bytes(written.manifest())
    assert list(read_inventory(place.as_uri())) == EXPECTED


def test_missing_data(s3_bucket, tmp_path):
    written = replace(CSV, destination=f"arn:aws:s3:::{s3_bucket.removeprefix('s3://')}")
    uri = written.put(str(tmp_path))
    (tmp_path / "inv/photos/daily/data/2.csv").unlink()
    entries = read_inventory(uri)
    assert next(entries) == EXPECTED[0]
    with pytest.raises(UsageError, match=r"names inv/photos/daily/data/2\.csv, which is neither"):
        list(entries)


# What is wrong with an inventory


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (replace(CSV, file_format="ORC"), "inventory in ORC: expected CSV or Parquet"),
        (replace(CSV, sums={"1.csv.gz": "0" * 32}), r"1\.csv\.gz is not the file .*MD5"),
        (replace(CSV, files={"1.csv": b"photos,a.jpg\n"}), r"1\.csv cannot be read as CSV"),
        (replace(CSV, files={"1.gz": gzip.compress(b"x" * 99)[:-9]}), r"1\.gz cannot be read"),
        (
            replace(CSV, files={"1": csv_file([Version("a", 5)]).replace(b'"5"', b'"big"')}),
            "as CSV",
        ),
        (replace(CSV, schema="Bucket, Name", files={"1": b"b,k\n"}), "has no key column"),
        (replace(CSV, schema="Key", files={"1.csv": b"a%FF.jpg\n"}), r"a%FF\.jpg is not UTF-8"),
        (replace(PARQUET, files={"1.parquet": b"PAR1"}), r"1\.parquet cannot be read as Parquet"),
    ],
)
def test_bad_inventory(tmp_path, written, message):
    with pytest.raises(UsageError, match=message):
        list(read_inventory(written.put(str(tmp_path))))


def test_checksums_may_be_missing(tmp_path):
    assert list(read_inventory(replace(CSV, sums=dict.fromkeys(CSV.files, "")).put(str(tmp_path))))


OTHER_JSON = {
    "empty": "",
    "list": "[]",
    "object": "{}",
    "null": "null",
    "number": '{"sourceBucket": 1}',
    "picture": "\xff\xd8\xff\xe0",
    "deep": "[" * 100_000,
    "labels": '{"images": [{"file_name": "1.jpg"}]}',
    "keys": '{"sourceBucket": "b", "destinationBucket": "b", "fileFormat": "CSV",'
    ' "fileSchema": "Key", "files": [{"key": 1}]}',
    "sums": '{"sourceBucket": "b", "destinationBucket": "b", "fileFormat": "CSV",'
    ' "fileSchema": "Key", "files": [{"key": "1", "MD5checksum": 1}]}',
}


@pytest.mark.parametrize("text", OTHER_JSON.values(), ids=OTHER_JSON)
def test_another_json_file(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(UsageError, match=r"is not the manifest\.json of an S3 Inventory"):
        list(read_source(str(tmp_path / "manifest.json")))


def test_streams(tmp_path):
    uri = replace(CSV, sums={"2.csv": "0" * 32}).put(str(tmp_path))
    entries = read_inventory(uri)
    assert next(entries) == EXPECTED[0]
    entries.close()
