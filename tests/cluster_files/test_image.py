"""cluster/Dockerfile and constraints.txt: what can be seen without building."""

import re
import tomllib

from cluster_files.entrypoints import ROOT
from packaging.requirements import Requirement

CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
PINS = dict(
    line.split("==")
    for line in (CLUSTER / "constraints.txt").read_text().splitlines()
    if not line.startswith("#")
)


def test_each_dependency_is_pinned_within_its_range():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(text).name: Requirement(text) for text in project["dependencies"]}
    assert PINS.keys() == needed.keys()
    assert [name for name, pin in PINS.items() if pin not in needed[name].specifier] == []


def instructions(name):
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(name)]


def test_what_is_copied_is_there_and_not_ignored():
    kept = re.findall(r"^!(.+)$", (CLUSTER / "Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [path for line in instructions("COPY") for path in line.split()[:-1]]
    assert sorted(copied) == sorted(kept)
    assert all((ROOT / path).exists() for path in copied)


def test_the_image_runs_as_nobody_in_particular_and_tells_nobody():
    last = DOCKERFILE[DOCKERFILE.rindex("\nFROM") :]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["1000:1000"]
    assert "RAY_USAGE_STATS_ENABLED=0" in last
    assert "HEALTHCHECK" in last
    assert not re.search("SECRET|PASSWORD|TOKEN|ACCESS_KEY", DOCKERFILE)
