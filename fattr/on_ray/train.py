"""The training loop on Ray Train V2: a group of workers, made again whenever some of it is lost."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
from pyarrow.fs import FileType
from ray._private import state as ray_state
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.callback import RayTrainCallback
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from fattr import storage
from fattr.errors import FattrError, RunError, UsageError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.on_ray.patience import Patience, RoomWatch, last_line, own_error, room_of
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


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray's, without its answer to Ctrl-C and the actors that have nothing to do here.

    One splits Ray Data's datasets, of which there are none. One frees a group's room when its
    controller is killed, which a cluster that ends with its driver does by itself.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, *([PlacementGroupCleanerCallback] if is_local() else []))
        callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # typed as V1's
        return [callback for callback in callbacks if not isinstance(callback, idle)]

    def _register_sigint_handler(self, controller: object) -> None:
        """None: after Ctrl-C, Ray's ends the process with code 0 or 1, as if all were done."""


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
    check: Callable[[], None] = lambda: None,
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
        check: Called often, in that thread.

    Raises:
        UsageError: The cluster cannot hold the workers, or an image cannot be used.
        RunError: Training failed; what the store has is kept. Or what ``on_start``, ``on_epoch`` or
            ``check`` raised, which ends the run soon.
    """

    def on_item(item: int | str | Mapping[str, float]) -> None:
        match item:
            case int():
                on_start(item)
            case str():
                log.warning("%s", item)
            case _:
                on_epoch(item)

    with _ending(), mailbox(on_item, check) as sender:
        loop = _loop(plan, ray.put(train), ray.put(valid), workers.num_processes)
        run_loop(loop, sender, workers=workers, store=store)


def _loop(
    plan: TrainPlan,
    train: ray.ObjectRef[LabelledCrops],
    valid: ray.ObjectRef[LabelledCrops],
    num_processes: int | None,
) -> Loop:
    """What each worker does."""

    def loop(context: RayContext) -> None:
        if context.rank == 0:
            context.tell(context.world_size)
        processes = context.num_processes if num_processes is None else num_processes
        fit(context, plan, ray.get(train), ray.get(valid), num_processes=processes)

    return loop


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
    room = functools.partial(room_of, "GPU" if workers.use_gpu else "CPU")
    callbacks = [Patience(sender), RoomWatch(sender, least=least, room=room)]
    run_config = _run_config(store, callbacks, use_gpu=workers.use_gpu)
    with _ending():
        _Trainer(worker, scaling_config=scaling, run_config=run_config).fit()
    _forget_snapshot(store)


@contextmanager
def _ending() -> Iterator[None]:
    """Ray's errors as one line.

    Raises:
        FattrError: Of the block, or what stands for one of Ray's.
    """
    try:
        yield
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise _as_ours(error) from error


def _run_config(
    store: CheckpointStore, callbacks: list[RayTrainCallback], *, use_gpu: bool
) -> ray.train.RunConfig:
    """Of a run that keeps its checkpoints by itself and knows nothing of an earlier one."""
    _forget_snapshot(store)
    files, path = storage.folderless(store.uri)
    parent, _, name = path.rpartition("/")
    return ray.train.RunConfig(  # type: ignore[call-arg]  # typed as Train V1's
        name=name,
        storage_path=parent,
        storage_filesystem=files,
        callbacks=callbacks,  # type: ignore[arg-type]
        worker_runtime_env={"env_vars": REPEATABLE_ON_GPU if use_gpu else KEEP_FREED_MEMORY},
        failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
            max_failures=-1, controller_failure_limit=-1
        ),  # Ray's limits are of a whole run: patience.py has others
    )


def _forget_snapshot(store: CheckpointStore) -> None:
    """Have Ray Train begin without its own record of checkpoints.

    It writes that in place, so that a kill may leave half of it, and then refuses to start.
    """
    files, path = storage.filesystem(storage.join(store.uri, SNAPSHOT))
    if files.get_file_info(path).type == FileType.File:
        files.delete_file(path)


def _as_ours(error: TrainingFailedError | ray.exceptions.RayError) -> FattrError:
    """The error of ours within one of Ray's, or one that says the same."""
    if isinstance(error, WorkerGroupError) and (own := own_error(error.worker_failures)):
        return own
    cause = error.controller_failure if isinstance(error, ControllerError) else error
    if isinstance(cause, FattrError):
        return cause
    return RunError(
        f"training failed: {last_line(cause)}; what is done is kept: run the same command again"
    )
