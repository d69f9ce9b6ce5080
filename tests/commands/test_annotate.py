"""``jobs/annotate.py`` in this process: what a run writes, and what it refuses."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3_server import Answer, canned_server

from fattr import storage, tables
from fattr.attributes import attribute
from fattr.cli import run_job
from fattr.runs import manifest

EXPECTED = {  # name -> status, faces, width, height
    "1-face-4000px.jpg": ("ok", 1, 4000, 4000),
    "1-face-named-wrongly.jpg": ("ok", 1, 512, 512),
    "1-face-rotated.jpg": ("ok", 1, 512, 512),
    "1-face-tiny.png": ("ok", 1, 80, 80),
    "1-face.jpg": ("ok", 1, 512, 600),
    "2-faces.jpg": ("ok", 2, 1024, 512),
    "coffee.png": ("no_face", 0, 600, 400),
    "empty.jpg": ("unreadable", 0, None, None),
    "notes.txt": ("unreadable", 0, None, None),
    "truncated 100%.jpg": ("unreadable", 0, None, None),
}
NUM_FACES = 7


def run(*argv: str | Path) -> SimpleNamespace:
    """Exit code and standard error of a local run."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = run_job("annotate", ["--engine", "local", *map(str, argv)])
    return SimpleNamespace(code=code, err=said.getvalue())


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder with its size and time of change."""
    paths = {path.relative_to(folder): path.stat() for path in folder.rglob("*")}
    return {str(path): (info.st_size, info.st_mtime_ns) for path, info in paths.items()}


def parquet_files(output: Path) -> list[Path]:
    return sorted(path for name in ("faces", "images") for path in (output / name).rglob("*.*"))


def run_info(output: Path) -> dict:
    (path,) = (output / "_runs").glob("*/run.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def done(photo_folder, models, tmp_path_factory) -> SimpleNamespace:
    """One run over the photographs with two models, without sensitive attributes."""
    output = tmp_path_factory.mktemp("tables") / "out"
    flags = ["--model", models.people, "--model", models.looks]
    result = run("--images", photo_folder, "--output", output, *flags)
    return SimpleNamespace(output=output, flags=flags, **vars(result))


# A run


def test_every_image_has_a_row_and_every_face_one(done, rows_of):
    assert done.code == 0, done.err
    images, faces = rows_of(done.output, "images"), rows_of(done.output, "faces")
    found = {r["name"]: (r["status"], r["num_faces"], r["width"], r["height"]) for r in images}
    assert found == EXPECTED
    assert len(images) == len(EXPECTED)
    assert Counter(row["name"] for row in faces) == {
        name: faces for name, (_, faces, _, _) in EXPECTED.items() if faces
    }
    assert [row["name"] for row in images if row["reason"]] == [
        "empty.jpg",
        "notes.txt",
        "truncated 100%.jpg",
    ]


def test_sizes_etags_and_ids_are_those_of_the_files(done, photo_folder):
    rows = pa.concat_tables(pq.read_table(p) for p in (done.output / "images").rglob("*.parquet"))
    by_uri = {row["image_uri"]: row for row in rows.to_pylist()}
    for path in photo_folder.rglob("*"):
        if path.is_dir() or path.name.startswith(".") or path.parent.name.startswith("_"):
            continue
        row, info = by_uri.pop(path.as_uri()), path.stat()
        assert row["size_bytes"] == info.st_size
        assert row["etag"] == f"{info.st_mtime_ns}-{info.st_size}"
        assert row["image_id"] == manifest.image_id(path.as_uri())
    assert by_uri == {}


def test_labels_of_known_faces_differ_and_small_faces_have_none(done, rows_of):
    faces = {row["name"]: row for row in rows_of(done.output, "faces")}
    assert faces["1-face-tiny.png"]["face_px"] < 24
    for name in ("smiling", "eyeglasses", "wearing_hat"):
        assert faces["1-face-tiny.png"][name] is None
        assert 0 < faces["1-face-tiny.png"][f"{name}_prob"] < 1
        assert faces["1-face.jpg"][name] is (faces["1-face.jpg"][f"{name}_prob"] >= 0.5)
        probs = [faces[other][f"{name}_prob"] for other in ("1-face.jpg", "1-face-4000px.jpg")]
        assert abs(probs[0] - probs[1]) > 1e-3
    upright, rotated = faces["1-face-named-wrongly.jpg"], faces["1-face-rotated.jpg"]
    for edge in ("box_x1", "box_y1", "box_x2", "box_y2"):
        assert rotated[edge] == pytest.approx(upright[edge], abs=2)


def test_layout_and_what_is_left_behind(done):
    info = run_info(done.output)
    run_id, day = info["run_id"], info["started"][:10]
    tables = [f"{table}/dt={day}/run={run_id}" for table in ("faces", "images")]
    files = {name for name in listing(done.output) if (done.output / name).is_file()}
    (audit,) = (done.output / "_audit").iterdir()
    assert audit.name.endswith(f"-{run_id}.json")
    assert files - {"_runs/lease.json", f"_audit/{audit.name}", "views.sql"} == {
        *(f"{table}/part-00000.parquet" for table in tables),
        *(
            f"_runs/{run_id}/{name}"
            for name in (
                "_SUCCESS",
                "deleted.parquet",
                "files.parquet",
                "manifest/part-00000.parquet",
                "replaced.parquet",
                "run.json",
            )
        ),
    }
    changed = {name: time for name, (_, time) in listing(done.output).items() if name in files}
    times = {
        name: time
        for name, time in changed.items()
        if name not in ("views.sql", "_runs/lease.json")
    }
    success = (done.output / "_runs" / run_id / "_SUCCESS").stat().st_mtime_ns
    assert success >= max(times.values())


def test_run_json_says_what_was_done(done, models):
    info = run_info(done.output)
    (listed,) = (done.output / "_runs").rglob("manifest/*.parquet")
    assert info["num_images"] == pq.read_table(listed).num_rows == len(EXPECTED)
    assert info["by_status"] == Counter(status for status, *_ in EXPECTED.values())
    assert info["num_faces"] == NUM_FACES
    assert (info["exit_code"], info["job"], info["engine"], info["purpose"]) == (
        0,
        "annotate",
        "local",
        "",
    )
    assert set(info["stage_seconds"]) == set(tables.STAGE_SECONDS)
    assert all(seconds > 0 for seconds in info["stage_seconds"].values())
    people, looks = info["models"]
    assert people["attributes"] == ["smiling"]
    assert people["not_written"] == ["age", "perceived_gender_presentation"]
    assert looks["attributes"] == ["eyeglasses", "wearing_hat"]
    assert looks["not_written"] == ["smiling", "young"]  # smiling: written by the first
    assert [m["research_only"] for m in info["models"]] == [False, True]
    assert [m["licence"] for m in info["models"]] == ["for tests", "for tests only"]
    for model, folder in zip(info["models"], (models.people, models.looks), strict=True):
        assert model["model_id"] == json.loads((folder / "bundle.json").read_text())["model_id"]
    assert info["settings"]["model_ids"] == [m["model_id"] for m in info["models"]]


def test_files_say_where_they_come_from(done):
    info = run_info(done.output)
    for path in parquet_files(done.output):
        metadata = pq.read_schema(path).metadata
        assert metadata[b"fattr.run_id"].decode() == info["run_id"]
        assert metadata[b"fattr.settings_id"].decode() == info["settings_id"]
        assert json.loads(metadata[b"fattr.models"]) == info["models"]
    (faces,) = (done.output / "faces").rglob("*.parquet")
    assert pq.read_schema(faces).equals(
        tables.faces_schema([attribute(n) for n in ("smiling", "eyeglasses", "wearing_hat")])
    )
    ids = "+".join(model["model_id"] for model in info["models"])
    assert set(pq.read_table(faces)["model_id"].to_pylist()) == {ids}


def test_what_a_model_may_be_used_for_is_said_once(done):
    lines = [line for line in done.err.splitlines() if "research only" in line]
    assert lines == ["model looks is for research only: for tests only"]


def test_nothing_of_an_image_but_its_labels_is_kept(done):
    for path in done.output.rglob("*"):
        if path.is_dir():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += str(pq.read_table(path).to_pylist()).encode()
            types = [str(field.type) for field in pq.read_schema(path)]
            assert not any("binary" in kind for kind in types)
        assert b"SECRET-ARTIST" not in content
        assert b"\xff\xd8\xff" not in content


def test_a_second_run_elsewhere_gives_the_same_rows(done, photo_folder, tmp_path, rows_of):
    assert run("--images", photo_folder, "--output", tmp_path / "out", *done.flags).code == 0
    for table in ("images", "faces"):
        assert rows_of(tmp_path / "out", table) == rows_of(done.output, table)
    one, other = run_info(done.output), run_info(tmp_path / "out")
    assert one["settings_id"] == other["settings_id"]
    assert one["run_id"] != other["run_id"]


def test_settings_that_can_change_a_row_change_the_settings_id(done, photo_folder, tmp_path):
    flags = ["--images", photo_folder, "--limit", "1", *done.flags]
    assert run(*flags, "--output", tmp_path / "same").code == 0
    assert run(*flags, "--output", tmp_path / "other", "--min-face-px", "23").code == 0
    ids = [run_info(o)["settings_id"] for o in (done.output, tmp_path / "same", tmp_path / "other")]
    assert ids[0] == ids[1] != ids[2]


def test_a_profile_says_when_each_step_was_and_what_bounds_the_run(
    done, photo_folder, tmp_path, rows_of
):
    output, began = tmp_path / "out", time.time()
    result = run("--images", photo_folder, "--output", output, "--profile", *done.flags)
    assert result.code == 0, result.err
    info = run_info(output)
    assert info["bottleneck"].startswith("bound by ")
    (line,) = [line for line in result.err.splitlines() if line.startswith("bound by ")]
    assert line.startswith(info["bottleneck"])
    path = output / "_runs" / info["run_id"] / "profile.json"
    assert str(path) in line
    events = [e for e in json.loads(path.read_text())["traceEvents"] if e["ph"] == "X"]
    readable = sum(status in ("ok", "no_face") for status, *_ in EXPECTED.values())
    counts = Counter(event["name"] for event in events)
    batches = counts["fetch"]
    assert counts == {
        "fetch": batches,
        "decode": len(EXPECTED),
        "detect": len(EXPECTED),
        "crop": readable,
        "classify": batches,
    }
    assert all(began * 1e6 <= e["ts"] <= e["ts"] + e["dur"] <= time.time() * 1e6 for e in events)
    # The trace and the rows, summed by another way, agree.
    seconds = Counter()
    for event in events:
        seconds[f"{event['name']}_s"] += event["dur"] / 1e6
    for name in ("decode_s", "detect_s", "crop_s", "classify_s"):
        assert seconds[name] == pytest.approx(info["stage_seconds"][name], rel=0.25, abs=0.002)


def test_a_profile_changes_nothing_else(done, photo_folder, tmp_path, rows_of):
    output = tmp_path / "out"
    assert run("--images", photo_folder, "--output", output, "--profile", *done.flags).code == 0
    one, other = run_info(output), run_info(done.output)
    assert one["settings_id"] == other["settings_id"]
    assert one["flags"].keys() == other["flags"].keys()
    assert one["request"] == other["request"]
    assert "bottleneck" not in other
    assert not list(done.output.rglob("profile.json"))
    for table in ("images", "faces"):
        assert rows_of(output, table) == rows_of(done.output, table)


# What is to be done


def test_limit_takes_the_first(done, photo_folder, tmp_path, rows_of):
    output = tmp_path / "out"
    assert run("--images", photo_folder, "--output", output, "--limit", "3", *done.flags).code == 0
    assert rows_of(output, "images") == rows_of(done.output, "images")[:3]
    assert rows_of(output, "faces") == rows_of(done.output, "faces")[:3]


def as_txt(paths: list[Path], file: Path) -> None:
    file.write_text("# photographs\n\n" + "".join(f"{path}\n" for path in paths))


def as_csv(paths: list[Path], file: Path) -> None:
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["label", "image_uri"])
        rows.writerows(["x", path.as_uri()] for path in paths)


def as_parquet(paths: list[Path], file: Path) -> None:
    pq.write_table(pa.table({"image_uri": [path.as_uri() for path in paths]}), file)


@pytest.mark.parametrize("write", [as_txt, as_csv, as_parquet])
def test_a_manifest_gives_the_rows_of_the_folder(write, done, photo_folder, tmp_path, rows_of):
    named = {row["name"] for row in rows_of(done.output, "images")}
    paths = [path for path in sorted(photo_folder.rglob("*.*")) if path.name in named]
    source = tmp_path / f"list.{write.__name__.removeprefix('as_')}"
    write([*paths, paths[0]], source)
    result = run("--images", source, "--output", tmp_path / "out", *done.flags)
    assert result.code == 0, result.err
    for table in ("images", "faces"):
        assert rows_of(tmp_path / "out", table) == rows_of(done.output, table)
    assert run_info(tmp_path / "out")["increment"]["num_duplicates"] == 1


def test_images_that_are_not_there_are_rows(photo_folder, models, tmp_path, rows_of):
    source = tmp_path / "list.txt"
    source.write_text(f"gone.jpg\n{photo_folder / '1-face.jpg'}\n")
    result = run("--images", source, "--output", tmp_path / "out", "--model", models.people)
    assert result.code == 0
    statuses = {row["name"]: row["status"] for row in rows_of(tmp_path / "out", "images")}
    assert statuses == {"gone.jpg": "missing", "1-face.jpg": "ok"}
    assert run_info(tmp_path / "out")["by_status"] == {"missing": 1, "ok": 1}


def test_a_run_without_any_face_has_two_readable_tables(photo_folder, models, tmp_path, rows_of):
    flags = ["--output", tmp_path / "out", "--model", models.people]
    assert run("--images", photo_folder / "coffee.png", *flags).code == 0
    assert [row["status"] for row in rows_of(tmp_path / "out", "images")] == ["no_face"]
    (faces,) = (tmp_path / "out" / "faces").rglob("*.parquet")
    assert pq.read_table(faces).num_rows == 0
    assert "smiling" in pq.read_schema(faces).names


# Sensitive attributes


@pytest.fixture
def one_photo(photo_folder, tmp_path) -> list[str]:
    return ["--images", str(photo_folder / "1-face.jpg"), "--output", str(tmp_path / "out")]


def test_sensitive_attributes_have_no_column_unless_named(done, rows_of):
    columns = rows_of(done.output, "faces")[0]
    assert not [c for c in columns if c.startswith(("age", "perceived", "young"))]


def test_named_sensitive_attributes_are_written_with_their_purpose(
    one_photo, models, tmp_path, rows_of
):
    flags = ["--sensitive", "young, age", "--purpose", "an audit of errors"]
    result = run(*one_photo, *flags, "--model", models.people, "--model", models.looks)
    assert result.code == 0, result.err
    (face,) = rows_of(tmp_path / "out", "faces")
    assert 0 <= face["age_low"] < face["age_high"] <= 90
    assert sum(face["age_probs"]) == pytest.approx(1, abs=1e-5)
    assert face["young"] is (face["young_prob"] >= 0.5)
    assert not [name for name in face if name.startswith("perceived")]
    info = run_info(tmp_path / "out")
    assert info["purpose"] == "an audit of errors"
    assert info["settings"]["sensitive"] == ["age", "young"]
    for path in parquet_files(tmp_path / "out"):
        assert pq.read_schema(path).metadata[b"fattr.purpose"] == b"an audit of errors"


def test_a_model_of_sensitive_attributes_alone_is_not_run(one_photo, models, tmp_path, rows_of):
    result = run(*one_photo, "--model", models.private, "--model", models.looks)
    assert result.code == 0
    assert [m["name"] for m in run_info(tmp_path / "out")["models"]] == ["looks"]
    (face,) = rows_of(tmp_path / "out", "faces")
    assert face["model_id"] == run_info(tmp_path / "out")["models"][0]["model_id"]


def test_an_attribute_of_two_models_is_written_by_the_first(one_photo, models, tmp_path, rows_of):
    probs = {}
    for order in (("people", "looks"), ("looks", "people")):
        flags = [flag for name in order for flag in ("--model", getattr(models, name))]
        output = tmp_path / order[0]
        assert run(*one_photo, *flags, "--output", output).code == 0
        (face,) = rows_of(output, "faces")
        probs[order[0]] = face["smiling_prob"]
    alone = tmp_path / "alone"
    assert run(*one_photo, "--model", models.looks, "--output", alone).code == 0
    assert rows_of(alone, "faces")[0]["smiling_prob"] == probs["looks"] != probs["people"]


# Wrong requests


@pytest.fixture
def request_room(photo_folder, models, tmp_path) -> SimpleNamespace:
    """A folder with everything that a wrong request may name; ``argv`` is right but for a flag."""
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(photo_folder / "1-face.jpg", photos)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "list.csv").write_text("path\na.jpg\n")
    (tmp_path / "list.txt").write_text("https://example.com/a.jpg\n")
    shutil.copytree(models.people, tmp_path / "changed")
    with (tmp_path / "changed" / "model.onnx").open("ab") as file:
        file.write(b"\0")
    argv = {"--images": photos, "--output": tmp_path / "out", "--model": models.people}
    return SimpleNamespace(argv={k: str(v) for k, v in argv.items()}, folder=tmp_path)


def refused(room: SimpleNamespace, flags: dict[str, str]) -> str:
    """The one line that says why; nothing may have changed."""
    before = listing(room.folder)
    filled = {name: value.format(room=room.folder) for name, value in flags.items()}
    result = run(*(part for flag in (room.argv | filled).items() for part in flag))
    assert result.code == 2
    assert listing(room.folder) == before
    assert result.err.startswith("fattr annotate: ")
    assert result.err.count("\n") == 1, result.err
    return result.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--images": "{room}/nowhere"}, "/nowhere: No such file or directory; check the path"),
        ({"--images": "{room}/empty"}, "no files under"),
        ({"--images": "{room}/list.csv"}, "has no column image_uri"),
        ({"--images": "{room}/list.txt"}, "line 1: https://example.com/a.jpg cannot be used"),
        ({"--images": "s3://"}, "names no bucket"),
        ({"--output": "{room}/photos/out"}, "overlap"),
        ({"--output": "{room}/photos"}, "overlap"),
        ({"--images": "{room}/out/photos"}, "overlap"),
        ({"--output": "{room}/file"}, "/file: Not a directory; check the path"),
        ({"--output": "{room}/file/out"}, "/file/out: Not a directory; check the path"),
        ({"--model": "celeba41"}, "unknown model 'celeba41'"),
        ({"--model": "{room}/photos"}, "unknown model"),
        ({"--model": "{room}/changed"}, "content has hash"),
        ({"--detector": "yolo"}, "unknown detector 'yolo'"),
        ({"--detector": "{room}/file"}, "file: not a checkpoint"),
        ({"--sensitive": "yuong", "--purpose": "p"}, "did you mean 'young'"),
        ({"--sensitive": "chubby", "--purpose": "p"}, "chubby: no --model predicts it"),
        ({"--sensitive": "age"}, "--sensitive needs --purpose"),
        ({"--purpose": "p"}, "--purpose is for --sensitive"),
        ({"--detect-size": "100"}, "--detect-size must be a positive multiple of 32: 100"),
        ({"--score-threshold": "1.5"}, "--score-threshold must be in [0, 1]: 1.5"),
        ({"--limit": "0"}, "--limit must be 1 or more: 0"),
        ({"--batch-size": "0"}, "--batch-size must be 1 or more: 0"),
        ({"--engine": "spark"}, "spark"),
        ({"--limit": "many"}, "many"),
        ({"--max-bad-fraction": "2"}, "--max-bad-fraction must be in [0, 1]: 2"),
        ({"--actors": "4:2"}, "--actors 4:2: N or MIN:MAX expected"),
        ({"--retry": "broken"}, "--retry broken: expected some of ok"),
        ({"--image-timeout": "0"}, "--image-timeout must be over 0"),
        ({"--max-bytes": "0"}, "--max-bytes must be 1 or more"),
        ({"--hash-uris": "{room}/file"}, "holds 1 bytes: 16 or more expected"),
        ({"--hash-uris": "{room}/nokey"}, "--hash-uris"),
        ({"--notify-url": "ftp://a.b/c"}, "--notify-url"),
        ({"--notify-command": "no-such-command-here"}, "--notify-command"),
        ({"--colour": "red"}, "--colour"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_request_is_one_line_and_writes_nothing(request_room, flags, message):
    if flags.get("--images") == "{room}/out/photos":
        shutil.copytree(request_room.argv["--images"], request_room.folder / "out" / "photos")
    assert message in refused(request_room, flags)


def test_a_flag_that_is_missing_is_named(request_room):
    result = run("--output", request_room.folder / "out")
    assert result.code == 2
    assert "--images" in result.err
    assert result.err.count("\n") == 1
    assert not (request_room.folder / "out").exists()


def test_only_sensitive_attributes_and_none_named(request_room, models):
    assert "all attributes of the models are sensitive" in refused(
        request_room, {"--model": str(models.private)}
    )


@pytest.mark.parametrize("flag", ["--images", "--output"])
def test_no_such_bucket(request_room, s3_bucket, flag):
    message = refused(request_room, {flag: f"{s3_bucket}-not/photos"})
    assert "NoSuchBucket" in message
    assert "check bucket, key and AWS_ENDPOINT_URL" in message


@pytest.mark.parametrize(
    ("flag", "permission"), [("--images", "s3:ListBucket"), ("--output", "s3:PutObject")]
)
def test_a_bucket_that_may_not_be_used(request_room, use_endpoint, flag, permission):
    with canned_server(Answer(403, "AccessDenied")) as url:
        use_endpoint(url)
        message = refused(request_room, {flag: "s3://bucket/photos"})
    assert f"the credentials need {permission}" in message
    assert "KEY-IN-BODY" not in message


def test_help_shows_every_flag_and_ends_well(capsys):
    with pytest.raises(SystemExit) as stop:
        run_job("annotate", ["--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for flag in ("--images", "--output", "--model", "--sensitive", "--purpose", "--engine"):
        assert flag in shown


def test_a_run_that_cannot_finish_keeps_what_is_done_and_says_so(
    photo_folder, models, tmp_path, monkeypatch
):
    """A store that expires credentials half-way: the manifest stays, nothing claims success."""
    from fattr.errors import RunError

    real = storage.read_bytes

    def expire(uri: str, **options: object) -> bytes:
        if "photographs" not in uri:
            return real(uri, **options)
        raise RunError(f"the AWS credentials for {uri} expired: renew them and run again")

    monkeypatch.setattr(storage, "read_bytes", expire)
    result = run("--images", photo_folder, "--output", tmp_path / "out", "--model", models.people)
    assert result.code == 3
    assert "expired: renew them" in result.err.splitlines()[-1]
    assert "Traceback" not in result.err
    info = run_info(tmp_path / "out")
    assert info["exit_code"] == 3
    assert "expired" in info["error"]
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"part-00000.parquet", "run.json"} <= names
    assert not names & {"_SUCCESS", "views.sql"}
    assert not [*(tmp_path / "out").glob("images/**/*.parquet")]


def test_images_given_as_one_file_need_not_be_a_folder(one_photo, models, tmp_path, rows_of):
    assert run(*one_photo, "--model", models.people).code == 0
    (image,) = rows_of(tmp_path / "out", "images")
    with Image.open(one_photo[1]) as opened:
        assert (image["width"], image["height"]) == opened.size


def test_a_disk_that_fills_up_ends_with_one_line_and_a_run_that_says_so(
    photo_folder, models, tmp_path, monkeypatch, capsys
):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("fattr.published.parts.PartWriter.write", full)
    argv = ["--images", str(photo_folder), "--output", str(tmp_path / "out"), "--engine", "local"]
    argv += ["--model", str(models.looks)]
    assert run_job("annotate", argv) == 3
    assert "No space left on device" in capsys.readouterr().err.strip().splitlines()[-1]
    (run,) = (tmp_path / "out" / "_runs").glob("*/run.json")
    assert json.loads(run.read_text())["exit_code"] == 3
