"""Kubernetes' own schemas, of the oldest and of the newest version, see what is not theirs."""

import pytest
from cluster_files.core_kinds import VERSIONS, core_problems, template_problems
from cluster_files.edits import edited
from cluster_files.entrypoints import ROOT
from cluster_files.kustomize import base
from cluster_files.schemas import templates

CRON = base()["CronJob", "fattr-nightly"]
POD = next(templates(base()["RayJob", "fattr-annotate"]))
OLDEST = VERSIONS[0]


def test_the_oldest_version_is_the_one_that_is_claimed():
    assert f"Kubernetes {OLDEST} or later" in (ROOT / "cluster" / "README.md").read_text()


def test_every_pod_is_found():
    found = {key: len(list(templates(document))) for key, document in base().items()}
    assert {key: number for key, number in found.items() if number} == {
        ("RayJob", "fattr-annotate"): 4,
        ("RayJob", "fattr-train"): 4,
        ("RayCluster", "fattr"): 3,
        ("CronJob", "fattr-nightly"): 1,
    }


def test_ours_are_right_in_both():
    assert [*core_problems(CRON), *template_problems(POD)] == []


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("spec", "tolerationz"), [], "'tolerationz' was unexpected"),
        (("spec", "containers", 0, "volumeMounts", 0, "mounthPath"), "/x", "was unexpected"),
        (("spec", "containers", 0, "envFrom", 0, "secretRef", "names"), "x", "was unexpected"),
        (("spec", "containers", 0, "image"), 7, "$.spec.containers[0].image: 7 is not of type"),
        (("spec", "tolerations"), {}, "$.spec.tolerations: {} is not of type"),
        (("spec", "containers"), None, "'containers' is a required property"),
        (("metadata", "label"), {}, "'label' was unexpected"),
    ],
)
def test_a_pod_with_a_mistake_is_refused_by_both(path, value, line):
    found = template_problems(edited(POD, path, value))
    assert [said.partition(":")[0] for said in found] == [f"Kubernetes {v}" for v in VERSIONS]
    assert all(line in said for said in found), found


def test_what_came_later_is_refused_by_the_oldest_alone():
    found = core_problems(edited(CRON, ("spec", "jobTemplate", "spec", "managedBy"), "x"))
    assert len(found) == 1
    assert found[0].startswith(f"Kubernetes {OLDEST}: ")
