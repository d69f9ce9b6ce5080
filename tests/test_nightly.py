"""``jobs/annotate.py`` night after night, on a folder and on a bucket."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

import fattr
from fattr import storage
from fattr.cli import run_job
from fattr.commands import annotate as annotate_job
from fattr.errors import RunError, UsageError

NAMES = ("1-face.jpg", "2-faces.jpg", "coffee.png", "notes.txt")
CLOCK = itertools.count(1)


@dataclass(frozen=True)
class Room:
    """Images and an output, in a folder or in a bucket."""

    images: str
    output: str
    model: str
    put: Callable[[str, bytes], None]
    drop: Callable[[str], None]

    def annotate(self, *flags: str) -> SimpleNamespace:
        argv = ["--images", self.images, "--output", self.output, "--model", self.model]
        return run("annotate", *argv, "--engine", "local", *flags)

    def infos(self) -> list[dict]:
        """``run.json`` of each run, oldest first."""
        found = [e.uri for e in storage.list_tree(storage.join(self.output, "_runs"))]
        return [json.loads(storage.read_bytes(uri)) for uri in found if uri.endswith("/run.json")]

    def files(self) -> dict[str, str | None]:
        """All that lies in the output."""
        return {entry.uri: entry.etag for entry in storage.list_tree(self.output)}

    def statuses(self) -> dict[str, str]:
        """Of each image, in the newest of its rows."""
        rows = fattr.open_tables(self.output).to_pandas("images")
        assert rows["image_uri"].is_unique
        names = rows["image_uri"].str.rpartition("/")[2]
        return dict(zip(names, rows["status"], strict=True))

    def faces(self) -> Counter[str]:
        rows = fattr.open_tables(self.output).to_pandas("faces")
        return Counter(rows["image_uri"].str.rpartition("/")[2])


def run(job: str, *argv: str) -> SimpleNamespace:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run_job(job, list(argv))
    return SimpleNamespace(code=code, err=said.getvalue())


@pytest.fixture(params=["folder", "bucket"])
def room(request, tmp_path, photo_folder, models) -> Room:
    if request.param == "folder":
        images, output = tmp_path / "photos", str(tmp_path / "out")
        images.mkdir()

        def put(name: str, data: bytes) -> None:
            (images / name).write_bytes(data)
            os.utime(images / name, ns=(0, next(CLOCK)))

        def drop(name: str) -> None:
            (images / name).unlink()

        place = str(images)
    else:
        bucket, client = (request.getfixturevalue(n) for n in ("s3_bucket", "moto_client"))
        place, output = f"{bucket}/photos", f"{bucket}/out"

        def put(name: str, data: bytes) -> None:
            storage.write_bytes(f"{place}/{name}", data)

        def drop(name: str) -> None:
            client.delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"photos/{name}")

    made = Room(place, output, str(models.people), put, drop)
    for name in NAMES:
        put(name, (photo_folder / name).read_bytes())
    return made


def test_a_night_does_what_is_new_changed_or_gone_and_nothing_else(room, photo_folder):
    assert room.annotate().code == 0
    assert room.statuses() == {
        "1-face.jpg": "ok",
        "2-faces.jpg": "ok",
        "coffee.png": "no_face",
        "notes.txt": "unreadable",
    }
    assert room.faces() == {"1-face.jpg": 1, "2-faces.jpg": 2}

    room.put("new.jpg", (photo_folder / "1-face.jpg").read_bytes())
    room.put("2-faces.jpg", (photo_folder / "coffee.png").read_bytes())
    room.drop("notes.txt")
    assert room.annotate().code == 0
    found = room.infos()[-1]["increment"]
    assert (found["num_listed"], found["num_images"]) == (4, 2)
    assert (found["num_new"], found["num_changed"], found["num_unchanged"]) == (1, 1, 2)
    assert found["num_deleted"] == 1
    assert room.statuses() == {
        "1-face.jpg": "ok",
        "2-faces.jpg": "no_face",
        "coffee.png": "no_face",
        "notes.txt": "unreadable",  # gone, and what was seen of it stays
        "new.jpg": "ok",
    }
    assert room.faces() == {"1-face.jpg": 1, "new.jpg": 1}
    assert run("verify", room.output).code == 0


def test_a_night_without_news_looks_at_no_image(room, monkeypatch):
    assert room.annotate().code == 0
    before, tables = room.statuses(), [f for f in room.files() if "/_runs/" not in f]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(annotate_job, "build_annotate", refuse)
    again = room.annotate()
    assert again.code == 0, again.err
    assert room.statuses() == before
    assert [f for f in room.files() if "/_runs/" not in f and "/_audit/" not in f] == [
        f for f in tables if "/_audit/" not in f
    ]
    first, second = room.infos()
    assert (first["num_images"], second["num_images"]) == (4, 0)
    assert (first["engine"], second["engine"]) == ("local", "none")
    assert second["increment"]["num_unchanged"] == 4
    assert run("verify", room.output).code == 0


def test_all_does_everything_again_and_readers_see_each_image_once(room):
    assert room.annotate().code == 0
    before = fattr.open_tables(room.output).to_pandas("faces")
    assert room.annotate("--all").code == 0
    after = fattr.open_tables(room.output).to_pandas("faces")
    assert room.infos()[-1]["num_images"] == 4
    assert set(before["run"]).isdisjoint(after["run"])
    rows = [table.drop(columns=["run", "dt"]) for table in (before, after)]
    keys = ["image_uri", "face_index"]
    sorted_rows = [table.sort_values(keys).reset_index(drop=True) for table in rows]
    assert sorted_rows[0].equals(sorted_rows[1])
    assert run("verify", room.output).code == 0


def test_limit_goes_on_where_the_night_before_ended(room):
    done = []
    for expected in (3, 1, 0):
        assert room.annotate("--limit", "3").code == 0
        done.append(room.infos()[-1]["num_images"])
        assert done[-1] == expected
    assert len(room.statuses()) == 4


@pytest.mark.parametrize("file", ["images/", "replaced.parquet"])
def test_a_damaged_file_of_an_earlier_night_is_named_on_one_line(room, file):
    assert room.annotate().code == 0
    assert room.annotate("--all").code == 0
    hurt = [u for u in room.files() if file in u and u.endswith(".parquet")][-1]
    storage.write_bytes(hurt, storage.read_bytes(hurt)[:-9])
    before = room.files()
    ended = room.annotate()
    assert ended.code == 3
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].endswith(
        "is damaged: see what fattr verify says, and repair it"
    )
    left = {name for name in room.files() if "lease" not in name}
    assert left == {name for name in before if "lease" not in name}
    assert run("verify", room.output).code == 1


def test_no_room_to_compare_in_is_one_line(room, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "of a path")

    monkeypatch.setattr("fattr.increment.spool.pq.ParquetWriter.write_table", full)
    ended = room.annotate()
    assert ended.code == 3
    (line,) = [line for line in ended.err.splitlines() if line.startswith("fattr")]
    assert "No space left on device; free disk space there, or set TMPDIR" in line
    assert "Traceback" not in ended.err


def test_a_store_that_fails_while_it_is_listed_is_one_line(room, monkeypatch):
    """As Arrow says it, of a list of URIs in a bucket, or of an earlier night's rows."""

    def expired(*_: object, **__: object) -> None:
        raise OSError("When reading 'k' from https://u:p@host: AWS Error UNKNOWN (HTTP status 400)")
        yield

    with monkeypatch.context() as patch:
        patch.setattr("fattr.commands.work.read_source", expired)
        ended = room.annotate()
    assert ended.code == 3
    assert ended.err.count("\n") == 1
    assert room.annotate().code == 0
    with monkeypatch.context() as patch:
        patch.setattr("fattr.published.parts.pq.ParquetFile.iter_batches", expired)
        again = room.annotate()
    assert again.code == 3
    for one in (ended, again):
        assert "HTTP 400, as where the AWS credentials expired" in one.err.splitlines()[-1]
        assert "Traceback" not in one.err
        assert "u:p@host" not in one.err


def test_globs_choose(room):
    assert room.annotate("--include", "*.jpg", "--include", "*.png", "--exclude", "2-*").code == 0
    assert room.statuses() == {"1-face.jpg": "ok", "coffee.png": "no_face"}
    nothing = room.annotate("--include", "*.tiff")
    assert nothing.code == 2
    assert nothing.err.count("\n") == 1


def test_retry_does_the_named_statuses_again(room, photo_folder):
    assert room.annotate().code == 0
    nothing = run("retry", room.output, "--status", "timeout,denied")
    assert nothing.code == 0
    assert room.infos()[-1]["num_images"] == 0
    assert run("retry", room.output, "--status", "unreadable").code == 0
    assert room.infos()[-1]["num_images"] == 1
    assert len(room.statuses()) == 4
    assert room.annotate("--retry", "no_face").code == 0
    assert room.infos()[-1]["num_images"] == 1
    assert run("verify", room.output).code == 0
    wrong = run("retry", room.output, "--status", "broken")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)


def test_an_output_belongs_to_one_set_of_settings(room):
    assert room.annotate().code == 0
    before = room.files()
    refused = room.annotate("--min-face-px", "20")
    assert refused.code == 2
    assert "min_face_px" in refused.err
    assert refused.err.count("\n") == 1
    assert room.files() == before


def buggy(build: Callable[..., Callable]) -> Callable[..., Callable]:
    """Models that are broken: they raise over whatever can be read."""

    def build_buggy(*arguments: object) -> Callable:
        stage = build(*arguments)

        def label(rows):
            if rows["image_bytes"].null_count < rows.num_rows:
                raise ZeroDivisionError("a secret")
            return stage(rows)

        return label

    return build_buggy


def test_a_bug_that_all_images_meet_ends_the_run_and_not_the_images(room, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "build_annotate", buggy(annotate_job.build_annotate))
        met = room.annotate()
    assert met.code == 3
    last = met.err.splitlines()[-1]
    assert "4 images raised ZeroDivisionError and none got through" in last
    assert met.err.count("Traceback") == 1
    (info,) = room.infos()
    assert (info["exit_code"], info["error"]) == (3, last.removeprefix("fattr annotate: "))
    assert last.count("run the same command again") == 1
    with pytest.raises(UsageError):
        fattr.open_tables(room.output)
    assert room.annotate().code == 0
    assert Counter(room.statuses().values()) == {"ok": 2, "no_face": 1, "unreadable": 1}
    assert run("verify", room.output).code == 0


def test_odd_images_that_end_a_run_can_be_left_out(room, monkeypatch):
    monkeypatch.setattr(annotate_job, "build_annotate", buggy(annotate_job.build_annotate))
    met = room.annotate()
    assert met.code == 3
    advice = ("--discard-unfinished", "--exclude")
    assert all(flag in met.err for flag in advice)
    assert room.annotate(*advice, "*.jpg").code == 0
    assert room.statuses() == {"coffee.png": "poison", "notes.txt": "poison"}


def test_two_images_that_raise_may_be_odd_ones_and_may_raise_ever_again(room, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "build_annotate", buggy(annotate_job.build_annotate))
        assert room.annotate("--limit", "2").code == 0
        assert room.statuses() == {"1-face.jpg": "poison", "2-faces.jpg": "poison"}
        assert room.annotate("--limit", "2").code == 0
        for again in (
            lambda: run("retry", room.output, "--status", "denied,poison"),
            lambda: room.annotate("--retry", "poison"),
        ):
            retried = again()
            assert retried.code == 0, retried.err
            assert room.infos()[-1]["by_status"] == {"poison": 4}
    assert run("retry", room.output, "--status", "poison").code == 0
    assert Counter(room.statuses().values()) == {"ok": 2, "no_face": 1, "unreadable": 1}


@pytest.mark.parametrize("step", ["list_work", "annotate_images", "publish_tables"])
def test_a_bug_is_told_by_its_type_alone(room, tmp_path, monkeypatch, step):
    told = tmp_path / "told.json"

    def broken(*_: object) -> None:
        raise KeyError("a secret")

    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, step, broken)
        ended = room.annotate("--notify-command", f"tee {told}")
    assert ended.code == 3
    assert "KeyError: 'a secret'" in ended.err  # with its traceback, in the log alone
    assert json.loads(told.read_text())["error"] == "a bug: KeyError"
    assert json.loads(told.read_text())["exit_code"] == 3
    assert b"a secret" not in b"".join(storage.read_bytes(uri) for uri in room.files())
    assert room.annotate().code == 0
    assert len(room.statuses()) == 4


@pytest.mark.parametrize("step", ["annotate_images", "publish_tables", "finish"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_that_died_is_gone_on_with(room, step, when, monkeypatch):
    real = getattr(annotate_job, step)

    def die(*arguments: object) -> None:
        if when == "after":
            real(*arguments)
        raise RunError("the lights went out")

    if (step, when) == ("finish", "after"):
        pytest.skip("that is a finished run")
    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, step, die)
        died = room.annotate()
    assert died.code == 3
    assert "the lights went out" in died.err.splitlines()[-1]
    (info,) = room.infos()
    assert info["exit_code"] == 3
    with pytest.raises(UsageError):
        fattr.open_tables(room.output)

    other = room.annotate("--limit", "1")
    assert other.code == 2
    assert info["run_id"] in other.err

    assert room.annotate().code == 0
    (again,) = room.infos()
    assert again["run_id"] == info["run_id"]
    assert again["num_continued"] == 1
    events = [event["event"] for event in again["timeline"]["events"]]
    assert events.count("listed") == 1
    assert events[-1] == "finished"
    assert len(room.statuses()) == 4
    assert run("verify", room.output).code == 0
    assert not [name for name in room.files() if "/staging/" in name or "/checkpoint/" in name]


def test_a_run_that_is_not_wanted_can_be_thrown_away(room, monkeypatch):
    def die(*_: object) -> None:
        raise RunError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "finish", die)
        assert room.annotate().code == 3
    (died,) = room.infos()
    assert room.annotate("--limit", "1", "--discard-unfinished").code == 0
    (info,) = room.infos()
    assert info["run_id"] != died["run_id"]
    assert info["num_images"] == 1
    assert not [name for name in room.files() if died["run_id"] in name and "_audit" not in name]


def test_too_many_bad_images_are_exit_code_1_with_all_tables(room):
    result = room.annotate("--max-bad-fraction", "0.2")
    assert result.code == 1
    assert "1 of 4 images are bad" in result.err
    assert room.infos()[-1]["exit_code"] == 1
    assert len(room.statuses()) == 4
    assert room.annotate("--all", "--max-bad-fraction", "0.25").code == 0


def test_each_run_is_audited_once(room):
    flags = ["--sensitive", "age", "--purpose", "an audit of errors"]
    assert room.annotate(*flags).code == 0
    assert room.annotate(*flags).code == 0
    written = [uri for uri in room.files() if "/_audit/" in uri]
    assert len(written) == 2
    said = json.loads(storage.read_bytes(written[0]))
    assert said["sensitive"] == ["age"]
    assert said["purpose"] == "an audit of errors"
    assert said["num_images"] == 4
    assert said["models"][0]["model_id"] == room.infos()[0]["models"][0]["model_id"]
    assert said["who"]


def test_a_run_that_died_once_it_was_audited_and_is_ended_elsewhere_is_audited_once(
    room, monkeypatch
):
    real = annotate_job.write_audit

    def die(*arguments: object) -> None:
        real(*arguments)
        raise RunError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "write_audit", die)
        patch.setattr(annotate_job, "who", lambda: {"user": "night", "host": "pod-1"})
        assert room.annotate().code == 3
    (written,) = [uri for uri in room.files() if "/_audit/" in uri]
    said = storage.read_bytes(written)
    monkeypatch.setattr(annotate_job, "who", lambda: {"user": "night", "host": "pod-2"})
    assert room.annotate().code == 0
    assert [uri for uri in room.files() if "/_audit/" in uri] == [written]
    assert storage.read_bytes(written) == said
    assert json.loads(said)["who"]["host"] == room.infos()[0]["who"]["host"] == "pod-1"


def test_hashed_uris_leave_no_name_behind(room, tmp_path):
    key = tmp_path / "key"
    key.write_text("a secret of more than sixteen bytes\n")
    hashed = ["--hash-uris", str(key)]
    assert room.annotate(*hashed).code == 0
    for uri in room.files():
        content = storage.read_bytes(uri)
        if uri.endswith(".parquet"):
            files, path = storage.filesystem(uri)
            content += str(pq.read_table(path, filesystem=files).to_pylist()).encode()
        for name in (*NAMES, "photos", "a secret of"):
            assert name.encode() not in content, (uri, name)
    rows = fattr.open_tables(room.output).to_pandas("images")
    assert Counter(rows["status"]) == {"ok": 2, "no_face": 1, "unreadable": 1}
    assert rows["image_uri"].str.fullmatch("[0-9a-f]{64}").all()

    assert room.annotate(*hashed).code == 0
    assert room.infos()[-1]["num_images"] == 0
    assert room.annotate().code == 2
    key.write_text("another secret of that many bytes\n")
    assert room.annotate(*hashed).code == 2
    key.write_text("short")
    assert room.annotate(*hashed).code == 2


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(room):
    before = room.files()
    result = room.annotate("--dry-run")
    assert result.code == 0, result.err
    assert "4 images" in result.err
    assert "threads of this process" in result.err
    assert "nothing was written" in result.err
    assert room.files() == before
    assert room.annotate().code == 0
    before = room.files()
    assert "nothing to do" in room.annotate("--dry-run").err
    assert room.files() == before


def test_who_wants_to_know_is_told(room, tmp_path):
    told = tmp_path / "told.json"
    room.annotate("--notify-command", f"tee {told}")
    summary = json.loads(told.read_text())
    assert (summary["exit_code"], summary["num_images"]) == (0, 4)


def test_what_is_forgotten_is_gone_and_stays_away(room, tmp_path):
    assert room.annotate().code == 0
    listed = tmp_path / "forget.txt"
    uri = storage.join(room.images, "2-faces.jpg")
    listed.write_text(f"# by request\n{uri}\n")
    assert run("forget", room.output, "--uris", str(listed)).code == 0
    assert "2-faces.jpg" not in room.statuses()
    assert room.faces() == {"1-face.jpg": 1}
    for file in room.files():
        content = storage.read_bytes(file)
        if file.endswith(".parquet"):
            files, path = storage.filesystem(file)
            content += str(pq.read_table(path, filesystem=files).to_pylist()).encode()
        assert b"2-faces.jpg" not in content, file
    assert run("verify", room.output).code == 0
    assert room.annotate().code == 0
    assert room.infos()[-1]["num_images"] == 0
    assert "2-faces.jpg" not in room.statuses()


def test_a_forgetting_that_was_killed_at_once_holds_for_the_runs_in_between(
    room, tmp_path, monkeypatch
):
    assert room.annotate().code == 0
    lists = {name: tmp_path / f"{name}.txt" for name in ("2-faces.jpg", "coffee.png")}
    for name, listed in lists.items():
        listed.write_text(storage.join(room.images, name))
    with monkeypatch.context() as patch:
        patch.setattr("fattr.published.forget._keep_ids", lambda *_: 1 / 0)
        assert run("forget", room.output, "--uris", str(lists["2-faces.jpg"])).code == 3
    assert room.annotate("--all").code == 0
    assert run("forget", room.output, "--uris", str(lists["coffee.png"])).code == 0
    assert room.statuses() == {"1-face.jpg": "ok", "notes.txt": "unreadable"}
    assert room.faces() == {"1-face.jpg": 1}
    assert run("verify", room.output).code == 0


def test_a_lock_held_by_a_living_run_is_respected(room):
    from fattr.runs.lease import hold_lease

    with hold_lease(storage.canonical_uri(room.output)):
        refused = room.annotate()
    assert refused.code == 2
    assert "until" in refused.err or "expires" in refused.err
    assert refused.err.count("\n") == 1
    assert room.annotate().code == 0


def test_views_read_what_open_tables_reads(room, tmp_path):
    import duckdb

    if room.output.startswith("s3://"):
        pytest.skip("DuckDB's own S3 reader is an extension to be downloaded")
    assert room.annotate().code == 0
    assert room.annotate("--all").code == 0
    connection = duckdb.connect()
    connection.execute(Path(room.output, "views.sql").read_text())
    for table, rows in (("images", 4), ("faces", 3)):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (rows,)


def test_a_run_that_died_while_it_listed_does_not_switch_the_settings_check_off(room):
    assert room.annotate().code == 0
    (info,) = room.infos()
    died = storage.join(room.output, "_runs", "29990101T000000Z-abcdef")
    storage.write_bytes(storage.join(died, "manifest", "part-00000.parquet"), b"half")
    refused = room.annotate("--min-face-px", "20")
    assert refused.code == 2
    assert "min_face_px" in refused.err
    assert room.annotate("--dry-run", "--min-face-px", "20").code == 2
    assert room.annotate().code == 0
    assert [one["run_id"] for one in room.infos()] == [info["run_id"], "29990101T000000Z-abcdef"]


def test_a_discard_that_was_cut_short_is_not_gone_on_with(room, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "finish", lambda *_: 1 / 0)
        assert room.annotate().code == 3  # it is published, and not finished
    deleted = []

    def half(uri: str) -> None:
        deleted.append(uri)
        raise RunError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_tree", half)
        assert room.annotate("--limit", "1", "--discard-unfinished").code == 3
    assert deleted
    assert room.annotate().code == 0
    assert len(room.statuses()) == 4
    assert run("verify", room.output).code == 0


def test_a_lost_lease_leaves_the_other_runs_files_alone(room, monkeypatch):
    real, is_lost = annotate_job.list_work, []

    def taken_over(work, run, *rest):
        found = real(work, run, *rest)
        storage.write_bytes(run.file("run.json"), b'{"run_id": "of the other"}')
        is_lost.append(True)
        return found

    def check(_: object) -> None:
        if is_lost:
            raise RunError("another run took the lease")

    monkeypatch.setattr(annotate_job, "list_work", taken_over)
    monkeypatch.setattr("fattr.runs.lease.Lease.check", check)
    result = room.annotate()
    assert result.code == 3
    assert "another run took the lease" in result.err.splitlines()[-1]
    assert room.infos() == [{"run_id": "of the other"}]


def test_a_failure_of_a_hashed_run_names_no_image(room, tmp_path, monkeypatch):
    key, told = tmp_path / "key", tmp_path / "told.json"
    key.write_text("a secret of more than sixteen bytes\n")

    def fail(*_: object) -> None:
        raise RunError(f"the AWS credentials for {room.images}/1-face.jpg expired")

    monkeypatch.setattr(annotate_job, "annotate_images", fail)
    hashed = ["--hash-uris", str(key), "--exclude", "secret-name*"]
    assert room.annotate(*hashed, "--notify-command", f"tee {told}").code == 3
    kept = json.dumps(room.infos())
    for text in (told.read_text(), kept):
        assert '"exit_code": 3' in text
        assert "1-face" not in text
        assert "secret-name" not in text
