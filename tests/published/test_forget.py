"""Forgetting images: nothing of them is left, all else is as it was, however often it is killed."""

import functools
import json
import tempfile
from collections import Counter
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage, tables
from fattr.attributes import attribute
from fattr.errors import RunError, UsageError
from fattr.published import forget as forget_module
from fattr.published.forget import Forgotten, forget, forgotten_ids
from fattr.published.publish import publish, read_files
from fattr.published.verify import verify
from fattr.runs.manifest import UriNames
from fattr.runs.record import write_json
from fattr.runs.run import Run

STARTED = datetime(2026, 11, 26, 8, 0, 0, tzinfo=UTC)
ATTRIBUTES = [attribute("smiling")]
RUN_IDS = [f"202611{day}T211700Z-00000{day % 10}" for day in (23, 24, 25)]
KEY = b"0123456789abcdef"


@pytest.fixture(params=["folder", "s3"])
def output(request, tmp_path):
    if request.param == "folder":
        return storage.canonical_uri(str(tmp_path / "tables"))
    return storage.join(request.getfixturevalue("s3_bucket"), "tables")


def uri_of(letter):
    return f"s3://photos/of people/{letter * 3} é%.jpg"


LETTERS = {0: "abcdefghijklmnopqrst", 1: "bcuv", 2: ""}
REDONE = {1: "bc"}  # rows of the first run that the second replaces
DELETED = {1: "de", 2: "def"}


def num_faces(letter):
    return ord(letter) % 3


def staged_row(letter, names):
    image_id, image_uri, _ = names.name(uri_of(letter))
    row = dict.fromkeys(tables.STAGE_SECONDS, 0.0)
    face = {f.name: [0.5] * 10 if f.name == "landmarks" else 1 for f in face_fields()}
    face |= {"smiling": True}
    faces = [face | {"face_index": index} for index in range(num_faces(letter))]
    return row | {
        "image_id": image_id,
        "image_uri": image_uri,
        "etag": "e" + letter,
        "size_bytes": ord(letter),
        "width": 4,
        "height": 3,
        "num_faces": len(faces),
        "status": "ok" if faces else "no_face",
        "reason": "",
        "faces": faces,
    }


def face_fields():
    return tables.face_fields(ATTRIBUTES)


def parquet(uri, rows, schema):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, row_group_size=3, compression="zstd")
    storage.write_bytes(uri, sink.getvalue().to_pybytes())


MANIFEST = pa.schema(
    [
        pa.field("image_id", pa.int64(), nullable=False),
        pa.field("image_uri", pa.string(), nullable=False),
        pa.field("fetch_uri", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("etag", pa.string()),
    ]
)
REPLACED = pa.schema([("run_id", pa.string()), ("image_id", pa.int64())])
GONE = pa.schema([("image_id", pa.int64()), ("image_uri", pa.string()), ("run_id", pa.string())])


@functools.cache
def made(key):
    """The files of an output of three runs, made by publishing them on the local disk."""
    with tempfile.TemporaryDirectory() as folder:
        output = storage.canonical_uri(folder)
        publish_runs(output, UriNames(key))
        return snapshot(output)


def make_output(output, key=None):
    """Three finished runs: twenty images, then two of them again and two more, then nothing."""
    put(output, made(key))
    return output


def publish_runs(output, names):
    ids = {letter: names.name(uri_of(letter))[:2] for letter in "abcdefghijklmnopqrstuv"}
    for number, run_id in enumerate(RUN_IDS):
        run = Run(output, run_id)
        staged = [staged_row(letter, names) for letter in LETTERS[number]]
        staged.sort(key=lambda row: row["image_uri"])
        schema = tables.staged_schema(ATTRIBUTES)
        for part in range(0, len(staged), 7):
            here = staged[part : part + 7]
            rows = [{name: row.get(name) for name in MANIFEST.names} for row in here]
            parquet(storage.join(run.manifest, f"part-{part:05d}.parquet"), rows, MANIFEST)
            parquet(storage.join(run.staging, f"part-{part:05d}.parquet"), here, schema)
        published = publish(
            run, attributes=ATTRIBUTES, model_id="m", metadata={"k": "v"}, rows_per_file=6
        )
        storage.delete_tree(run.staging)
        pairs = [{"run_id": RUN_IDS[0], "image_id": ids[x][0]} for x in REDONE.get(number, "")]
        parquet(run.file("replaced.parquet"), pairs, REPLACED)
        gone = [
            {"image_id": ids[x][0], "image_uri": ids[x][1], "run_id": RUN_IDS[0]}
            for x in DELETED.get(number, "")
        ]
        parquet(run.file("deleted.parquet"), gone, GONE)
        counts = {"num_images": len(staged), "num_faces": published.totals.num_faces}
        write_json(run.file("run.json"), {"run_id": run_id, **counts})
        storage.write_bytes(run.file("_SUCCESS"), json.dumps(counts).encode())


def snapshot(output):
    return {
        storage.relative_path(entry.uri, output): storage.read_bytes(entry.uri)
        for entry in storage.list_tree(output)
    }


def put(output, files):
    storage.delete_tree(output)
    for path, data in files.items():
        storage.write_bytes(storage.join(output, path), data)


def rows_by_file(files):
    return {
        path: pq.read_table(pa.BufferReader(data)).to_pylist()
        for path, data in files.items()
        if path.endswith(".parquet") and not path.endswith("files.parquet")
    }


def everything_in(data):
    """All that a Parquet file says, compressed or not: its bytes, values and statistics."""
    part = pq.ParquetFile(pa.BufferReader(data))
    groups = [part.metadata.row_group(number) for number in range(part.num_row_groups)]
    statistics = [
        str(group.column(number).statistics)
        for group in groups
        for number in range(group.num_columns)
    ]
    values = str(part.read().to_pylist())
    return " ".join([data.decode("latin-1"), data.decode(errors="replace"), values, *statistics])


def forget_letters(output, letters, names=None, *, keep_out=True):
    uris = [uri_of(letter) for letter in letters]
    return forget(output, uris, names=names or UriNames(), keep_out=keep_out, started=STARTED)


@pytest.mark.parametrize("key", [None, KEY])
def test_nothing_is_left_and_all_else_is_as_it_was(output, key):
    names = UriNames(key)
    make_output(output, key)
    before = snapshot(output)
    done = forget_letters(output, "bdvx", names)
    after = snapshot(output)

    gone = {names.name(uri_of(letter))[:2] for letter in "bdvx"}
    ids = {number for number, _ in gone}
    wanted = {
        path: [row for row in rows if row["image_id"] not in ids]
        for path, rows in rows_by_file(before).items()
    }
    made = rows_by_file(after)
    assert made.pop("_runs/forgotten.parquet") == [{"image_id": n} for n in sorted(ids)]
    assert made == wanted
    told = "".join(
        everything_in(data)
        for path, data in after.items()
        if path.endswith(".parquet") and "forgotten" not in path
    )
    told += "".join(data.decode() for path, data in after.items() if not path.endswith(".parquet"))
    for number, uri in gone:
        assert uri not in told
        assert str(number) not in told
    assert names.name(uri_of("a"))[1] in told
    assert verify(output, on_file=lambda _: None) == []
    faces = sum(num_faces(letter) for letter in "bbdv")
    assert done == Forgotten(4, 1, 4, faces, done.num_files)
    changed = [p for p in before if p.endswith(".parquet") and before[p] != after[p]]
    assert done.num_files == len([path for path in changed if not path.endswith("files.parquet")])


def test_files_without_such_rows_are_not_touched(output):
    make_output(output)
    before = snapshot(output)
    forget_letters(output, "a")
    changed = {path for path, data in snapshot(output).items() if before.get(path) != data}
    run = f"_runs/{RUN_IDS[0]}"
    day = f"dt=2026-11-23/run={RUN_IDS[0]}"
    assert changed == {
        f"images/{day}/part-00000.parquet",
        f"faces/{day}/part-00000.parquet",
        f"{run}/manifest/part-00000.parquet",
        f"{run}/files.parquet",
        f"{run}/run.json",
        f"{run}/_SUCCESS",
        "_runs/forgotten.parquet",
        "_audit/20261126T080000Z-forget.json",
    }


def test_runs_say_how_many_they_hold_and_have_forgotten(output):
    make_output(output)
    forget_letters(output, "bdv")
    forget_letters(output, "ae")
    said = [json.loads(storage.read_bytes(Run(output, r).file("_SUCCESS"))) for r in RUN_IDS]
    letters = [set(LETTERS[number]) - set("bdvae") for number in range(3)]
    assert said == [
        {"num_images": len(kept), "num_faces": sum(map(num_faces, kept))} for kept in letters
    ]
    infos = [json.loads(storage.read_bytes(Run(output, r).file("run.json"))) for r in RUN_IDS]
    assert [info.get("forgotten") for info in infos] == [4, 2, None]
    assert infos[0]["num_images"] == 20  # what the run did stays


def test_a_run_may_lose_all_its_images(output):
    make_output(output)
    forget_letters(output, "bcuv")
    assert verify(output, on_file=lambda _: None) == []
    run = Run(output, RUN_IDS[1])
    assert Counter(file.num_rows for file in read_files(run)) == Counter({0: 2})
    assert json.loads(storage.read_bytes(run.file("_SUCCESS")))["num_images"] == 0


def test_unknown_images_are_counted_and_kept_out_all_the_same(output):
    make_output(output)
    before = snapshot(output)
    done = forget_letters(output, "xyx")
    assert done == Forgotten(2, 2, 0, 0, 0)
    assert "2 in no run" in done.describe()
    after = snapshot(output)
    assert {path: after[path] for path in before} == before
    assert forgotten(output) == {UriNames().name(uri_of(letter))[0] for letter in "xy"}


def forgotten(output):
    held = forgotten_ids(output)
    return None if held is None else set(held["image_id"].to_pylist())


def test_ids_are_kept_until_they_may_be_annotated_again(output):
    make_output(output)
    ids = {letter: UriNames().name(uri_of(letter))[0] for letter in "abx"}
    assert forgotten(output) is None
    forget_letters(output, "a", keep_out=False)
    assert forgotten(output) is None
    forget_letters(output, "bx")
    assert forgotten(output) == {ids["b"], ids["x"]}
    forget_letters(output, "b", keep_out=False)
    assert forgotten(output) == {ids["x"]}


@pytest.mark.parametrize("keep_out", [True, False])
def test_ids_of_a_removal_that_was_cut_short_at_once_count_already(output, keep_out, monkeypatch):
    make_output(output)
    forget_letters(output, "x")
    ids = {letter: UriNames().name(uri_of(letter))[0] for letter in "bx"}

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(forget_module, "_keep_ids", killed)
        with pytest.raises(KilledError):
            forget_letters(output, "b", keep_out=keep_out)
    assert forgotten(output) == ({ids["b"], ids["x"]} if keep_out else {ids["x"]})
    forget_letters(output, "b", keep_out=keep_out)
    assert forgotten(output) == ({ids["b"], ids["x"]} if keep_out else {ids["x"]})


def test_any_spelling_of_a_uri_will_do(tmp_path):
    output = storage.canonical_uri(str(tmp_path))
    done = forget(
        output,
        ["/photos/a b.jpg", "file:///photos/a%20b.jpg", "file:///photos/./a b.jpg"],
        names=UriNames(),
        keep_out=True,
        started=STARTED,
    )
    assert done.num_uris == 1
    assert forgotten(output) == {UriNames().name("file:///photos/a%20b.jpg")[0]}


def test_an_id_that_collided_is_followed_by_its_uri(output):
    """The rows of an image are found by its URI: in a run its id need not be the usual one."""
    make_output(output)
    done = forget_letters(output, "b", UriNames(digest=lambda data: bytes(32)))
    assert done.num_images == 2
    assert forgotten(output) == {0, UriNames().name(uri_of("b"))[0]}
    assert verify(output, on_file=lambda _: None) == []


def test_it_is_audited_without_uris(output):
    make_output(output)
    done = forget_letters(output, "bx")
    [uri] = [entry.uri for entry in storage.list_tree(storage.join(output, "_audit"))]
    content = json.loads(storage.read_bytes(uri))
    assert content["images_by_run"] == {RUN_IDS[0]: 1, RUN_IDS[1]: 1}
    assert (content["num_uris"], content["num_unknown"]) == (2, 1)
    assert content["num_faces"] == done.num_faces
    assert "photos" not in json.dumps(content)


def test_an_unfinished_run_is_refused(output):
    make_output(output)
    storage.write_bytes(Run(output, "20261126T000000Z-000000").file("run.json"), b"{}")
    before = snapshot(output)
    with pytest.raises(UsageError, match="20261126T000000Z-000000, unfinished: run its command"):
        forget_letters(output, "a")
    assert snapshot(output) == before


def test_drafts_that_a_kill_left_behind_go_too(tmp_path):
    output = make_output(storage.canonical_uri(str(tmp_path)))
    run = Run(output, RUN_IDS[0])
    for folder in (run.folder, run.manifest, run.table("images"), run.table("faces")):
        storage.write_bytes(storage.join(folder, ".part-00000.parquet"), b"aaa.jpg")
    forget_letters(output, "a")
    assert not [path for path in snapshot(output) if "/." in path]


def test_a_damaged_file_is_named_before_anything_is_removed(output):
    make_output(output)
    file = storage.join(Run(output, RUN_IDS[1]).table("images"), "part-00000.parquet")
    storage.write_bytes(file, storage.read_bytes(file)[:-1])
    before = snapshot(output)
    with pytest.raises(RunError, match=r"run=.*part-00000.parquet is damaged"):
        forget_letters(output, "a")
    assert snapshot(output) == before


# Killed


class KilledError(Exception):
    pass


def kill_at(patch, number):
    """End the call before its ``number``-th change of the store, which is after the one before."""
    count = 0

    def failing(change):
        def call(*args):
            nonlocal count
            count += 1
            if count == number:
                raise KilledError
            return change(*args)

        return call

    patch.setattr(storage, "write_bytes", failing(storage.write_bytes))
    patch.setattr(storage, "write_new", failing(storage.write_new))
    patch.setattr(forget_module, "_delete", failing(forget_module._delete))
    patch.setattr(forget_module, "_NUM_WRITING", 1)


@pytest.mark.parametrize(
    "output", ["folder", pytest.param("s3", marks=pytest.mark.full)], indirect=True
)
def test_killed_at_any_write_it_is_finished_by_the_next_call(output, monkeypatch):
    make_output(output)
    before = snapshot(output)
    done = forget_letters(output, "bdvx")
    wanted = snapshot(output)
    for number in range(1, 100):
        put(output, before)
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                forget_letters(output, "bdvx")
            except KilledError:
                pass
            else:
                break  # it was done with fewer writes
        if "_runs/forget.json" not in snapshot(output) and snapshot(output) == wanted:
            continue  # killed after the last write
        again = forget_letters(output, "bdvx")
        assert snapshot(output) == wanted, number
        assert again == done
    assert number > 15


def test_another_call_finishes_what_was_killed_and_does_its_own(output, monkeypatch):
    make_output(output)
    with monkeypatch.context() as patch:
        kill_at(patch, 4)
        with pytest.raises(KilledError):
            forget_letters(output, "bdvx")
    assert any("forget" in problem for problem in verify(output, on_file=lambda _: None))
    done = forget_letters(output, "ab")
    assert (done.num_images, done.num_unknown) == (1, 1)  # b had gone with the first
    told = "".join(
        everything_in(data) for path, data in snapshot(output).items() if path.endswith(".parquet")
    )
    assert not [letter for letter in "abdv" if uri_of(letter) in told]
    assert verify(output, on_file=lambda _: None) == []
    assert len(list(storage.list_tree(storage.join(output, "_audit")))) == 2


def test_what_a_run_wrote_since_the_kill_goes_too(output, monkeypatch):
    make_output(output)
    with monkeypatch.context() as patch:
        kill_at(patch, 7)
        with pytest.raises(KilledError):
            forget_letters(output, "d")
    row = {"image_id": UriNames().name(uri_of("d"))[0], "image_uri": uri_of("d"), "run_id": "r"}
    parquet(Run(output, RUN_IDS[2]).file("deleted.parquet"), [row], GONE)
    forget_letters(output, "d")
    told = [everything_in(data) for path, data in snapshot(output).items() if "parquet" in path]
    assert uri_of("d") not in "".join(told)


def test_a_lease_that_is_lost_stops_it(output):
    make_output(output)
    before = snapshot(output)

    def lost():
        raise RunError("lost")

    with pytest.raises(RunError):
        forget(output, [uri_of("a")], names=UriNames(), keep_out=True, started=STARTED, check=lost)
    assert snapshot(output) == before
