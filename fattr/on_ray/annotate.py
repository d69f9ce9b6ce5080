"""The annotate stages on Ray Data: manifest -> fetch tasks -> actor pool -> staging files."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy

from fattr import storage
from fattr.build import AnnotatePlan, build_annotate, cpu_count
from fattr.errors import RunError
from fattr.stages import Fetch

# Logical CPUs. An actor keeps a core busy but holds half a slot, tasks less: on two slots two
# actors and all of Ray Data's own tasks still fit. Fetch differs from the actors, else Ray would
# fuse the two and S3 waits would block a model.
ACTOR_CPUS, FETCH_CPUS, IO_CPUS = 0.5, 0.2, 0.1
MAX_ROWS_PER_BLOCK, MIN_ROWS_PER_BLOCK = 256, 8
POLL_SECONDS = 0.5


class OnCounts(Protocol):
    """Told the counts so far."""

    def show(self, counts: Counter[str]) -> None:
        """``counts`` by status, and of ``faces``."""


class _Tally:
    """Counts what the actors have done, for the progress bar."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, counts: Counter[str]) -> None:
        self._counts.update(counts)

    def read(self) -> Counter[str]:
        return self._counts


class AnnotateActor:
    """``stages.Annotate`` in an actor; its networks are loaded there."""

    def __init__(self, plan: AnnotatePlan, tally: Any) -> None:  # noqa: ANN401
        self._annotate, self._tally = build_annotate(plan), tally

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """A block of fetched rows to staged rows."""
        staged = self._annotate(fetched)
        counts = Counter(staged.column("status").to_pylist())
        counts["faces"] = int(sum(staged.column("num_faces").to_pylist()))
        self._tally.add.remote(counts)
        return staged


def fetch_block(rows: pa.Table) -> pa.Table:
    """A block of manifest rows with their objects' bytes."""
    return Fetch()(rows)


def _num_actors(use_gpu: bool) -> int:
    """One for each GPU, or for each core: of this machine if Ray was started here, else of all."""
    resources = ray.cluster_resources()
    if use_gpu:
        return max(1, int(resources.get("GPU", 0)))
    alone = len(ray.nodes()) == 1
    return max(1, min(cpu_count(), int(resources["CPU"])) if alone else int(resources["CPU"]))


@contextmanager
def _polled(tally: Any, on_counts: OnCounts) -> Iterator[None]:  # noqa: ANN401
    """Show the tally now and then from another thread, and a last time at the end."""
    done = threading.Event()

    def poll() -> None:
        while not done.wait(POLL_SECONDS):
            on_counts.show(ray.get(tally.read.remote()))

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
        on_counts.show(ray.get(tally.read.remote()))
    finally:
        done.set()
        thread.join()


def annotate_on_ray(
    plan: AnnotatePlan,
    manifest_uri: str,
    staging_uri: str,
    *,
    num_images: int,
    on_counts: OnCounts,
) -> None:
    """Manifest to staged rows within a Ray session, in no particular order.

    Raises:
        RunError: Ray gave up.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    use_gpu = plan.device == "cuda"
    num_actors = _num_actors(use_gpu)
    rows_per_block = num_images // (4 * num_actors)
    rows_per_block = min(MAX_ROWS_PER_BLOCK, max(MIN_ROWS_PER_BLOCK, rows_per_block))
    tally = ray.remote(num_cpus=0)(_Tally).remote()
    manifest_files, manifest_path = storage.filesystem(manifest_uri)
    staging_files, staging_path = storage.filesystem(staging_uri)
    rows = (
        ray.data.read_parquet(
            manifest_path, filesystem=manifest_files, ray_remote_args={"num_cpus": IO_CPUS}
        )
        .repartition(target_num_rows_per_block=rows_per_block)
        .map_batches(fetch_block, batch_size=None, batch_format="pyarrow", num_cpus=FETCH_CPUS)
        .map_batches(
            AnnotateActor,
            fn_constructor_args=(plan, tally),
            batch_size=None,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_actors),
            num_cpus=ACTOR_CPUS,
            num_gpus=1 if use_gpu else 0,
        )
    )
    try:
        with _polled(tally, on_counts):
            rows.write_parquet(
                staging_path, filesystem=staging_files, ray_remote_args={"num_cpus": IO_CPUS}
            )
    except (ray.exceptions.RayError, OSError) as err:
        problem = (str(err).strip().splitlines() or [type(err).__name__])[-1]
        raise RunError(
            f"the Ray engine failed: {problem}; run again into another --output"
        ) from err
