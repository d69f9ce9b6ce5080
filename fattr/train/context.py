"""What a training loop may ask of whoever launched it; Ray is one answer, ``LocalContext`` one."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

# Else the first backward pass of a process rearranges its buckets of gradients, and three workers
# or more sum the elements of rearranged ones in another order: a run that was gone on with would
# differ from one that was not.
DDP_OPTIONS: dict[str, Any] = {"find_unused_parameters": True}
KEPT = 2  # checkpoints of a local run: the newest, and the one before it should that be damaged


class TrainContext(Protocol):
    """One worker's view of the run.

    Every rank calls every method equally often and in the same order.
    """

    rank: int
    world_size: int
    device: torch.device

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the worker's device, wrapped so that gradients are averaged over workers."""

    def checkpoints(self) -> Iterator[Path]:
        """Local folders of the complete checkpoints, newest first, each fetched when asked for."""

    def agreed(self, decision: bool) -> bool:
        """Rank 0's decision, on every rank."""

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over the workers of tensors of one shape, on every rank."""

    def gathered(self, array: NDArray[Any]) -> list[NDArray[Any]] | None:
        """On rank 0 one array a rank, in their order; elsewhere None."""

    def has_room(self) -> bool:
        """Whether a checkpoint within an epoch may be reported now, on every rank alike."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Record an epoch, or, without metrics, a checkpoint within one; rank 0's count.

        A barrier. The checkpoint's folder belongs to the context from here on.
        """


class Group:
    """What is common over torch's process group; one worker needs none.

    Checkpoints are taken as they come.
    """

    rank: int
    world_size: int
    device: torch.device

    def agreed(self, decision: bool) -> bool:
        """See ``TrainContext``."""
        own = torch.tensor([decision and self.rank == 0], dtype=torch.uint8)
        return bool(self.total(own).item())

    def has_room(self) -> bool:
        """See ``TrainContext``."""
        return True

    def total(self, tensor: Tensor) -> Tensor:
        """See ``TrainContext``; the result is where ``tensor`` was."""
        if self.world_size == 1:
            return tensor
        shared = tensor.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(shared)
        return shared.to(tensor.device)

    def gathered(self, array: NDArray[Any]) -> list[NDArray[Any]] | None:
        """See ``TrainContext``."""
        if self.world_size == 1:
            return [array]
        lengths = torch.zeros(self.world_size, dtype=torch.int64)
        lengths[self.rank] = len(array)
        lengths = self.total(lengths)
        padded = np.zeros((int(lengths.max()), *array.shape[1:]), array.dtype)
        padded[: len(array)] = array
        own = torch.from_numpy(padded).to(self.device)
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own)
        if self.rank:
            return None
        return [part.cpu().numpy()[:n] for part, n in zip(parts, lengths.tolist(), strict=True)]


@dataclass
class LocalContext(Group):
    """One worker in this process, or one of a process group of one machine; the oracle for Ray's.

    Checkpoints are kept in ``folder``, which the workers share.
    """

    folder: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        there = model.to(self.device)
        return there if self.world_size == 1 else DistributedDataParallel(there, **DDP_OPTIONS)

    def checkpoints(self) -> Iterator[Path]:
        """See ``TrainContext``."""
        return iter(sorted(self.folder.glob("checkpoint_*"), reverse=True))

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``."""
        if checkpoint:
            self._keep(checkpoint)
        self.agreed(True)  # a barrier

    def _keep(self, checkpoint: Path) -> None:
        before = list(self.checkpoints())
        number = 1 + (int(before[0].name.removeprefix("checkpoint_")) if before else 0)
        fresh = self.folder / f".checkpoint_{number:06}"
        if fresh.exists():  # of a run that was killed here
            shutil.rmtree(fresh)
        shutil.copytree(checkpoint, fresh)
        fresh.rename(self.folder / fresh.name.removeprefix("."))
        shutil.rmtree(checkpoint)
        for old in itertools.islice(before, KEPT - 1, None):
            shutil.rmtree(old)
