"""cluster/Dockerfile: what can be seen without building."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cluster_files.entrypoints import ROOT

CLUSTER = ROOT / "cluster"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()


def broken_rules(text, *flags):
    """Codes of the rules, of hadolint and of its shellcheck, that a Dockerfile breaks."""
    hadolint = Path(sys.executable).with_name("hadolint")
    command = [hadolint, "--format", "json", *flags, "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    return [found["code"] for found in json.loads(done.stdout)]


def test_no_rule_of_the_linter_is_broken():
    assert broken_rules(DOCKERFILE) == []


def test_one_rule_is_set_aside():
    assert broken_rules(DOCKERFILE, "--disable-ignore-pragma") == ["DL3008"]


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("python:${PYTHON}-slim-bookworm\n", "python:latest\n", "DL3007"),
        ("python:${PYTHON}-slim-bookworm\n", "python\n", "DL3006"),
        ("COPY jobs", "ADD jobs", "DL3020"),
        ("RUN pip wheel", "RUN cd /src && pip wheel", "DL3003"),
        ("RUN apt-get", "RUN sudo apt-get", "DL3004"),
        (" --yes", "", "DL3014"),
        (" --no-install-recommends", "", "DL3015"),
        ("rm -rf /var/lib/apt/lists/*", "true", "DL3009"),
        ("/wheels/*.whl", "fattr", "DL3013"),
        ("pip install --no-cache-dir", "pip install", "DL3042"),
        ("WORKDIR /home/fattr", "WORKDIR fattr", "DL3000"),
        ("USER 1000:1000", "USER root", "DL3002"),
        ('CMD ["fattr", "--help"]', "CMD fattr --help", "DL3025"),
        ('CMD ["fattr"', 'CMD ["bash"]\nCMD ["fattr"', "DL4003"),
        ("WORKDIR /home", "HEALTHCHECK NONE\nWORKDIR /home", "DL3012"),
        ("rm -rf /var", "[ 1 == 2 ] || rm -rf /var", "SC3014"),
        ("HEALTHCHECK", "HEALTCHECK", "DL1000"),
    ],
)
def test_a_mistake_is_seen(old, new, rule):
    assert old in DOCKERFILE
    assert rule in broken_rules(DOCKERFILE.replace(old, new))


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
