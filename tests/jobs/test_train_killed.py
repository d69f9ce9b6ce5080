"""A training run killed at any moment leaves its last good checkpoint loadable."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fattr.datasets import synthetic
from fattr.train import checkpoint

ROOT = Path(__file__).parents[2]
NUM_KILLS = 8
SNAPSHOT = "checkpoint_manager_snapshot.json"


def latest_known(output: Path) -> Path | None:
    """Folder of the checkpoint that Ray Train would continue from."""
    snapshot = output / "checkpoints" / SNAPSHOT
    if not snapshot.is_file():
        return None
    latest = json.loads(snapshot.read_text())["latest_checkpoint_result"]
    return output / "checkpoints" / latest["checkpoint_dir_name"] if latest else None


def wait_for_checkpoint(output: Path, process: subprocess.Popen, timeout_s: float = 120) -> None:
    stop = time.monotonic() + timeout_s
    while latest_known(output) is None and time.monotonic() < stop:
        assert process.poll() is None, "training ended before its first checkpoint"
        time.sleep(0.05)


@pytest.mark.drills
@pytest.mark.ray
@pytest.mark.parametrize("kill", range(NUM_KILLS))
def test_the_last_checkpoint_loads_after_a_kill(kill, tmp_path):
    synthetic.write(tmp_path / "faces", 300, seed=1, image_px=64)
    output = tmp_path / "out"
    command = [sys.executable, "jobs/train.py", "--preset", "tiny", "--epochs", "60"]
    command += ["--data", f"synthetic:{tmp_path / 'faces'}", "--output", str(output)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for_checkpoint(output, process)
        time.sleep(float(np.random.default_rng(kill).uniform(0, 6)))
        assert process.poll() is None, "training ended before it was killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    state = checkpoint.load(latest_known(output))
    assert state.epoch == len(state.history) >= 1
    assert all(np.isfinite(row["train_loss"]) for row in state.history)
    assert not (output / "_SUCCESS").exists()
