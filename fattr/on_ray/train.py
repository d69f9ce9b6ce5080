"""The training loop on Ray Train V2: a worker group, gradients averaged over it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import nn

from fattr.errors import RunError
from fattr.labelled_crops import LabelledCrops
from fattr.train.loop import TrainPlan, fit

CHECKPOINTS = "checkpoints"


class RayContext:
    """``train.context.TrainContext`` as Ray Train gives it."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        prepared: nn.Module = ray.train.torch.prepare_model(model)
        return prepared

    def latest_checkpoint(self) -> Path | None:
        """See ``TrainContext``."""
        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.path) if checkpoint else None

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``."""
        saved = ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None
        ray.train.report(dict(metrics), checkpoint=saved)


def _train_worker(config: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fit(RayContext(), config["plan"], ray.get(config["train"]), ray.get(config["valid"]))


def fit_on_ray(
    plan: TrainPlan,
    train: LabelledCrops,
    valid: LabelledCrops,
    *,
    num_workers: int,
    use_gpu: bool,
    output: Path,
) -> Path:
    """Train within a Ray session; the folder of the last checkpoint.

    The crops go to the object store once and are shared by the workers of a node.

    Raises:
        RunError: a worker failed.
    """
    trainer = ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config={"plan": plan, "train": ray.put(train), "valid": ray.put(valid)},
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(
            name=CHECKPOINTS,
            storage_path=str(output),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as err:
        raise RunError(f"training failed: {_last_line(err)}; run the same command again") from err
    if result.checkpoint is None:
        raise RunError("training ended without a checkpoint; run the same command again")
    return Path(result.checkpoint.path)


def _last_line(err: BaseException) -> str:
    return str(err).strip().splitlines()[-1]
