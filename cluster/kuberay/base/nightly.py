"""Start tonight's annotate job: a copy of the suspended RayJob, named by the date.

Runs in a pod of the CronJob, on the standard library alone. The name makes it safe to run twice:
the second is told that tonight's job is already there.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TEMPLATE = "fattr-annotate"
ALREADY_THERE = 409

log = logging.getLogger("nightly")


def copy_for(template: dict[str, Any], day: datetime.date) -> dict[str, Any]:
    """The RayJob of that night: the template's spec, started."""
    name, namespace = template["metadata"]["name"], template["metadata"]["namespace"]
    return {
        "apiVersion": template["apiVersion"],
        "kind": template["kind"],
        "metadata": {"name": f"{name}-{day:%Y%m%d}", "namespace": namespace},
        "spec": {**template["spec"], "suspend": False},
    }


def start(api: str, account: Path, day: datetime.date) -> str:
    """Create that night's RayJob where it is not there yet.

    Args:
        api: Address of the Kubernetes API server.
        account: Folder of the pod's service account: token, namespace, ca.crt.
        day: The night's date.

    Returns:
        The name of the RayJob.
    """
    namespace = (account / "namespace").read_text()
    jobs = f"{api}/apis/ray.io/v1/namespaces/{namespace}/rayjobs"
    job = copy_for(_ask(f"{jobs}/{TEMPLATE}", account), day)
    try:
        _ask(jobs, account, job)
    except urllib.error.HTTPError as err:
        if err.code != ALREADY_THERE:
            raise
    return str(job["metadata"]["name"])


def _ask(url: str, account: Path, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The API server's answer: to a GET, or to a POST where there is a body."""
    headers = {
        "Authorization": f"Bearer {(account / 'token').read_text()}",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    tls = ssl.create_default_context(cafile=account / "ca.crt") if url[:6] == "https:" else None
    request = urllib.request.Request(url, data=data, headers=headers)
    with urllib.request.urlopen(request, timeout=60, context=tls) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.INFO)
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    today = datetime.datetime.now(datetime.UTC).date()
    log.info("RayJob %s", start(f"https://{host}:{port}", ACCOUNT, today))
