"""What cluster/aws/ray-up.yaml must keep to: the schema that ``ray up`` uses, and our rules."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema

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
