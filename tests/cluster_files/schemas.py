"""What the manifests may say: the part of KubeRay's schema that is used here, and of a pod's.

Everything else is refused: a misspelt field, which a server may drop in silence, and one that is
right but would open a door, as ``hostNetwork`` does. KubeRay's part is written by hand after its
published API types; the kinds of Kubernetes, and pods once more, are checked by its own schemas.
"""

import jsonschema
from cluster_files.core_kinds import core_problems, template_problems

STRING, COUNT, FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
POSITIVE = {"type": "integer", "minimum": 1}
STRINGS = {"type": "object", "additionalProperties": STRING}
NAME = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$"}  # KubeRay: 47 at most
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$"}


def record(required="", **fields):
    """An object of these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": required.split(),
        "properties": fields,
    }


def several(item):
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*values):
    return {"enum": list(values)}


QUANTITIES = {
    "type": "object",
    "additionalProperties": False,
    "properties": dict.fromkeys(("cpu", "memory", "nvidia.com/gpu"), QUANTITY),
}
RESOURCES = record("requests limits", requests=QUANTITIES, limits=QUANTITIES)
SECURITY = record(runAsNonRoot=FLAG, runAsUser=POSITIVE, fsGroup=POSITIVE)
ENV = several(record("name value", name=STRING, value=STRING))
ENV_FROM = several(record("secretRef", secretRef=record("name", name=NAME, optional=FLAG)))
MOUNTS = several(record("name mountPath", name=NAME, mountPath=STRING, readOnly=FLAG))
CONTAINER = record(
    "name image env resources",
    name=NAME,
    image=STRING,
    command=several(STRING),
    env=ENV,
    envFrom=ENV_FROM,
    resources=RESOURCES,
    volumeMounts=MOUNTS,
)
VOLUME = record(
    "name",
    name=NAME,
    emptyDir=record("medium sizeLimit", medium=one_of("Memory"), sizeLimit=QUANTITY),
    configMap=record("name", name=NAME),
)
TOLERATION = record(
    "key operator effect",
    key=STRING,
    operator=one_of("Exists"),
    effect=one_of("NoSchedule"),
)
POD = record(
    "spec",
    metadata=record("labels", labels=STRINGS),
    spec=record(
        "containers securityContext restartPolicy",
        serviceAccountName=NAME,
        automountServiceAccountToken=FLAG,
        nodeSelector=STRINGS,
        tolerations=several(TOLERATION),
        securityContext=SECURITY,
        restartPolicy=one_of("Never", "OnFailure", "Always"),
        containers=several(CONTAINER),
        volumes=several(VOLUME),
    ),
)

TEMPLATE = {"type": "object"}  # a pod's, which is checked by itself
HEAD_GROUP = record("rayStartParams template", rayStartParams=STRINGS, template=TEMPLATE)
WORKER_GROUP = record(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=POSITIVE,
    rayStartParams=STRINGS,
    template=TEMPLATE,
)
CLUSTER_SPEC = record(
    "rayVersion headGroupSpec workerGroupSpecs",
    suspend=FLAG,
    rayVersion=STRING,
    authOptions=record("mode", mode=one_of("token")),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=record(
        "version env resources",
        version=one_of("v2"),
        idleTimeoutSeconds=POSITIVE,
        env=ENV,
        resources=RESOURCES,
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs=several(WORKER_GROUP),
)
JOB_SPEC = record(
    "entrypoint rayClusterSpec",
    suspend=FLAG,
    entrypoint=STRING,
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer"},
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished={"type": "integer"},
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    rayClusterSpec=CLUSTER_SPEC,
    submitterPodTemplate=TEMPLATE,
)


METADATA = record("name", name=NAME)


def manifest(kind, spec):
    return record(
        "apiVersion kind metadata spec",
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=METADATA,
        spec=spec,
    )


KUBERAY = {
    "RayJob": manifest("RayJob", JOB_SPEC),
    "RayCluster": manifest("RayCluster", CLUSTER_SPEC),
}
CORE = {"CronJob", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding"}
NAMED = {"required": ["metadata"], "properties": {"metadata": METADATA}}


def schema_problems(document):
    """What the schemas of a manifest's kind and of its pods have against it, one line each."""
    kind = document.get("kind")
    if kind in KUBERAY:
        found = refused(document, KUBERAY[kind])
    elif kind in CORE:
        found = [*core_problems(document), *refused(document, NAMED)]
    else:
        return [f"unknown kind {kind}"]
    for template in templates(document):
        found += [*refused(template, POD), *template_problems(template)]
    return found


def refused(value, schema):
    errors = jsonschema.Draft202012Validator(schema).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


def templates(value):
    """The templates of all pods that a manifest describes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("template", "submitterPodTemplate"):
                yield inner
            yield from templates(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from templates(inner)
