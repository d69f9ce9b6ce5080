"""The manifests of cluster/kuberay: fields, rules, patches, and room for what the jobs ask for."""

import jsonpatch
import jsonschema
import pytest
from cluster_files.edits import edited
from cluster_files.entrypoints import ROOT, parse_line
from cluster_files.kustomize import (
    KUBERAY,
    KUSTOMIZATION,
    OPERATIONS,
    OVERLAYS,
    base,
    overlay,
    read,
)
from cluster_files.rules import problems, size

from fattr.sizing import FILTER_CPUS, Resources, size_for

FOLDERS = [KUBERAY / "base", *(KUBERAY / "overlays" / name for name in OVERLAYS)]
RENDERED = {"base": base(), **{name: overlay(name) for name in OVERLAYS}}
JOB, TRAIN, CLUSTER = (
    ("RayJob", "fattr-annotate"),
    ("RayJob", "fattr-train"),
    ("RayCluster", "fattr"),
)


@pytest.mark.parametrize("name", RENDERED)
def test_manifests_keep_to_schema_and_rules(name):
    found = {key: problems(document) for key, document in RENDERED[name].items()}
    assert {key: lines for key, lines in found.items() if lines} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_kustomization_lists_what_is_in_its_folder(folder):
    listed = read(folder / "kustomization.yaml")
    jsonschema.validate(listed, KUSTOMIZATION)
    files = [name for name in listed["resources"] if name != "../../base"]
    files += [name for made in listed.get("configMapGenerator", []) for name in made["files"]]
    files += [patch["path"] for patch in listed.get("patches", [])]
    there = {path.name for path in folder.iterdir() if path.is_file()}
    assert sorted(files) == sorted(there - {"kustomization.yaml"})


@pytest.mark.parametrize("name", OVERLAYS)
def test_patches_only_replace(name):
    for path in (KUBERAY / "overlays" / name).glob("*.yaml"):
        if path.name != "kustomization.yaml":
            jsonschema.validate(read(path), OPERATIONS)


def test_a_patch_of_what_is_not_there_is_seen():
    with pytest.raises(jsonpatch.JsonPatchConflict):
        jsonpatch.apply_patch(
            base()[JOB], [{"op": "replace", "path": "/spec/maxReplica", "value": 1}]
        )


def test_one_ray_everywhere():
    pins = (ROOT / "cluster" / "constraints.txt").read_text().split()
    for key in (JOB, TRAIN, CLUSTER):
        spec = base()[key]["spec"]
        assert f"ray=={spec.get('rayClusterSpec', spec)['rayVersion']}" in pins


def test_accounts_and_secrets_are_those_that_are_there():
    documents = base()
    accounts = {name for kind, name in documents if kind == "ServiceAccount"}
    text = "\n".join(path.read_text() for path in (KUBERAY / "base").glob("*.yaml"))
    used = {line.split(": ")[1] for line in text.splitlines() if "serviceAccountName:" in line}
    assert used == accounts


def test_the_nightly_job_is_the_one_that_its_role_may_read():
    documents = base()
    rules = documents["Role", "fattr-nightly"]["rules"]
    assert [rule["resourceNames"] for rule in rules if "get" in rule["verbs"]] == [[JOB[1]]]
    assert ("Role", documents["RoleBinding", "fattr-nightly"]["roleRef"]["name"]) in documents
    subject = documents["RoleBinding", "fattr-nightly"]["subjects"][0]
    assert subject["namespace"] == read(KUBERAY / "base" / "kustomization.yaml")["namespace"]
    cron = documents["CronJob", "fattr-nightly"]["spec"]["jobTemplate"]["spec"]
    assert cron["template"]["spec"]["serviceAccountName"] == subject["name"]


def nodes(spec, count):
    """CPUs and GPUs of each group's node, and how many nodes: the least or the most."""
    return [
        (size(limits["cpu"]), size(limits.get("nvidia.com/gpu", "0")), group[count])
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]
        for limits in [group["template"]["spec"]["containers"][0]["resources"]["limits"]]
    ]


def resources(spec, count):
    groups = [group for group in nodes(spec, count) if group[2]]
    with_gpus = [cpus / gpus for cpus, gpus, _ in groups if gpus]
    return Resources(
        cpus=sum(cpus * number for cpus, _, number in groups),
        gpus=sum(gpus * number for _, gpus, number in groups),
        nodes=1 + sum(number for *_, number in groups),
        is_local=False,
        usable_cpus=4,
        cpus_per_gpu=min(with_gpus, default=0.0),
    )


@pytest.mark.parametrize(("name", "kind"), [("cpu", "cpu"), ("gpu", "gpu"), ("many-gpus", "mixed")])
@pytest.mark.parametrize("count", ["minReplicas", "maxReplicas"])
def test_what_annotate_asks_for_fits_onto_the_nodes(name, kind, count):
    spec = RENDERED[name][JOB]["spec"]
    _, config = parse_line(spec["entrypoint"])
    has = resources(spec, count)
    sizing = size_for(config.preset, has, num_images=10**6, mean_bytes=2e5, actors=None)
    assert sizing.preset == kind
    assert 1 <= sizing.min_actors <= sizing.initial_actors
    fitting = [
        min(
            int(cpus / sizing.cpus_per_actor),
            int(gpus / sizing.gpus_per_actor) if sizing.gpus_per_actor else 10**6,
        )
        * number
        for cpus, gpus, number in nodes(spec, count)
    ]
    assert sum(fitting) >= sizing.initial_actors
    asked = sizing.initial_actors * sizing.cpus_per_actor + sizing.num_filters * FILTER_CPUS
    assert asked + sizing.fetch_cpus + sizing.io_cpus <= has.cpus


@pytest.mark.parametrize("name", RENDERED)
def test_what_train_asks_for_is_there(name):
    spec = RENDERED[name][TRAIN]["spec"]
    _, config = parse_line(spec["entrypoint"])
    least, most = config.worker_range
    kind = "gpus" if config.gpus else "cpus"
    assert config.gpus == (name in ("gpu", "many-gpus"))
    assert least <= getattr(resources(spec, "minReplicas"), kind)
    assert most <= getattr(resources(spec, "maxReplicas"), kind)


CLUSTER_OF_JOB = ("spec", "rayClusterSpec")
GROUP = (*CLUSTER_OF_JOB, "workerGroupSpecs", 0)
POD = (*GROUP, "template", "spec")
CONTAINER = (*POD, "containers", 0)
HEAD = (*CLUSTER_OF_JOB, "headGroupSpec")
CRON_POD = ("spec", "jobTemplate", "spec", "template", "spec")
OPENED = {
    "from": [{"podSelector": {"matchLabels": {}}}],
    "ports": [{"protocol": "TCP", "port": 8265}],
}


@pytest.mark.parametrize(
    ("key", "path", "value", "line"),
    [
        (JOB, ("spec", "shutdownAfterJobFinish"), True, "'shutdownAfterJobFinish' was unexpected"),
        (JOB, (*POD, "toleration"), [], "'toleration' was unexpected"),
        (JOB, (*CONTAINER, "resource"), {}, "'resource' was unexpected"),
        (JOB, (*GROUP, "minReplicas"), 9, "minReplicas over maxReplicas"),
        (JOB, (*GROUP, "maxReplicas"), "8", "'8' is not of type 'integer'"),
        (JOB, ("spec", "shutdownAfterJobFinishes"), False, "ttl needs a shutdown"),
        (JOB, ("spec", "activeDeadlineSeconds"), 0, "no deadline above 0"),
        (JOB, ("spec", "entrypoint"), "fattr annotate --image s3://b/p --output /t", "--image"),
        (JOB, ("spec", "entrypoint"), "fattr anotate --images /p --output /t", "no job"),
        (TRAIN, ("spec", "entrypoint"), "python jobs/trian.py --preset celeba40", "no job"),
        (JOB, (*CONTAINER, "env", 0, "value"), "1", "ray-worker: usage statistics"),
        (JOB, (*CONTAINER, "env"), None, "'env' is a required property"),
        (JOB, (*CLUSTER_OF_JOB, "autoscalerOptions", "env"), None, "'env' is a required property"),
        (JOB, (*CLUSTER_OF_JOB, "autoscalerOptions", "version"), "v1", "'v1' is not one of"),
        (JOB, (*CLUSTER_OF_JOB, "authOptions"), None, "no token"),
        (JOB, (*CLUSTER_OF_JOB, "rayVersion"), "2.51.0", "tokens need Ray 2.52"),
        (JOB, (*HEAD, "rayStartParams", "num-cpus"), "4", "work on the head"),
        (JOB, (*HEAD, "serviceType"), "LoadBalancer", "'serviceType' was unexpected"),
        (JOB, (*HEAD, "enableIngress"), True, "'enableIngress' was unexpected"),
        (JOB, (*POD, "restartPolicy"), "Always", "autoscaler v2 wants restartPolicy Never"),
        (JOB, (*POD, "hostNetwork"), True, "'hostNetwork' was unexpected"),
        (JOB, (*POD, "tolerations", 0, "operator"), "Exist", "'Exist' is not one of"),
        (JOB, (*CONTAINER, "resources", "limits", "memory"), "24Gb", "'24Gb' does not match"),
        (JOB, (*POD, "tolerations"), None, "cpu: workers on dear machines"),
        (JOB, (*CONTAINER, "resources", "limits", "memory"), "32Gi", "requests differ from limits"),
        (JOB, (*POD, "volumes", 0, "emptyDir", "sizeLimit"), "1Gi", "shared memory of"),
        (JOB, (*GROUP, "template", "metadata", "labels"), {}, "a pod outside the network policy"),
        (JOB, ("spec", "submitterPodTemplate", "metadata", "labels"), {}, "let the submitter in"),
        (CLUSTER, ("spec", "enableInTreeAutoscaling"), False, "no autoscaling"),
        (("NetworkPolicy", "fattr"), ("spec", "ingress", 1), OPENED, "a port is opened"),
        (("NetworkPolicy", "fattr"), ("spec", "ingress", 0, "from"), None, "a port is opened"),
        (("NetworkPolicy", "fattr"), ("spec", "ingress", 1, "ports", 0, "port"), 10001, "opened"),
        (("CronJob", "fattr-nightly"), ("spec", "schedule"), "0 1 * *", "does not match"),
        (("CronJob", "fattr-nightly"), ("spec", "timezone"), "Etc/UTC", "was unexpected"),
        (("CronJob", "fattr-nightly"), ("spec", "concurrencyPolicy"), "Forbit", "two starts"),
        (("CronJob", "fattr-nightly"), ("apiVersion",), "batch/v1beta1", "Couldn't find schema"),
        (("CronJob", "fattr-nightly"), (*CRON_POD, "restartPolicy"), "Nevr", "'Nevr' is not one"),
        (("NetworkPolicy", "fattr"), ("spec", "policyTypes"), ["Egress"], "of what comes in"),
        (("NetworkPolicy", "fattr"), ("spec", "podSelektor"), {}, "was unexpected"),
        (("NetworkPolicy", "fattr"), ("metadata", "name"), "Fattr", "does not match"),
        (("ServiceAccount", "fattr-head"), ("secret",), [], "was unexpected"),
        (("RoleBinding", "fattr-nightly"), ("roleRef", "kind"), "ClusterRole", "the namespace"),
        (("RoleBinding", "fattr-nightly"), ("subjects", 0, "kind"), "Group", "rights of others"),
        (("RoleBinding", "fattr-nightly"), ("subjects", 0, "nam"), "x", "was unexpected"),
        (("Role", "fattr-nightly"), ("rules", 0, "verbs"), ["*"], "wide verbs"),
        (("Role", "fattr-nightly"), ("rules", 1, "resourceNames"), None, "may read all"),
    ],
)
def test_a_wrong_edit_is_refused(key, path, value, line):
    found = problems(edited(RENDERED["base"][key], path, value))
    assert any(line in said for said in found), found


def test_a_secret_in_a_manifest_is_refused():
    env = [
        {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"},
        {"name": "AWS_SECRET_ACCESS_KEY", "value": "x"},
    ]
    document = edited(RENDERED["base"][JOB], (*CONTAINER, "env"), env)
    assert "ray-worker: a secret in the manifest" in problems(document)
