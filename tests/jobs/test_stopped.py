"""``jobs/annotate.py`` that is told to stop: by Ctrl-C, or by SIGTERM as schedulers do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from sessions import started

JOB = Path(__file__).parents[2] / "jobs" / "annotate.py"
WAIT_S = 180
STOPPED = "fattr annotate: stopped; the same command goes on"
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]


class Room:
    """Many photographs, an output, and what lies there."""

    def __init__(self, folder: Path, photo: Path, model: Path, engine: str, num_images: int):
        self.output, images = folder / "out", folder / "photos"
        images.mkdir()
        for number in range(num_images):
            (images / f"{number:04d}.jpg").hardlink_to(photo)
        self.argv = [sys.executable, str(JOB), "--images", str(images), "--engine", engine]
        self.argv += ["--output", str(self.output), "--model", str(model)]

    def start(self) -> AbstractContextManager[subprocess.Popen[str]]:
        return started(self.argv, os.environ | {"RAY_USAGE_STATS_ENABLED": "0"})

    def stop(self, when: Callable[[], object], number: int) -> tuple[int, list[str]]:
        """Exit code and lines of a run that gets a signal once that is so."""
        deadline = time.monotonic() + WAIT_S
        with self.start() as process:
            while not when():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            _, said = process.communicate(timeout=WAIT_S)
        return process.returncode, said.splitlines()

    def files(self, pattern: str) -> list[Path]:
        return list(self.output.glob(f"_runs/2*/{pattern}"))

    @property
    def lease(self) -> dict:
        return json.loads((self.output / "_runs" / "lease.json").read_text())


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_run_that_is_stopped_says_so_and_lets_others_have_the_output(
    photo_folder, models, tmp_path, number, code
):
    room = Room(tmp_path, photo_folder / "1-face.jpg", models.looks, "local", 300)
    ended, said = room.stop(lambda: room.files("staging/*") or room.files("staging/.*"), number)
    assert (ended, said[-1]) == (code, STOPPED), said
    assert not [line for line in said if "Traceback" in line]
    assert room.lease["released"]
    assert not room.files("_SUCCESS")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(*SIGNALS[0], marks=pytest.mark.drills),
        pytest.param(*SIGNALS[1], marks=pytest.mark.full),
    ],
)
def test_on_ray_too_and_the_same_command_ends_what_it_began(
    photo_folder, models, tmp_path, number, code
):
    """Ray has handlers of its own; its record's folder is made when its work begins."""
    room = Room(tmp_path, photo_folder / "1-face.jpg", models.looks, "ray", 60)
    ended, said = room.stop(lambda: room.files("checkpoint"), number)
    assert (ended, said[-1]) == (code, STOPPED), said
    assert not [line for line in said if "Traceback" in line]
    assert room.lease["released"]
    with room.start() as again:
        _, words = again.communicate(timeout=WAIT_S)
    assert again.returncode == 0, words
    assert "going on with it" in words
    (run,) = room.files("_SUCCESS")
    assert json.loads(run.read_text())["num_images"] == 60
