"""What Kubernetes itself has against its own kinds, by the schemas that it publishes.

They are strict about fields and types. They know no values (``operator: Exist`` passes), nor how
many bytes ``24Gb`` are: ``schemas`` and ``rules`` do.
"""

import functools
import json

import kubernetes_validate
from kubernetes_validate import SchemaNotFoundError, ValidationError

# Since the first, a CronJob's timeZone is there for good; the other is the newest that is known.
VERSIONS = ("1.27", kubernetes_validate.latest_version())


def core_problems(document):
    """What is wrong with a document of a kind of Kubernetes' own, one line each version."""
    text = json.dumps(document, sort_keys=True)
    return [line for version in VERSIONS for line in problems_in(text, version)]


def template_problems(template):
    """What is wrong with a pod's template, which is a pod without its kind."""
    return core_problems({"apiVersion": "v1", "kind": "Pod", **template})


@functools.cache  # overlays share most of their pods, and a check reads 2 MB of schemas
def problems_in(text, version):
    try:
        kubernetes_validate.validate(json.loads(text), version, strict=True)
    except ValidationError as err:
        return [f"Kubernetes {version}: {err.json_path}: {err.message}"]
    except SchemaNotFoundError as err:
        return [err.message]
    return []
