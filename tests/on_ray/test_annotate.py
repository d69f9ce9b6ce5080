"""The Ray engine, with the local engine as its oracle: the same rows, from disk and from S3."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import annotating
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from ray.data import DataContext

from fattr import storage
from fattr.cli import run_job
from fattr.on_ray.actor import DecodeActor, StageActor, builds
from fattr.on_ray.annotate import _context
from fattr.runs import manifest
from fattr.runs.run import Run
from fattr.stages import Fetch

TIMEOUT_S = 240


@pytest.fixture(scope="module")
def odd_folder(photo_folder, tmp_path_factory) -> Path:
    """The photographs, and so many small pictures of odd kinds that they fill several blocks."""
    folder = tmp_path_factory.mktemp("odd")
    for path in photo_folder.rglob("*"):
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(0)
    for n in range(40):
        size_wh = ((1, 1), (1, 900), (700, 3), (33, 65))[n % 4]
        mode, kind = (("RGB", "PNG"), ("CMYK", "JPEG"), ("P", "GIF"), ("LA", "PNG"), ("1", "BMP"))[
            n % 5
        ]
        pixels = rng.integers(0, 256, (*size_wh[::-1], 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert("L" if mode == "LA" else "RGB").convert(mode).save(
            buffer, kind
        )
        data = buffer.getvalue()
        (folder / f"odd-{n:02d}").write_bytes(data[: len(data) // 2] if n % 7 == 0 else data)
    return folder


@pytest.fixture(scope="module")
def flags(models) -> list[str]:
    chosen = ["--model", str(models.people), "--model", str(models.looks)]
    return [*chosen, "--sensitive", "age,young,perceived_gender_presentation", "--purpose", "tests"]


@pytest.fixture(scope="module")
def oracle(odd_folder, flags, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("oracle") / "out"
    argv = ["--images", str(odd_folder), "--output", str(output), "--engine", "local", *flags]
    assert run_job("annotate", argv) == 0
    return output


def run_info(output: Path) -> dict:
    (path,) = (output / "_runs").glob("*/run.json")
    return json.loads(path.read_text())


def assert_same_tables(rows_of, output: str | Path, oracle: Path) -> None:
    for table in ("images", "faces"):
        expected = rows_of(oracle, table)
        assert len(expected) >= 7
        assert rows_of(output, table) == expected


@pytest.mark.ray
def test_as_many_blocks_wait_in_the_object_store_as_the_sizing_says(ray_cluster, tmp_path):
    sizing = annotating.sizing_of(100, store_bytes=7 << 20)
    with _context(Run(tmp_path.as_uri(), annotating.RUN_ID), sizing, 1.0, lambda: None):
        limits = DataContext.get_current().execution_options.resource_limits
    assert limits.object_store_memory == 7 << 20


@pytest.mark.ray
def test_the_rows_are_those_of_the_local_engine(
    ray_cluster, odd_folder, oracle, flags, tmp_path, rows_of
):
    output = tmp_path / "out"
    argv = ["--images", str(odd_folder), "--output", str(output), *flags]
    assert run_job("annotate", argv) == 0
    assert_same_tables(rows_of, output, oracle)
    one, other = run_info(output), run_info(oracle)
    assert (one["engine"], other["engine"]) == ("ray", "local")
    for name in ("settings_id", "by_status", "num_images", "num_faces", "exit_code", "models"):
        assert one[name] == other[name]
    assert {path.name for path in output.rglob("part-*")} == {"part-00000.parquet"}
    assert not [*output.rglob("staging"), *output.rglob("checkpoint")]


@pytest.mark.ray
def test_a_bucket_is_as_good_as_a_folder(
    ray_cluster, s3_bucket, moto_client, odd_folder, oracle, flags, rows_of
):
    for path in odd_folder.iterdir():
        key = f"photos/{path.name}"
        bucket = s3_bucket.removeprefix("s3://")
        moto_client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    output = f"{s3_bucket}/tables"
    argv = ["--images", f"{s3_bucket}/photos", "--output", output, "--profile", *flags]
    assert run_job("annotate", argv) == 0
    assert_same_tables(rows_of, output, oracle)
    assert not any("staging" in entry.uri for entry in storage.list_tree(output))
    assert_profiled(output, len(list(odd_folder.iterdir())))


def assert_profiled(output: str, num_images: int) -> None:
    """Of each image, and of each block, there is a step in a process that is not this one."""
    (uri,) = [e.uri for e in storage.list_tree(output) if e.uri.endswith("/profile.json")]
    info = json.loads(storage.read_bytes(uri.replace("profile.json", "run.json")))
    assert info["bottleneck"].startswith("bound by ")
    events = json.loads(storage.read_bytes(uri))["traceEvents"]
    counts = Counter(event["name"] for event in events if event["ph"] == "X")
    assert counts.keys() == {"fetch", "decode", "detect", "crop", "classify"}
    num_listed = sum(info["by_status"].values())
    assert counts["decode"] == num_listed <= num_images
    assert 1 < counts["classify"] < num_listed
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert len(names) >= 2  # who fetches does not label
    assert f"process {os.getpid()}" not in names


def test_those_who_decode_and_those_who_label_tell_of_their_own_steps(
    photo_folder, models, tmp_path
):
    plan = annotating.plan_of(models.looks)
    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    names = ("1-face.jpg", "coffee.png", "empty.jpg")
    annotating.write_manifest(run, [(photo_folder / name).as_uri() for name in names])
    rows = Fetch()(pa.Table.from_batches(manifest.read_manifest(run.manifest, 16)))
    ledger: Any = SimpleNamespace(
        begin_start=lambda: "start", begin=lambda _: 1, end=lambda _: None, clear=lambda _: None
    )
    steps = {}
    for kind, actor in (("decode", DecodeActor), ("label", StageActor)):
        told = []
        rows = actor(builds(plan, 0)[kind], ledger, 60.0, told.extend)(rows)
        steps[kind] = Counter(span.step for span in told)
    assert steps == {
        "decode": {"decode": 3},
        "label": {"detect": 3, "crop": 2, "classify": 1},
    }
    assert rows["num_faces"].to_pylist() == [1, 0, 0]


@pytest.mark.ray
@pytest.mark.parametrize("num_images", [0, 1, 50])
def test_each_row_of_the_manifest_is_fetched_once(ray_cluster, tmp_path, num_images):
    """Small files and small blocks: a source that Ray must cut up and put together."""
    from fattr.on_ray.annotate import fetched

    run = Run((tmp_path / "out").as_uri(), annotating.RUN_ID)
    for n in range(num_images):
        (tmp_path / f"{n}.jpg").write_bytes(b"%d" % n)
    uris = [(tmp_path / f"{n}.jpg").as_uri() for n in range(num_images)]
    annotating.write_manifest(run, uris)
    sizing = annotating.sizing_of(num_images, rows_per_block=8, max_fetches=None)
    rows = fetched(run.manifest, Fetch(), sizing).take_all()
    assert {row["image_uri"]: row["image_bytes"] for row in rows} == {
        uri: b"%d" % n for n, uri in enumerate(uris)
    }
    assert len(rows) == num_images


@pytest.mark.drills
@pytest.mark.ray
@pytest.mark.parametrize("num_cpus", [1, 2])
def test_few_cpus_are_slow_but_no_deadlock(num_cpus, odd_folder, oracle, flags, tmp_path, rows_of):
    script = (
        "import sys, ray; from fattr.cli import run_job;"
        f"ray.init(address='local', num_cpus={num_cpus}, include_dashboard=False);"
        "sys.exit(run_job('annotate', sys.argv[1:]))"
    )
    argv = ["--images", str(odd_folder), "--output", str(tmp_path / "out"), *flags]
    done = subprocess.run(
        [sys.executable, "-c", script, *argv],
        timeout=TIMEOUT_S,
        capture_output=True,
        check=False,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert_same_tables(rows_of, tmp_path / "out", oracle)
