"""cluster/aws/ray-up.yaml against the schema that ``ray up`` itself uses."""

import copy
import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from cluster_files.entrypoints import ROOT

PATH = ROOT / "cluster" / "aws" / "ray-up.yaml"
CONFIG = yaml.safe_load(PATH.read_text())
RAY = Path(importlib.util.find_spec("ray").origin).parent  # finding it does not import it
SCHEMA = json.loads((RAY / "autoscaler" / "ray-schema.json").read_text())
START = "head_start_ray_commands"


def problems(config):
    """What Ray's schema and our own rules have against the file."""
    found = [error.message for error in jsonschema.Draft7Validator(SCHEMA).iter_errors(config)]
    types = config["available_node_types"]
    for name, kind in types.items():
        node = kind.get("node_config", {})
        if ("InstanceMarketOptions" in node) == (name == config["head_node_type"]):
            found.append(f"{name}: the head on demand, workers on spot machines")
        if "IamInstanceProfile" not in node:
            found.append(f"{name}: no instance profile")
        if kind.get("min_workers", 0) > kind.get("max_workers", 0):
            found.append(f"{name}: min_workers over max_workers")
    starts = [line for line in started(config) if "ray start" in line]
    if any("RAY_USAGE_STATS_ENABLED=0" not in line for line in starts):
        found.append("usage statistics")
    if any("RAY_AUTH_MODE=token" not in line for line in starts):
        found.append("no token")
    if "--dashboard-host=127.0.0.1" not in starts[0] or "security_group" in config["provider"]:
        found.append("a port is opened")
    if re.search("AKIA|aws_secret|private_key", json.dumps(config)):
        found.append("a key in the file")
    return found


def started(config):
    return [*config[START], *config["worker_start_ray_commands"]]


def test_it_keeps_to_schema_and_rules():
    assert problems(CONFIG) == []


def test_local_files_that_are_copied_are_in_the_repository():
    local = set(CONFIG["file_mounts"].values()) - {"dist", "~/.ray/auth_token"}  # made by the user
    assert local == {"cluster/constraints.txt"}
    assert all((ROOT / path).is_file() for path in local)


def test_machines_may_be_as_many_as_their_kinds_say():
    kinds = CONFIG["available_node_types"].values()
    assert sum(kind.get("max_workers", 0) for kind in kinds) <= CONFIG["max_workers"]


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("available_node_types", "cpu", "spot"), True, "'spot' was unexpected"),
        (("max_worker",), 3, "'max_worker' was unexpected"),
        (("available_node_types", "cpu", "min_workers"), 99, "min_workers over max_workers"),
        (("available_node_types", "cpu", "node_config"), {}, "no instance profile"),
        (("available_node_types", "gpu", "resources"), {"GPU": "1"}, "not of type 'integer'"),
        ((START, 1), "ray start --head --dashboard-host=127.0.0.1", "usage statistics"),
        ((START, 1), "ray start --head --dashboard-host=0.0.0.0", "a port is opened"),
        (("provider", "security_group"), {"IpPermissions": []}, "a port is opened"),
        (("auth", "ssh_private_key"), "/home/me/private_key.pem", "a key in the file"),
    ],
)
def test_a_wrong_edit_is_refused(path, value, line):
    config = copy.deepcopy(CONFIG)
    *parents, last = path
    inner = config
    for part in parents:
        inner = inner[part]
    inner[last] = value
    assert any(line in said for said in problems(config)), problems(config)
