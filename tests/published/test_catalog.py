"""What readers see of an OUTPUT: finished runs, newest rows, in DuckDB, Arrow and pandas."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import date

import duckdb
import pyarrow as pa
import pytest
from small_output import ATTRIBUTES, Photo, add_run, get_parquet

import fattr
from fattr import storage, tables
from fattr.errors import UsageError
from fattr.published.catalog import (
    KNOWN_SCHEMA,
    REPLACED_SCHEMA,
    known_images,
    replaced_rows,
    write_views,
)
from fattr.runs.run import Run

FIRST, SECOND, THIRD = (f"202611{day}T211700Z-3f9c1{day % 10}" for day in (23, 24, 25))
SMILE, NO_SMILE, UNSURE = (
    {"smiling": smiling, "smiling_prob": 0.5} for smiling in (True, False, None)
)


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> str:
    if request.param == "local":
        return storage.canonical_uri(str(tmp_path / "out put"))
    return request.getfixturevalue("s3_bucket") + "/out"


@pytest.fixture
def runs(output) -> list[Run]:
    """Three finished runs, the second redoes an image, the third nothing; and a dead one."""
    first = [
        Photo("s3://p/a.jpg", [SMILE, NO_SMILE]),
        Photo("s3://p/b.jpg", [UNSURE], etag="old"),
        Photo("s3://p/c.jpg", status="denied", reason="HTTP 403"),
    ]
    second = [Photo("s3://p/b.jpg", [SMILE], etag="new"), Photo("s3://p/d.jpg", status="no_face")]
    finished = [
        add_run(output, FIRST, first, rows_per_file=2),
        add_run(output, SECOND, second, replaced=[(FIRST, "s3://p/b.jpg")]),
        add_run(output, THIRD, []),
    ]
    dead = add_run(
        output,
        "20261126T000000Z-000000",
        [Photo("s3://p/a.jpg", [SMILE])],
        replaced=[(FIRST, "s3://p/a.jpg")],
    )
    files, path = storage.filesystem(dead.file("_SUCCESS"))
    files.delete_file(path)
    return finished


NEWEST = [
    ("s3://p/a.jpg", "ok", 2, FIRST),
    ("s3://p/b.jpg", "ok", 1, SECOND),
    ("s3://p/c.jpg", "denied", 0, FIRST),
    ("s3://p/d.jpg", "no_face", 0, SECOND),
]
FACES = [("s3://p/a.jpg", True), ("s3://p/a.jpg", False), ("s3://p/b.jpg", True)]
IMAGES_QUERY = "SELECT image_uri, status, num_faces, run FROM images ORDER BY image_uri"
FACES_QUERY = "SELECT image_uri, smiling FROM faces ORDER BY image_uri, face_index"


def test_the_newest_row_of_every_image_of_finished_runs(output, runs):
    opened = fattr.open_tables(output)
    assert opened.sql(IMAGES_QUERY).fetchall() == NEWEST
    assert opened.sql(FACES_QUERY).fetchall() == FACES
    assert opened.runs == (FIRST, SECOND, THIRD)
    assert opened.images.count("*").fetchall() == [(4,)]
    assert opened.faces.filter("smiling").count("*").fetchall() == [(2,)]
    joined = "SELECT count(*) FROM faces JOIN images USING (image_id) WHERE status = 'ok'"
    assert opened.sql(joined).fetchall() == [(3,)]
    days = opened.sql("SELECT DISTINCT dt FROM images ORDER BY dt").fetchall()
    assert days == [(date(2026, 11, 23),), (date(2026, 11, 24),)]


def test_frames_have_the_columns_asked_for(output, runs):
    opened = fattr.open_tables(output)
    faces = opened.to_arrow("faces", columns=["smiling", "run"])
    assert faces.column_names == ["smiling", "run"]
    assert sorted(map(str, faces.column("smiling").to_pylist())) == ["False", "True", "True"]
    frame = opened.to_pandas("faces", columns=["smiling"])
    assert frame["smiling"].dtype == "boolean"
    assert frame["smiling"].mean() == pytest.approx(2 / 3)
    assert set(opened.to_pandas("images")) == {*tables.IMAGES.names, "dt", "run"}


def test_all_columns_come_back_as_they_were_written(output, runs):
    opened = fattr.open_tables(output)
    schema = tables.faces_schema(ATTRIBUTES)
    found = opened.to_arrow("faces")
    assert found.schema.names == [*schema.names, "dt", "run"]
    assert pa.schema(list(found.schema)[:-2]).equals(schema)
    assert found.num_rows == 3
    assert found.column("landmarks")[0].as_py() == [float(i) for i in range(10)]
    assert opened.classes("perceived_gender_presentation") == ("feminine", "masculine")


def test_wrong_names_are_told(output, runs):
    opened = fattr.open_tables(output)
    with pytest.raises(UsageError, match=r"no table 'face'.*images, faces"):
        opened.to_pandas("face")
    with pytest.raises(UsageError, match=r"images has no column 'smiling': it has image_id"):
        opened.to_arrow("images", columns=["smiling"])


@pytest.mark.parametrize("what", ["nothing", "unfinished"])
def test_an_output_without_a_finished_run_is_refused(output, what):
    if what == "unfinished":
        run = add_run(output, FIRST, [Photo("s3://p/a.jpg")])
        files, path = storage.filesystem(run.file("_SUCCESS"))
        files.delete_file(path)
    with pytest.raises(UsageError, match="holds no finished run"):
        fattr.open_tables(output)


def test_images_without_a_face_have_a_table_of_faces_with_all_columns(output):
    add_run(output, FIRST, [Photo("s3://p/a.jpg", status="no_face")])
    faces = fattr.open_tables(output).to_arrow("faces")
    assert faces.num_rows == 0
    assert pa.schema(list(faces.schema)[:-2]).equals(tables.faces_schema(ATTRIBUTES))


def test_runs_without_images_have_tables_without_rows(output):
    add_run(output, FIRST, [])
    opened = fattr.open_tables(output)
    assert opened.to_arrow("images").num_rows == 0
    assert pa.schema(list(opened.to_arrow("images").schema)[:-2]).equals(tables.IMAGES)
    assert opened.sql("SELECT count(det_score) FROM faces").fetchall() == [(0,)]


def test_landmarks_are_arrays_of_ten_wherever_they_lie(output):
    add_run(output, FIRST, [Photo("s3://p/a.jpg", [SMILE])])
    faces = fattr.open_tables(output).faces
    assert str(dict(zip(faces.columns, faces.types, strict=True))["landmarks"]) == "FLOAT[10]"


def test_a_folder_that_duckdb_cannot_name_is_read_all_the_same(tmp_path):
    output = str(tmp_path / "a\\b")
    add_run(output, FIRST, [Photo("s3://p/a.jpg", [SMILE])])
    assert fattr.open_tables(output).to_arrow("faces").num_rows == 1


def test_what_a_query_does_not_need_is_not_read(tmp_path):
    photos = [Photo(f"s3://p/{i:03d}.jpg", [SMILE]) for i in range(50)]
    add_run(str(tmp_path), FIRST, photos, rows_per_file=10)
    add_run(str(tmp_path), SECOND, [Photo("s3://p/new.jpg", [SMILE])])
    opened = fattr.open_tables(str(tmp_path))
    plan = opened.sql("EXPLAIN SELECT det_score FROM faces WHERE image_uri = 's3://p/007.jpg'")
    text = plan.fetchall()[0][1]
    assert "READ_PARQUET" in text
    assert "det_score" in text
    assert "landmarks" not in text
    assert "Filters" in text
    for file in storage.list_tree(storage.join(opened.output, "faces")):
        if FIRST in file.uri and not file.uri.endswith("part-00000.parquet"):  # it has the schema
            storage.write_bytes(file.uri, b"were it opened, it would be missed")
    asked = f"SELECT count(det_score) FROM faces WHERE run = '{SECOND}' AND dt = '2026-11-24'"
    assert opened.sql(asked).fetchall() == [(1,)]
    with pytest.raises(duckdb.Error):
        opened.sql("SELECT count(det_score) FROM faces").fetchall()


def test_known_images_are_all_rows_of_the_runs_streamed(output, runs):
    reader = known_images(output, runs)
    assert reader.schema.equals(KNOWN_SCHEMA)
    rows = [tuple(row.values()) for row in reader.read_all().to_pylist()]
    a, b, c, d = (Photo(f"s3://p/{name}.jpg") for name in "abcd")
    assert rows == [
        (a.image_id, a.uri, "1", 1000, "ok", FIRST),
        (b.image_id, b.uri, "old", 1000, "ok", FIRST),
        (c.image_id, c.uri, "1", 1000, "denied", FIRST),
        (b.image_id, b.uri, "new", 1000, "ok", SECOND),
        (d.image_id, d.uri, "1", 1000, "no_face", SECOND),
    ]
    with duckdb.connect() as connection:
        connection.register("known", known_images(output, runs))
        assert connection.sql("SELECT count(DISTINCT image_id) FROM known").fetchall() == [(4,)]
    assert known_images(output, []).read_all().num_rows == 0


def test_replaced_rows(output, runs):
    found = replaced_rows(runs).to_table()
    assert found.schema.equals(REPLACED_SCHEMA)
    assert found.to_pylist() == [{"run_id": FIRST, "image_id": Photo("s3://p/b.jpg").image_id}]
    assert replaced_rows([]).count_rows() == 0


def test_many_random_runs_agree_with_a_dictionary(tmp_path):
    draw, output = random.Random(3), str(tmp_path)
    newest: dict[str, tuple[str, int]] = {}
    for day in range(1, 9):
        run_id = f"202611{day:02d}T000000Z-00000{day}"
        names = [f"s3://p/{i}.jpg" for i in draw.sample(range(30), draw.randint(0, 12))]
        photos = [Photo(name, [SMILE] * draw.randint(0, 3)) for name in names]
        redone = [(newest[name][0], name) for name in names if name in newest]
        add_run(output, run_id, photos, replaced=redone, rows_per_file=draw.choice([1, 5, 100]))
        newest |= {photo.uri: (run_id, len(photo.faces)) for photo in photos}
    wanted = sorted((uri, run_id, count) for uri, (run_id, count) in newest.items())
    opened = fattr.open_tables(output)
    query = "SELECT image_uri, run, num_faces FROM images ORDER BY image_uri"
    assert opened.sql(query).fetchall() == wanted
    faces = "SELECT image_uri, run, count(*) FROM faces GROUP BY ALL ORDER BY image_uri"
    assert opened.sql(faces).fetchall() == [row for row in wanted if row[2]]
    write_views(opened.output, [Run(opened.output, run_id) for run_id in opened.runs])
    with duckdb.connect() as connection:
        connection.execute((tmp_path / "views.sql").read_text())
        assert connection.sql(query).fetchall() == wanted
        assert connection.sql(faces).fetchall() == [row for row in wanted if row[2]]


# views.sql


ODD_NAMES = [
    *("sp ace", "100%25", "it's", "a[b]c", "[", "st*r", "wh?t", "{x,y}", "naïve", "#1", "~"),
    *("k=1", "run=zz", "dt=5", 'quo"te', "new\nline"),
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_views_show_the_newest_rows_wherever_the_output_lies(tmp_path, name):
    output = storage.canonical_uri(str(tmp_path / name / "out"))
    decoy = storage.canonical_uri(str(tmp_path / name.translate(str.maketrans("*?[", "xxx"))))
    first = [Photo("s3://p/a.jpg", [SMILE, NO_SMILE]), Photo("s3://p/b.jpg", [UNSURE])]
    runs = [
        add_run(output, FIRST, first, rows_per_file=1),
        add_run(
            output, SECOND, [Photo("s3://p/b.jpg", [SMILE])], replaced=[(FIRST, "s3://p/b.jpg")]
        ),
        add_run(output, THIRD, [Photo("s3://p/c.jpg", status="no_face")]),
    ]
    if "*" in name or "?" in name or "[" in name:
        add_run(f"{decoy}/out", FIRST, [Photo("s3://p/decoy.jpg", [SMILE])])
    write_views(output, runs)
    with duckdb.connect() as connection:
        connection.execute((tmp_path / name / "out" / "views.sql").read_text())
        images = connection.sql("SELECT image_uri, run, dt FROM images ORDER BY image_uri")
        assert images.fetchall() == [
            ("s3://p/a.jpg", FIRST, date(2026, 11, 23)),
            ("s3://p/b.jpg", SECOND, date(2026, 11, 24)),
            ("s3://p/c.jpg", THIRD, date(2026, 11, 25)),
        ]
        assert connection.sql(FACES_QUERY).fetchall() == FACES
        assert connection.sql("FROM faces").columns == fattr.open_tables(output).faces.columns
        plan = connection.sql(f"EXPLAIN ANALYZE FROM images WHERE run = '{FIRST}'").fetchall()
        assert "Scanning Files: 2/4" in plan[0][1]


@pytest.mark.parametrize("photos", [[], [Photo("s3://p/a.jpg", status="no_face")]])
def test_views_without_rows_have_the_columns(tmp_path, photos):
    output = storage.canonical_uri(str(tmp_path))
    write_views(output, [add_run(output, FIRST, photos)])
    with duckdb.connect() as connection:
        connection.execute((tmp_path / "views.sql").read_text())
        opened = fattr.open_tables(output)
        for name in ("images", "faces"):
            found, wanted = connection.view(name), getattr(opened, name)
            assert found.columns == wanted.columns
            # Parquet knows no lists of a fixed length.
            assert [str(t).replace("[10]", "[]") for t in found.types] == [
                str(t).replace("[10]", "[]") for t in wanted.types
            ]
        assert connection.sql("SELECT count(*) FROM images").fetchall() == [(len(photos),)]


def test_views_of_s3_name_the_objects(s3_bucket):
    output = f"{s3_bucket}/out"
    runs = [add_run(output, FIRST, [Photo("s3://p/a.jpg", [SMILE])]), add_run(output, SECOND, [])]
    write_views(output, runs)
    text = storage.read_bytes(f"{output}/views.sql").decode()
    assert f"'{output}/faces/dt=2026-11-23/run={FIRST}/part-*.parquet'" in text
    assert SECOND not in text


def test_importing_fattr_imports_nothing_heavy():
    code = "import sys, fattr; print([m for m in ('duckdb', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="open_table"):
        fattr.open_table  # noqa: B018


def test_parts_are_where_the_list_says(output, runs):
    listed = get_parquet(runs[0].file("files.parquet")).column("path").to_pylist()
    assert all(storage.exists(storage.join(output, path)) for path in listed)
