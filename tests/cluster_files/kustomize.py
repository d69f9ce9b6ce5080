"""What `kubectl kustomize` would make of a folder, as far as ours use it."""

import copy

import jsonpatch
import yaml
from cluster_files.entrypoints import ROOT
from cluster_files.schemas import STRING, one_of, record, several

KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = ("cpu", "gpu", "many-gpus")

KUSTOMIZATION = record(
    "apiVersion kind resources",
    apiVersion={"const": "kustomize.config.k8s.io/v1beta1"},
    kind={"const": "Kustomization"},
    namespace=STRING,
    resources=several(STRING),
    images=several(record("name newName newTag", name=STRING, newName=STRING, newTag=STRING)),
    configMapGenerator=several(record("name files", name=STRING, files=several(STRING))),
    patches=several(
        record("target path", target=record("kind name", kind=STRING, name=STRING), path=STRING)
    ),
)
OPERATIONS = several(
    record("op path value", op=one_of("replace"), path=STRING, value={})
)  # an added path could be a misspelt one


def read(path):
    """The only document of a YAML file."""
    return yaml.safe_load(path.read_text())


def base():
    """The manifests that the base lists, by kind and name."""
    folder = KUBERAY / "base"
    documents = [
        document
        for name in read(folder / "kustomization.yaml")["resources"]
        for document in yaml.safe_load_all((folder / name).read_text())
    ]
    # A copy without shared parts: an alias of YAML would let a patch of one pod change another.
    return {(d["kind"], d["metadata"]["name"]): unshared(d) for d in documents}


def unshared(document):
    """The same values, none of them twice in memory."""
    if isinstance(document, dict):
        return {key: unshared(value) for key, value in document.items()}
    if isinstance(document, list):
        return [unshared(value) for value in document]
    return document


def overlay(name):
    """The manifests of an overlay, by kind and name.

    Raises:
        KeyError: a patch is for something that the base does not have.
        jsonpatch.JsonPatchConflict: a patch replaces what is not there.
    """
    folder, documents = KUBERAY / "overlays" / name, copy.deepcopy(base())
    for patch in read(folder / "kustomization.yaml").get("patches", []):
        target = (patch["target"]["kind"], patch["target"]["name"])
        documents[target] = jsonpatch.apply_patch(documents[target], read(folder / patch["path"]))
    return documents
