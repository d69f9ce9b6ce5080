"""Everything that can be wrong with an OUTPUT is named, and nothing else is."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_output import Photo, add_run, finish, get_parquet, put_manifest, put_parquet

from fattr import storage
from fattr.errors import UsageError
from fattr.published import verify as verifying
from fattr.published.catalog import REPLACED_SCHEMA
from fattr.published.publish import FILES_SCHEMA
from fattr.published.verify import verify
from fattr.runs.run import Run

FIRST, SECOND, THIRD = (f"202611{day}T211700Z-3f9c1{day % 10}" for day in (23, 24, 25))
FACE = {"smiling": True, "smiling_prob": 0.9}
PHOTOS = [Photo(f"s3://p/{i:02d}.jpg", [FACE] * (i % 4)) for i in range(20)]
AGAIN = [Photo("s3://p/03.jpg", [FACE], etag="2"), Photo("s3://p/99.jpg")]
IMAGES_0 = f"images/dt=2026-11-23/run={FIRST}/part-00000.parquet"
FACES_1 = f"faces/dt=2026-11-23/run={FIRST}/part-00001.parquet"


def make(output: str) -> list[Run]:
    return [
        add_run(output, FIRST, PHOTOS, rows_per_file=8),
        add_run(output, SECOND, AGAIN, replaced=[(FIRST, "s3://p/03.jpg")]),
        add_run(output, THIRD, []),
    ]


@pytest.fixture
def output(tmp_path) -> str:
    make(str(tmp_path / "out put"))
    return storage.canonical_uri(str(tmp_path / "out put"))


def test_a_good_output_has_no_problem(output):
    read = []
    assert verify(output, on_file=read.append) == []
    assert len(read) == len(set(read)) == 3 + 4 + 1 + 1
    assert {IMAGES_0, FACES_1} <= set(read)


def test_a_good_output_on_s3_has_no_problem(s3_bucket):
    runs = make(f"{s3_bucket}/out")
    assert verify(f"{s3_bucket}/out") == []
    _delete(storage.join(runs[0].output, FACES_1))
    assert verify(f"{s3_bucket}/out") == [f"run {FIRST}: {FACES_1} is missing"]


def test_an_unfinished_run_is_no_problem(output):
    run = Run(output, "20261126T000000Z-000000")
    put_manifest(run, PHOTOS)
    storage.write_bytes(storage.join(run.table("images"), "part-00000.parquet"), b"half")
    assert verify(output) == []


@pytest.mark.parametrize("when", ["begins", "is thrown away"])
def test_a_run_beside_it_is_no_problem(output, monkeypatch, when):
    """Its files of the tables are there while the files are listed, but not before, or after."""
    beside = Run(output, "20261126T000000Z-000000")

    def list_files(place):
        put_manifest(beside, PHOTOS)
        uri = storage.join(beside.table("images"), "part-00000.parquet")
        storage.write_bytes(uri, b"half")
        found = lying_files(place)
        if when == "is thrown away":
            _delete(uri)
            storage.delete_tree(beside.folder)
        return found

    if when == "is thrown away":
        put_manifest(beside, PHOTOS)
    lying_files = verifying._lying_files
    monkeypatch.setattr(verifying, "_lying_files", list_files)
    assert verify(output) == []


def test_an_output_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="holds no finished run"):
        verify(str(tmp_path))


# Tampering: each way changes an OUTPUT, and says what must be said.


def _delete(uri: str) -> None:
    files, path = storage.filesystem(uri)
    files.delete_file(path)


def _edit(output: str, path: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite a part as somebody would who knows Parquet, not fattr."""
    uri = storage.join(output, path)
    put_parquet(change(get_parquet(uri)), uri, compression="zstd")


def _own(output: str, path: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """The same, and the list of files made to agree: only the rows can tell."""
    _edit(output, path, change)
    data = storage.read_bytes(storage.join(output, path))
    run = Run(output, path.split("run=")[1].partition("/")[0])
    rows = get_parquet(run.file("files.parquet")).to_pylist()
    for row in rows:
        if row["path"] == path:
            row["size_bytes"], row["sha256"] = len(data), hashlib.sha256(data).hexdigest()
            row["num_rows"] = pq.read_metadata(pa.BufferReader(data)).num_rows
    put_parquet(pa.Table.from_pylist(rows, FILES_SCHEMA), run.file("files.parquet"))


def _set(name: str, row: int, value: object) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        column = table.column(name).to_pylist()
        column[row] = value
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        return table.set_column(place, field, pa.array(column, field.type))

    return change


def _without(row: int) -> Callable[[pa.Table], pa.Table]:
    return lambda table: pa.concat_tables([table.slice(0, row), table.slice(row + 1)])


def _flip(output: str, path: str) -> None:
    data = bytearray(storage.read_bytes(storage.join(output, path)))
    data[len(data) // 3] ^= 1
    storage.write_bytes(storage.join(output, path), bytes(data))


def _cut(uri: str) -> None:
    storage.write_bytes(uri, storage.read_bytes(uri)[:-9])


def _manifest(output: str, change: Callable[[pa.Table], pa.Table]) -> None:
    _edit(output, f"_runs/{FIRST}/manifest/part-00000.parquet", change)


def _replaced(output: str, *pairs: tuple[str, str]) -> None:
    rows = [{"run_id": run, "image_id": Photo(uri).image_id} for run, uri in pairs]
    uri = Run(output, SECOND).file("replaced.parquet")
    put_parquet(pa.Table.from_pylist(rows, REPLACED_SCHEMA), uri)


def _rename_run(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(table.schema.metadata | {b"fattr.run_id": b"x"})


def _other_settings(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(table.schema.metadata | {b"fattr.settings_id": b"x"})


def _other_classes(table: pa.Table) -> pa.Table:
    name = "perceived_gender_presentation_probs"
    field = table.schema.field(name).with_metadata({b"fattr.classes": b'["masculine", "feminine"]'})
    return table.set_column(table.schema.get_field_index(name), field, table.column(name))


GOOD_PAIR = (FIRST, "s3://p/03.jpg")
TAMPERED = {
    "a file is gone": (
        lambda out: _delete(storage.join(out, FACES_1)),
        [f"{FACES_1} is missing"],
    ),
    "a file of images is gone": (
        lambda out: _delete(storage.join(out, IMAGES_0)),
        [f"{IMAGES_0} is missing"],
    ),
    "a file too many": (
        lambda out: storage.write_bytes(storage.join(out, IMAGES_0 + ".copy"), b"x"),
        [f"{IMAGES_0}.copy was not published by it"],
    ),
    "a hidden file too many": (
        lambda out: storage.write_bytes(
            storage.join(out, IMAGES_0.replace("part-00000", ".part-9")), b"x"
        ),
        [f"{IMAGES_0.replace('part-00000', '.part-9')} was not published by it"],
    ),
    "a file of no run": (
        lambda out: storage.write_bytes(storage.join(out, "faces/mine.parquet"), b"x"),
        ["faces/mine.parquet belongs to no run"],
    ),
    "a byte is flipped": (
        lambda out: _flip(out, IMAGES_0),
        [f"{IMAGES_0} is not what was published: its SHA-256 differs"],
    ),
    "a file is cut short": (
        lambda out: storage.write_bytes(
            storage.join(out, IMAGES_0), storage.read_bytes(storage.join(out, IMAGES_0))[:-9]
        ),
        [f"{IMAGES_0} has", f"{IMAGES_0} is no readable Parquet file"],
    ),
    "a row is deleted": (
        lambda out: _edit(out, IMAGES_0, _without(2)),
        [f"{IMAGES_0} has 7 rows: 8 were published", "1 images of its manifest have no row"],
    ),
    "a row is deleted and the list changed": (
        lambda out: _own(out, IMAGES_0, _without(4)),
        ["1 images of its manifest have no row", "says num_images 20: there are 19"],
    ),
    "faces of a deleted row": (
        lambda out: _own(out, IMAGES_0, _without(3)),
        ["3 rows of faces are of no image"],
    ),
    "a row is doubled": (
        lambda out: _own(
            out, IMAGES_0, lambda t: pa.concat_tables([t.slice(0, 1), t.slice(0, 7), t.slice(7)])
        ),
        ["1 rows of images are of an image that has another row"],
    ),
    "an image has another id": (
        lambda out: _own(out, IMAGES_0, _set("image_id", 0, 7)),
        [
            "1 images of its manifest have no row",
            "1 rows of images are of no image of its manifest",
        ],
    ),
    "an image has another name": (
        lambda out: _own(out, IMAGES_0, _set("image_uri", 0, "s3://p/00.jpg ")),
        ["1 images have another image_uri than in its manifest"],
    ),
    "rows are not sorted": (
        lambda out: _own(out, IMAGES_0, lambda t: t.take(pa.array([1, 0, *range(2, 8)]))),
        ["images is not sorted by image_uri"],
    ),
    "an unknown status": (
        lambda out: _own(out, IMAGES_0, _set("status", 1, "fine")),
        ["1 rows of images have an unknown status"],
    ),
    "a wrong number of faces": (
        lambda out: _own(out, IMAGES_0, _set("num_faces", 1, 2)),
        ["1 images have another number of faces than num_faces says"],
    ),
    "a face is deleted": (
        lambda out: _own(out, FACES_1, _without(0)),
        ["1 images have another number of faces", "says num_faces 30: there are 29"],
    ),
    "a face is given twice": (
        lambda out: _own(out, FACES_1, _set("face_index", 3, 7)),
        ["1 images have faces whose face_index is not 0, 1, 2 and so on"],
    ),
    "a manifest with an image more": (
        lambda out: _manifest(
            out,
            lambda t: pa.concat_tables(
                [
                    t,
                    t.slice(0, 1)
                    .set_column(0, "image_id", pa.array([5]))
                    .set_column(1, "image_uri", pa.array(["t"])),
                ]
            ),
        ),
        ["1 images of its manifest have no row"],
    ),
    "a manifest with an image less": (
        lambda out: _manifest(out, _without(19)),
        ["1 rows of images are of no image of its manifest"],
    ),
    "no manifest": (
        lambda out: storage.delete_tree(Run(out, FIRST).manifest),
        ["20 rows of images are of no image of its manifest"],
    ),
    "a column more": (
        lambda out: _own(out, FACES_1, lambda t: t.append_column("race", pa.nulls(len(t)))),
        [f"{FACES_1} has another schema or other settings than earlier files"],
    ),
    "a column of another type": (
        lambda out: _own(
            out, FACES_1, lambda t: t.set_column(5, "box_y1", t.column("box_y1").cast(pa.float64()))
        ),
        [f"{FACES_1} has another schema or other settings than earlier files"],
    ),
    "classes in another order": (
        lambda out: _own(out, FACES_1, _other_classes),
        [f"{FACES_1} has another schema or other settings than earlier files"],
    ),
    "rows of other settings": (
        lambda out: _own(out, FACES_1, _other_settings),
        [f"{FACES_1} has another schema or other settings than earlier files"],
    ),
    "a file of another run": (
        lambda out: _own(out, FACES_1, _rename_run),
        [f"{FACES_1} says that it is of another run"],
    ),
    "other counts": (
        lambda out: finish(Run(out, FIRST), 20, 31),
        ["_SUCCESS says num_faces 31: there are 30"],
    ),
    "no counts": (
        lambda out: storage.write_bytes(Run(out, FIRST).file("_SUCCESS"), b""),
        ["_SUCCESS says num_images None", "_SUCCESS says num_faces None"],
    ),
    "no list of files": (
        lambda out: _delete(Run(out, FIRST).file("files.parquet")),
        ["files.parquet cannot be read"],
    ),
    "a list of files that is none": (
        lambda out: storage.write_bytes(Run(out, FIRST).file("files.parquet"), b"x"),
        ["files.parquet cannot be read"],
    ),
    "a list of replaced rows that is none": (
        lambda out: storage.write_bytes(Run(out, SECOND).file("replaced.parquet"), b"x"),
        ["replaced.parquet cannot be read"],
    ),
    "a list of replaced rows that is cut short": (
        lambda out: _cut(Run(out, SECOND).file("replaced.parquet")),
        ["replaced.parquet cannot be read"],
    ),
    "a list of deleted images that is none": (
        lambda out: storage.write_bytes(Run(out, SECOND).file("deleted.parquet"), b"x"),
        ["deleted.parquet cannot be read"],
    ),
    "a manifest that is cut short": (
        lambda out: _cut(f"{Run(out, FIRST).manifest}/part-00000.parquet"),
        ["manifest/part-00000.parquet is damaged"],
    ),
    "nothing replaced, though it was": (
        _replaced,
        ["1 images have rows of several runs, none of them replaced"],
    ),
    "a replaced row that never was": (
        lambda out: _replaced(out, GOOD_PAIR, (FIRST, "s3://p/99.jpg")),
        ["replaced.parquet lists 1 rows that are not there"],
    ),
    "a row replaced by none": (
        lambda out: _replaced(out, GOOD_PAIR, (FIRST, "s3://p/05.jpg")),
        ["replaced.parquet lists 1 rows whose newer row is not there"],
    ),
    "a row replaced by itself": (
        lambda out: _replaced(out, GOOD_PAIR, (SECOND, "s3://p/03.jpg")),
        ["replaced.parquet lists 1 rows of no older run"],
    ),
    "a row of a run that is none": (
        lambda out: _replaced(out, GOOD_PAIR, ("20260101T000000Z-000000", "s3://p/03.jpg")),
        ["replaced.parquet lists 1 rows of no older run"],
    ),
    "images half forgotten": (
        lambda out: storage.write_bytes(storage.join(out, "_runs/forget.json"), b"{}"),
        ["images are still being forgotten"],
    ),
}


@pytest.mark.parametrize("way", TAMPERED)
def test_tampering_is_named(output, way):
    tamper, wanted = TAMPERED[way]
    tamper(output)
    problems = verify(output)
    for text in wanted:
        assert any(text in problem for problem in problems), problems


@pytest.mark.parametrize("way", [way for way, (_, wanted) in TAMPERED.items() if len(wanted) == 1])
def test_one_fault_gives_few_lines(output, way):
    TAMPERED[way][0](output)
    assert 1 <= len(verify(output)) <= 3


def test_any_flipped_byte_of_a_part_is_seen(output):
    draw = random.Random(0)
    path = Path(storage.filesystem(storage.join(output, IMAGES_0))[1])
    whole = path.read_bytes()
    for _ in range(25):
        data = bytearray(whole)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(data))
        problems = verify(output)
        assert any(f"{IMAGES_0} is not what was published" in problem for problem in problems)
    path.write_bytes(whole)
    assert verify(output) == []


def test_a_file_without_permission_or_with_a_folder_in_its_place(output):
    path = Path(storage.filesystem(storage.join(output, FACES_1))[1])
    path.unlink()
    path.mkdir()
    assert any(f"{FACES_1} is missing" in problem for problem in verify(output))


def test_faces_of_one_image_may_lie_in_two_files_and_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("fattr.published.verify._BATCH_ROWS", 3)
    photos = [Photo(f"s3://p/{i}.jpg", [FACE] * count) for i, count in enumerate([0, 11, 2, 0, 7])]
    add_run(str(tmp_path), FIRST, photos, rows_per_file=4)
    assert verify(str(tmp_path)) == []
    total = sum(
        get_parquet(entry.uri).num_rows for entry in storage.list_tree(str(tmp_path / "faces"))
    )
    assert total == 20
    assert pc.sum(pa.array([len(photo.faces) for photo in photos])).as_py() == total
