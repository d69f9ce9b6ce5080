from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.datasets import image_bytes, read_image
from fattr.datasets.image_bytes import parquet_image_uri
from fattr.errors import StorageError, UsageError

IMAGES = [f"image {i}".encode() for i in range(10)]


@pytest.fixture
def part(tmp_path) -> str:
    """A Parquet file of ten images in row groups of three."""
    table = pa.table(
        {
            "image": pa.array(IMAGES, pa.binary()),
            "a b/&": pa.array([*IMAGES[:9], None], pa.large_binary()),
            "hf": pa.array([{"bytes": data, "path": None} for data in IMAGES]),
            "text": ["x"] * 10,
        }
    )
    path = tmp_path / "100% part#1.parquet"
    pq.write_table(table, path, row_group_size=3)
    return path.as_uri()


@pytest.mark.parametrize("column", ["image", "hf"])
def test_every_row_is_its_own_image(part, column):
    order = [9, 0, 3, 2, 5, 8, 6, 1, 7, 4]
    assert [read_image(parquet_image_uri(part, i, column)) for i in order] == [
        IMAGES[i] for i in order
    ]


def test_a_column_of_any_name(part):
    assert read_image(parquet_image_uri(part, 4, "a b/&")) == IMAGES[4]


def test_a_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "a#row=1.jpg"
    path.write_bytes(b"jpeg")
    assert read_image(storage.canonical_uri(str(path))) == b"jpeg"


def test_threads_share_one_reading_of_a_row_group(part, monkeypatch):
    read = []
    original = pq.ParquetFile.read_row_group

    def counted(self, group, **options):
        read.append(group)
        return original(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    image_bytes._row_group.cache_clear()
    uris = [parquet_image_uri(part, i % 10, "image") for i in range(200)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read_image, uris)) == IMAGES * 20
    assert sorted(read) == [0, 1, 2, 3]


def test_images_of_a_bucket(s3_bucket, part, tmp_path):
    uri = f"{s3_bucket}/sets/part.parquet"
    storage.write_bytes(uri, storage.read_bytes(part))
    assert read_image(parquet_image_uri(uri, 7, "image")) == IMAGES[7]


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (10, "image", "missing: the file has 10 rows"),
        (9, "a b/&", "missing: the row has no image"),
        (0, "picture", "has no column 'picture'"),
        (0, "text", "column 'text' must hold image bytes, it holds string"),
    ],
)
def test_a_cell_without_an_image_is_named(part, row, column, message):
    with pytest.raises((StorageError, UsageError)) as caught:
        read_image(parquet_image_uri(part, row, column))
    assert message in str(caught.value)
    assert str(caught.value).startswith(part)


def test_a_file_that_is_no_parquet_or_not_there(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UsageError, match=r"a.parquet is not a sound Parquet file"):
        read_image(parquet_image_uri((tmp_path / "a.parquet").as_uri(), 0, "image"))
    with pytest.raises(StorageError, match=r"b.parquet: missing: "):
        read_image(parquet_image_uri((tmp_path / "b.parquet").as_uri(), 0, "image"))
