"""The training loop: the same on one worker or many, on CPU or GPU."""

from __future__ import annotations

import io
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fattr.attributes import Attribute
from fattr.classify.calibration import Calibration, probabilities
from fattr.classify.classifier import AttributeClassifier, torch_forward
from fattr.classify.network import AttributeNet, TrainingNet, load_backbone
from fattr.errors import RunError
from fattr.labelled_crops import LabelledCrops
from fattr.metrics.attribute import Metrics, attribute_metrics, macro
from fattr.records import FloatArray
from fattr.train import checkpoint
from fattr.train.batches import batches, mixup_share, partners, reduced_hw, resized
from fattr.train.context import TrainContext
from fattr.train.losses import (
    LossWeights,
    joint_loss,
    mixed_loss,
    multi_task_loss,
    positive_weights,
)
from fattr.train.optim import build_optimizer, build_schedule
from fattr.train.plan import TrainPlan
from fattr.train.transfer import load_bundle_weights

FINITE_EVERY = 20  # steps between looks at the loss, which wait for a GPU


def build_network(plan: TrainPlan) -> AttributeNet:
    """The network before training, equal for equal plans."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = AttributeNet(plan.backbone, plan.attributes, dropout=plan.recipe.dropout)
    if plan.init_weights:
        load_backbone(network, io.BytesIO(plan.init_weights))
    if plan.init_bundle:
        load_bundle_weights(network, plan.init_bundle)
    return network


def predict_logits(
    network: AttributeNet,
    data: LabelledCrops,
    attributes: Sequence[Attribute],
    device: torch.device,
) -> FloatArray:
    """Logits (N, L) of every crop, in evaluation mode."""
    forward = torch_forward(network, device=str(device))
    return AttributeClassifier(forward, attributes, Calibration()).logits(data.crops)


def figures(
    logits: FloatArray, targets: NDArray[np.int64], attributes: Sequence[Attribute]
) -> dict[str, float]:
    """``score``, ``loss``, macro metrics, and ``METRIC/attribute`` of uncalibrated predictions.

    ``score`` is the mean accuracy over all attributes, age by its exact bin; ``loss`` the log loss.
    """
    probs = probabilities(logits, attributes, Calibration())
    by_name = {
        a.name: attribute_metrics(a, targets[:, i], probs[a.name]) for i, a in enumerate(attributes)
    }
    loss = multi_task_loss(torch.from_numpy(logits), torch.from_numpy(targets), attributes)
    accuracies = [m["accuracy"] for m in by_name.values() if m["accuracy"] is not None]
    out = {"score": float(np.mean(accuracies)), "loss": float(loss)}
    return out | _numbers(macro(by_name, attributes)) | _by_attribute(by_name)


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _by_attribute(by_name: Mapping[str, Metrics]) -> dict[str, float]:
    wanted = ("accuracy", "one_off_accuracy", "f1", "average_precision")
    return {
        f"{metric}/{name}": metrics[metric]
        for name, metrics in by_name.items()
        for metric in wanted
        if metrics.get(metric) is not None
    }


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """What the forward pass computes in; "auto" is fp32 on CPU, else bf16, or fp16 without it."""
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


class Trainer:
    """Model, average, optimiser and schedule of one worker."""

    def __init__(self, context: TrainContext, plan: TrainPlan, targets: NDArray[np.int64]) -> None:
        self.context, self.plan = context, plan
        largest = plan.recipe.losses.max_positive_weight
        self.weights = LossWeights(
            positive=positive_weights(targets, plan.attributes, largest=largest)
        )
        self.network = build_network(plan)  # what is averaged, saved and served
        self.training = TrainingNet(self.network, seed=plan.seed)
        if plan.recipe.channels_last:
            self.training.to(memory_format=torch.channels_last)
        prepared = context.prepare(self.training)
        self.model: Any = torch.compile(prepared) if plan.recipe.compile else prepared
        average = get_ema_multi_avg_fn(plan.recipe.ema_decay)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizer = build_optimizer(
            self.training,
            name=plan.recipe.optimizer,
            learning_rate=plan.recipe.learning_rate,
            weight_decay=plan.recipe.weight_decay,
        )
        steps = len(targets) // plan.recipe.batch_size
        self.schedule = build_schedule(
            self.optimizer,
            num_steps=plan.recipe.epochs * steps,
            warmup_frac=plan.recipe.warmup_frac,
            frozen_steps=plan.recipe.frozen_epochs * steps,
        )
        self.dtype = dtype_of(plan.recipe.precision, context.device)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=self.dtype is torch.float16)
        self.epoch, self.best_value, self.best_epoch = 0, -math.inf, 0
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    def restore(self, state: checkpoint.TrainState) -> None:
        """Continue where ``state`` was taken."""
        self.training.load_state_dict(state.model)
        self.ema.load_state_dict(state.ema)
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        self.scaler.load_state_dict(state.scaler)
        self.epoch, self.best_value = state.epoch, state.best_value
        self.best_epoch, self.best_weights = state.best_epoch, state.best_weights
        self.history = state.history
        torch.set_rng_state(state.rng)

    def state(self) -> checkpoint.TrainState:
        """What ``restore`` takes."""
        return checkpoint.TrainState(
            model=self.training.state_dict(),
            ema=self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaler=self.scaler.state_dict(),
            rng=torch.get_rng_state(),
            epoch=self.epoch,
            best_value=self.best_value,
            best_epoch=self.best_epoch,
            best_weights=self.best_weights,
            history=self.history,
        )

    def loss(
        self, outputs: Sequence[Tensor], targets: Tensor, others: Tensor, share: float
    ) -> Tensor:
        """Loss of the network's logits and those of an auxiliary head, if it has one."""
        attributes, settings = self.plan.attributes, self.plan.recipe.losses
        if share == 1:
            return joint_loss(
                [
                    multi_task_loss(logits, targets, attributes, settings, self.weights)
                    for logits in outputs
                ]
            )
        return joint_loss(
            [
                mixed_loss(logits, targets, others, share, attributes, settings, self.weights)
                for logits in outputs
            ]
        )

    def step(self, crops: Tensor, targets: Tensor, share: float) -> Tensor:
        """One optimiser step; the loss. ``share`` is what a sample keeps of itself in MixUp."""
        plan, total = self.plan, torch.zeros((), device=self.context.device)
        others = partners(targets)
        if share < 1:
            crops = share * crops.float() + (1 - share) * partners(crops).float()
        parts = (tensor.chunk(plan.recipe.accumulate) for tensor in (crops, targets, others))
        for part, mine, theirs in zip(*parts, strict=True):
            with torch.autocast(
                self.context.device.type, self.dtype, enabled=self.dtype is not torch.float32
            ):
                outputs = self.model(part)
            loss = self.loss(outputs, mine, theirs, share) / plan.recipe.accumulate
            torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach()
        if plan.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.training.parameters(), plan.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.ema.update_parameters(self.network)
        return total

    def run_epoch(self, data: LabelledCrops) -> float:
        """One pass over the training data; the mean loss of this worker's samples.

        Raises:
            RunError: the loss is not finite.
        """
        self.model.train()
        if self.epoch < self.plan.recipe.frozen_epochs:
            self.network.features.eval()  # a frozen backbone's batch statistics stay
        losses: list[Tensor] = []
        context = self.context
        size_hw = reduced_hw(
            (data.crops.shape[1], data.crops.shape[2]), self.plan.recipe, self.epoch
        )
        for number, (crops, targets) in enumerate(
            batches(
                data, self.plan, epoch=self.epoch, rank=context.rank, world_size=context.world_size
            )
        ):
            share = mixup_share(self.plan, epoch=self.epoch, step=number)
            crops_there = resized(crops.to(context.device), size_hw)
            losses.append(self.step(crops_there, targets.to(context.device), share))
            if number % FINITE_EVERY == 0:
                self._check_finite(losses[-FINITE_EVERY:])
        self._check_finite(losses)
        self.epoch += 1
        return float(torch.stack(losses).mean())

    def _check_finite(self, tensors: Sequence[Tensor]) -> None:
        """Of losses, or of weights after an epoch."""
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors):
            raise RunError(
                f"the loss became NaN or infinite by epoch {len(self.history) + 1}: "
                "lower --learning-rate, or use --precision fp32"
            )

    def validate(self, valid: LabelledCrops, train_part: LabelledCrops) -> dict[str, float]:
        """Figures of the averaged weights, ``valid_...`` and ``train_...``; the best are kept."""
        averaged = cast("AttributeNet", self.ema.module)
        self._check_finite(list(averaged.parameters()))
        attributes, device = self.plan.attributes, self.context.device
        out = {
            f"valid_{name}": value
            for name, value in figures(
                predict_logits(averaged, valid, attributes, device), valid.targets, attributes
            ).items()
        }
        seen = figures(
            predict_logits(averaged, train_part, attributes, device),
            train_part.targets,
            attributes,
        )
        out |= {"train_score": seen["score"], "train_clean_loss": seen["loss"]}
        value = out.get(f"valid_{self.plan.recipe.best_metric}", -math.inf)
        value = -value if self.plan.recipe.best_metric == "loss" else value
        if value > self.best_value or not self.best_weights:
            self.best_value, self.best_epoch = value, self.epoch
            weights = averaged.state_dict().items()
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        return out

    @property
    def is_done(self) -> bool:
        """All epochs were run, or none of the last ``patience`` was better."""
        patience = self.plan.recipe.patience
        stalled = patience is not None and self.epoch - self.best_epoch >= patience > 0
        return self.epoch >= self.plan.recipe.epochs or (self.epoch > 0 and stalled)


def part_of(data: LabelledCrops, num_samples: int, *, seed: int) -> LabelledCrops:
    """That many samples, always the same ones."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:num_samples])
    groups = {name: tuple(values[i] for i in chosen) for name, values in data.groups.items()}
    return LabelledCrops(
        data.crops[chosen], data.targets[chosen], data.found[chosen], data.face_px[chosen], groups
    )


def fit(context: TrainContext, plan: TrainPlan, train: LabelledCrops, valid: LabelledCrops) -> None:
    """Train for the plan's epochs; after each, rank 0 validates and a checkpoint is reported.

    Raises:
        RunError: the loss is not finite, or the device's memory does not hold a batch.
    """
    trainer = Trainer(context, plan, train.targets)
    if folder := context.latest_checkpoint():
        trainer.restore(checkpoint.load(folder))
    train_part = part_of(train, len(valid), seed=plan.seed)
    while not context.agreed(trainer.is_done):
        started = time.monotonic()
        try:
            metrics = {"train_loss": trainer.run_epoch(train), "epoch": float(trainer.epoch)}
        except torch.OutOfMemoryError as err:
            raise RunError(
                f"out of memory on {context.device} with batches of {plan.recipe.batch_size}: "
                f"try --batch-size {max(1, plan.recipe.batch_size // 2)}"
            ) from err
        if context.rank:
            context.report(metrics, None)
            continue
        metrics |= trainer.validate(valid, train_part)
        metrics["learning_rate"] = max(float(rate) for rate in trainer.schedule.get_last_lr())
        metrics["seconds"] = time.monotonic() - started
        trainer.history.append(metrics)
        with tempfile.TemporaryDirectory() as folder_name:
            checkpoint.save(Path(folder_name), trainer.state())
            context.report(metrics, Path(folder_name))
