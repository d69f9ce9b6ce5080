"""cluster/constraints.txt pins all that fattr needs, to versions that go together."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
from cluster_files.entrypoints import ROOT
from cluster_files.lock import OF_TORCH, closure, text
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

LOCK = (ROOT / "cluster" / "constraints.txt").read_text()
PINS = dict(line.split("==") for line in LOCK.splitlines() if not line.startswith("#"))


def problems(pins, ranges):
    """What is wrong with pins, given the ranges that each needed package is asked for in."""
    return [
        *(f"{name} is not pinned" for name in sorted(ranges.keys() - pins.keys())),
        *(f"nothing needs {name}" for name in sorted(pins.keys() - ranges.keys())),
        *(
            f"{name}=={pin} is not {one}"
            for name, pin in pins.items()
            for one in ranges.get(name, [])
            if pin not in one
        ),
    ]


def installed(name):
    """The version in this environment without a build's suffix; None where there is none."""
    found = list(metadata.distributions(name=name))
    return Version(found[0].version).public if found else None


@pytest.fixture(scope="module")
def ranges():
    """What is needed, which can only be read where all is installed in the pinned versions."""
    if others := {name: found for name, pin in PINS.items() if (found := installed(name)) != pin}:
        pytest.skip(f"this environment is not the locked one: {others}")
    return closure("fattr")


def test_each_direct_dependency_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line).name: Requirement(line) for line in project["dependencies"]}
    assert needed.keys() <= PINS.keys()
    assert [name for name in needed if PINS[name] not in needed[name].specifier] == []


def test_all_that_is_needed_is_pinned_within_all_ranges(ranges):
    assert problems(PINS, ranges) == []


@pytest.mark.usefixtures("ranges")
def test_the_file_is_as_it_would_be_made_now():
    assert text() == LOCK


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        ({"botocore": None}, "botocore is not pinned"),  # of boto3's
        ({"aiohttp-cors": None}, "aiohttp-cors is not pinned"),  # of an extra of Ray's
        ({"botocore": "1.0"}, "botocore==1.0 is not"),
        ({"setuptools": "70.0"}, "setuptools==70.0 is not"),
        ({"pytest": "8.3"}, "nothing needs pytest"),
    ],
)
def test_a_wrong_pin_is_seen(ranges, edit, line):
    pins = {name: pin for name, pin in {**PINS, **edit}.items() if pin}
    assert any(said.startswith(line) for said in problems(pins, ranges))


def test_extras_and_markers_are_followed_as_on_the_image():
    requires = {
        "root": ["a[x]>=1", "w; sys_platform == 'win32'", "o; python_version < '3.11'", "d"],
        "a": ["b; extra == 'x'", "c; extra == 'y'", "nvidia-z", "triton"],
        "b": ["F_g<2; platform_system == 'Linux'", "a[y]"],
        "d": ["root"],
    }
    found = closure("root", requires.get)
    assert found.keys() == {"a", "b", "c", "d", "f-g", "root"}
    assert {"", ">=1"} == {str(one) for one in found["a"]}


@pytest.mark.full
@pytest.mark.usefixtures("ranges")
def test_pip_itself_finds_the_same_packages():
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "fattr"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = re.findall(r"^Requirement already satisfied: ([\w.-]+)", said, re.MULTILINE)
    needed = {canonicalize_name(name) for name in names} - {"fattr"}
    assert {name for name in needed if not OF_TORCH.match(name)} == PINS.keys()
