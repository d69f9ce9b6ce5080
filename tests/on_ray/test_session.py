"""A local cluster among others on the same machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
import ray
from ray._private import services

from fattr import tables
from fattr.errors import UsageError
from fattr.on_ray.session import ray_session

TIMEOUT_S = 120

# As somebody else's: with the dashboard, which answers questions about actors.
OTHER = """
import ray
ray.init(address="local", num_cpus=1, include_dashboard=True, log_to_driver=False)
print("up", flush=True)
input()
"""


class _Self:
    def seems_dead(self) -> bool:
        """What Ray Train asks of its controller: does the state API say that it is no more?"""
        from ray.util.state import get_actor
        from ray.util.state.exception import RayStateApiException

        try:
            found = get_actor(ray.get_runtime_context().get_actor_id(), timeout=30)
        except RayStateApiException:
            return False
        return found is None or found.state == "DEAD"


@contextmanager
def other_cluster() -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", OTHER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("RAY_API_SERVER")},
    ) as process:
        assert process.stdout.readline().strip() == "up"
        yield
        process.communicate("\n", timeout=TIMEOUT_S)


class _Annotating:
    def stage(self) -> str:
        """Two blocks, as an actor's last step; says which worker it was."""
        from fattr.on_ray.metrics import StageMetrics

        metrics = StageMetrics()
        for _ in range(2):
            seconds = {name: [0.02, 0.04] for name in tables.STAGE_SECONDS}
            counts = {"status": ["ok", "poison"], "num_faces": [3, 0], "size_bytes": [500, None]}
            metrics.add(pa.table(counts | seconds))
        return ray.get_runtime_context().get_worker_id()


def values_of(text: str, name: str, **labels: str) -> list[float]:
    """Values of a metric in Prometheus' text format."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith(f"ray_{name}{{")]
    return [
        float(line.rpartition(" ")[2]) for line in lines if all(label in line for label in wanted)
    ]


@pytest.mark.ray
def test_metrics_are_served_by_the_node(ray_cluster):
    actor = ray.remote(_Annotating).options(num_cpus=0).remote()
    own = {"WorkerId": ray.get(actor.stage.remote(), timeout=TIMEOUT_S)}
    (node,) = (node for node in ray.nodes() if node["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, text = time.monotonic() + TIMEOUT_S, ""
    while not values_of(text, "fattr_faces_total", **own):  # workers report every ten seconds
        assert time.monotonic() < deadline
        time.sleep(1)
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
    assert values_of(text, "fattr_images_total", status="ok", **own) == [2]
    assert values_of(text, "fattr_images_total", status="poison", **own) == [2]
    assert values_of(text, "fattr_faces_total", **own) == [6]
    assert values_of(text, "fattr_bytes_total", **own) == [1000]
    assert values_of(text, "fattr_stage_seconds_count", stage="decode", **own) == [2]
    assert values_of(text, "fattr_stage_seconds_bucket", stage="decode", le="0.03", **own) == [2]


def family() -> list[int]:
    """This process and all that came of it."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (folder / "stat").exists():
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def sockets_of(pid: int) -> Iterator[str]:
    """Kernel numbers of a process's sockets."""
    folder = Path(f"/proc/{pid}/fd")
    for descriptor in list(folder.iterdir()) if folder.exists() else []:
        try:
            link = str(descriptor.readlink())
        except FileNotFoundError:
            continue  # closed meanwhile; a listener stays
        if link.startswith("socket:["):
            yield link[len("socket:[") : -1]


def addresses_listened_at(pids: list[int]) -> set[str]:
    """Addresses of their TCP sockets, in the kernel's hexadecimal."""
    own = {number for pid in pids for number in sockets_of(pid)}
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    listening = "0A"
    return {row[1].partition(":")[0] for row in rows if row[3] == listening and row[9] in own}


@pytest.mark.ray
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_nothing_listens_but_on_the_loopback_interface(ray_cluster):
    pids = family()
    assert len(pids) > 4  # the raylet, the GCS, agents and workers
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", f"{'0' * 24}01000000"}
    found = addresses_listened_at(pids)
    assert found
    assert found <= loopback


@pytest.mark.ray
def test_workers_have_the_environment_given_and_the_driver_keeps_its_own(ray_cluster):
    environment = ray.remote(lambda: dict(os.environ)).options(num_cpus=0)
    seen = ray.get(environment.remote(), timeout=TIMEOUT_S)
    assert seen["GIVEN_TO_WORKERS"] == "1"
    assert "GIVEN_TO_WORKERS" not in os.environ


@pytest.mark.ray
def test_a_later_cluster_does_not_make_our_actors_seem_dead(ray_cluster):
    asking = ray.remote(_Self).options(num_cpus=0).remote()
    with other_cluster():
        assert not ray.get(asking.seems_dead.remote(), timeout=TIMEOUT_S)


@pytest.fixture
def no_session(monkeypatch):
    """As before any test that has one; the environment is put back."""
    for name in list(os.environ):
        if name.startswith("RAY_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    return monkeypatch


def free_port() -> int:
    """At which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def refused(address: str) -> str:
    with pytest.raises(UsageError) as caught, ray_session():
        pytest.fail("a session began")
    said = str(caught.value)
    assert said.startswith(f"RAY_ADDRESS={address}: ")
    assert said.endswith(
        "; HOST:PORT of a running cluster's head expected, or auto on one of its nodes; unset it to"
        " work on this machine alone"
    )
    return said.removeprefix(f"RAY_ADDRESS={address}: ").partition(";")[0]


def test_an_address_where_no_cluster_is_is_refused_at_once(no_session):
    """Ray itself tries for minutes, and then raises."""
    addresses = {
        f"127.0.0.1:{free_port()}": "Connection refused",
        "nowhere": "Invalid address format: nowhere",
        "no-such-host.invalid:6379": None,  # each resolver has its own words
        "http://127.0.0.1:8265": "Invalid Ray address: 'http://127.0.0.1:8265'",
    }
    for address, reason in addresses.items():
        no_session.setenv("RAY_ADDRESS", address)
        assert refused(address) == reason or reason is None


def test_auto_where_no_cluster_runs_is_refused(no_session):
    no_session.setattr(services, "find_gcs_addresses", set)
    no_session.setattr(services, "find_bootstrap_address", lambda temp_dir: None)
    no_session.setenv("RAY_ADDRESS", "auto")
    assert refused("auto") == "Could not find any running Ray instance"


def test_a_cluster_of_another_version_is_refused(no_session):
    def other(**_):
        raise RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1.0\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"localhost:{server.getsockname()[1]}"
        no_session.setattr(services, "canonicalize_bootstrap_address", str)
        no_session.setattr(ray, "init", other)
        no_session.setenv("RAY_ADDRESS", address)
        said = refused(address)
    assert said == "Version mismatch: The cluster was started with: Ray: 2.1.0"
