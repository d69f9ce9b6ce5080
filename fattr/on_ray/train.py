"""The training loop on Ray Train V2: a group of workers, made again whenever some of it is lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from pyarrow.fs import FileType
from ray._private import state as ray_state
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import UserCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from fattr import storage
from fattr.errors import FattrError, RunError, UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.on_ray.session import is_local
from fattr.on_ray.train_context import RayContext
from fattr.runs.checkpoints import CheckpointStore
from fattr.train.loop import fit
from fattr.train.plan import TrainPlan

# glibc gives large blocks back to the system at every free, and a step frees hundreds of megabytes
# of activations and takes them again: clearing their pages cost as much as the arithmetic. With the
# memory kept, MobileNetV2 takes 8.5 ms an image on one core instead of 15.1. One arena, since
# Ray Train runs the loop in a thread and a thread's own arena holds no large blocks.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}

RESIZE_EVERY_S = 30.0  # looks for room for more workers, which begin again at the last checkpoint
FAILURES_WITHOUT_PROGRESS = 5  # in a row, then the run ends
OWN_ERRORS_WITHOUT_PROGRESS = 2  # the same of errors that fattr raises: these seldom go away
STARTS = 90  # of a group for which there is no room, 20 s each (session.TRAIN_START_S)

# What repeatable runs on a GPU need before a process first uses it; it costs the others nothing.
REPEATABLE_ON_GPU = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}

SNAPSHOT = "checkpoint_manager_snapshot.json"

Loop = Callable[[RayContext], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How many train together, between the two as many as the cluster has room for."""

    least: int
    most: int
    use_gpu: bool = False  # one for each
    num_processes: int | None = None  # that make a worker's batches; None: what its CPUs are for
    resize_every_s: float = RESIZE_EVERY_S


log = logging.getLogger(__name__)


class _Patience(UserCallback):
    """Ends a run that fails again and again without getting any further.

    Ray Train's own limit counts all failures of a run, however long it goes on well in between.
    It is asked in Ray Train's controller, where what it raises ends the run.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender, self._failures = sender, 0

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:  # noqa: ANN401
        """Progress, if there is a new checkpoint."""
        if checkpoint:
            self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ANN401
        """Raise what the workers raised, or died of, if it is enough; else say it."""
        self._failures += 1
        reason = _last_line(next(iter(worker_exceptions.values())))
        own = _own_error(worker_exceptions)
        limit = OWN_ERRORS_WITHOUT_PROGRESS if own else FAILURES_WITHOUT_PROGRESS
        if self._failures >= limit:
            raise own or RunError(
                f"training failed {self._failures} times without getting on: {reason}"
            )
        self._sender.post(
            f"{len(worker_exceptions)} of the workers failed ({reason}): all begin again at the"
            " newest checkpoint, once there is room for them"
        )


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray's, without the actors that have nothing to do here.

    One splits Ray Data's datasets, of which there are none. One frees a group's room when its
    controller is killed, which a cluster that ends with its driver does by itself.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, *([PlacementGroupCleanerCallback] if is_local() else []))
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # typed as V1's
        return [callback for callback in callbacks if not isinstance(callback, idle)]


def _own_error(worker_exceptions: Mapping[int, Exception]) -> FattrError | None:
    """What fattr itself raised, where all workers that failed did."""
    errors = [getattr(e, "_base_exc", e) for e in worker_exceptions.values()]
    own = [error for error in errors if isinstance(error, FattrError)]
    return own[0] if own and len(own) == len(errors) else None


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


def check_room(num_workers: int, *, use_gpu: bool) -> None:
    """Refuse more workers than the cluster of this session can hold, grown as far as it may be.

    Raises:
        UsageError: Saying what it has.
    """
    resource = "GPU" if use_gpu else "CPU"
    limits = ray_state.state.get_max_resources_from_cluster_config() or {}
    room = max(ray.cluster_resources().get(resource, 0), limits.get(resource, 0))
    if use_gpu and not room:
        raise UsageError("--gpus: the cluster has no GPU; leave --gpus out, or add nodes with GPUs")
    if num_workers > room:
        raise UsageError(
            f"--workers {num_workers}: the cluster has {room:g} {resource}s, one for each worker"
            " expected; ask for fewer, or give MIN:MAX"
        )


def fit_on_ray(
    plan: TrainPlan,
    train: LabelledCrops,
    valid: LabelledCrops,
    *,
    workers: Workers,
    store: CheckpointStore,
    on_start: Callable[[int], None],
    on_epoch: Callable[[Mapping[str, float]], None],
) -> None:
    """Train in a Ray session from the newest checkpoint of ``store`` on, and leave the last there.

    The crops go to the object store once and are shared by the workers of a node.

    Args:
        plan: What to train.
        train: Faces to learn from.
        valid: Faces to measure on.
        workers: How many.
        store: Where checkpoints are; all nodes must see it.
        on_start: Gets the number of workers whenever a group of them begins, in a thread of this
            process, as ``on_epoch``.
        on_epoch: Gets rank 0's figures; those of an epoch that was done again, twice.

    Raises:
        UsageError: The cluster cannot hold the workers, or an image cannot be used.
        RunError: Training failed; what the store has is kept.
    """
    crops = {"train": ray.put(train), "valid": ray.put(valid)}

    def loop(context: RayContext) -> None:
        if context.rank == 0:
            context.tell(context.world_size)
        processes = workers.num_processes
        if processes is None:
            processes = context.num_processes
        data = ray.get(crops["train"]), ray.get(crops["valid"])
        fit(context, plan, *data, num_processes=processes)

    def on_item(item: int | str | Mapping[str, float]) -> None:
        match item:
            case int():
                on_start(item)
            case str():
                log.warning("%s", item)
            case _:
                on_epoch(item)

    with mailbox(on_item) as sender:
        run_loop(loop, sender, workers=workers, store=store)


def run_loop(loop: Loop, sender: Sender, *, workers: Workers, store: CheckpointStore) -> None:
    """Run a loop on each of a group of workers, again from its checkpoints where some are lost.

    Raises:
        UsageError: The cluster cannot hold the workers.
        RunError: The loop failed too often without getting on.
    """
    check_room(workers.least, use_gpu=workers.use_gpu)
    logging.getLogger("ray.train").setLevel(logging.ERROR)

    def worker() -> None:
        loop(RayContext(sender, store))

    least, most = workers.least, workers.most
    scaling = ray.train.ScalingConfig(  # type: ignore[call-arg]  # typed as Train V1's
        num_workers=most if least == most else (least, most),  # type: ignore[arg-type]
        use_gpu=workers.use_gpu,
        elastic_resize_monitor_interval_s=workers.resize_every_s,
    )
    run_config = _run_config(store, _Patience(sender), use_gpu=workers.use_gpu)
    try:
        _Trainer(worker, scaling_config=scaling, run_config=run_config).fit()
    except TrainingFailedError as error:
        raise _as_ours(error) from error
    _forget_snapshot(store)


def _run_config(
    store: CheckpointStore, patience: _Patience, *, use_gpu: bool
) -> ray.train.RunConfig:
    """Of a run that keeps its checkpoints by itself and knows nothing of an earlier one."""
    _forget_snapshot(store)
    files, path = storage.filesystem(store.uri)
    parent, _, name = path.rpartition("/")
    return ray.train.RunConfig(  # type: ignore[call-arg]  # typed as Train V1's
        name=name,
        storage_path=parent,
        storage_filesystem=files,
        callbacks=[patience],  # type: ignore[list-item]
        worker_runtime_env={"env_vars": REPEATABLE_ON_GPU if use_gpu else KEEP_FREED_MEMORY},
        failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
            max_failures=-1, controller_failure_limit=STARTS
        ),
    )


def _forget_snapshot(store: CheckpointStore) -> None:
    """Have Ray Train begin without its own record of checkpoints.

    It writes that in place, so that a kill may leave half of it, and then refuses to start.
    """
    files, path = storage.filesystem(storage.join(store.uri, SNAPSHOT))
    if files.get_file_info(path).type == FileType.File:
        files.delete_file(path)


def _as_ours(error: TrainingFailedError) -> FattrError:
    """The error of ours within one of Ray Train's, or one that says the same."""
    if isinstance(error, WorkerGroupError) and (own := _own_error(error.worker_failures)):
        return own
    cause = error.controller_failure if isinstance(error, ControllerError) else error
    if isinstance(cause, FattrError):
        return cause
    return RunError(
        f"training failed: {_last_line(cause)}; what is done is kept: run the same command again"
    )
