"""What a training loop may ask of whoever launched it; Ray is one answer, ``LocalContext`` one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import nn


class TrainContext(Protocol):
    """One worker's view of the run."""

    rank: int
    world_size: int
    device: torch.device

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model on the worker's device, wrapped so that gradients are averaged over workers."""

    def latest_checkpoint(self) -> Path | None:
        """Folder of the checkpoint to continue from, if the run was interrupted."""

    def agreed(self, decision: bool) -> bool:
        """Rank 0's decision, on every rank."""

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """Record an epoch. A barrier: every rank calls it equally often; rank 0's metrics count."""


@dataclass
class LocalContext:
    """One worker in this process: for tests, and the oracle for the Ray one."""

    folder: Path  # the latest checkpoint is kept here
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        return model.to(self.device)

    def latest_checkpoint(self) -> Path | None:
        """See ``TrainContext``."""
        return self.folder if self.folder.is_dir() else None

    def agreed(self, decision: bool) -> bool:
        """See ``TrainContext``."""
        return decision

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``."""
        if checkpoint:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in checkpoint.iterdir():
                fresh = self.folder / f".{path.name}"
                shutil.copyfile(path, fresh)
                fresh.replace(self.folder / path.name)
