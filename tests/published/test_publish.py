"""Staged rows to the two tables: sorted, each image once, in even files that a reader can skip."""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_output import ATTRIBUTES, Photo, publish_run, put_manifest, put_parquet, staged

from fattr import storage, tables
from fattr.attributes import CELEBA40
from fattr.errors import RunError, StorageError
from fattr.published import publish as publish_module
from fattr.published.publish import count_rows, encode, read_files
from fattr.runs.run import Run

RUN_ID = "20261123T211700Z-3f9c1a"
SMILE = {"smiling": True, "smiling_prob": 0.9}


@pytest.fixture(params=["local", "s3"])
def run(request, tmp_path) -> Run:
    if request.param == "local":
        return Run(storage.canonical_uri(str(tmp_path / "out put")), RUN_ID)
    return Run(request.getfixturevalue("s3_bucket") + "/out", RUN_ID)


def photos(count: int, seed: int = 0) -> list[Photo]:
    draw = random.Random(seed)
    names = draw.sample(range(10 * count), count)
    return [
        Photo(
            f"s3://photos/ä {name:05d}.jpg",
            [SMILE | {"det_score": draw.random()} for _ in range(draw.choice([0, 1, 1, 2, 5]))],
            draw.choice(["ok", "no_face", "denied"]),
        )
        for name in names
    ]


def stage(run: Run, chosen: list[Photo], *, rows_per_file: int = 10, row_group: int = 4) -> None:
    for number, start in enumerate(range(0, len(chosen), rows_per_file)):
        rows = staged(chosen[start : start + rows_per_file])
        uri = storage.join(run.staging, f"{number}.parquet")
        put_parquet(rows, uri, row_group_size=row_group)


def part(run: Run, table: str, number: int) -> pq.ParquetFile:
    uri = storage.join(run.table(table), f"part-{number:05d}.parquet")
    return pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri)))


def rows_of(run: Run, table: str) -> list[dict]:
    uris = [entry.uri for entry in storage.list_tree(run.table(table))]
    parts = [pq.ParquetFile(pa.BufferReader(storage.read_bytes(uri))).read() for uri in uris]
    return [row for rows in parts for row in rows.to_pylist()]


def brute_force(chosen: list[Photo]) -> tuple[list[dict], list[dict]]:
    rows = sorted(staged(chosen).to_pylist(), key=lambda row: row["image_uri"].encode())
    images = [{name: row[name] for name in tables.IMAGES.names} for row in rows]
    faces = [
        {"image_id": row["image_id"], "image_uri": row["image_uri"], **face, "model_id": "model"}
        for row in rows
        for face in row["faces"]
    ]
    return images, faces


def test_rows_in_any_order_become_sorted_tables_of_even_files(run):
    chosen = photos(230)
    put_manifest(run, chosen, rows_per_file=60)
    stage(run, chosen)
    told = []
    published = publish_run(run, rows_per_file=50, on_rows=told.append)
    images, faces = brute_force(chosen)
    assert rows_of(run, "images") == images
    assert rows_of(run, "faces") == faces
    sizes = Counter(file.table for file in published.files)
    assert sizes == {"images": 5, "faces": -(-len(faces) // 50)}
    assert [file.num_rows for file in published.files[:5]] == [50, 50, 50, 50, 30]
    assert sum(told) == 230
    totals = published.totals
    assert totals.by_status == Counter(photo.status for photo in chosen)
    assert (totals.num_images, totals.num_faces) == (230, len(faces))
    assert totals.stage_seconds == dict.fromkeys(tables.STAGE_SECONDS, 230 * 0.25)


@pytest.mark.parametrize("rows_per_range", [1, 3, 10, 1000])
@pytest.mark.parametrize("row_group", [1, 3, 50])
def test_ranges_and_row_groups_of_any_size_give_the_same(
    tmp_path, monkeypatch, rows_per_range, row_group
):
    monkeypatch.setattr(publish_module, "ROWS_PER_RANGE", rows_per_range)
    run = Run(storage.canonical_uri(str(tmp_path)), RUN_ID)
    chosen = photos(60, seed=row_group)
    put_manifest(run, chosen, rows_per_file=17)
    stage(run, chosen, rows_per_file=25, row_group=row_group)
    publish_run(run)
    assert (rows_of(run, "images"), rows_of(run, "faces")) == brute_force(chosen)


def test_an_image_made_twice_is_published_once(run):
    chosen = photos(40)
    put_manifest(run, chosen)
    stage(run, [*chosen, *chosen[:25], chosen[3]])
    totals = publish_run(run, rows_per_file=15).totals
    assert (rows_of(run, "images"), rows_of(run, "faces")) == brute_force(chosen)
    assert totals.num_images == 40
    assert totals.by_status == Counter(photo.status for photo in chosen)


def test_files_are_listed_as_they_are(run):
    chosen = photos(60)
    put_manifest(run, chosen)
    stage(run, chosen)
    published = publish_run(run, rows_per_file=25)
    assert read_files(run) == list(published.files)
    lying = [
        entry
        for table in ("images", "faces")
        for entry in storage.list_tree(storage.join(run.output, table))
    ]
    assert {storage.join(run.output, file.path) for file in published.files} == {
        entry.uri for entry in lying
    }
    for file in published.files:
        data = storage.read_bytes(storage.join(run.output, file.path))
        assert (file.size_bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert file.num_rows == pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
        assert re.fullmatch(
            rf"{file.table}/dt=2026-11-23/run={RUN_ID}/part-0000\d.parquet", file.path
        )


def test_publishing_again_gives_the_same_files_and_no_others(run):
    chosen = photos(60)
    put_manifest(run, chosen)
    stage(run, chosen)
    stray = storage.join(run.table("faces"), "part-00099.parquet")
    storage.write_bytes(stray, b"of a publication that was killed")
    first = publish_run(run, rows_per_file=25)
    assert not storage.exists(stray)
    storage.delete_tree(run.staging)
    stage(run, random.Random(1).sample(chosen, 60), rows_per_file=9)
    assert publish_run(run, rows_per_file=25).files == first.files


def test_a_publication_that_was_killed_is_made_good_by_the_next(run, monkeypatch):
    chosen = photos(60)
    put_manifest(run, chosen)
    stage(run, chosen)
    whole = publish_run(run, rows_per_file=10).files
    write_bytes, left = storage.write_bytes, [4]

    def dies(uri: str, data: bytes) -> None:
        if not left[0]:
            raise StorageError("unavailable", uri, "the disk is full")
        left[0] -= 1
        write_bytes(uri, data)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", dies)
        with pytest.raises(StorageError, match="disk is full"):
            publish_run(run, rows_per_file=10)
    assert publish_run(run, rows_per_file=10).files == whole
    assert (rows_of(run, "images"), rows_of(run, "faces")) == brute_force(chosen)


@pytest.mark.parametrize("dropped", [1, 7])
def test_images_without_a_row_are_counted_and_refused(run, dropped):
    chosen = photos(30)
    put_manifest(run, chosen)
    stage(run, chosen[dropped:] + chosen[-1:] * dropped)  # the number of rows is right
    with pytest.raises(RunError, match=rf"{dropped} images of its manifest have no row"):
        publish_run(run, rows_per_file=8)


@pytest.mark.parametrize("uri", ["s3://a/first", "s3://photos/ä 00100.jpgx", "t3://last"])
def test_a_row_of_no_image_of_the_manifest_is_refused(run, uri):
    chosen = photos(30)
    put_manifest(run, chosen)
    stage(run, [*chosen, Photo(uri)])
    with pytest.raises(RunError, match=r"1 rows are of no image of its manifest"):
        publish_run(run, rows_per_file=8)


def test_a_process_left_behind_does_no_harm(run):
    chosen = photos(60)
    put_manifest(run, chosen)
    stage(run, chosen)
    whole = publish_run(run, rows_per_file=10).files
    storage.delete_tree(run.staging)
    stage(run, [photo for photo in chosen if photo.uri < sorted(p.uri for p in chosen)[35]])
    with pytest.raises(RunError, match="25 images of its manifest have no row"):
        publish_run(run, rows_per_file=10)
    for file in whole:
        data = storage.read_bytes(storage.join(run.output, file.path))
        assert hashlib.sha256(data).hexdigest() == file.sha256
    assert (rows_of(run, "images"), rows_of(run, "faces")) == brute_force(chosen)


def test_nothing_staged_is_refused(run):
    put_manifest(run, photos(3))
    with pytest.raises(RunError, match="3 images of its manifest have no row"):
        publish_run(run)


def test_images_without_faces_have_an_empty_part_of_faces(run):
    chosen = [Photo("s3://a/1", status="no_face"), Photo("s3://a/2", status="missing")]
    put_manifest(run, chosen)
    stage(run, chosen)
    published = publish_run(run)
    assert [(file.table, file.num_rows) for file in published.files] == [
        ("images", 2),
        ("faces", 0),
    ]
    assert part(run, "faces", 0).schema_arrow.equals(tables.faces_schema(ATTRIBUTES))


@pytest.mark.parametrize("has_manifest", [True, False])
def test_a_run_without_images_has_no_parts(run, has_manifest):
    if has_manifest:
        put_manifest(run, [])
    published = publish_run(run)
    assert published.files == ()
    assert read_files(run) == []
    assert published.totals.num_images == published.totals.num_faces == 0
    assert list(storage.list_tree(storage.join(run.output, "images"))) == []


def test_every_file_has_one_schema_and_says_its_run(run):
    chosen = photos(30)
    put_manifest(run, chosen)
    stage(run, chosen)
    for file in publish_run(run, rows_per_file=10).files:
        data = storage.read_bytes(storage.join(run.output, file.path))
        schema = pq.ParquetFile(pa.BufferReader(data)).schema_arrow
        wanted = tables.IMAGES if file.table == "images" else tables.faces_schema(ATTRIBUTES)
        assert schema.equals(wanted)
        assert [field.metadata for field in schema] == [field.metadata for field in wanted]
        assert schema.metadata[b"fattr.run_id"] == RUN_ID.encode()
        assert schema.metadata[b"fattr.schema"] == f"{file.table}/1".encode()


def test_few_valued_strings_have_dictionaries_and_flat_columns_statistics(run):
    chosen = photos(30)
    put_manifest(run, chosen)
    stage(run, chosen)
    publish_run(run)
    faces, images = (part(run, table, 0).metadata.row_group(0) for table in ("faces", "images"))
    columns = {
        c.path_in_schema: c for g in (faces, images) for c in map(g.column, range(g.num_columns))
    }
    with_dictionary = {name for name, c in columns.items() if c.has_dictionary_page}
    assert with_dictionary == {
        *("status", "reason", "num_faces"),
        *("face_index", "model_id", "perceived_gender_presentation"),
    }
    for name, column in columns.items():
        assert column.compression == "ZSTD"
        assert column.is_stats_set == ("list" not in name), name
    uris = sorted(photo.uri for photo in chosen)
    told = images.column(tables.IMAGES.names.index("image_uri")).statistics
    assert (told.min, told.max) == (uris[0], uris[-1])
    assert [c.column_index for c in images.sorting_columns] == [1]
    assert [c.column_index for c in faces.sorting_columns] == [1, 2]


def test_duckdb_skips_what_a_filter_rules_out(tmp_path):
    run = Run(storage.canonical_uri(str(tmp_path)), RUN_ID)
    chosen = photos(200)
    put_manifest(run, chosen)
    stage(run, chosen)
    publish_run(run, rows_per_file=20)
    wanted = chosen[77]
    query = f"FROM '{tmp_path}/images/**/*.parquet' WHERE image_uri = '{wanted.uri}'"
    with duckdb.connect() as connection:
        assert [row[0] for row in connection.sql(query).fetchall()] == [wanted.image_id]
        plan = connection.sql(f"EXPLAIN ANALYZE {query}").fetchall()[0][1]
    assert "Row Groups Scanned: 1 / 10" in plan


def test_equal_rows_give_equal_bytes():
    rows = tables.images_table(staged(photos(20)))
    sliced = pa.concat_tables([rows.slice(0, 7), rows.slice(7)])
    assert encode(rows) == encode(rows) == encode(sliced.combine_chunks())


def test_the_whole_vocabulary_goes_through(tmp_path):
    run = Run(storage.canonical_uri(str(tmp_path)), RUN_ID)
    put_manifest(run, photos(9))
    put_parquet(staged(photos(9), CELEBA40), storage.join(run.staging, "a.parquet"))
    publish_run(run, CELEBA40)
    rows = part(run, "faces", 0).read()
    assert pc.all(rows.column("smiling")).as_py()
    assert rows.column("bald").null_count == rows.num_rows


def test_counts_of_rows():
    assert count_rows(staged([])) == Counter(faces=0)
    three = [Photo("a", [{}, {}]), Photo("b", [{}]), Photo("c", status="denied")]
    assert count_rows(staged(three)) == Counter(ok=2, denied=1, faces=3)
