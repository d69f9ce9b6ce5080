"""The nightly starter against an API server of its own."""

import datetime
import http.server
import importlib.util
import json
import threading
import urllib.error

import pytest
from cluster_files.kustomize import KUBERAY, overlay
from cluster_files.schemas import schema_problems

DAY = datetime.date(2026, 11, 27)
JOBS = "/apis/ray.io/v1/namespaces/fattr/rayjobs"


@pytest.fixture
def nightly():
    spec = importlib.util.spec_from_file_location("nightly", KUBERAY / "base" / "nightly.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def account(tmp_path):
    (tmp_path / "namespace").write_text("fattr")
    (tmp_path / "token").write_text("sesame")
    return tmp_path


@pytest.fixture
def server():
    """Keeps RayJobs by path, refuses names twice and wrong tokens, as Kubernetes does."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, code, body):
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            known = self.headers["Authorization"] == "Bearer sesame"
            found = self.server.jobs.get(self.path)
            self.answer(200 if known and found else 404 if known else 401, found)

        def do_POST(self):
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            path = f"{self.path}/{job['metadata']['name']}"
            self.answer(409 if path in self.server.jobs else 201, job)
            self.server.jobs.setdefault(path, job)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        made.jobs, made.api = {}, f"http://127.0.0.1:{made.server_port}"
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def applied():
    """The suspended RayJob as the API server gives it: with what servers add."""
    job = overlay("many-gpus")["RayJob", "fattr-annotate"]
    added = {"namespace": "fattr", "uid": "1", "resourceVersion": "7", "generation": 1}
    return {**job, "metadata": {**job["metadata"], **added}, "status": {"jobStatus": ""}}


def test_a_started_copy_with_the_overlays_settings(nightly, account, server):
    template = applied()
    server.jobs[f"{JOBS}/fattr-annotate"] = template
    assert nightly.start(server.api, account, DAY) == "fattr-annotate-20261127"
    made = server.jobs[f"{JOBS}/fattr-annotate-20261127"]
    assert made["spec"] == {**template["spec"], "suspend": False}
    assert made["metadata"] == {"name": "fattr-annotate-20261127", "namespace": "fattr"}
    del made["metadata"]["namespace"]
    assert schema_problems(made) == []


def test_twice_in_a_night_is_once(nightly, account, server):
    server.jobs[f"{JOBS}/fattr-annotate"] = applied()
    first = nightly.start(server.api, account, DAY)
    kept = dict(server.jobs)
    assert nightly.start(server.api, account, DAY) == first
    assert server.jobs == kept
    nightly.start(server.api, account, DAY + datetime.timedelta(1))
    assert len(server.jobs) == 3


def test_what_is_not_there_or_not_allowed_is_an_error(nightly, account, server):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        nightly.start(server.api, account, DAY)
    (account / "token").write_text("open")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        nightly.start(server.api, account, DAY)
