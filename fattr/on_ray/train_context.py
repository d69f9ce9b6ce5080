"""What a training loop asks for, as Ray Train answers it."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointUploadMode
from torch import distributed as dist
from torch import nn

from fattr.build import cpu_count
from fattr.errors import UsageError
from fattr.on_ray.mailbox import Sender
from fattr.runs.checkpoints import CheckpointStore, name_of
from fattr.train.context import DDP_OPTIONS, Group
from fattr.train.input import default_processes

BACKLOG = 2  # checkpoints on their way to the storage at most


class _Told(logging.Handler):
    """Sends warnings to the driver, where they are read."""

    def __init__(self, sender: Sender) -> None:
        super().__init__(logging.WARNING)
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        self._sender.post(record.getMessage())


class RayContext(Group):
    """``train.context.TrainContext`` in a worker of Ray Train.

    Checkpoints are uploaded in the background. Where the storage is slower than they come, those
    within an epoch are left out and those after an epoch are waited for.
    """

    def __init__(self, sender: Sender, store: CheckpointStore) -> None:
        context = ray.train.get_context()
        self._sender, self.store, self._storage = sender, store, context.get_storage()
        self._on_way, self._arrival = 0, threading.Condition()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._cpus = max(1, cpu_count() // context.get_local_world_size())
        if self.device.type == "cpu":
            torch.set_num_threads(self._cpus)
        if self.rank == 0:
            logging.getLogger("fattr").addHandler(_Told(sender))
        self._check_shared()

    @property
    def num_processes(self) -> int:
        """How many may make batches for this worker."""
        return default_processes(self._cpus, on_gpu=self.device.type == "cuda")

    def tell(self, item: object) -> None:
        """Send something to the driver."""
        self._sender.post(item)

    def _check_shared(self) -> None:
        """Refuse an output that only the driver's machine sees.

        Raises:
            UsageError: Nothing of what Ray Train left there is here.
        """
        files, folder = self._storage.storage_filesystem, self._storage.experiment_fs_path
        if not files.get_file_info(folder).type:
            raise UsageError(
                f"--output {self.store.uri} is not on all nodes of the cluster: give an s3:// URI"
                " or a folder that they share"
            )

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        prepared: nn.Module = ray.train.torch.prepare_model(
            model, parallel_strategy_kwargs=DDP_OPTIONS
        )
        return prepared

    def checkpoints(self) -> Iterator[Path]:
        """See ``TrainContext``; what rank 0 sees counts."""
        names = [self.store.names() if self.rank == 0 else []]
        if self.world_size > 1:
            dist.broadcast_object_list(names, src=0)
        yield from self.store.folders(names[0])

    def has_room(self) -> bool:
        """See ``TrainContext``: whether one more may be on its way to the storage.

        The last place is for the one after an epoch, which is not left out. Where there is no room,
        no rank reports: Ray Train takes two reports a second, too few for those that say nothing.
        """
        return self.agreed(self._on_way < BACKLOG - 1)

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``; where there is no place left, it waits for one."""
        if self.rank == 0 and metrics:
            self._sender.post(dict(metrics))
        if checkpoint:
            with self._arrival:
                self._arrival.wait_for(lambda: self._on_way < BACKLOG)
                self._on_way += 1
        ray.train.report(
            {},
            checkpoint=ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None,
            checkpoint_dir_name=name_of(checkpoint) if checkpoint else None,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            checkpoint_upload_fn=functools.partial(self._upload, metrics=dict(metrics)),
            delete_local_checkpoint_after_upload=True,
        )

    def _upload(
        self, checkpoint: ray.train.Checkpoint, name: str, *, metrics: Mapping[str, float]
    ) -> ray.train.Checkpoint:
        """Put a checkpoint into the store, on Ray Train's thread.

        Raises:
            RunError: It could not be written.
        """
        try:
            self.store.put(name, Path(checkpoint.path), metrics)
        finally:
            with self._arrival:
                self._on_way -= 1
                self._arrival.notify()
        return ray.train.Checkpoint(
            self._storage.build_checkpoint_path_from_name(name), self._storage.storage_filesystem
        )
