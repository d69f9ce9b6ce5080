"""A bug that all images meet ends a run of the Ray engine, and is nobody's poison afterwards."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import re

import annotating
import poison
import pyarrow as pa
import pytest
from small_output import put_parquet

from fattr import storage
from fattr.cli import run_job
from fattr.commands.annotate import Job, annotate_in_session
from fattr.commands.work import Work
from fattr.errors import RunError
from fattr.on_ray.actor import AnnotateActor, DecodeActor, StageActor
from fattr.on_ray.checkpoint import count_checkpointed, forget, recorded_parts
from fattr.on_ray.ledger import CountingMailbox, Ledger
from fattr.on_ray.mailbox import beside_driver
from fattr.published.suspects import raised_in
from fattr.records import Status
from fattr.runs.manifest import UriNames
from fattr.runs.record import RunRecord
from fattr.runs.run import Run
from fattr.sandbox import MAX_RAISED, ChildEndedError, RaisedError, refuse_bug
from fattr.sizing import Resources

RAISED = RaisedError("ZeroDivisionError", "Traceback: the line")
# Ray Data warns of settings of its own, as though their defaults had been set by us.


class Notes:
    """A ledger of this process, in which every block was begun before."""

    def __init__(self) -> None:
        self.cleared, self.image_ids = set(), []

    def begin_start(self) -> str:
        return "start"

    def begin(self, key: str) -> int:
        return 1 if "image" in key else 2

    def end(self, key: str) -> None:
        pass

    def clear(self, stage: str) -> None:
        self.cleared.add(stage)

    def raised(self, stage: str, image_id: int, error: RaisedError) -> None:
        self.image_ids.append(image_id)
        refuse_bug(error.kind, 0 if stage in self.cleared else len(self.image_ids))


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
    notes = Notes()
    actor = StageActor(build, notes, 60)
    with pytest.raises(RunError, match="20 images raised ValueError and none got through"):
        actor(fetched(*[poison.RAISE] * 30))
    assert notes.image_ids == list(range(20))


def test_crashes_are_poison_however_many(in_process):
    made = StageActor(build, Notes(), 60)(fetched(*[poison.SEGFAULT] * 30))
    assert made["status"].to_pylist() == [Status.POISON] * 30


def test_an_actor_tells_that_an_image_got_through(in_process):
    notes = Notes()
    actor = StageActor(build, notes, 60)
    made = actor(fetched(poison.RAISE, b"a", b"b", *[poison.RAISE] * 30))
    assert made["status"].to_pylist().count("poison") == 31
    assert notes.cleared == {"StageActor"}


def test_what_is_decoded_got_through_decoding_alone(in_process):
    def decoding(pulse):
        def stage(rows: pa.Table) -> pa.Table:
            made = build(pulse)(rows)
            return made.append_column("decode_status", [[""] * rows.num_rows])

        return stage

    notes = Notes()
    DecodeActor(decoding, notes, 60)(fetched(b"a"))
    assert notes.cleared == {"DecodeActor"}
    assert AnnotateActor.got_through[0] == "status"


@pytest.mark.ray
def test_the_ledger_counts_by_stage_and_logs_a_traceback_once(ray_cluster, caplog):
    ledger = Ledger(beside_driver(CountingMailbox))
    ledger.clear("DecodeActor")
    for image_id in [*range(MAX_RAISED - 1), 0]:
        ledger.raised("DecodeActor", image_id, RAISED)
        ledger.raised("AnnotateActor", image_id, RAISED)
    ledger.raised("AnnotateActor", 19, RaisedError("ValueError", "Traceback: another"))
    ledger.raised("DecodeActor", 19, RAISED)
    with pytest.raises(RunError, match="20 images raised ZeroDivisionError and none got through"):
        ledger.raised("AnnotateActor", 19, RAISED)
    with caplog.at_level(logging.WARNING, "fattr"):
        ledger.close()
    assert [text.rpartition("Traceback: ")[2] for text in caplog.messages] == [
        "the line",
        "another",
    ]


@pytest.mark.ray
def test_a_ledger_of_cleared_code_refuses_nothing(ray_cluster):
    ledger = Ledger(beside_driver(CountingMailbox), is_cleared=True)
    for image_id in range(2 * MAX_RAISED):
        ledger.raised("AnnotateActor", image_id, RAISED)
    ledger.close()


def build_all_by(stage):
    """For ``fattr.on_ray.annotate.builds``: a preset's only stage is this one."""

    def builds(plan, _):
        return {"annotate": functools.partial(stage, plan), "decode": None, "label": None}

    return builds


@pytest.fixture
def annotate(ray_cluster, models, tmp_path, monkeypatch):
    """Do so many images by a stage of ``poison``; the job's exit code and ``run.json``."""

    def run(num_images: int, stage) -> tuple[int, dict]:
        photos, output = tmp_path / "photos", tmp_path / "out"
        photos.mkdir(exist_ok=True)
        for number in range(num_images):
            (photos / f"{number}.jpg").write_bytes(b"%d" % number)
        monkeypatch.setattr("fattr.on_ray.annotate.builds", build_all_by(stage))
        argv = ["--images", str(photos), "--output", str(output), "--model", str(models.looks)]
        code = run_job("annotate", [*argv, "--engine", "ray"])
        (path,) = output.glob("_runs/*/run.json")
        return code, json.loads(path.read_text())

    return run


@pytest.mark.full
@pytest.mark.ray
def test_a_run_that_met_a_bug_does_its_images_again(annotate, tmp_path):
    code, told = annotate(4, poison.buggy_stage)
    assert code == told["exit_code"] == 3
    assert told["error"].startswith("4 images raised ZeroDivisionError and none got through")
    assert "secret" not in told["error"]
    assert not list(tmp_path.glob("out/images/**/*.parquet"))
    run = Run(storage.canonical_uri(str(tmp_path / "out")), told["run_id"])
    assert count_checkpointed(run) == 4

    code, told = annotate(4, poison.fixed_stage)
    assert code == 0
    assert told["by_status"] == {"no_face": 4}


@pytest.mark.full
@pytest.mark.ray
def test_a_bug_ends_a_run_before_all_images_have_met_it(annotate):
    code, told = annotate(40, poison.buggy_stage)
    assert code == 3
    assert re.match(r"2\d images raised ZeroDivisionError and none got through", told["error"])
    assert told["error"].count("run the same command again") == 1


RAISED_ROW = ("poison", "its process raised ValueError twice")
FILES = {
    "bug": [RAISED_ROW, RAISED_ROW, ("missing", "")],
    "crash": [("poison", "its process was killed by signal 11 twice")],
    "bad": [("unreadable", "raised")],
    "odd": [RAISED_ROW, ("no_face", "")],
}


def stage(run: Run, name: str) -> str:
    """One of ``FILES``, staged and recorded; its URI."""
    rows = FILES[name]
    uri = storage.join(run.staging, f"{name}_000000-0.parquet")
    table = pa.table({"status": [r[0] for r in rows], "reason": [r[1] for r in rows]})
    put_parquet(table, uri)
    put_parquet(pa.table({"image_id": [1] * len(rows)}), f"{run.checkpoint}/{name}_000000.parquet")
    return uri


def test_staged_files_of_images_that_raised_are_struck(tmp_path):
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    uris = {name: stage(run, name) for name in ("bug", "crash", "bad")}
    suspects = raised_in(recorded_parts(run))
    assert suspects == {uris["bug"]: {"ValueError": 2}}
    forget(run, suspects)
    assert count_checkpointed(run) == 2
    assert recorded_parts(run) == [uris["bad"], uris["crash"]]
    assert raised_in(recorded_parts(run)) == {}


def test_where_an_image_got_through_nothing_is_suspect(tmp_path):
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    for name in FILES:
        stage(run, name)
    assert raised_in(recorded_parts(run)) is None


def test_what_a_killed_worker_left_half_written_is_not_looked_at(tmp_path):
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    whole = stage(run, "bug")
    half = storage.read_bytes(whole)[:-9]
    storage.write_bytes(storage.join(run.staging, "killed_000000-0.parquet"), half)
    assert list(raised_in(recorded_parts(run))) == [whole]


@pytest.mark.parametrize(
    ("names", "only", "is_cleared", "num_kept"),
    [
        pytest.param(["bug", "bad"], (), False, 1, id="struck"),
        pytest.param(["bug", "odd"], (), True, 2, id="one got through"),
        pytest.param(["bug", "bad"], ("poison",), True, 2, id="poison asked for"),
        pytest.param(["bug", "bad"], ("denied",), False, 1, id="denied asked for"),
    ],
)
def test_going_on_remembers_what_was_seen(
    tmp_path, monkeypatch, models, names, only, is_cleared, num_kept
):
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    for name in names:
        stage(run, name)
    told = {}
    monkeypatch.setattr(
        "fattr.on_ray.session.ray_session", lambda *_, **__: contextlib.nullcontext()
    )
    here = Resources(cpus=2, gpus=0, nodes=1, is_local=True, usable_cpus=2)
    monkeypatch.setattr("fattr.on_ray.pool.resources", lambda: here)
    monkeypatch.setattr(
        "fattr.on_ray.annotate.annotate_on_ray", lambda *_, **said: told.update(said)
    )
    plan = annotating.plan_of(models.looks)
    job = Job(plan, Work(plan.config, UriNames(None), only), run.output)
    record = RunRecord(run.file("run.json"), {"increment": {"total_bytes": 0}})
    annotate_in_session(job, run, record, 9, lambda: None, None)
    assert told["blame"].is_code_cleared == is_cleared
    assert len(recorded_parts(run)) == num_kept
