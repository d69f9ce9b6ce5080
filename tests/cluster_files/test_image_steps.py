"""cluster/image_steps.sh does what the Dockerfile says; with stand-ins that only take notes."""

import fnmatch
import os
import shutil
import subprocess
import sys

import pytest
from cluster_files.entrypoints import ROOT

DOCKERFILE = (ROOT / "cluster" / "Dockerfile").read_text()

# Makes "environments" of itself, notes how it was called and fails where it is told to.
STAND_IN = """#!/bin/sh
name=$(basename "$0")
echo "$name $*" | sed "s#$FOLDER##g" >> "$NOTES"
case "$name $*" in
    *" -m venv "*)
        mkdir -p "$3/bin"
        for other in python pip fattr; do cp "$0" "$3/bin/$other"; done ;;
    *sys.executable*) echo "$0" ;;
    *json.loads*) exec "$REAL" "$@" ;;
    *lock.py) cat "$LOCK" ;;
esac
case "$name $*" in $FAIL) exit 1 ;; esac
"""
STEPS = [
    "stand-in -m venv /work/venv1",
    "pip wheel --no-cache-dir --wheel-dir /work/wheels --constraint constraints.txt"
    " --extra-index-url https://download.pytorch.org/whl/cpu .",
    "stand-in -m venv /work/venv2",
    "pip install --no-cache-dir --no-index /work/wheels/*.whl",
    "python -c import fattr",
    "fattr --help",
    "pip check",
    "python /checkout/tests/cluster_files/lock.py",
]


@pytest.fixture
def checkout(tmp_path):
    """A repository with the script and what the Dockerfile copies, all of it small."""
    root = tmp_path / "checkout"
    for folder in ("cluster", "fattr", "jobs"):
        (root / folder).mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "fattr/__init__.py", "jobs/train.py"):
        (root / name).write_text(name)
    for name in ("Dockerfile", "constraints.txt", "image_steps.sh"):
        shutil.copy(ROOT / "cluster" / name, root / "cluster" / name)
    (tmp_path / "stand-in").write_text(STAND_IN)
    (tmp_path / "stand-in").chmod(0o755)
    return root


def run(checkout, *, fail="", **env):
    """The exit code and the notes of a run."""
    folder = checkout.parent
    env = {
        **{name: value for name, value in os.environ.items() if name != "TORCH_INDEX"},
        "PYTHON": str(folder / "stand-in"),
        "FOLDER": str(folder),
        "NOTES": str(folder / "notes"),
        "LOCK": str(checkout / "cluster" / "constraints.txt"),
        "FAIL": fail,
        "REAL": sys.executable,
        **env,
    }
    command = [checkout / "cluster" / "image_steps.sh", folder / "work"]
    done = subprocess.run(command, env=env, cwd=folder, capture_output=True, check=False)
    notes = (folder / "notes").read_text().splitlines()
    asked = ("json.loads", "sys.executable")  # by the script for itself
    return done.returncode, [line for line in notes if not any(one in line for one in asked)]


def test_it_does_the_dockerfiles_steps_in_new_environments(checkout):
    code, notes = run(checkout)
    assert (code, notes[: len(STEPS)]) == (0, STEPS)
    work = checkout.parent / "work"
    assert {path.name for path in (work / "src").iterdir()} == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "fattr",
    }
    assert (work / "home" / "fattr" / "jobs" / "train.py").is_file()


def test_the_index_of_torch_can_be_another(checkout):
    _, notes = run(checkout, TORCH_INDEX="https://pypi.org/simple")
    assert notes[1].endswith("--extra-index-url https://pypi.org/simple .")


@pytest.mark.parametrize(
    "step", ["pip wheel*", "pip install*", "python -c import fattr", "pip check"]
)
def test_a_step_that_fails_ends_it(checkout, step):
    code, notes = run(checkout, fail=step)
    assert code == 1
    assert fnmatch.fnmatch(notes[-1], step)


def test_another_fattr_than_the_installed_one_is_refused(checkout):
    assert run(checkout, fail="python -c import sys, fattr;*")[0] == 1


def test_an_installation_beside_the_lock_is_refused(checkout):
    other = checkout.parent / "other"
    other.write_text("torch==1.0\n")
    assert run(checkout, LOCK=str(other))[0] == 1


def edited(checkout, old, new):
    assert old in DOCKERFILE
    (checkout / "cluster" / "Dockerfile").write_text(DOCKERFILE.replace(old, new))


def test_an_edit_of_the_dockerfile_is_followed(checkout):
    edited(checkout, "pip install --no-cache-dir", "pip install --no-deps --no-cache-dir")
    assert "pip install --no-deps --no-cache-dir --no-index /work/wheels/*.whl" in run(checkout)[1]


def test_an_instruction_that_it_does_not_know_is_refused(checkout):
    edited(checkout, "RUN useradd", "RUN rm -rf /opt && useradd")
    command = [checkout / "cluster" / "image_steps.sh", "--print"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "does not know: RUN rm -rf /opt" in done.stderr
