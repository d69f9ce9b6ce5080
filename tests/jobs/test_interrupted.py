"""A training, and a search, that Ctrl-C ends: Ray has answers of its own to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fattr.datasets import synthetic

JOBS = Path(__file__).parents[2] / "jobs"
WAIT_S = 200
STOPPED = "fattr train: stopped; the same command goes on"
LEFT = "fattr tune: 1 of 1 trials did not end (interrupted); what is done is kept: run the same"


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.parametrize(
    ("job", "more", "begun", "code", "said"),
    [
        ("train", (), "checkpoints/*", 130, STOPPED),
        ("tune", ("--space", "rate", "--trials", "1"), "trials/*/trial.json", 3, LEFT),
    ],
)
def test_an_interrupted_job_is_no_success_and_says_so(tmp_path, job, more, begun, code, said):
    synthetic.write(tmp_path / "drawn", 60, seed=0, image_px=64)
    output = tmp_path / "out"
    argv = ["--preset", "tiny", "--data", f"synthetic:{tmp_path / 'drawn'}", "--batch-size", "8"]
    argv += ["--epochs", "999", "--output", str(output), *more]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    process = subprocess.Popen(
        [sys.executable, str(JOBS / f"{job}.py"), *argv],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + WAIT_S
    while not list(output.glob(begun)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    *_, last = process.communicate(timeout=WAIT_S)[1].splitlines()
    assert process.returncode == code
    assert last.startswith(said)
    assert json.loads((output / "run.json").read_text())["exit_code"] in (None, code)
    assert json.loads((output / "_runs" / "lease.json").read_text())["released"]
