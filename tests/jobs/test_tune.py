"""A search as users start it, killed half-way, and run again."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fattr.cli import run_job
from fattr.datasets import synthetic

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 200
TRIALS = 8
SPACE = "learning_rate = { loguniform = [1e-7, 1.0] }\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    synthetic.write(folder, 200, seed=0, image_px=64)
    (folder / "space.toml").write_text(SPACE)
    return folder


def flags(data, output, *more):
    given = {"--space": data / "space.toml", "--preset": "tiny", "--data": f"synthetic:{data}"}
    given |= {"--output": output, "--trials": TRIALS, "--epochs": 4, "--batch-size": 8}
    return [*(str(word) for pair in given.items() for word in pair), *map(str, more)]


@contextmanager
def started(*argv):
    """A search in a process group of its own, which is killed when it is not over by then."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    command = [sys.executable, str(ROOT / "jobs" / "tune.py"), *argv]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(*argv):
    with started(*argv) as process:
        _, said = process.communicate(timeout=TIMEOUT_S)
    return SimpleNamespace(code=process.returncode, err=said)


def trials(output):
    paths = sorted(output.glob("trials/*/trial.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in paths}


def over(output):
    """What is known of the trials that came to an end, with when it was written."""
    return {
        name: (trial, (output / "trials" / name / "trial.json").stat().st_mtime_ns)
        for name, trial in trials(output).items()
        if trial["state"] in ("finished", "stopped", "failed")
    }


def wait_for_the_middle(process, output):
    """Until two trials are over and another has been begun."""
    stop = time.monotonic() + TIMEOUT_S
    while time.monotonic() < stop:
        assert process.poll() is None, process.stderr.read()
        states = [trial["state"] for trial in trials(output).values()]
        if "running" in states and len(over(output)) >= 2:
            return
        time.sleep(0.05)


@pytest.mark.ray
@pytest.mark.drills
def test_a_killed_search_runs_what_is_missing_and_finds_the_planted_rate(data, tmp_path, capsys):
    output = tmp_path / "out"
    with started(*flags(data, output)) as process:
        wait_for_the_middle(process, output)
    before = over(output)
    assert 2 <= len(before) < TRIALS
    assert not (output / "best.toml").exists()

    again = run(*flags(data, output))
    assert again.code == 0, again.err
    assert f"{TRIALS} trials, {len(before)} of them over" in again.err
    assert {name: known for name, known in over(output).items() if name in before} == before
    assert len(over(output)) == TRIALS
    assert not list(output.glob("trials/*/checkpoints"))
    check_results(output, again.err)

    # All is done: a third run has nothing to start, and other settings are refused.
    done = over(output)
    assert run_job("tune", flags(data, output)) == 0
    assert over(output) == done
    assert run_job("tune", flags(data, output, "--seed", 1)) == 2
    assert "other settings (seed was 0, is 1" in capsys.readouterr().err
    assert over(output) == done


def check_results(output, said):
    best = tomllib.loads((output / "best.toml").read_text())
    assert 1e-3 <= best["learning_rate"] <= 0.3  # three decades of seven, where the network learns
    rows = pq.read_table(output / "trials.parquet").to_pylist()
    assert [row["trial"] for row in rows] == list(range(TRIALS))
    assert max(rows, key=lambda row: row["score"])["learning_rate"] == best["learning_rate"]
    assert sum(row["epochs_done"] for row in rows) < 4 * TRIALS
    command = next(line for line in said.splitlines() if "jobs/train.py" in line)
    words = shlex.split(command.removeprefix("# "))
    assert words[words.index("--learning-rate") + 1] == str(best["learning_rate"])
    assert words[words.index("--output") + 1] == str(output / "best")
    for row in rows:
        events = EventAccumulator(str(output / "tensorboard" / f"{row['trial']:03}"))
        events.Reload()
        scalars = events.Scalars("valid_score")
        assert [event.step for event in scalars] == list(range(1, row["epochs_done"] + 1))
        assert [event.value for event in scalars] == pytest.approx(row["scores"])
    assert (output / "search.png").read_bytes().startswith(b"\x89PNG")
