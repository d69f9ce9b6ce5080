"""What kills leave undecided between staged rows and their record, and going on from there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import annotating
import pyarrow as pa
import pytest
from small_output import put_parquet

from fattr import storage
from fattr.cli import run_job
from fattr.commands import annotate as annotate_job
from fattr.errors import RunError
from fattr.on_ray.checkpoint import count_checkpointed, recorded_parts, strike_unsound
from fattr.published.catalog import open_tables
from fattr.published.suspects import raised_in
from fattr.runs.run import Run

ROWS = pa.table({"image_id": [1, 2, 3], "status": ["poison"] * 3, "reason": [""] * 3})
RECORD = ROWS.select(["image_id"])


@pytest.fixture(params=["folder", "bucket"])
def run(request, tmp_path) -> Run:
    if request.param == "folder":
        return Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    return Run(f"{request.getfixturevalue('s3_bucket')}/out", annotating.RUN_ID)


def record(run: Run, name: str, table: pa.Table = RECORD) -> str:
    uri = storage.join(run.checkpoint, f"{name}.parquet")
    put_parquet(table, uri)
    return uri


def stage(run: Run, name: str, table: pa.Table = ROWS) -> str:
    uri = storage.join(run.staging, f"{name}-0.parquet")
    put_parquet(table, uri)
    return uri


def cut(uri: str, num_bytes: int = 9) -> None:
    storage.write_bytes(uri, storage.read_bytes(uri)[:-num_bytes])


def files(run: Run) -> set[str]:
    places = (run.checkpoint, run.staging)
    return {entry.uri.rpartition("/")[2] for uri in places for entry in storage.list_tree(uri)}


def committed_and_pending(run: Run) -> None:
    record(run, "x_0")
    record(run, "x_0.pending")
    stage(run, "x_0")


def committed_then_halved_by_another_try(run: Run) -> None:
    committed_and_pending(run)
    cut(stage(run, "x_0"))


def rows_are_gone(run: Run) -> None:
    record(run, "x_0")


def rows_are_halved(run: Run) -> None:
    record(run, "x_0")
    cut(stage(run, "x_0"))


def rows_are_fewer(run: Run) -> None:
    record(run, "x_0")
    stage(run, "x_0", ROWS[:2])


def record_is_empty(run: Run) -> None:
    cut(record(run, "x_0"), len(storage.read_bytes(record(run, "x_0"))))
    stage(run, "x_0")


LEFT = [
    committed_and_pending,
    committed_then_halved_by_another_try,
    rows_are_gone,
    rows_are_halved,
    rows_are_fewer,
    record_is_empty,
]


@pytest.mark.parametrize("leave", LEFT, ids=lambda leave: leave.__name__)
def test_what_has_no_staged_rows_is_struck_and_all_else_stays(run, leave):
    record(run, "a_0")
    sound = stage(run, "a_0")
    record(run, "b_0.pending")
    stage(run, "b_0")
    leave(run)
    before = files(run)
    assert strike_unsound(run) == 1
    assert before - files(run) == {"x_0.parquet"}
    assert count_checkpointed(run) == 3
    assert recorded_parts(run) == [sound]
    assert raised_in(recorded_parts(run)) == {}
    assert strike_unsound(run) == 0


def test_a_run_that_did_not_begin_has_nothing_to_strike(run):
    assert strike_unsound(run) == 0


@pytest.mark.full
@pytest.mark.ray
def test_a_run_that_was_killed_within_a_commit_ends(
    ray_cluster, photo_folder, models, tmp_path, monkeypatch
):
    """Ray Data deletes the rows of what is pending, and takes it for done where it is recorded."""
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(12):
        (photos / f"{number:02d}.jpg").write_bytes((photo_folder / "1-face.jpg").read_bytes())
    argv = ["--images", str(photos), "--output", str(output), "--model", str(models.looks)]
    argv += ["--engine", "ray"]

    def die(*_: object) -> None:
        raise RunError("the lights went out")

    with monkeypatch.context() as patch:
        patch.setattr(annotate_job, "publish_tables", die)
        assert run_job("annotate", argv) == 3
    (folder,) = output.glob("_runs/2*")
    first = next(iter(folder.glob("checkpoint/*.parquet")))
    first.with_name(f"{first.stem}.pending.parquet").write_bytes(first.read_bytes())

    assert run_job("annotate", argv) == 0
    rows = open_tables(str(output)).to_pandas("images")
    names = Counter(Path(uri).name for uri in rows["image_uri"])
    assert names == dict.fromkeys((f"{number:02d}.jpg" for number in range(12)), 1)
    assert run_job("verify", ["--output", str(output)]) == 0
