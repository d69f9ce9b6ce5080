"""Everything needed to continue a training run exactly, with a hash that tells if it is whole."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fattr.errors import RunError

FILE, NOTE = "state.pt", "state.json"
FORMAT = 1

log = logging.getLogger(__name__)


class DamagedError(RunError):
    """A checkpoint that is incomplete, changed, or of another format."""


@dataclass
class TrainState:
    """What changes while training, of no worker alone."""

    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    scaler: dict[str, Any]
    epoch: int  # the one to run or to go on with, from 0
    position: int  # samples of it that were seen, whole global batches
    loss_sum: float  # of these batches' mean losses
    best_value: float
    best_epoch: int
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]  # one entry an epoch


def save(folder: Path, state: TrainState) -> None:
    """Write the state into the folder, and its hash beside it.

    Raises:
        RunError: it cannot be written there.
    """
    buffer = io.BytesIO()
    torch.save(vars(state), buffer)
    note = {
        "format": FORMAT,
        "sha256": hashlib.sha256(buffer.getbuffer()).hexdigest(),
        "epoch": state.epoch,
        "position": state.position,
    }
    try:
        (folder / FILE).write_bytes(buffer.getbuffer())
        (folder / NOTE).write_text(json.dumps(note))
    except OSError as err:
        raise RunError(f"{folder}: a checkpoint cannot be written: {err.strerror}") from err


def saved(state: TrainState) -> Path:
    """A new temporary folder with the state; the caller removes it.

    Raises:
        RunError: it cannot be written.
    """
    folder = Path(tempfile.mkdtemp(prefix="fattr-checkpoint-"))
    try:
        save(folder, state)
    except RunError:
        shutil.rmtree(folder)
        raise
    return folder


def load(folder: Path) -> TrainState:
    """The state in a folder; no code in the file is run.

    Raises:
        DamagedError: it is not what was saved.
    """
    try:
        note = json.loads((folder / NOTE).read_text())
        data = (folder / FILE).read_bytes()
    except FileNotFoundError as err:
        missing = Path(err.filename).name
        raise DamagedError(f"checkpoint {folder.name} is not whole: no {missing}") from err
    except ValueError as err:
        raise DamagedError(f"checkpoint {folder.name} is damaged: {NOTE} is no JSON") from err
    if note.get("format") != FORMAT:
        raise DamagedError(f"checkpoint {folder.name} is of another format than {FORMAT}")
    if hashlib.sha256(data).hexdigest() != note.get("sha256"):
        raise DamagedError(
            f"checkpoint {folder.name} is damaged: {FILE} is not the one whose hash is in {NOTE}"
        )
    return TrainState(**torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))


def _whole(folder: Path) -> tuple[TrainState | None, str]:
    """The state, if this worker finds it whole, and why it is not used otherwise."""
    try:
        return load(folder), f"checkpoint {folder.name} is not whole for another worker"
    except DamagedError as err:
        return None, str(err)


def newest(
    folders: Iterable[Path], agreed: Callable[[bool], bool] = lambda found: found
) -> TrainState | None:
    """The state in the first of these folders that is whole; None where none is.

    ``agreed`` tells whether all workers found the folder whole. The log says which are not, and
    what is used.
    """
    passed: list[str] = []
    for folder in folders:
        state, problem = _whole(folder)
        if agreed(state is not None):
            _tell(passed, f"{folder.name} is used")
            return state
        passed.append(problem)
    _tell(passed, "there is no whole one: training begins anew")
    return None


def _tell(problems: Iterable[str], instead: str) -> None:
    for problem in problems:
        log.warning("%s; %s", problem, instead)
