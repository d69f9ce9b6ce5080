"""The pool of actors in which images are looked at: how many, with what, and how often retried."""

from __future__ import annotations

import warnings
from typing import Any

import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from fattr.build import cpu_count

# Logical CPUs. An actor keeps a core busy but holds half a slot, tasks less: on two slots two
# actors and all of Ray Data's own tasks still fit. Fetch differs from the actors, else Ray would
# fuse the two and S3 waits would block a model. Where there is one slot, re-blocking needs it all.
ACTOR_CPUS, FETCH_CPUS, IO_CPUS = 0.5, 0.2, 0.1
MAX_RESTARTS, MAX_TASK_RETRIES = 3, 2
MAX_ROWS_PER_BLOCK, MIN_ROWS_PER_BLOCK = 256, 8


def count_actors(use_gpu: bool) -> int:
    """One for each GPU, or for each core: of this machine if Ray was started here, else of all."""
    resources = ray.cluster_resources()
    if use_gpu:
        return max(1, int(resources.get("GPU", 0)))
    alone = len(ray.nodes()) == 1
    return max(1, min(cpu_count(), int(resources["CPU"])) if alone else int(resources["CPU"]))


def rows_per_block(num_images: int, num_actors: int) -> int:
    """So few that every actor has several blocks, so many that a block is worth its overhead."""
    return min(MAX_ROWS_PER_BLOCK, max(MIN_ROWS_PER_BLOCK, num_images // (4 * num_actors)))


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
        return fetched.map_batches(
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
