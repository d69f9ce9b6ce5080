"""Scoring on Ray, with the local engine as its oracle: the same rows, the same refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from fattr import bundle
from fattr.attributes import attribute
from fattr.build import ScorePlan, build_scoring
from fattr.commands.score_data import score
from fattr.config import DetectConfig
from fattr.datasets.split import DatasetSplit
from fattr.detect import source as detectors
from fattr.errors import UsageError
from fattr.local_engine import score_locally
from fattr.records import Sample

TIMEOUT_S = 240
NAMES = ("1-face.jpg", "2-faces.jpg", "coffee.png", "1-face-tiny.png", "1-face-rotated.jpg")

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def plan(models) -> ScorePlan:
    bundles = (bundle.load(models.people), bundle.load(models.looks))
    return ScorePlan(DetectConfig(), detectors.shipped(), bundles, "cpu")


def split_of(paths: list[Path]) -> DatasetSplit:
    """Photographs with labels, enough of them for several blocks."""
    samples = [
        Sample(path.as_uri(), {"smiling": n % 2}, {"race": f"r{n % 3}"})
        for n, path in enumerate(paths)
    ]
    return DatasetSplit(
        name="ours",
        split="test",
        attributes=(attribute("smiling"),),
        samples=tuple(samples),
        licence="ours",
        research_only=False,
    )


def tables_of(plan: ScorePlan, split: DatasetSplit, engine: str, folder: Path) -> list[pa.Table]:
    attributes = [(attribute("smiling"),), plan.bundles[1].spec.attributes]
    return [s.source for s in score(plan, split, attributes, engine=engine, folder=folder)]


def test_the_scores_are_those_of_the_local_engine(ray_cluster, plan, photo_folder, tmp_path):
    from fattr.on_ray.score import score_on_ray

    split = split_of([photo_folder / name for name in NAMES] * 10)
    local, ray = (tables_of(plan, split, engine, tmp_path) for engine in ("local", "ray"))
    assert local[0].num_rows == len(split.samples)
    assert all(one.equals(other) for one, other in zip(local, ray, strict=True))
    rows = pa.concat_tables(score_on_ray(plan, split.samples)).sort_by("index")
    stage = build_scoring(plan)
    assert rows.equals(pa.concat_tables(score_locally(split.samples, stage, num_threads=2)))


def test_a_damaged_image_is_refused_as_by_the_local_engine(
    ray_cluster, plan, photo_folder, tmp_path
):
    paths = [photo_folder / name for name in NAMES] * 4
    paths[13] = photo_folder / "sub folder" / "truncated 100%.jpg"
    split, errors = split_of(paths), []
    for engine in ("local", "ray"):
        with pytest.raises(UsageError) as caught:
            tables_of(plan, split, engine, tmp_path)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert "sub%20folder/truncated%20100%25.jpg: damaged jpeg" in errors[0]


@pytest.mark.full
def test_a_refusal_ends_the_engine_before_its_session(models, photo_folder, tmp_path):
    """Without a session of the caller's: rows still under way must not start another one."""
    names = [*NAMES * 8, "empty.jpg", *NAMES * 40]
    rows = "".join(f"{photo_folder / name},val,{n % 2}\n" for n, name in enumerate(names))
    (tmp_path / "t.csv").write_text("image,part,smiling\n" + rows)
    (tmp_path / "fattr.toml").write_text(
        'table = "t.csv"\nimage = "image"\nsplit = "part"\nlicence = "ours"\n[labels.smiling]\n'
    )
    flags = ["--model", str(models.looks), "--data", f"table:{tmp_path}", "--engine", "ray"]
    flags += ["--output", str(tmp_path / "out")]
    script = "import sys, fattr.cli; sys.exit(fattr.cli.run_job('calibrate', sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, *flags],
        timeout=TIMEOUT_S,
        capture_output=True,
        check=False,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    error = done.stderr.decode()
    assert done.returncode == 2, error[-2000:]
    assert "empty.jpg: not a supported image: empty; mend or remove" in error
    assert "Started a local Ray instance" not in error
    assert not (tmp_path / "out").exists()
