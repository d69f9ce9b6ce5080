"""Pools of actors in which images are looked at, and what the cluster has for them."""

from __future__ import annotations

import warnings
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from fattr.build import cpu_count
from fattr.on_ray.session import is_local
from fattr.sizing import ACTOR_CPUS, Resources

MAX_RESTARTS, MAX_TASK_RETRIES = 3, 2


def resources() -> Resources:
    """What the cluster of this session has now."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpus = [node for node in nodes if node.get("GPU", 0) > 0]
    return Resources(
        cpus=sum(node.get("CPU", 0.0) for node in nodes),
        gpus=sum(node.get("GPU", 0.0) for node in nodes),
        nodes=len(nodes),
        is_local=is_local(),
        usable_cpus=cpu_count(),
        cpus_per_gpu=min((n.get("CPU", 0.0) / n["GPU"] for n in with_gpus), default=0.0),
    )


def in_actors(
    fetched: ray.data.Dataset,
    actor: type[Any],
    arguments: tuple[Any, ...],
    *,
    num_actors: int,
    use_gpu: bool,
) -> ray.data.Dataset:
    """Blocks through a pool of ``actor``, each made with ``arguments``.

    Its retries are bounded: Ray's default would restart a crash for ever.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # no other way before Ray 2.64
        return fetched.map_batches_internal(  # its public twin wants a batch size on GPUs
            actor,
            fn_constructor_args=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_actors),
            num_cpus=ACTOR_CPUS if ray.cluster_resources()["CPU"] > 1 else 0,
            num_gpus=1 if use_gpu else 0,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TASK_RETRIES,
        )
