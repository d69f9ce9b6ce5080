"""What the manifests must keep to beyond their schemas: KubeRay's own checks, and ours.

KubeRay refuses what breaks one of its rules only when it is applied; ours are about money (spot,
clean-up), privacy (usage statistics, ports) and memory.
"""

import re

from cluster_files.entrypoints import entrypoint_problems
from cluster_files.schemas import schema_problems, templates

SIZE = {"": 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
OWN = {"app.kubernetes.io/part-of": "fattr"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OBJECT_STORE = 0.3  # of a node's memory, which Ray takes by default
DASHBOARD = 8265
CAPACITY = "eks.amazonaws.com/capacityType"


def problems(document):
    """All that is wrong with a manifest, one line each; its schema first."""
    if found := schema_problems(document):
        return found
    spec = document.get("spec", {})
    checks = {
        "RayJob": lambda: [*job_problems(spec), *cluster_problems(spec["rayClusterSpec"])],
        "RayCluster": lambda: cluster_problems(spec),
        "CronJob": lambda: cron_problems(spec),
        "NetworkPolicy": lambda: policy_problems(spec),
        "Role": lambda: role_problems(document["rules"]),
        "RoleBinding": lambda: binding_problems(document),
    }
    own = checks.get(document["kind"], list)()
    pods = [template["spec"] for template in templates(document)]
    return [*own, *(line for pod in pods for line in pod_problems(pod))]


def size(quantity):
    """A Kubernetes quantity in bytes, or in cores."""
    number, unit = re.fullmatch(r"([\d.]+)(\D*)", quantity).groups()
    return float(number) * SIZE[unit]


def said(*pairs):
    """The lines whose condition holds."""
    return [line for holds, line in pairs if holds]


def labels(template):
    return template.get("metadata", {}).get("labels")


def job_problems(spec):
    ends = spec.get("shutdownAfterJobFinishes", False)
    return [
        *said(
            (spec.get("ttlSecondsAfterFinished", 0) < 0, "ttl below 0"),
            (spec.get("ttlSecondsAfterFinished") and not ends, "ttl needs a shutdown"),
            (spec.get("suspend") and not ends, "suspend needs a shutdown"),
            (not ends, "the cluster would stay after the job"),
            (spec.get("activeDeadlineSeconds", 0) <= 0, "no deadline above 0"),
            (spec.get("submissionMode") != "K8sJobMode", "another mode than K8sJobMode"),
            (
                labels(spec.get("submitterPodTemplate", {})) != OWN,
                "the network policy would not let the submitter in",
            ),
            (not spec.get("suspend"), "applying it would start it"),
        ),
        *entrypoint_problems(spec["entrypoint"]),
    ]


def cluster_problems(spec):
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    names = [group["groupName"] for group in groups]
    version = tuple(int(part) for part in spec["rayVersion"].split("."))
    return [
        *said(
            (spec.get("authOptions") != {"mode": "token"}, "no token"),
            (version < (2, 52), "tokens need Ray 2.52"),
            (not spec.get("enableInTreeAutoscaling"), "no autoscaling"),
            ("autoscalerOptions" not in spec, "no options of the autoscaler"),
            (head["rayStartParams"].get("num-cpus") != "0", "work on the head"),
            (
                head["template"]["spec"].get("nodeSelector") != {CAPACITY: "ON_DEMAND"},
                "the head on a machine that may be taken back",
            ),
            (len(set(names)) < len(names), "two groups of one name"),
        ),
        *autoscaler_problems(spec.get("autoscalerOptions")),
        *(line for group in groups for line in group_problems(group)),
        *(line for group in [head, *groups] for line in node_problems(group)),
    ]


def autoscaler_problems(options):
    """Of a container beside the head's, which KubeRay adds."""
    return container_problems({"name": "autoscaler", **options}) if options else []


def group_problems(group):
    least, most = group["minReplicas"], group["maxReplicas"]
    return said(
        (least > most, f"{group['groupName']}: minReplicas over maxReplicas"),
        (group["replicas"] != least, f"{group['groupName']}: replicas and minReplicas differ"),
        (not is_spot(group), f"{group['groupName']}: workers on dear machines"),
    )


def is_spot(group):
    """Whether it asks for machines that may be taken back, and is let onto them."""
    pod = group["template"]["spec"]
    tolerated = {toleration["key"] for toleration in pod.get("tolerations", [])}
    return pod.get("nodeSelector") == {CAPACITY: "SPOT"} and "spot" in tolerated


def node_problems(group):
    """Of a pod that is a node of Ray: its labels, its accounts and its shared memory."""
    pod = group["template"]["spec"]
    memory = size(pod["containers"][0]["resources"]["limits"]["memory"])
    shared = [v["emptyDir"] for v in pod.get("volumes", []) if "emptyDir" in v]
    mounted = [m["mountPath"] for m in pod["containers"][0].get("volumeMounts", [])]
    room = size(shared[0]["sizeLimit"]) if shared else 0
    return said(
        (labels(group["template"]) != OWN, "a pod outside the network policy"),
        (pod["restartPolicy"] != "Never", "autoscaler v2 wants restartPolicy Never"),
        ("serviceAccountName" not in pod, "a node without an account"),
        ("/dev/shm" not in mounted, "no shared memory"),
        (not OBJECT_STORE * memory <= room <= memory / 2, f"shared memory of {room} bytes"),
    )


def pod_problems(pod):
    mounted = {m["name"] for c in pod["containers"] for m in c.get("volumeMounts", [])}
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    return [
        *said(
            (not pod["securityContext"].get("runAsNonRoot"), "a pod may run as root"),
            (mounted != volumes, f"mounts {mounted} and volumes {volumes} differ"),
        ),
        *(line for container in pod["containers"] for line in container_problems(container)),
    ]


def container_problems(container):
    env = {item["name"]: item["value"] for item in container["env"]}
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    return said(
        (env.get("RAY_USAGE_STATS_ENABLED") != "0", f"{container['name']}: usage statistics"),
        (any(is_secret(name) for name in env), f"{container['name']}: a secret in the manifest"),
        (requests != limits, f"{container['name']}: requests differ from limits"),
        (not {"cpu", "memory"} <= limits.keys(), f"{container['name']}: no limits"),
    )


def is_secret(name):
    return bool(re.search("KEY|TOKEN|PASSWORD|SECRET", name))


def cron_problems(spec):
    """Of what Kubernetes' schema lets through."""
    fields = r"([\d*,/-]+ ){4}[\d*,/-]+"
    return said(
        (not re.fullmatch(fields, spec["schedule"]), "the schedule does not match five fields"),
        (spec.get("concurrencyPolicy") != "Forbid", "two starts at once"),
    )


def policy_problems(spec):
    """Own pods reach all ports, the operator the dashboard, nobody else any."""
    allowed = [
        {"from": [{"podSelector": {"matchLabels": OWN}}]},
        {
            "from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": OPERATOR}}],
            "ports": [{"protocol": "TCP", "port": DASHBOARD}],
        },
    ]
    return said(
        (spec["podSelector"] != {"matchLabels": OWN}, "the policy is for other pods"),
        (spec.get("policyTypes") != ["Ingress"], "not a policy of what comes in"),
        (any(rule not in allowed for rule in spec["ingress"]), "a port is opened"),
    )


def role_problems(rules):
    """It may create RayJobs, and read the one that it copies."""
    return said(
        (any(rule["apiGroups"] != ["ray.io"] for rule in rules), "rights beyond KubeRay"),
        (any(rule["resources"] != ["rayjobs"] for rule in rules), "rights beyond RayJobs"),
        (any(not set(rule["verbs"]) <= {"create", "get"} for rule in rules), "wide verbs"),
        (any("get" in r["verbs"] and "resourceNames" not in r for r in rules), "may read all"),
    )


def binding_problems(document):
    """Rights in this namespace alone, for accounts and no people."""
    kinds = {subject["kind"] for subject in document["subjects"]}
    return said(
        (document["roleRef"]["kind"] != "Role", "rights beyond the namespace"),
        (kinds != {"ServiceAccount"}, "rights of others than service accounts"),
    )
