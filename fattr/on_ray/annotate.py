"""The annotate stages on Ray Data: manifest -> fetch tasks -> actors -> staged files.

Ray Data's checkpoint records which rows are staged; a rerun does the others. Whatever process is
killed, Ray starts it again without end; that an image which ends its process is not tried without
end is the business of ``StageActor``.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import ray
import ray.data
from ray.data import (
    ActorPoolStrategy,
    DataContext,
    ExecutionResources,
    SaveMode,
    TaskPoolStrategy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data.exceptions import ExecutionTimeoutError
from ray.util.annotations import RayDeprecationWarning

from fattr import storage
from fattr.build import AnnotatePlan
from fattr.errors import FattrError, RunError
from fattr.on_ray import checkpoint
from fattr.on_ray.actor import AnnotateActor, DecodeActor, StageActor, TracedBuild, builds
from fattr.on_ray.checkpoint import count_checkpointed, drop_unrecorded
from fattr.on_ray.ledger import CountingMailbox, Ledger
from fattr.on_ray.lone import without_helpers
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.runs.run import Run
from fattr.sandbox import TRIES, BugError
from fattr.sizing import CLUSTER_ACTOR_CPUS, Sizing
from fattr.spans import OnSpans, Recorder, Span
from fattr.stages import Fetch, by_bytes, timed

__all__ = ["MALLOC", "PROCESSES", "Blame", "Listener", "annotate_on_ray", "count_checkpointed"]

log = logging.getLogger(__name__)

# malloc's setting, for workers: an actor works in a thread, whose own arena would give every large
# block back to the system and take it again.
MALLOC = {"MALLOC_ARENA_MAX": "1"}

PROCESSES = 6  # on two cores: two actors, two fetches, a reader and the mailbox

LOOK_EVERY_S = 5.0
STALLED_S = 1800.0  # nothing moved for so long, and no image is to blame: the run ends


class _Watch(ExecutionCallback):
    """Says, at one of Ray Data's steps, that the run must end; else that might be never."""

    check: ClassVar[Callable[[], None]]

    def __init__(self) -> None:
        self._here, self._looked = ray.get_runtime_context().get_node_id(), time.monotonic()

    def on_execution_step(self, executor: object) -> None:
        """See ``ExecutionCallback``."""
        type(self).check()
        if time.monotonic() > self._looked + LOOK_EVERY_S:
            self._looked = time.monotonic()
            if not any(node["NodeID"] == self._here and node["Alive"] for node in ray.nodes()):
                raise RunError("Ray's processes on this machine are gone; run the same again")


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is to blame where images fail.

    Attributes:
        image_timeout_s: An image that takes longer is poison.
        is_code_cleared: Those that raise are poison even if they are many and none gets through.
    """

    image_timeout_s: float
    is_code_cleared: bool = False


@dataclass(frozen=True, slots=True)
class Listener:
    """Who hears of a run while it goes on, on a thread of this process.

    Attributes:
        on_counts: Gets what is done.
        on_spans: Gets the first steps of each worker; None: nobody asks, and none are put down.
    """

    on_counts: Callable[[Counter[str]], None]
    on_spans: OnSpans | None = None

    def on_item(self, item: Counter[str] | list[Span]) -> None:
        """What a worker sent."""
        if isinstance(item, Counter):
            self.on_counts(item)
        elif self.on_spans:
            self.on_spans(item)


def annotate_on_ray(
    plan: AnnotatePlan,
    run: Run,
    *,
    num_images: int,
    sizing: Sizing,
    read_options: storage.ReadOptions | None = None,
    blame: Blame,
    listener: Listener,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Stage a row for each image of ``run.manifest`` that has none, within a Ray session.

    Rows may be staged twice where two drivers overlapped.

    Args:
        plan: What to do.
        run: Whose manifest, staging and checkpoint.
        num_images: Rows of the manifest.
        sizing: For this session's cluster.
        read_options: How the images are read.
        blame: For images that fail.
        listener: Hears of what is done.
        check: Called often; what it raises ends the run.

    Raises:
        BugError: Many images raised the same, and none got through.
        RunError: Ray gave up; what is staged stays. Or what ``check`` raised.
    """
    is_resumed = count_checkpointed(run) > 0
    fetch = Fetch(num_in_flight=sizing.num_in_flight, options=read_options)
    with (
        _ending(run),
        _context(run, sizing, blame.image_timeout_s, check),
        without_helpers(),
        mailbox(listener.on_item, actor_class=CountingMailbox) as sender,
        closing(Ledger(sender.actor, is_cleared=blame.is_code_cleared)) as ledger,
    ):
        on_spans = sender.post if listener.on_spans else None
        stages = Stages(plan, sizing, fetch, ledger, blame.image_timeout_s, on_spans)
        _write(stages.staged(run.manifest, sender), run, sizing, is_resumed=is_resumed)
    if strays := drop_unrecorded(run):
        log.info("%d files of an earlier attempt deleted", strays)
    if (num_staged := count_checkpointed(run)) < num_images:
        raise RunError(
            f"the Ray engine lost {num_images - num_staged} images: run the same command again"
        )


@contextmanager
def _context(
    run: Run, sizing: Sizing, image_timeout_s: float, check: Callable[[], None]
) -> Iterator[None]:
    """Ray Data's settings for the block."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.checkpoint_config = checkpoint.checkpoint_config(run, num_filters=sizing.num_filters)
    context.s3_try_create_dir = False
    context.raise_original_map_exception = True  # else an actor's own words are lost on the way
    # The newer reader lists in a task of a whole CPU, which a filter may hold for ever, and reads
    # footers in actors that end the run if their node is lost.
    context.use_datasource_v2 = False
    # A block of nothing but images that hang moves nothing for long.
    worst_s = TRIES * sizing.rows_per_block * image_timeout_s
    context.execution_no_progress_timeout_s = STALLED_S + worst_s
    if sizing.gpus_per_actor:
        _keep_off_gpu_nodes(context)
    context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=sizing.store_bytes
    )
    context.custom_execution_callback_classes = [_Watch]
    context.issue_detectors_config.detectors = []  # they only warn, and nobody would see it
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    _Watch.check = staticmethod(check)
    with DataContext.current(context), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Checkpointing will be disabled")
        for most_or_least in (
            "minimum number of concurrent actors",
            "maximum number of concurrent",
        ):
            warnings.filterwarnings(
                "ignore", message=f"The {most_or_least}"
            )  # few images, few blocks
        yield


def _keep_off_gpu_nodes(context: DataContext) -> None:
    """Have tasks that need no GPU go to nodes without one while these have room.

    Ray's own strategy does so; Ray Data's, which spreads them over all nodes, does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # no other way before Ray 2.64
        context.scheduling_strategy = "DEFAULT"


@contextmanager
def _ending(run: Run) -> Iterator[None]:
    """Ray's errors as one line."""
    try:
        yield
    except (ray.exceptions.RayError, ExecutionTimeoutError, OSError) as err:
        if isinstance(getattr(err, "cause", None), BugError):
            raise BugError(_problem(err, run)) from err
        raise RunError(
            f"the Ray engine failed: {_problem(err, run)}; run the same command again to go on"
        ) from err


def _problem(err: BaseException, run: Run) -> str:
    """One line."""
    cause = getattr(err, "cause", None) or err
    if isinstance(cause, FattrError):
        return str(cause).splitlines()[0]  # Ray adds lines of its own
    if isinstance(cause, OSError):
        return f"reading or writing {run.output}: {storage.words_of(cause)}"
    return (str(err).strip().splitlines() or [type(err).__name__])[-1]


@dataclass(frozen=True, slots=True)
class Stages:
    """What happens to the rows, as a plan of Ray Data."""

    plan: AnnotatePlan
    sizing: Sizing
    fetch: Fetch
    ledger: Ledger
    image_timeout_s: float
    on_spans: OnSpans | None  # where all workers send theirs

    def staged(self, manifest_uri: str, sender: Sender) -> ray.data.Dataset:
        """From a manifest's rows to staged ones."""
        builds_of = builds(self.plan, self.sizing.decode_threads)
        rows = fetched(manifest_uri, self.fetch, self.sizing, self.on_spans)
        if self.sizing.preset != "mixed":
            return self._labelled(rows, builds_of["annotate"], sender)
        pool = ActorPoolStrategy(min_size=1, initial_size=self.sizing.num_decoders)
        rows = _in_pool(
            rows,
            DecodeActor,
            (builds_of["decode"], self.ledger, self.image_timeout_s, self.on_spans),
            compute=pool,
            num_cpus=CLUSTER_ACTOR_CPUS,
        )
        return self._labelled(rows, builds_of["label"], sender)

    def _labelled(
        self, rows: ray.data.Dataset, build: TracedBuild, sender: Sender
    ) -> ray.data.Dataset:
        sizing = self.sizing
        return _in_pool(
            rows,
            AnnotateActor,
            (build, self.ledger, self.image_timeout_s, self.on_spans, sender),
            compute=ActorPoolStrategy(
                min_size=sizing.min_actors,
                max_size=sizing.max_actors,
                initial_size=sizing.initial_actors,
            ),
            num_cpus=sizing.cpus_per_actor,
            num_gpus=sizing.gpus_per_actor,
        )


def fetched(
    manifest_uri: str, fetch: Fetch, sizing: Sizing, on_spans: OnSpans | None = None
) -> ray.data.Dataset:
    """A manifest's rows with their bytes, in blocks small enough to keep every actor busy.

    Read from its files, never from memory: of that, Ray Data would do all rows at each resume.
    """
    files, path = storage.filesystem(manifest_uri)
    rows = ray.data.read_parquet(
        path, filesystem=files, num_cpus=sizing.io_cpus, override_num_blocks=sizing.num_reads
    )
    blocks = rows.repartition(target_num_rows_per_block=sizing.rows_per_block)
    # Re-blocking would hold a whole CPU, which a small cluster may not have left.
    reblocking: Any = blocks._logical_plan.dag
    reblocking.ray_remote_args["num_cpus"] = sizing.io_cpus
    return blocks.map_batches(
        fetching(fetch, on_spans),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=sizing.fetch_cpus,
        compute=TaskPoolStrategy(sizing.max_fetches),
    )


def fetching(
    fetch: Fetch, on_spans: OnSpans | None = None
) -> Callable[[pa.Table], Iterator[pa.Table]]:
    """What adds their objects' bytes to a block of manifest rows, some at a time."""

    def fetch_block(rows: pa.Table) -> Iterator[pa.Table]:
        if on_spans is None:
            yield from map(fetch, by_bytes(rows))
            return
        recorder = Recorder(on_spans)  # of this task: its process may be another one's next
        yield from map(timed("fetch", fetch, recorder.took), by_bytes(rows))
        recorder.tell()

    return fetch_block


def _in_pool(
    rows: ray.data.Dataset,
    actor: type[StageActor],
    arguments: tuple[Any, ...],
    **sizes: Any,  # noqa: ANN401
) -> ray.data.Dataset:
    # Without its public twin's demand of a batch size wherever there are GPUs: up to so many rows,
    # blocks that the fetches cut small would be put together again.
    return rows.map_batches_internal(
        actor, fn_constructor_args=arguments, batch_size=None, batch_format="pyarrow", **sizes
    )


def _write(staged: ray.data.Dataset, run: Run, sizing: Sizing, *, is_resumed: bool) -> None:
    """Append: any other mode would delete or refuse what a killed run has staged."""
    files, path = storage.folderless(run.staging)
    staged.write_parquet(
        path,
        filesystem=files,
        mode=SaveMode.APPEND,
        min_rows_per_file=sizing.rows_per_write,
        ray_remote_args={"num_cpus": sizing.io_cpus},
    )
    written: Any = staged._write_ds
    if is_resumed and checkpoint.FILTER_OPERATOR not in written.stats():
        raise RunError("Ray Data did not leave out what was done: a bug; please report it")
