"""Everything needed to continue a training run exactly, as one file of tensors and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "state.pt"


@dataclass
class TrainState:
    """What changes while training; epoch is the next one to run."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    rng: Tensor
    epoch: int
    best_value: float
    best_epoch: int
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]  # one entry an epoch


def save(folder: Path, state: TrainState) -> None:
    """Write the state into the folder."""
    torch.save(vars(state), folder / FILE)


def load(folder: Path) -> TrainState:
    """The state in a folder; no code in the file is run."""
    return TrainState(**torch.load(folder / FILE, map_location="cpu", weights_only=True))
