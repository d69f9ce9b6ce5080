"""The annotate stages on Ray Data: manifest -> fetch tasks -> actor pool -> staging files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import ray
import ray.data

from fattr import storage
from fattr.build import AnnotatePlan, build_annotate
from fattr.errors import RunError
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.on_ray.pool import FETCH_CPUS, IO_CPUS, count_actors, in_actors, rows_per_block
from fattr.publish import count_rows
from fattr.stages import Fetch


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
            staged = in_actors(
                _fetched(manifest_uri, per_block),
                AnnotateActor,
                (plan, sender),
                num_actors=num_actors,
                use_gpu=plan.device == "cuda",
            )
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
