"""The training loop on Ray Train V2: a worker group, gradients averaged over it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import nn

from fattr.build import cpu_count
from fattr.errors import RunError
from fattr.labelled_crops import LabelledCrops
from fattr.on_ray.mailbox import Sender, mailbox
from fattr.train.loop import fit
from fattr.train.plan import Recipe, TrainPlan

CHECKPOINTS = "checkpoints"

# glibc gives large blocks back to the system at every free, and a step frees hundreds of megabytes
# of activations and takes them again: clearing their pages cost as much as the arithmetic. With the
# memory kept, MobileNetV2 takes 8.5 ms an image on one core instead of 15.1. One arena, since
# Ray Train runs the loop in a thread and a thread's own arena holds no large blocks.
KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}


class RayContext:
    """``train.context.TrainContext`` as Ray Train gives it."""

    def __init__(self, sender: Sender) -> None:
        context = ray.train.get_context()
        self._sender = sender
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        if self.device.type == "cpu":
            torch.set_num_threads(max(1, cpu_count() // context.get_local_world_size()))

    def prepare(self, model: nn.Module) -> nn.Module:
        """See ``TrainContext``."""
        prepared: nn.Module = ray.train.torch.prepare_model(model)
        return prepared

    def latest_checkpoint(self) -> Path | None:
        """See ``TrainContext``."""
        checkpoint = ray.train.get_checkpoint()
        return Path(checkpoint.path) if checkpoint else None

    def agreed(self, decision: bool) -> bool:
        """See ``TrainContext``."""
        if self.world_size == 1:
            return decision
        shared = torch.tensor([decision], dtype=torch.uint8, device=self.device)
        torch.distributed.broadcast(shared, src=0)
        return bool(shared.item())

    def report(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        """See ``TrainContext``."""
        if self.rank == 0:
            self._sender.post(dict(metrics))
        saved = ray.train.Checkpoint.from_directory(checkpoint) if checkpoint else None
        ray.train.report(dict(metrics), checkpoint=saved)


def _train_worker(config: dict[str, Any]) -> None:
    context = RayContext(config["sender"])
    fit(context, config["plan"], ray.get(config["train"]), ray.get(config["valid"]))


def fit_on_ray(
    plan: TrainPlan,
    train: LabelledCrops,
    valid: LabelledCrops,
    *,
    num_workers: int,
    use_gpu: bool,
    output: Path,
    on_epoch: Callable[[Mapping[str, float]], None],
) -> Path:
    """Train within a Ray session; the folder of the last checkpoint.

    ``on_epoch`` gets rank 0's figures here, in a thread of this process. The crops go to the
    object store once and are shared by the workers of a node.

    Raises:
        RunError: a worker failed.
    """
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    inputs: dict[str, Any] = {"plan": plan, "train": ray.put(train), "valid": ray.put(valid)}
    try:
        with mailbox(on_epoch) as sender:
            inputs["sender"] = sender
            result = _trainer(inputs, plan.recipe, num_workers, use_gpu, output).fit()
    except TrainingFailedError as err:
        raise RunError(
            f"training failed: {_last_line(err)}; run again into another --output"
        ) from err
    if result.checkpoint is None:
        raise RunError("training ended without a checkpoint; run again into another --output")
    return Path(result.checkpoint.path)


def _trainer(
    inputs: dict[str, Any], recipe: Recipe, num_workers: int, use_gpu: bool, output: Path
) -> ray.train.torch.TorchTrainer:
    return ray.train.torch.TorchTrainer(
        _train_worker,
        train_loop_config=inputs,
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # typed as Train V1's
            name=CHECKPOINTS,
            storage_path=str(output),
            worker_runtime_env=None if use_gpu else {"env_vars": KEEP_FREED_MEMORY},
            checkpoint_config=ray.train.CheckpointConfig(
                num_to_keep=recipe.num_checkpoints,  # the last is kept besides
                checkpoint_score_attribute=f"valid_{recipe.best_metric}",
                checkpoint_score_order="min" if recipe.best_metric == "loss" else "max",
            ),
        ),
    )


def _last_line(err: BaseException) -> str:
    return str(err).strip().splitlines()[-1]
