"""``jobs/annotate.py`` over HTTP: a bucket gives the rows that a folder of the same files gives."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.cli import run_job


@pytest.fixture
def bucket_of_photos(s3_bucket, moto_client, photo_folder) -> str:
    """The photographs as objects, under ``photos/``."""
    for path in photo_folder.rglob("*"):
        if path.is_file():
            moto_client.put_object(
                Bucket=s3_bucket.removeprefix("s3://"),
                Key=f"photos/{path.relative_to(photo_folder)}",
                Body=path.read_bytes(),
            )
    return s3_bucket


def run(images: object, output: object, *flags: object) -> SimpleNamespace:
    said = io.StringIO()
    argv = ["--engine", "local", "--images", images, "--output", output, *flags]
    with contextlib.redirect_stderr(said):
        code = run_job("annotate", [str(part) for part in argv])
    return SimpleNamespace(code=code, err=said.getvalue())


def assert_same_rows(one: list[dict], other: list[dict]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for name, value in left.items():
            is_number = isinstance(value, float | list)
            assert right[name] == (pytest.approx(value, abs=1e-5) if is_number else value)


def all_bytes(uri: str) -> bytes:
    """Every object below a place; of tables, also what is compressed in them."""
    parts = []
    for entry in storage.list_tree(uri):
        data = storage.read_bytes(entry.uri)
        parts.append(data)
        if entry.uri.endswith(".parquet"):
            table = pq.read_table(pa.BufferReader(data))
            parts += [str(table.schema.metadata).encode(), str(table.to_pylist()).encode()]
    return b"\n".join(parts)


def test_a_bucket_is_as_good_as_a_folder(
    bucket_of_photos, photo_folder, models, tmp_path, rows_of, monkeypatch
):
    flags = ["--model", models.people, "--model", models.looks]
    flags += ["--sensitive", "age,perceived_gender_presentation", "--purpose", "a comparison"]
    bucket_output = f"{bucket_of_photos}/tables/night 1"
    local = run(photo_folder, tmp_path / "local", *flags)
    from_s3 = run(f"{bucket_of_photos}/photos", tmp_path / "from-s3", *flags)
    to_s3 = run(f"{bucket_of_photos}/photos/", bucket_output, *flags)
    assert (local.code, from_s3.code, to_s3.code) == (0, 0, 0), from_s3.err + to_s3.err

    for table in ("images", "faces"):
        expected = rows_of(tmp_path / "local", table)
        assert len(expected) >= 7
        assert_same_rows(rows_of(tmp_path / "from-s3", table), expected)
        assert_same_rows(rows_of(bucket_output, table), expected)

    names = [entry.uri.removeprefix(bucket_output) for entry in storage.list_tree(bucket_output)]
    assert not any("staging" in name for name in names)
    (success,) = (name for name in names if name.endswith("/_SUCCESS"))
    run_uri = bucket_output + success.removesuffix("/_SUCCESS")
    info = json.loads(storage.read_bytes(f"{run_uri}/run.json"))
    assert info["num_images"] == len(rows_of(bucket_output, "images"))
    assert info["request"]["images"] == f"{bucket_of_photos}/photos"

    written = all_bytes(bucket_output) + all_bytes(str(tmp_path / "from-s3"))
    said = from_s3.err + to_s3.err
    for secret in ("test-key-id", "test-secret", "127.0.0.1"):
        assert secret.encode() not in written
        assert secret not in said


def test_etags_and_uris_are_those_of_the_bucket(bucket_of_photos, moto_client, models, tmp_path):
    result = run(f"{bucket_of_photos}/photos", tmp_path / "out", "--model", models.people)
    assert result.code == 0
    bucket = bucket_of_photos.removeprefix("s3://")
    (path,) = (tmp_path / "out" / "images").rglob("*.parquet")
    for row in pq.read_table(path).to_pylist():
        key = row["image_uri"].removeprefix(f"{bucket_of_photos}/")
        head = moto_client.head_object(Bucket=bucket, Key=key)
        assert row["etag"] == head["ETag"].strip('"')
        assert row["size_bytes"] == head["ContentLength"]


def test_an_output_below_the_images_is_refused(bucket_of_photos, models):
    before = [entry.uri for entry in storage.list_tree(bucket_of_photos)]
    result = run(f"{bucket_of_photos}/photos", f"{bucket_of_photos}/photos/out")
    assert result.code == 2
    result = run(bucket_of_photos, f"{bucket_of_photos}/out", "--model", models.people)
    assert result.code == 2
    assert "overlap" in result.err
    assert [entry.uri for entry in storage.list_tree(bucket_of_photos)] == before
