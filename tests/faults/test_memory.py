"""What ``benchmarks/memory.py`` sees and concludes, and its short form."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks import memory

MB = 1_000_000


def test_a_child_that_takes_memory_is_seen():
    hold = "held = bytearray(b'x') * 50_000_000; print(len(held), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, "annotate.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        held = memory.held_by_kind(child.pid)
        assert child.pid in memory.descendants(os.getpid())
        child.communicate(b"\n")
    assert held.keys() == {"driver"}
    assert 50 * MB < held["driver"] < 80 * MB


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("/usr/bin/python jobs/annotate.py --images x", "driver"),
        ("ray::MapWorker(MapBatches(AnnotateActor))", "actors"),
        ("ray::MapBatches(fetch_block)", "fetch and other tasks"),
        ("/x/ray/core/src/ray/raylet/raylet --store", "raylet"),
        ("/x/ray/core/src/ray/gcs/gcs_server", "Ray, other"),
        ("sh", "other"),
    ],
)
def test_processes_are_told_apart(title, kind):
    assert memory.kind_of(title) == kind


def test_a_kind_that_comes_late_and_one_that_goes():
    samples = memory.Samples()
    for second in range(8):
        samples.add(second, {"driver": 5} if second < 4 else {"actors": 7})
    assert dict(samples.by_kind) == {"driver": [5] * 4 + [0] * 4, "actors": [0] * 4 + [7] * 4}
    assert memory.quarters(samples) == {"driver": (5, 0), "actors": (0, 7)}


@pytest.mark.parametrize(
    ("second", "last", "grew"),
    [(500 * MB, 500 * MB, False), (500 * MB, 545 * MB, False), (500 * MB, 600 * MB, True),
     (10 * MB, 30 * MB, False), (0, 40 * MB, True), (500 * MB, 10 * MB, False)],
)  # fmt: skip
def test_growth_is_called_so(second, last, grew):
    assert bool(memory.growth(second, last, 0.1)) is grew


@pytest.mark.full
@pytest.mark.ray
def test_a_short_run_is_measured_and_drawn(tmp_path):
    plot = tmp_path / "memory.png"
    verdict = memory.drill(memory.Settings(images=600, plot=str(plot)), tmp_path)
    assert verdict.checks["the run ends with 0"] == "", verdict.line
    assert {"driver flat", "actors flat", "raylet flat", "object store flat"} <= set(verdict.checks)
    assert 1000 < plot.stat().st_size < 100_000
