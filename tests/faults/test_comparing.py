"""The drills' own eyes: tables that are not equal must be called so."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.faults import annotating, kills
from benchmarks.faults.verdict import Verdict, conclude

IMAGES = {"image_id": [1, 2, 3], "image_uri": ["a", "b", "c"], "status": ["ok", "ok", "timeout"]}
FACES = {
    "image_id": [1, 1, 2],
    "image_uri": ["a", "a", "b"],
    "face_index": [0, 1, 0],
    "smiling_prob": [0.25, 0.5, None],
    "age_probs": [[0.25, 0.75], None, [1.0]],
}


def write_output(folder, images=IMAGES, faces=FACES, run_id="r1", replaced=()):
    for table, rows in (("images", images), ("faces", faces)):
        path = folder / table / "dt=2026-11-23" / f"run={run_id}" / "part-00000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(rows if isinstance(rows, pa.Table) else pa.table(rows), path)
    run = folder / "_runs" / run_id
    run.mkdir(parents=True)
    pairs = {"run_id": [p[0] for p in replaced], "image_id": [p[1] for p in replaced]}
    pq.write_table(pa.table(pairs), run / "replaced.parquet")
    (run / "_SUCCESS").touch()
    return folder


@pytest.fixture
def calm(tmp_path):
    return write_output(tmp_path / "calm")


def test_equal_tables_differ_in_nothing(calm, tmp_path):
    shuffled = {name: values[::-1] for name, values in FACES.items()}
    close = shuffled | {"smiling_prob": [None, 0.5000001, 0.25]}
    assert annotating.differences(write_output(tmp_path / "out", faces=close), calm) == []


@pytest.mark.parametrize(
    ("images", "faces", "said"),
    [
        ({"image_uri": ["a", "b", "d"]}, {}, ["1 lost", "1 too many"]),
        ({"image_uri": ["a", "b", "b"]}, {}, ["1 lost", "1 there twice"]),
        ({"status": ["ok", "ok", "ok"]}, {}, ["1 other status, first c: ok for timeout"]),
        ({}, {"face_index": [0, 2, 0]}, ["1 lost", "1 too many"]),
        ({}, {"smiling_prob": [0.25, 0.51, None]}, ["1 other smiling_prob"]),
        ({}, {"smiling_prob": [0.25, 0.5, 0.5]}, ["1 other smiling_prob"]),
        ({}, {"age_probs": [[0.25, 0.75], None, [0.5]]}, ["1 other age_probs"]),
        ({}, {"age_probs": [[0.25], None, [1.0]]}, ["1 other age_probs"]),
    ],
)
def test_what_differs_is_named(images, faces, said, calm, tmp_path):
    output = write_output(tmp_path / "out", IMAGES | images, FACES | faces)
    found = annotating.differences(output, calm)
    assert len(found) == len(said)
    assert all(expected in line for expected, line in zip(said, found, strict=True))


def test_rows_that_a_later_run_replaced_do_not_count(calm, tmp_path):
    output = write_output(tmp_path / "out", IMAGES | {"status": ["ok", "ok", "unavailable"]})
    assert annotating.differences(output, calm) != []
    again, no_faces = pa.table(IMAGES).slice(2), pa.table(FACES).slice(0, 0)
    write_output(output, again, no_faces, "r2", [("r1", 3)])
    assert annotating.differences(output, calm) == []
    (output / "_runs" / "r2" / "_SUCCESS").unlink()
    assert annotating.differences(output, calm) != []


def test_an_output_without_a_finished_run_is_not_equal(calm, tmp_path):
    (tmp_path / "out").mkdir()
    assert annotating.differences(tmp_path / "out", calm)


def test_kills_are_of_every_kind():
    planned = kills.planned_kills(20, np.random.default_rng(0))
    assert sorted(map(planned.count, kills.Victim)) == [6, 7, 7]


def test_a_verdict_without_checks_or_with_a_bad_one_is_bad(tmp_path, capsys):
    verdict = Verdict("kills")
    assert not verdict.is_good
    verdict.check("equal", "")
    assert verdict.is_good
    verdict.check("verified", "", "exit 1")
    assert conclude(verdict, str(tmp_path / "verdict.json")) == 1
    assert capsys.readouterr().out == "kills: BAD (verified: exit 1); \n"
    written = json.loads((tmp_path / "verdict.json").read_text())
    assert written["checks"] == {"equal": "holds", "verified": "exit 1"}
