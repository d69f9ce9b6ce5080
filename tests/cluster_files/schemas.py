"""What the manifests may say: the part of each Kubernetes and KubeRay schema that is used here.

Everything else is refused. Written by hand after the published API types, so that a misspelt field,
which a server may drop in silence, is seen without one.
"""

import jsonschema

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
    "metadata spec",
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
UNLABELLED_POD = {**POD, "required": ["spec"]}

HEAD_GROUP = record("rayStartParams template", rayStartParams=STRINGS, template=POD)
WORKER_GROUP = record(
    "groupName replicas minReplicas maxReplicas rayStartParams template",
    groupName=NAME,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=POSITIVE,
    rayStartParams=STRINGS,
    template=POD,
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
    submitterPodTemplate=POD,
)
CRON_SPEC = record(
    "schedule jobTemplate",
    schedule={"type": "string", "pattern": r"^([\d*,/-]+ ){4}[\d*,/-]+$"},
    timeZone=STRING,
    concurrencyPolicy=one_of("Allow", "Forbid", "Replace"),
    startingDeadlineSeconds=POSITIVE,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    jobTemplate=record(
        "spec",
        spec=record(
            "template",
            backoffLimit=COUNT,
            activeDeadlineSeconds=POSITIVE,
            ttlSecondsAfterFinished=COUNT,
            template=UNLABELLED_POD,
        ),
    ),
)
LABELS = record("matchLabels", matchLabels=STRINGS)
PEER = record("podSelector", podSelector=LABELS, namespaceSelector=record())
POLICY_SPEC = record(
    "podSelector policyTypes ingress",
    podSelector=LABELS,
    policyTypes=several(one_of("Ingress")),
    ingress=several(
        record(
            "from",
            **{"from": several(PEER)},
            ports=several(record("protocol port", protocol=one_of("TCP"), port=POSITIVE)),
        )
    ),
)
RULE = record(
    "apiGroups resources verbs",
    apiGroups=several(STRING),
    resources=several(STRING),
    resourceNames=several(NAME),
    verbs=several(STRING),
)


def manifest(version, kind, **fields):
    return record(
        "apiVersion kind metadata " + " ".join(fields),
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=record("name", name=NAME),
        **fields,
    )


RBAC = "rbac.authorization.k8s.io"
MANIFESTS = {
    "RayJob": manifest("ray.io/v1", "RayJob", spec=JOB_SPEC),
    "RayCluster": manifest("ray.io/v1", "RayCluster", spec=CLUSTER_SPEC),
    "CronJob": manifest("batch/v1", "CronJob", spec=CRON_SPEC),
    "NetworkPolicy": manifest("networking.k8s.io/v1", "NetworkPolicy", spec=POLICY_SPEC),
    "ServiceAccount": manifest("v1", "ServiceAccount"),
    "Role": manifest(f"{RBAC}/v1", "Role", rules=several(RULE)),
    "RoleBinding": manifest(
        f"{RBAC}/v1",
        "RoleBinding",
        roleRef=record(
            "apiGroup kind name", apiGroup={"const": RBAC}, kind={"const": "Role"}, name=NAME
        ),
        subjects=several(
            record(
                "kind name namespace", kind={"const": "ServiceAccount"}, name=NAME, namespace=NAME
            )
        ),
    ),
}


def schema_problems(document):
    """What the schema of the document's kind has against it, one line each."""
    if document.get("kind") not in MANIFESTS:
        return [f"unknown kind {document.get('kind')}"]
    validator = jsonschema.Draft202012Validator(MANIFESTS[document["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
