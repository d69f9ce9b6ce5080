"""Runs of the Ray engine that lose images' processes, actors, drivers and nodes."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import annotating
import poison
import pytest
from annotating import RUN_ID, annotate, plan_of, write_manifest

from fattr.errors import RunError
from fattr.on_ray.checkpoint import count_checkpointed
from fattr.records import Status
from fattr.runs.run import Run

pytestmark = pytest.mark.ray

TIMEOUT_S = 240
NAMES = ("1-face.jpg", "2-faces.jpg", "coffee.png", "empty.jpg", "1-face-tiny.png")


@pytest.fixture(scope="module")
def plan(models):
    return plan_of(models.looks)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run((tmp_path / "out").as_uri(), RUN_ID)


@pytest.fixture(scope="module")
def photographs(photo_folder) -> list[str]:
    return [(photo_folder / name).as_uri() for name in NAMES]


@pytest.fixture
def poisoned(monkeypatch):
    monkeypatch.setattr("fattr.on_ray.annotate.builds", poison.builds)


def bad(folder, **files: bytes) -> list[str]:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [(folder / name).as_uri() for name in files]


def test_one_row_an_image_under_the_manifests_names(ray_cluster, plan, run, photographs):
    write_manifest(run, photographs * 3, hashed=True)
    done = annotate(plan, run, 15)
    assert [row["image_id"] for row in done.rows] == list(range(15))
    assert [row["image_uri"] for row in done.rows] == [f"hash-{n:05d}" for n in range(15)]
    assert [row["etag"] for row in done.rows] == [f"etag-{n}" for n in range(15)]
    assert [row["num_faces"] for row in done.rows[:5]] == [1, 2, 0, 0, 1]
    assert done.counts["ok"] == 9
    assert done.counts["faces"] == 12


def test_images_that_end_their_process_are_rows_and_the_others_as_ever(
    ray_cluster, poisoned, plan, run, photographs, tmp_path
):
    uris = bad(
        tmp_path / "bad",
        segfault=poison.SEGFAULT,
        exit=poison.EXIT,
        hang=poison.HANG,
        error=poison.RAISE,
    )
    mixed = [*photographs, uris[0], *photographs, *uris[1:], *photographs]
    write_manifest(run, mixed)
    done = annotate(plan, run, len(mixed), image_timeout_s=3)
    assert [row["image_id"] for row in done.rows] == list(range(len(mixed)))
    got = {row["image_uri"].rpartition("/")[2]: row for row in done.rows}
    reasons = {name: got[name]["reason"] for name in ("segfault", "exit", "hang", "error")}
    assert reasons == {
        "segfault": "its process was killed by signal 11 twice",
        "exit": "its process ended with code 7 twice",
        "hang": "its process took longer than 3 s twice",
        "error": "its process raised ValueError twice",
    }
    assert {got[name]["status"] for name in reasons} == {Status.POISON}
    others = [row for row in done.rows if row["status"] != Status.POISON]
    clean = Run(run.output + "-clean", RUN_ID)
    write_manifest(clean, photographs)
    expected = {row["image_uri"]: row for row in annotate(plan, clean, 5).rows}
    assert len(others) == 15
    for row in others:
        want = expected[row["image_uri"]]
        assert row | {"image_id": 0, "etag": ""} == want | {"image_id": 0, "etag": ""}


@pytest.mark.drills
def test_an_image_that_takes_the_waiting_process_along_is_bounded_too(
    ray_cluster, poisoned, plan, run, photographs, tmp_path
):
    uris = bad(tmp_path / "bad", parent=poison.KILL_PARENT)
    write_manifest(run, [*photographs, *uris, *photographs])
    done = annotate(plan, run, 11, image_timeout_s=5)
    assert [row["image_id"] for row in done.rows] == list(range(11))
    (row,) = (row for row in done.rows if row["status"] == Status.POISON)
    assert row["image_uri"] == uris[0]
    assert row["reason"] == "the process that waited for it was killed twice"


@pytest.mark.drills
def test_decoding_in_other_actors_gives_equal_rows_and_bounds_poison_too(
    ray_cluster, poisoned, plan, run, photographs, tmp_path
):
    uris = bad(tmp_path / "bad", segfault=poison.SEGFAULT)
    write_manifest(run, [*photographs, *uris])
    mixed = {"preset": "mixed", "num_decoders": 1, "rows_per_block": 6}
    done = annotate(plan, run, 6, **mixed)
    fused = Run(run.output + "-fused", RUN_ID)
    write_manifest(fused, [*photographs, *uris])
    assert done.rows == annotate(plan, fused, 6).rows
    assert done.rows[5]["reason"] == "its process was killed by signal 11 twice"


@pytest.mark.parametrize(
    ("load", "says"),
    [
        pytest.param(poison.fail_on_load, "no such operator in this runtime", id="raises"),
        pytest.param(poison.crash_on_load, "ended 3 times while it loaded", id="crashes"),
    ],
)
def test_models_that_cannot_be_loaded_end_the_run(
    ray_cluster, monkeypatch, plan, run, photographs, load, says
):
    builds = {"annotate": functools.partial(load, plan), "decode": None, "label": None}
    monkeypatch.setattr("fattr.on_ray.annotate.builds", lambda *_: builds)
    write_manifest(run, photographs)
    with pytest.raises(RunError, match=says) as caught:
        annotate(plan, run, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.full
def test_a_lost_lease_ends_the_run_at_once(ray_cluster, plan, run, photographs):
    write_manifest(run, photographs * 40)
    started = time.monotonic()

    def check():
        if time.monotonic() > started + 4:
            raise RunError("the lease was lost")

    with pytest.raises(RunError, match="the lease was lost"):
        annotate(plan, run, 200, check=check)
    assert time.monotonic() < started + 15
    write_manifest(run, photographs)
    assert len(annotate(plan, run, 5).rows) >= 5


def test_what_reading_the_storage_says_ends_the_run(ray_cluster, plan, run, monkeypatch):
    """As when credentials expire: no status of an image."""
    from fattr import storage

    def expired(uri, **_):
        raise RunError("the AWS credentials for s3://b expired: renew them and run again")

    monkeypatch.setattr(storage, "read_bytes", expired)
    write_manifest(run, ["s3://b/1.jpg"])
    with pytest.raises(RunError, match="credentials for s3://b expired"):
        annotate(plan, run, 1)


# Going on


def start_driver(run: Run, model, num_images: int, **more: object) -> subprocess.Popen[str]:
    asked = {"output": run.output, "model": str(model), "num_images": num_images} | more
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", annotating.__file__, json.dumps(asked)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )


def wait_for_staged(run: Run, num_rows: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while count_checkpointed(run) < num_rows:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_driver_once(run: Run, model, num_images: int, *, at: int, **more: object) -> None:
    """Start a driver and kill -9 it when so many rows are staged."""
    with start_driver(run, model, num_images, **more) as process:
        wait_for_staged(run, at, process)
        process.kill()


def assert_each_once(rows, num_images: int) -> None:
    assert [row["image_id"] for row in rows] == list(range(num_images))


def num_done(staged: annotating.Staged) -> int:
    """Images that this attempt counted."""
    return sum(staged.counts[str(status)] for status in Status)


@pytest.mark.full
def test_a_killed_driver_is_gone_on_with(ray_cluster, plan, models, run, photographs):
    larger = {"rows_per_write": 10}
    write_manifest(run, photographs * 20)
    kill_driver_once(run, models.looks, 100, at=20, sizes=larger)
    time.sleep(1)  # its workers may go on for a moment; what they still record is no loss
    done_before = count_checkpointed(run)
    assert 20 <= done_before < 100
    # What a kill in the middle of a write leaves: a pending record and half a file of its name,
    # and half a file of workers that outlived their driver, of which there is no record.
    path = Path(unquote(urlsplit(run.folder).path))
    recorded = next((path / "checkpoint").iterdir())
    staged = next((path / "staging").iterdir()).read_bytes()
    (path / "checkpoint" / "abc_000001.pending.parquet").write_bytes(recorded.read_bytes())
    (path / "staging" / "abc_000001-0.parquet").write_bytes(staged[: len(staged) // 2])
    (path / "staging" / "def_000002-0.parquet").write_bytes(staged[: len(staged) // 2])
    done = annotate(plan, run, 100, **larger)
    assert_each_once(done.rows, 100)
    assert num_done(done) == 100 - done_before
    assert not list((path / "checkpoint").glob("*pending*"))
    assert annotate(plan, run, 100, **larger).counts == {}  # nothing left to do


@pytest.mark.drills
def test_going_on_in_a_bucket(ray_cluster, s3_bucket, plan, models, photographs):
    run, larger = Run(f"{s3_bucket}/out", RUN_ID), {"rows_per_write": 10}
    write_manifest(run, photographs * 20)
    kill_driver_once(run, models.looks, 100, at=10, sizes=larger)
    time.sleep(1)
    done = annotate(plan, run, 100, **larger)
    assert_each_once(done.rows, 100)
    assert num_done(done) <= 90


@pytest.mark.drills
@pytest.mark.parametrize("num_cpus", [1, 2])
def test_going_on_with_few_cpus_is_no_deadlock(num_cpus, models, run, photographs):
    """The filter of what is done holds a whole CPU."""
    write_manifest(run, photographs * 20)
    kill_driver_once(run, models.looks, 100, at=12, num_cpus=num_cpus)
    time.sleep(1)
    with start_driver(run, models.looks, 100, num_cpus=num_cpus) as process:
        words, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert words.splitlines()[-1] == "done"
    assert_each_once(annotating.staged_rows(run), 100)


def processes_of(session: subprocess.Popen[str], name: str) -> list[int]:
    """Of a driver's own session of Ray, those with a name."""
    found = subprocess.run(
        ["pgrep", "-f", "-s", str(session.pid), name], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


@pytest.mark.drills
def test_a_driver_without_its_raylet_ends(models, run, photographs):
    write_manifest(run, photographs * 60)
    with start_driver(run, models.looks, 300) as process:
        wait_for_staged(run, 20, process)
        (raylet,) = processes_of(process, "raylet/raylet")
        os.kill(raylet, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)
    assert process.returncode != 0


@pytest.mark.drills
def test_killed_actors_cost_nothing_but_time(models, run, photographs):
    """Unrelated kills, at full speed and with care, of those that work and those that count."""
    num_images = 300
    write_manifest(run, photographs * 60)
    killed = Counter[str]()
    with start_driver(run, models.looks, num_images) as process:
        for at in (10, 60, 120, 180):
            wait_for_staged(run, at, process)
            for name in ("ray::.*Annotate", "ray::CountingMailbox"):
                for pid in processes_of(process, name)[:1]:
                    os.kill(pid, signal.SIGKILL)
                    killed[name] += 1
        process.communicate(timeout=2 * TIMEOUT_S)
    assert process.returncode == 0
    assert min(killed.values()) >= 3
    assert len(killed) == 2
    rows = annotating.staged_rows(run)
    assert_each_once(rows, num_images)
    assert {row["status"] for row in rows} == {"ok", "no_face", "unreadable"}
