"""Group columns of one's own: from CSV and Parquet, beside the images or in a bucket."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import Answer, canned_server

from fattr import storage
from fattr.attributes import attribute
from fattr.datasets.groups import with_groups
from fattr.datasets.image_bytes import parquet_image_uri
from fattr.datasets.split import DatasetSplit
from fattr.errors import StorageError, UsageError
from fattr.records import Sample

HEADER = "image,skin_type,camera\n"


def split_of(*samples: Sample) -> DatasetSplit:
    return DatasetSplit(
        name="ours",
        split="test",
        attributes=(attribute("smiling"),),
        samples=samples,
        licence="ours",
        research_only=False,
    )


@pytest.fixture
def split(tmp_path) -> DatasetSplit:
    """Three images, whose names would not survive unquoted, two of them with groups."""
    return split_of(
        Sample((tmp_path / "images" / "a b.jpg").as_uri(), {"smiling": 1}, {"camera": "film"}),
        Sample((tmp_path / "images" / "100%25.jpg").as_uri(), {"smiling": 0}, {"race": "x"}),
        Sample((tmp_path / "c.jpg").as_uri(), {}),
    )


def groups_of(split: DatasetSplit) -> list[dict[str, str]]:
    return [dict(sample.groups) for sample in split.samples]


def write(folder: Path, *rows: str, header: str = HEADER, name: str = "groups.csv") -> str:
    (folder / name).write_text(header + "".join(f"{row}\n" for row in rows))
    return str(folder / name)


# What it means


def test_columns_are_added_and_replace_those_of_the_same_name(split, tmp_path):
    table = write(tmp_path, "images/a b.jpg,V,phone", "images/100%25.jpg,II,", "./c.jpg, I ,phone")
    made = with_groups(split, table)
    assert groups_of(made) == [
        {"camera": "phone", "skin_type": "V"},
        {"race": "x", "skin_type": "II", "camera": ""},
        {"skin_type": "I", "camera": "phone"},
    ]
    assert [s.image_uri for s in made.samples] == [s.image_uri for s in split.samples]
    assert [s.targets for s in made.samples] == [s.targets for s in split.samples]
    assert groups_of(split) == [{"camera": "film"}, {"race": "x"}, {}]


def test_images_that_are_not_named_keep_what_they_have(split, tmp_path):
    table = write(tmp_path, "images/other.jpg,V,phone", "images/a b.jpg,V,phone")
    made = with_groups(split, table)
    assert groups_of(made) == [{"camera": "phone", "skin_type": "V"}, {"race": "x"}, {}]


def test_absolute_paths_and_uris_name_the_same_images(split, tmp_path):
    far = tmp_path / "far" / "away"
    far.mkdir(parents=True)
    rows = (f"{tmp_path}/images/a b.jpg,V,1", f"{(tmp_path / 'c.jpg').as_uri()},II,2")
    made = with_groups(split, write(far, *rows, "../../images/100%25.jpg,III,3"))
    assert [groups["skin_type"] for groups in groups_of(made)] == ["V", "III", "II"]


def test_parquet_is_as_good_as_csv(split, tmp_path):
    columns = {
        "image": ["c.jpg", "images/a b.jpg", "images/100%25.jpg"],
        "skin_type": ["I", None, "V"],
        "camera": [1.0, 2.0, float("nan")],  # numbers with a gap, as pandas writes them
        "outdoors": [True, False, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "groups.parquet")
    rows = ("c.jpg,I,1,true", "images/a b.jpg,,2,false", "images/100%25.jpg,V,,")
    table = write(tmp_path, *rows, header="image,skin_type,camera,outdoors\n")
    from_parquet = groups_of(with_groups(split, str(tmp_path / "groups.parquet")))
    assert from_parquet == groups_of(with_groups(split, table))
    assert from_parquet[2] == {"skin_type": "I", "camera": "1", "outdoors": "true"}


def test_images_in_parquet_cells_go_by_their_uri(tmp_path):
    file = (tmp_path / "a b.parquet").as_uri()
    cells = [parquet_image_uri(file, row, "image") for row in range(2)]
    split = split_of(*(Sample(cell, {}) for cell in cells))
    made = with_groups(split, write(tmp_path, f"{cells[1]},V,phone"))
    assert groups_of(made) == [{}, {"skin_type": "V", "camera": "phone"}]


def test_a_row_that_is_repeated_is_no_problem(split, tmp_path):
    made = with_groups(split, write(tmp_path, "c.jpg,V,phone", "./c.jpg,V,phone"))
    assert groups_of(made)[2] == {"skin_type": "V", "camera": "phone"}


@pytest.mark.parametrize("name", ["g.csv", "g.parquet"])
def test_a_bucket_is_as_good_as_a_folder(s3_bucket, name):
    buffer = io.BytesIO(b"image,skin_type\na.jpg,V\n")
    if name == "g.parquet":
        pq.write_table(pa.table({"image": ["a.jpg"], "skin_type": ["V"]}), buffer := io.BytesIO())
    storage.write_bytes(f"{s3_bucket}/set/{name}", buffer.getvalue())
    split = split_of(Sample(f"{s3_bucket}/set/a.jpg", {}), Sample(f"{s3_bucket}/a.jpg", {}))
    assert groups_of(with_groups(split, f"{s3_bucket}/set/{name}")) == [{"skin_type": "V"}, {}]


# What is refused


def refusal(split: DatasetSplit, table: str) -> str:
    with pytest.raises(UsageError) as caught:
        with_groups(split, table)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table_of_other_images_is_refused(split, tmp_path):
    table = write(tmp_path, "a b.jpg,V,phone", "images/c.jpg,V,phone")
    assert refusal(split, table) == (
        f"--group-table {table} names none of the 3 images of ours: column 'image' must hold paths"
        " relative to the table, or URIs"
    )
    assert "names none of the 3 images" in refusal(split, write(tmp_path))


def test_two_rows_that_differ_are_refused(split, tmp_path):
    error = refusal(split, write(tmp_path, "c.jpg,V,phone", "c.jpg,I,phone"))
    assert "groups.csv has rows of different groups for file:///" in error
    assert "c.jpg: keep one of them" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("file,skin_type\nc.jpg,V\n", "line 1: header lacks image", id="no-column"),
        pytest.param("", "line 1: header lacks image", id="empty"),
        pytest.param(
            HEADER + "c.jpg,V\nc.jpg,V,phone\nc.jpg\n",
            "2 rows cannot be used; the first: file:///.*line 2: expected 3 cells",
            id="cells",
        ),
        pytest.param(
            HEADER + ",V,phone\n", "groups.csv, column 'image': '' names no file", id="no-image"
        ),
        pytest.param(
            HEADER + "https://a.b/c.jpg,V,phone\n", "groups.csv, .*https://a.b/c.jpg", id="web"
        ),
        pytest.param(HEADER + "c.jpg,\xff,x\n", "must be UTF-8 text", id="no-text"),
    ],
)
def test_a_wrong_csv_is_named(split, tmp_path, text, message):
    (tmp_path / "groups.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message):
        with_groups(split, str(tmp_path / "groups.csv"))


def test_a_wrong_parquet_file_is_named(split, tmp_path):
    path = tmp_path / "groups.parquet"
    pq.write_table(pa.table({"file": ["c.jpg"]}), path)
    assert refusal(split, str(path)) == f"{path.as_uri()} has no column 'image'"
    path.write_bytes(b"image,skin_type\n")
    assert "groups.parquet is not a sound Parquet file" in refusal(split, str(path))


@pytest.mark.parametrize("name", ["groups.csv", "groups.parquet"])
def test_a_table_that_is_not_there_is_a_wrong_request(split, tmp_path, name):
    error = refusal(split, str(tmp_path / name))
    assert "group table" in error
    assert f"expected at {(tmp_path / name).as_uri()}: " in error
    assert "No such file or directory" in error


def test_a_store_that_fails_is_no_wrong_request(split, use_endpoint):
    with canned_server(Answer(503, "SlowDown")) as url:
        use_endpoint(url)
        with pytest.raises(StorageError, match="SlowDown"):
            with_groups(split, "s3://bucket/groups.csv")
