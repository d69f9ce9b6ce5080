"""The annotate stages on Ray Data: manifest -> fetch tasks -> actor pool -> staging files."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning

from fattr import storage
from fattr.build import AnnotatePlan, build_annotate, cpu_count
from fattr.errors import RunError
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.publish import count_rows
from fattr.stages import Fetch

# Logical CPUs. An actor keeps a core busy but holds half a slot, tasks less: on two slots two
# actors and all of Ray Data's own tasks still fit. Fetch differs from the actors, else Ray would
# fuse the two and S3 waits would block a model. Where there is one slot, re-blocking needs it all.
ACTOR_CPUS, FETCH_CPUS, IO_CPUS = 0.5, 0.2, 0.1
MAX_RESTARTS, MAX_TASK_RETRIES = 3, 2
MAX_ROWS_PER_BLOCK, MIN_ROWS_PER_BLOCK = 256, 8


class AnnotateActor:
    """``stages.Annotate`` in an actor; its networks are loaded there."""

    def __init__(self, plan: AnnotatePlan, sender: Sender) -> None:
        self._annotate, self._sender = build_annotate(plan), sender

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """A block of fetched rows to staged rows."""
        staged = self._annotate(fetched)
        self._sender.post(count_rows(staged))
        return staged


def fetch_block(rows: pa.Table) -> pa.Table:
    """A block of manifest rows with their objects' bytes."""
    return Fetch()(rows)


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


def annotate_on_ray(
    plan: AnnotatePlan,
    manifest_uri: str,
    staging_uri: str,
    *,
    num_images: int,
    on_counts: Callable[[Counter[str]], None],
) -> None:
    """Manifest to staged rows within a Ray session, in no particular order.

    Raises:
        RunError: Ray gave up.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    num_actors = count_actors(plan.device == "cuda")
    per_block = rows_per_block(num_images, num_actors)
    try:
        with mailbox(on_counts) as sender:
            staged = _annotated(_fetched(manifest_uri, per_block), plan, sender, num_actors)
            files, path = storage.filesystem(staging_uri)
            staged.write_parquet(path, filesystem=files, ray_remote_args={"num_cpus": IO_CPUS})
    except (ray.exceptions.RayError, OSError) as err:
        problem = (str(err).strip().splitlines() or [type(err).__name__])[-1]
        raise RunError(
            f"the Ray engine failed: {problem}; run again into another --output"
        ) from err


def _fetched(manifest_uri: str, per_block: int) -> ray.data.Dataset:
    """The manifest's rows with their bytes, in blocks small enough to keep every actor busy."""
    files, path = storage.filesystem(manifest_uri)
    rows = ray.data.read_parquet(path, filesystem=files, num_cpus=IO_CPUS)
    blocks = rows.repartition(target_num_rows_per_block=per_block)
    return blocks.map_batches(
        fetch_block, batch_size=None, batch_format="pyarrow", num_cpus=FETCH_CPUS
    )


def _annotated(
    fetched: ray.data.Dataset, plan: AnnotatePlan, sender: Sender, num_actors: int
) -> ray.data.Dataset:
    """The actor pool. Its retries are bounded: Ray's default would restart a crash for ever."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # no other way before Ray 2.64
        return fetched.map_batches(
            AnnotateActor,
            fn_constructor_args=(plan, sender),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_actors),
            num_cpus=ACTOR_CPUS if ray.cluster_resources()["CPU"] > 1 else 0,
            num_gpus=1 if plan.device == "cuda" else 0,
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TASK_RETRIES,
        )
