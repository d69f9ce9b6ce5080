"""A cluster of CPU nodes and nodes said to have GPUs: who goes where, who comes, and who leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import annotating
import pytest
import ray_nodes
import whereabouts
from annotating import RUN_ID, write_manifest

from fattr.on_ray.checkpoint import count_checkpointed
from fattr.runs.run import Run

pytestmark = [pytest.mark.ray]

TIMEOUT_S = 240
NAMES = ("1-face.jpg", "2-faces.jpg", "coffee.png", "empty.jpg", "1-face-tiny.png")


@pytest.fixture(scope="module")
def nodes():
    with ray_nodes.nodes() as nodes:
        yield nodes


@pytest.fixture(scope="module")
def cpu_node(nodes) -> str:
    return nodes.add(cpus=4)


@pytest.fixture
def new_gpu_node(nodes, cpu_node):
    """A function that adds one, for the test's time."""
    added = []

    def add() -> str:
        added.append(nodes.add(cpus=2, gpus=1))
        return added[-1]

    yield add
    for node in added:
        if node in nodes.there:
            nodes.kill(node)


@pytest.fixture
def gpu_node(new_gpu_node) -> str:
    return new_gpu_node()


@pytest.fixture(scope="module")
def photographs(photo_folder) -> list[str]:
    return [(photo_folder / name).as_uri() for name in NAMES]


# What an evaluation's actors do to labelled images: they are on the nodes whose GPUs they hold.
IN_ACTORS = """
import pyarrow as pa, ray, sys
from fattr.on_ray.pool import in_actors
from fattr.on_ray.session import ray_session

class Where:
    def __call__(self, rows):
        here = ray.get_runtime_context().get_node_id()
        return rows.append_column("node", pa.array([here] * rows.num_rows))

sys.stdout = sys.stderr  # for Ray's words of its nodes
with ray_session():
    rows = ray.data.from_arrow(pa.table({"n": range(20)})).repartition(target_num_rows_per_block=4)
    done = in_actors(rows, Where, (), num_actors=2, use_gpu=True).take_all()
    assert sorted(row["n"] for row in done) == list(range(20))
    print(*{row["node"] for row in done}, file=sys.__stdout__)
"""


@dataclass
class Driver:
    """A run under way."""

    run: Run
    process: subprocess.Popen[str]
    notes: Path

    def labelled_on(self, node: str) -> int:
        """Images that its actors have labelled."""
        return whereabouts.read(self.notes)["annotate"][node].total()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            assert self.process.poll() is None, "the run has ended"
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def finish(self) -> list[dict[str, object]]:
        """Its rows."""
        self.process.communicate(timeout=TIMEOUT_S)
        assert self.process.returncode == 0
        return annotating.staged_rows(self.run)


@contextmanager
def driver(nodes, model, uris, folder, *, seconds_an_image=0.0, preset="gpu"):
    """The engine on the cluster, with stages that tell where they are."""
    run, notes = Run((folder / f"out-{preset}").as_uri(), RUN_ID), folder / f"notes-{preset}"
    notes.mkdir()
    write_manifest(run, uris)
    asked = {
        "output": run.output,
        "model": str(model),
        "num_images": len(uris),
        "preset": preset,
        "notes": str(notes),
        "seconds_an_image": seconds_an_image,
    }
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", annotating.__file__, json.dumps(asked)],
        env=os.environ | {"RAY_ADDRESS": nodes.address, "RAY_USAGE_STATS_ENABLED": "0"},
        text=True,
    ) as process:
        try:
            yield Driver(run, process, notes)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def expected(models, photographs, tmp_path_factory):
    """A function that gives the rows of an undisturbed run without Ray, of so many images."""
    rows = annotating.rows_without_ray(models.looks, photographs, tmp_path_factory.mktemp("calm"))

    def repeated(count: int) -> list[dict[str, object]]:
        return [rows[n % len(rows)] | {"image_id": n, "etag": f"etag-{n}"} for n in range(count)]

    return repeated


@pytest.mark.full
def test_models_are_on_gpu_nodes_and_fetches_on_the_others(
    nodes, cpu_node, gpu_node, models, photographs, expected, tmp_path
):
    with driver(nodes, models.looks, photographs * 8, tmp_path) as fused:
        assert fused.finish() == expected(40)
    places = whereabouts.read(fused.notes)
    assert set(places["fetch"]) == {cpu_node}
    assert set(places["annotate"]) == {gpu_node}
    assert "decode" not in places
    with driver(nodes, models.looks, photographs * 8, tmp_path, preset="mixed") as mixed:
        assert mixed.finish() == expected(40)
    places = whereabouts.read(mixed.notes)
    assert set(places["decode"]) == {cpu_node}
    assert set(places["label"]) == {gpu_node}


@pytest.mark.full
def test_pictures_are_scored_where_the_gpus_are(nodes, gpu_node, new_gpu_node):
    another = new_gpu_node()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_ACTORS],
        env=os.environ | {"RAY_ADDRESS": nodes.address, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {gpu_node, another}


@pytest.mark.drills
def test_a_node_that_comes_is_used_and_one_that_is_killed_costs_only_time(
    nodes, gpu_node, new_gpu_node, models, photographs, expected, tmp_path
):
    with driver(nodes, models.looks, photographs * 120, tmp_path, seconds_an_image=0.1) as run:
        run.wait_until(lambda: count_checkpointed(run.run) > 20)
        another = new_gpu_node()
        run.wait_until(lambda: run.labelled_on(another) > 20)
        nodes.kill(gpu_node)
        assert run.finish() == expected(600)


@pytest.mark.drills
def test_a_node_that_will_be_taken_away_is_left_in_time(
    nodes, gpu_node, new_gpu_node, models, photographs, expected, tmp_path
):
    """Well before: of the time told, half is left when the last image there is done."""
    within_s = 20
    another = new_gpu_node()
    with driver(nodes, models.looks, photographs * 120, tmp_path, seconds_an_image=0.1) as run:
        run.wait_until(lambda: run.labelled_on(another) > 8 and run.labelled_on(gpu_node) > 8)
        nodes.drain(gpu_node, within_s)
        time.sleep(within_s / 2)
        done_in_time = run.labelled_on(gpu_node)
        time.sleep(within_s / 2)
        nodes.kill(gpu_node)
        assert run.finish() == expected(600)
    labelled, begun = (whereabouts.read(run.notes)[name] for name in ("annotate", "begun"))
    assert labelled[gpu_node] == begun[gpu_node]  # nothing was cut short, and nothing begun later
    assert labelled[gpu_node].total() == done_in_time
    assert (labelled[gpu_node] + labelled[another]).total() == 600  # none done twice
