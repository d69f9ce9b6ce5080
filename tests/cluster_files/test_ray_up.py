"""cluster/aws/ray-up.yaml keeps to its schema and rules, and mistakes in it are seen."""

import pytest
import yaml
from cluster_files.edits import edited
from cluster_files.entrypoints import ROOT
from cluster_files.ray_up import START, problems

CONFIG = yaml.safe_load((ROOT / "cluster" / "aws" / "ray-up.yaml").read_text())


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
    config = edited(CONFIG, path, value)
    assert any(line in said for said in problems(config)), problems(config)
