"""A training job killed at any moment is gone on with by the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fattr.datasets import synthetic
from fattr.runs.checkpoints import CheckpointStore

ROOT = Path(__file__).parents[2]
NUM_KILLS, EPOCHS = 8, 30
TIMEOUT_S = 300
TIMES = ["seconds", "data_wait_share"]


def command(faces: Path, output: Path) -> list[str]:
    flags = {
        "preset": "tiny",
        "epochs": EPOCHS,
        "checkpoint-every": 5,
        "input-processes": 0,
        "data": f"synthetic:{faces}",
        "output": output,
    }
    words = (str(word) for flag, value in flags.items() for word in (f"--{flag}", value))
    return [sys.executable, "jobs/train.py", *words]


def finished(faces: Path, output: Path) -> str:
    """Run it to its end; what it said."""
    done = subprocess.run(
        command(faces, output),
        cwd=ROOT,
        timeout=TIMEOUT_S,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def results(output: Path) -> tuple[bytes, list[dict[str, float]]]:
    """The weights, and the history without times."""
    history = pq.read_table(output / "history.parquet").drop_columns(TIMES)
    return (output / "bundle" / "model.safetensors").read_bytes(), history.to_pylist()


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    synthetic.write(folder, 300, seed=1, image_px=64)
    return folder


@pytest.fixture(scope="module")
def undisturbed(faces, tmp_path_factory) -> tuple[bytes, list[dict[str, float]]]:
    output = tmp_path_factory.mktemp("undisturbed") / "out"
    finished(faces, output)
    return results(output)


def kill_after_a_checkpoint(faces: Path, output: Path, wait_s: float) -> None:
    """SIGKILL to the job and to Ray, so many seconds after there was something to go on from."""
    uri = (output / "checkpoints").as_uri()
    store = CheckpointStore(uri, num_best=1, metric="valid_score", lower_is_better=False)
    argv = command(faces, output)
    process = subprocess.Popen(argv, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        stop = time.monotonic() + TIMEOUT_S
        while not store.names() and time.monotonic() < stop:
            assert process.poll() is None, "training ended before its first checkpoint"
            time.sleep(0.05)
        time.sleep(wait_s)
        assert process.poll() is None, "training ended before it was killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.drills
@pytest.mark.ray
@pytest.mark.parametrize("kill", range(NUM_KILLS))
def test_a_killed_job_ends_as_an_undisturbed_one(kill, faces, undisturbed, tmp_path):
    output = tmp_path / "out"
    wait_s = float(np.random.default_rng(kill).uniform(0, 6))
    kill_after_a_checkpoint(faces, output, wait_s)
    assert not (output / "_SUCCESS").exists()
    said = finished(faces, output)
    assert "going on after epoch " in said
    assert results(output) == undisturbed
