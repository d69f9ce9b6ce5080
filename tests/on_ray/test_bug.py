"""A bug that all images meet ends a run of the Ray engine, and is nobody's poison afterwards."""

from __future__ import annotations

import functools
import json
import logging

import annotating
import poison
import pyarrow as pa
import pytest

from fattr import storage
from fattr.cli import run_job
from fattr.errors import RunError
from fattr.on_ray.actor import AnnotateActor, DecodeActor, StageActor
from fattr.on_ray.checkpoint import count_checkpointed, forget_suspects
from fattr.on_ray.ledger import Ledger
from fattr.records import Status
from fattr.runs.run import Run
from fattr.sandbox import MAX_RAISED, ChildEndedError, RaisedError, refuse_bug

RAISED = RaisedError("ZeroDivisionError", "Traceback: the line")
# Ray Data warns of settings of its own, as though their defaults had been set by us.
ignoring_ray = pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\.data\.context")


class Notes:
    """A ledger of this process, in which every block was begun before."""

    def __init__(self) -> None:
        self.cleared, self.num_raised = [], 0

    def begin_start(self) -> str:
        return "start"

    def begin(self, key: str) -> int:
        return 1 if "image" in key else 2

    def end(self, key: str) -> None:
        pass

    def clear(self, stage: str) -> None:
        self.cleared.append(stage)

    def raised(self, stage: str, error: RaisedError) -> None:
        self.num_raised += 1
        refuse_bug(error.kind, 0 if stage in self.cleared else self.num_raised)


@pytest.fixture
def in_process(monkeypatch):
    """Sandboxes that are none; a stage that crashes there ends the try as it would."""

    class InProcess:
        def __init__(self, build, **_: object) -> None:
            self._stage = build(lambda: None)

        def __call__(self, row: pa.Table) -> pa.Table:
            if row["image_bytes"].to_pylist() == [poison.SEGFAULT]:
                raise ChildEndedError("was killed by signal 11")
            try:
                return self._stage(row)
            except Exception as error:
                raise RaisedError.of(error) from error

        def close(self) -> None:
            pass

    monkeypatch.setattr("fattr.on_ray.actor.Sandbox", InProcess)


def fetched(*contents: bytes) -> pa.Table:
    number = len(contents)
    return pa.table(
        {
            "image_id": pa.array(range(number), pa.int64()),
            "image_uri": [f"s3://b/{n}" for n in range(number)],
            "size_bytes": pa.array([1] * number, pa.int64()),
            "etag": ["e"] * number,
            "image_bytes": pa.array(contents, pa.large_binary()),
            "fetch_status": ["ok"] * number,
            "fetch_reason": [""] * number,
            "fetch_s": pa.array([0.0] * number, pa.float32()),
        }
    )


def build(pulse):
    return poison.Poisoned(poison.Unlabelled(()), pulse)


def test_actors_end_the_run_over_what_all_images_raise(in_process):
    actor = StageActor(build, Notes(), 60)
    with pytest.raises(RunError, match="20 images raised ValueError and none got through"):
        actor(fetched(*[poison.RAISE] * 30))


def test_crashes_are_poison_however_many(in_process):
    made = StageActor(build, Notes(), 60)(fetched(*[poison.SEGFAULT] * 30))
    assert made["status"].to_pylist() == [Status.POISON] * 30


def test_an_actor_tells_once_that_an_image_got_through(in_process):
    notes = Notes()
    actor = StageActor(build, notes, 60)
    made = actor(fetched(poison.RAISE, b"a", b"b", *[poison.RAISE] * 30))
    assert made["status"].to_pylist().count("poison") == 31
    assert notes.cleared == ["StageActor"]


def test_what_is_decoded_got_through_decoding_alone(in_process):
    def decoding(pulse):
        def stage(rows: pa.Table) -> pa.Table:
            made = build(pulse)(rows)
            return made.append_column("decode_status", [[""] * rows.num_rows])

        return stage

    notes = Notes()
    DecodeActor(decoding, notes, 60)(fetched(b"a"))
    assert notes.cleared == ["DecodeActor"]
    assert AnnotateActor.got_through[0] == "status"


@pytest.mark.ray
def test_the_ledger_counts_by_stage_and_logs_a_traceback_once(ray_cluster, caplog):
    ledger = Ledger()
    ledger.clear("DecodeActor")
    for _ in range(MAX_RAISED - 1):
        ledger.raised("DecodeActor", RAISED)
        ledger.raised("AnnotateActor", RAISED)
    ledger.raised("AnnotateActor", RaisedError("ValueError", "Traceback: another"))
    ledger.raised("DecodeActor", RAISED)
    with pytest.raises(RunError, match="20 images raised ZeroDivisionError and none got through"):
        ledger.raised("AnnotateActor", RAISED)
    with caplog.at_level(logging.WARNING, "fattr"):
        ledger.close()
    assert [text.rpartition("Traceback: ")[2] for text in caplog.messages] == [
        "the line",
        "another",
    ]


@pytest.mark.ray
@ignoring_ray
def test_a_run_that_met_a_bug_does_its_images_again(ray_cluster, models, tmp_path, monkeypatch):
    photos, output = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(4):
        (photos / f"{number}.jpg").write_bytes(b"%d" % number)
    argv = ["--images", str(photos), "--output", str(output), "--model", str(models.looks)]

    def builds(stage):
        return lambda plan, _: {
            "annotate": functools.partial(stage, plan),
            "decode": None,
            "label": None,
        }

    monkeypatch.setattr("fattr.on_ray.annotate.builds", builds(poison.buggy_stage))
    assert run_job("annotate", [*argv, "--engine", "ray"]) == 3
    (path,) = output.glob("_runs/*/run.json")
    told = json.loads(path.read_text())
    assert told["exit_code"] == 3
    assert told["error"].startswith("4 images raised ZeroDivisionError and none got through")
    assert "secret" not in told["error"]
    assert not list(output.glob("images/**/*.parquet"))
    run = Run(storage.canonical_uri(str(output)), told["run_id"])
    assert count_checkpointed(run) == 4

    monkeypatch.setattr("fattr.on_ray.annotate.builds", builds(poison.fixed_stage))
    assert run_job("annotate", [*argv, "--engine", "ray"]) == 0
    assert json.loads(path.read_text())["by_status"] == {"no_face": 4}


def test_only_staged_files_without_an_image_that_got_through_are_struck(tmp_path):
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    raised = "its process raised ValueError twice"
    files = {
        "bug": [("poison", raised), ("missing", "")],
        "odd": [("poison", raised), ("ok", "")],
        "crash": [("poison", "its process was killed by signal 11 twice")],
        "bad": [("unreadable", "raised")],
    }
    for name, rows in files.items():
        table = pa.table({"status": [r[0] for r in rows], "reason": [r[1] for r in rows]})
        put(table, storage.join(run.staging, f"{name}_000000-0.parquet"))
        put(pa.table({"image_id": [1] * len(rows)}), f"{run.checkpoint}/{name}_000000.parquet")
    assert forget_suspects(run) == 1
    assert count_checkpointed(run) == 4
    assert not storage.exists(f"{run.checkpoint}/bug_000000.parquet")
    assert forget_suspects(run) == 0


def put(table: pa.Table, uri: str) -> None:
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    storage.write_bytes(uri, sink.getvalue().to_pybytes())
