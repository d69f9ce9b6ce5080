"""A local cluster among others on the same machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

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


@pytest.mark.ray
def test_a_later_cluster_does_not_make_our_actors_seem_dead(ray_cluster):
    asking = ray.remote(_Self).options(num_cpus=0).remote()
    with other_cluster():
        assert not ray.get(asking.seems_dead.remote(), timeout=TIMEOUT_S)
