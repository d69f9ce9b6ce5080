"""Ray Data with and without the actors that help it: the same rows."""

from __future__ import annotations

import pytest
import ray
import ray.data
from ray.util import list_named_actors

from fattr.on_ray import lone
from fattr.on_ray.lone import without_helpers

pytestmark = pytest.mark.ray

HELPERS = {"ActorLocationTracker", "AutoscalingCoordinator", "datasets_stats_actor"}


class Doubled:
    def __call__(self, batch):
        return {"id": 2 * batch["id"]}


def doubled() -> list[int]:
    """Through a pool of actors."""
    rows = ray.data.range(100, override_num_blocks=5).map_batches(
        Doubled, batch_size=None, compute=ray.data.ActorPoolStrategy(size=2), num_cpus=0.5
    )
    return sorted(row["id"] for row in rows.take_all())


def helpers(*, kill: bool = False) -> set[str]:
    """Those that are there, but no longer if they are to be killed."""
    found = [
        (actor["name"], actor["namespace"])
        for actor in list_named_actors(all_namespaces=True)
        if actor["name"] in HELPERS
    ]
    for name, namespace in found if kill else ():
        ray.kill(ray.get_actor(name, namespace))
    return {name for name, _ in found}


def test_ones_own_machine_has_no_helpers_and_a_cluster_has_them(ray_cluster, monkeypatch):
    helpers(kill=True)
    with without_helpers():
        assert doubled() == list(range(0, 200, 2))
    assert helpers() == set()
    monkeypatch.setattr(lone, "is_local", lambda: False)
    with without_helpers():
        assert doubled() == list(range(0, 200, 2))
    assert helpers(kill=True) == HELPERS
