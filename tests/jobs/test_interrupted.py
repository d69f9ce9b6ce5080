"""A training, and a search, that Ctrl-C or SIGTERM ends: Ray has answers of its own to both."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from sessions import started

from fattr.datasets import synthetic

JOBS = Path(__file__).parents[2] / "jobs"
WAIT_S = 200
SEARCH = ("--space", "rate", "--trials", "1")
STOPPED = "stopped; the same command goes on"


@pytest.mark.ray
@pytest.mark.parametrize(
    ("job", "more", "begun", "number", "code", "said"),
    [
        pytest.param(
            *("train", (), "checkpoints/*", signal.SIGINT, 130, STOPPED), marks=pytest.mark.drills
        ),
        pytest.param(
            *("train", (), "checkpoints/*", signal.SIGTERM, 143, STOPPED), marks=pytest.mark.full
        ),
        pytest.param(
            *("tune", SEARCH, "trials/*/trial.json", signal.SIGINT, 130, STOPPED),
            marks=pytest.mark.drills,
        ),
    ],
)
def test_an_interrupted_job_is_no_success_and_says_so(
    tmp_path, job, more, begun, number, code, said
):
    synthetic.write(tmp_path / "drawn", 60, seed=0, image_px=64)
    output = tmp_path / "out"
    argv = ["--preset", "tiny", "--data", f"synthetic:{tmp_path / 'drawn'}", "--batch-size", "8"]
    argv += ["--epochs", "999", "--output", str(output), *more]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    deadline = time.monotonic() + WAIT_S
    with started([sys.executable, str(JOBS / f"{job}.py"), *argv], environment) as process:
        while not list(output.glob(begun)):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        *_, last = process.communicate(timeout=WAIT_S)[1].splitlines()
    assert process.returncode == code
    assert last == f"fattr {job}: {said}"
    assert json.loads((output / "run.json").read_text())["exit_code"] == code
    assert json.loads((output / "_runs" / "lease.json").read_text())["released"]
