"""The engine of one process, with stages that raise."""

from __future__ import annotations

import logging
from collections import Counter

import annotating
import pyarrow as pa
import pytest
from poison import Bug, Poisoned, Unlabelled

from fattr import tables
from fattr.errors import RunError
from fattr.local_engine import annotate_locally
from fattr.records import Status
from fattr.runs.run import Run
from fattr.sandbox import MAX_RAISED, Suspicion
from fattr.stages import Fetch

GOOD, RAISE = b"a", b"RAISE"
SCHEMA = tables.staged_schema(())


@pytest.fixture
def run(tmp_path) -> Run:
    return Run((tmp_path / "out").as_uri(), annotating.RUN_ID)


def annotate(run, folder, contents, stage, num_threads=2, **others: bool) -> Counter[str]:
    for number, content in enumerate(contents):
        (folder / f"{number:03d}").write_bytes(content)
    uris = [(folder / f"{number:03d}").as_uri() for number in range(len(contents))]
    annotating.write_manifest(run, uris)
    counts = Counter[str]()
    annotate_locally(
        run.manifest,
        run.staging,
        stage,
        SCHEMA,
        fetch=Fetch(),
        num_threads=num_threads,
        on_counts=counts.update,
        **others,
    )
    return counts


def poisoned() -> Poisoned:
    return Poisoned(Unlabelled(()), lambda: None)


def test_an_image_that_raises_is_a_row_and_its_traceback_is_logged_once(run, tmp_path, caplog):
    contents = [GOOD] * 40
    contents[3] = contents[17] = contents[18] = RAISE
    with caplog.at_level(logging.WARNING, "fattr"):
        counts = annotate(run, tmp_path, contents, poisoned())
    rows = annotating.staged_rows(run)
    assert [row["image_id"] for row in rows] == list(range(40))
    bad = {row["image_id"]: row["reason"] for row in rows if row["status"] == Status.POISON}
    assert bad == dict.fromkeys([3, 17, 18], "its process raised ValueError twice")
    assert counts[Status.NO_FACE] == 37
    (said,) = caplog.messages
    assert "in look_at" in said
    assert "ValueError: such an image was not foreseen" in said


def test_what_all_images_raise_ends_the_run_before_its_end(run, tmp_path):
    with pytest.raises(RunError, match=r"^20 images raised ValueError and none got through: "):
        annotate(run, tmp_path, [RAISE] * 100, poisoned(), num_threads=1)
    assert not annotating.staged_rows(run)


def test_an_image_that_got_through_clears_the_code(run, tmp_path):
    counts = annotate(run, tmp_path, [GOOD, *[RAISE] * 60], poisoned(), num_threads=1)
    assert counts[Status.POISON] == 60


def test_where_the_code_is_cleared_all_images_may_raise(run, tmp_path):
    counts = annotate(run, tmp_path, [RAISE] * 60, poisoned(), is_cleared=True)
    assert counts[Status.POISON] == 60


def test_an_image_that_is_unreadable_clears_nothing(run, tmp_path):
    def stage(rows: pa.Table) -> pa.Table:
        made = poisoned()(rows)
        index = made.schema.get_field_index("status")
        column = ["unreadable" if s == "no_face" else s for s in made["status"].to_pylist()]
        return made.set_column(index, made.schema.field(index), [column])

    with pytest.raises(RunError, match="20 images raised ValueError"):
        annotate(run, tmp_path, [GOOD] * 20 + [RAISE] * 20, stage)


def test_a_stage_that_raises_without_an_image_ends_the_run(run, tmp_path):
    with pytest.raises(RunError, match="a row without an image raised ZeroDivisionError"):
        annotate(run, tmp_path, [GOOD], Bug(even_without_bytes=True))


def test_only_equal_exceptions_of_other_images_add_up():
    suspicion = Suspicion()
    raised = [suspicion.raised(f"Error{n % 3}", n) for n in range(MAX_RAISED)]
    assert max(raised) == -(-MAX_RAISED // 3)
    assert [suspicion.raised("Error0", 0) for _ in range(MAX_RAISED)] == [raised[-2]] * MAX_RAISED
    suspicion.clear()
    assert suspicion.raised("Error0", 1) == 0
