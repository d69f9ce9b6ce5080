"""No process of Ray that a YAML file starts tells its maker of us."""

import pytest
import yaml
from cluster_files import ray_up, rules
from cluster_files.edits import edited
from cluster_files.entrypoints import ROOT

CLUSTER = ROOT / "cluster"
TOLD = {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}

# The head and two groups of workers, the autoscaler beside the head, and a job's submitter; the
# nightly starter runs Ray's image, if not Ray; a head and a worker of ray up.
STARTS = {
    "kuberay/base/rayjob-annotate.yaml": 5,
    "kuberay/base/rayjob-train.yaml": 5,
    "kuberay/base/raycluster.yaml": 4,
    "kuberay/base/cronjob-annotate.yaml": 1,
    "aws/ray-up.yaml": 2,
}
DOCUMENTS = [
    (path.relative_to(CLUSTER).as_posix(), document)
    for path in sorted(CLUSTER.rglob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def starts(value, path=()):
    """Where a document starts a process: paths of containers and of lines with ``ray start``."""
    if isinstance(value, dict):
        if "image" in value or path[-1:] == ("autoscalerOptions",):
            yield path
        for key, inner in value.items():
            yield from starts(inner, (*path, key))
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from starts(inner, (*path, position))
    elif "ray start" in str(value):
        yield path


ALL = [(name, document, path) for name, document in DOCUMENTS for path in starts(document)]


def at(value, path):
    for part in path:
        value = value[part]
    return value


def test_all_starts_are_found():
    names = [name for name, _, _ in ALL]
    assert {name: names.count(name) for name in names} == STARTS


@pytest.mark.parametrize(("name", "document", "path"), ALL, ids=lambda value: str(value)[-60:])
def test_each_start_says_so_and_is_refused_without(name, document, path):
    found = at(document, path)
    if name == "aws/ray-up.yaml":
        assert found.count("RAY_USAGE_STATS_ENABLED=0 ") == 1
        silent = found.replace("RAY_USAGE_STATS_ENABLED=0 ", "")
        problems = ray_up.problems(edited(document, path, silent))
        assert problems == ["usage statistics"]
    else:
        assert TOLD in found["env"]
        silent = [item for item in found["env"] if item != TOLD]
        other = [*silent, {"name": "OTHER", "value": "0"}]  # none at all is refused by the schema
        problems = rules.problems(edited(document, (*path, "env"), other))
        assert f"{found.get('name', 'autoscaler')}: usage statistics" in problems
