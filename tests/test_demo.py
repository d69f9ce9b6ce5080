"""The demo's photographs, and the demo itself."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fattr import bundle, demo, images
from fattr.cli import run_job
from fattr.config import DEFAULT_MODELS
from fattr.errors import ImageError, UsageError

FACES = {
    "astronaut.png": 1,
    "cat.png": 0,
    "cmyk.jpg": 1,
    "coffee.png": 0,
    "collage.jpg": 2,
    "grace_hopper.jpg": 1,
    "grey_16_bit.png": 1,
    "huge.jpg": 1,
    "really_a_png.jpg": 1,
    "rotated_15_degrees.jpg": 1,
    "rotated_by_exif.jpg": 1,
}
REFUSED = {
    "damaged_bomb.png": "too_large",
    "damaged_empty.jpg": "unreadable",
    "damaged_text.jpg": "unreadable",
    "damaged_truncated.jpg": "unreadable",
}


@pytest.fixture(scope="module")
def photographs():
    return demo.photographs()


def test_the_photographs_are_what_their_names_say(photographs):
    assert photographs.keys() == FACES.keys() | REFUSED.keys()
    readable = photographs.keys() - REFUSED.keys()
    sizes_hw = {name: images.decode(photographs[name]).full_size_hw for name in readable}
    assert sizes_hw["astronaut.png"] == sizes_hw["rotated_by_exif.jpg"] == (512, 512)
    assert sizes_hw["huge.jpg"] == (6000, 6000)
    assert sizes_hw["collage.jpg"] == (800, 960)
    assert images.sniff(photographs["really_a_png.jpg"]) == "png"


@pytest.mark.parametrize(("name", "status"), REFUSED.items())
def test_damaged_files_are_refused(photographs, name, status):
    with pytest.raises(ImageError) as caught:
        images.decode(photographs[name])
    assert caught.value.status == status
    assert len(photographs["damaged_bomb.png"]) < 200


def test_copies_show_the_same_upright(photographs):
    pixels = {name: images.decode(photographs[name]).pixels.astype(int) for name in FACES}
    astronaut = pixels["astronaut.png"]
    assert np.abs(pixels["rotated_by_exif.jpg"] - astronaut).mean() < 4
    assert np.abs(pixels["rotated_15_degrees.jpg"] - astronaut).mean() > 20
    grey = np.asarray(Image.fromarray(pixels["grace_hopper.jpg"].astype(np.uint8)).convert("L"))
    assert np.abs(pixels["grey_16_bit.png"][:, :, 0] - grey).max() <= 1
    assert np.abs(pixels["cmyk.jpg"] - pixels["grace_hopper.jpg"]).mean() < 4


@pytest.mark.parametrize("error", [ModuleNotFoundError, FileNotFoundError])
def test_missing_photographs_name_the_extra_and_leave_nothing(tmp_path, monkeypatch, capsys, error):
    def refuse(package):
        raise error(package)

    monkeypatch.setattr(resources, "files", refuse)
    assert run_job("demo", ["--output", str(tmp_path / "demo")]) == 2
    assert "skimage" in (said := capsys.readouterr().err)
    assert "pip install 'fattr[demo]'" in said
    assert not (tmp_path / "demo").exists()


# The folder


def test_only_the_demos_own_folder_is_deleted(tmp_path):
    own = tmp_path / "a" / "own"
    demo.fresh_folder(own)
    (own / "old.txt").write_text("old")
    demo.fresh_folder(own)
    assert [path.name for path in own.iterdir()] == [demo.MARKER]

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    demo.fresh_folder(foreign)  # empty: nothing to lose
    (foreign / demo.MARKER).unlink()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not made by the demo"):
        demo.fresh_folder(foreign)
    with pytest.raises(UsageError, match="not made by the demo"):
        demo.fresh_folder(foreign / "thesis.txt")
    assert (foreign / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        pytest.param(["--output", "s3://bucket/demo"], "local folder", id="s3"),
        pytest.param(["--output", "demo", "--model", "nonesuch"], "unknown model", id="model"),
    ],
)
def test_a_wrong_request_writes_nothing(tmp_path, monkeypatch, capsys, flags, problem):
    monkeypatch.chdir(tmp_path)
    assert run_job("demo", flags) == 2
    assert problem in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# The run


def check_demo(folder, said, rows_of):
    """What any finished demo must have left and said."""
    rows = rows_of(folder / "tables", "images")
    status = {row["name"]: row["status"] for row in rows}
    num_faces = {row["name"]: row["num_faces"] for row in rows}
    assert {name: status[name] for name in REFUSED} == REFUSED
    assert {name: num_faces[name] for name in FACES} == FACES
    assert len(rows) == len(FACES) + len(REFUSED)
    assert all(name in said for name in status)
    check_query(folder, said, rows_of(folder / "tables", "faces"))
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 1000
    for place in ("photographs", "tables", "contact_sheet.png"):
        assert str(folder / place) in said.replace("\n", "")


def check_query(folder, said, faces):
    """What stands there can be given to DuckDB as it is, and gives what is shown."""
    read = re.search(r'^\.read "(.*)"$', said, re.MULTILINE)
    views = re.sub(r"\\(.)", r"\1", read[1])
    assert views == str(folder / "tables" / "views.sql")
    select = re.compile(r"SELECT .*?;", re.DOTALL).search(said, read.end())
    with duckdb.connect() as connection:
        connection.execute(Path(views).read_text())
        answer = connection.sql(select[0])
        names, rows = answer.columns, answer.fetchall()
    shown = [line.split() for line in said[select.end() :].splitlines()]
    assert names in shown
    assert all([str(value) for value in row] in shown for row in rows)
    counted = [dict(zip(names, row, strict=True)) for row in rows]
    assert {row["photograph"]: row["num_faces"] for row in counted} == {
        name: count for name, count in FACES.items() if count
    }
    for row in counted:
        own = [face for face in faces if face["name"] == row["photograph"]]
        assert row["smiling"] == sum(face["smiling"] is True for face in own)


def check_purpose(folder, said):
    """The purpose is shown, and kept with the tables."""
    assert f"--sensitive age,perceived_gender_presentation --purpose '{demo.PURPOSE}'" in said
    files = [*folder.glob("tables/faces/**/*.parquet"), *folder.glob("tables/images/**/*.parquet")]
    assert len(files) == 2
    for file in files:
        assert pq.read_schema(file).metadata[b"fattr.purpose"].decode() == demo.PURPOSE
    (run,) = folder.glob("tables/_runs/*/run.json")
    assert json.loads(run.read_text())["purpose"] == demo.PURPOSE
    assert said.count(demo.PURPOSE) == 2


def test_the_demo_twice_without_ray(tmp_path, capsys, models, rows_of):
    folder = tmp_path / """this "demo" isn't plain"""
    argv = ["--output", str(folder), "--engine", "local"]
    argv += ["--model", str(models.people), "--model", str(models.looks)]
    assert run_job("demo", argv) == 0
    assert run_job("demo", argv) == 0  # its own folder is made anew
    said = capsys.readouterr().out
    second = said[said.rindex(f"{len(FACES) + len(REFUSED)} photographs, one command") :]
    check_demo(folder, second, rows_of)
    check_purpose(folder, second)
    assert "--engine local" in second
    assert "mean_age" in second
    assert (folder / demo.MARKER).is_file()


def test_models_without_sensitive_attributes_need_no_purpose(tmp_path, models):
    config = demo.demo_config(tmp_path, engine="local", model=(str(models.looks),))
    assert (config.sensitive, config.purpose) == ("", "")
    assert "--sensitive" not in demo.command(config)
    config = demo.demo_config(tmp_path, engine="ray", model=(str(models.private),))
    assert config.sensitive == "age,perceived_gender_presentation"
    assert "--engine" not in demo.command(config)


@pytest.mark.full
@pytest.mark.ray
def test_the_demo_as_shipped(tmp_path, rows_of):
    if missing := set(DEFAULT_MODELS) - bundle.shipped().keys():
        pytest.skip(f"not shipped yet: {sorted(missing)}")
    folder = tmp_path / "demo"
    main = [sys.executable, "-c", "from fattr.cli import main; main()"]
    argv = [*main, "demo", "--output", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    check_demo(folder, done.stdout, rows_of)
    check_purpose(folder, done.stdout)
