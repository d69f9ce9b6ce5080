"""``ray job submit`` from a clone of the last commit to a job server, without a network.

One after another: the last one installs what the first ones do without.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
from hosts.namespaces import Host, lone_host, skip_where_not_permitted

import fattr
from fattr.datasets import synthetic

pytestmark = [pytest.mark.ray, pytest.mark.full]

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240
PORT, DASHBOARD = 6399, "http://127.0.0.1:8299"
RAY = "import sys; from ray.scripts.scripts import main; main()"


@dataclass(frozen=True)
class Place:
    """A machine with Ray and all that fattr needs, but without fattr."""

    folder: Path
    host: Host
    session: Path  # Ray's; a socket's path has room for 107 letters

    @property
    def clone(self) -> Path:
        return self.folder / "clone"

    @property
    def python(self) -> Path:
        return self.folder / "venv" / "bin" / "python"

    @property
    def environment(self) -> dict[str, str]:
        """As in the documentation: Ray's ports are guarded by a token."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_", "PYTHON"))}
        return kept | {
            "HOME": str(self.folder / "home"),
            "PATH": f"{self.python.parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ADDRESS": DASHBOARD,
        }

    def ray(self, *words: object, **more: str) -> subprocess.CompletedProcess[str]:
        """``ray WORDS`` in the clone."""
        argv = [self.python, "-W", "ignore", "-c", RAY, *words]
        return self.host.run(argv, self.environment | more, TIMEOUT_S, self.clone)

    def submit(self, *entrypoint: object) -> Submitted:
        """The job, with the working directory."""
        return Submitted(self.ray("job", "submit", "--working-dir", ".", "--", *entrypoint))


@dataclass(frozen=True)
class Submitted:
    """What ``ray job submit`` ended with and said."""

    done: subprocess.CompletedProcess[str]

    @property
    def words(self) -> str:
        return re.sub(r"\x1b\[\d+m", "", self.done.stdout + self.done.stderr)

    @property
    def job(self) -> str:
        return re.search(r"'(raysubmit_\w+)' submitted", self.words)[1]


def make_environment(folder: Path) -> None:
    """Everything installed here, but for fattr itself: a line in a .pth adds no other .pth."""
    venv.create(folder / "venv", symlinks=True)
    scheme = {"base": str(folder / "venv"), "platbase": str(folder / "venv")}
    packages = Path(sysconfig.get_path("purelib", "venv", scheme))
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")


def start_head(place: Place) -> subprocess.Popen[bytes]:
    """``ray start``, again where a busy machine takes longer for a process than Ray's 30 s."""
    words = ["start", "--head", "--block", "--num-cpus", 4, "--port", PORT]
    words += ["--dashboard-host", "127.0.0.1", "--dashboard-port", DASHBOARD.split(":")[-1]]
    words += ["--temp-dir", place.session]
    log = place.folder / "head.log"
    for _ in range(3):
        head = place.host.start([place.python, "-c", RAY, *words], place.environment, log)
        while head.poll() is None:
            if place.ray("job", "list").returncode == 0:
                return head
            time.sleep(1)
        place.host.end_all()
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    skip_where_not_permitted()
    folder = tmp_path_factory.mktemp("submit")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "clone"], check=True)
    (folder / "home").mkdir()
    make_environment(folder)
    with lone_host(folder) as host, tempfile.TemporaryDirectory(prefix="ray-") as session:
        place = Place(folder, host, Path(session))
        assert place.ray("get-auth-token", "--generate").returncode == 0
        head = start_head(place)
        try:
            yield place
        finally:
            host.end_all()
            head.wait()


def counts(output: Path) -> tuple[int, int]:
    """Images and faces."""
    tables = fattr.open_tables(str(output))
    return tables.to_arrow("images").num_rows, tables.to_arrow("faces").num_rows


def test_nothing_is_reached_from_there_and_fattr_is_not_installed(place):
    reach = "import socket; socket.create_connection(('1.1.1.1', 443), 3)"
    done = place.host.run([place.python, "-c", reach], place.environment, TIMEOUT_S, place.folder)
    assert "Network is unreachable" in done.stderr
    done = place.host.run(
        [place.python, "-c", "import ray, fattr"], place.environment, TIMEOUT_S, place.folder
    )
    assert "No module named 'fattr'" in done.stderr
    assert place.ray("job", "list", RAY_AUTH_MODE="disabled").returncode != 0  # needs the token


def test_annotate_from_a_clone_and_again_in_the_same_environment(place, photo_folder):
    output = place.folder / "tables"
    argv = ["python", "jobs/annotate.py", "--images", photo_folder, "--output", output]
    first = place.submit(*argv)
    assert first.done.returncode == 0, first.words
    assert "done: " in first.words
    assert f"'{first.job}' succeeded" in first.words
    num_images, num_faces = counts(output)
    assert num_images >= num_faces >= 5
    again = place.submit(*argv)
    assert again.done.returncode == 0, again.words
    assert "already exists, skipping upload" in again.words
    assert counts(output) == (num_images, num_faces)  # nothing was new
    packages = [p for p in place.session.rglob("_ray_pkg_*") if p.is_dir()]
    assert len(packages) == 1
    assert (packages[0] / "fattr" / "models").is_dir()
    assert not {".git", "tests", "docs", "benchmarks"} & {
        path.name for path in packages[0].iterdir()
    }


def test_status_logs_and_exit_code_of_what_is_refused(place):
    argv = ["--images", "/nowhere", "--output", place.folder / "none"]
    failed = place.submit("python", "jobs/annotate.py", *argv)
    assert failed.done.returncode == 1
    assert "failed with exit code 2" in failed.words
    line = "fattr annotate: cannot list file:///nowhere: No such file or directory; check the path"
    assert line in Submitted(place.ray("job", "logs", failed.job)).words
    assert f"'{failed.job}' failed" in Submitted(place.ray("job", "status", failed.job)).words


def test_training_from_a_clone(place):
    data, output = place.folder / "drawn", place.folder / "model"
    synthetic.write(data, 60, seed=0, image_px=96)
    argv = ["--preset", "tiny", "--data", f"synthetic:{data}", "--epochs", 1, "--workers", 2]
    done = place.submit("python", "jobs/train.py", *argv, "--output", output)
    assert done.done.returncode == 0, done.words
    assert json.loads((output / "run.json").read_text())["exit_code"] == 0
    assert (output / "bundle" / "model.safetensors").exists()


def test_a_wheel_on_the_machines_needs_no_working_directory(place, photo_folder):
    wheels = place.folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--wheel-dir", wheels, place.clone]
    subprocess.run(build, check=True)  # fetches what builds it
    (wheel,) = wheels.glob("fattr-*.whl")
    install = [*pip, "--python", place.python, "install", "--no-deps", "--no-index", wheel]
    done = place.host.run(install, place.environment, TIMEOUT_S, place.folder)
    assert done.returncode == 0, done.stderr
    output = place.folder / "by-wheel"
    argv = ["fattr", "annotate", "--images", photo_folder, "--output", output]
    submitted = Submitted(place.ray("job", "submit", "--", *argv))
    assert submitted.done.returncode == 0, submitted.words
    assert counts(output) == counts(place.folder / "tables")
    assert "Uploading" not in submitted.words
