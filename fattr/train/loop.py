"""The training loop: the same on one worker or many, on CPU or GPU."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fattr.classify.network import AttributeNet, TrainingNet, load_backbone
from fattr.errors import CannotTrainError
from fattr.labelled_crops import LabelledCrops
from fattr.train import checkpoint
from fattr.train.average import Average
from fattr.train.batches import mixup_share, partners, reduced_hw, resized, sample_seed
from fattr.train.context import TrainContext
from fattr.train.input import Batch, Feed
from fattr.train.losses import (
    LossWeights,
    joint_loss,
    mixed_loss,
    multi_task_loss,
    positive_weights,
)
from fattr.train.numerics import batch_norms, dtype_of, repeatable
from fattr.train.optim import build_optimizer, build_schedule
from fattr.train.plan import TrainPlan
from fattr.train.transfer import load_bundle_weights
from fattr.train.validate import Measured, some_of

FINITE_EVERY = 20  # steps between looks at the loss, which wait for a GPU and all workers

log = logging.getLogger(__name__)


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
        self._share_statistics()
        prepared = context.prepare(self.training)
        self.model: Any = torch.compile(prepared) if plan.recipe.compile else prepared
        self.ema = Average(self.network, decay=plan.recipe.ema_decay)
        self.dtype = dtype_of(plan.recipe.precision, context.device)
        # Where a step overflows, a fused SGD keeps momentum that was never written.
        may_overflow = self.dtype is torch.float16
        self.optimizer = build_optimizer(
            self.training,
            name=plan.recipe.optimizer,
            learning_rate=plan.recipe.learning_rate,
            weight_decay=plan.recipe.weight_decay,
            fused=True if context.device.type == "cpu" and not may_overflow else None,
        )
        self.num_steps = len(targets) // plan.recipe.batch_size  # of an epoch
        self.schedule = build_schedule(
            self.optimizer,
            num_steps=plan.recipe.epochs * self.num_steps,
            warmup_frac=plan.recipe.warmup_frac,
            frozen_steps=plan.recipe.frozen_epochs * self.num_steps,
        )
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=self.dtype is torch.float16)
        self.epoch, self.position = 0, 0
        self.loss_sum, self.losses = 0.0, list[Tensor]()  # of all workers; this one's since then
        self.best_value, self.best_epoch = -math.inf, 0
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    def _share_statistics(self) -> None:
        """Batch norm over the joint batch, which torch can do on GPUs alone."""
        if self.context.world_size == 1 or self.plan.recipe.freeze_batch_norm:
            return
        if self.context.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(self.training)  # type: ignore[no-untyped-call]
        elif self.context.rank == 0 and batch_norms(self.training):
            log.warning(
                "on CPU each worker has its own batch statistics, those of worker 0 are kept:"
                " results depend on the number of workers; --freeze-batch-norm avoids it"
            )

    def restore(self, state: checkpoint.TrainState) -> None:
        """Continue where ``state`` was taken."""
        self.training.load_state_dict(state.model)
        self.ema.load_state_dict(state.ema)
        for group in state.optimizer["param_groups"]:  # may have been kept on another device
            group["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        self.scaler.load_state_dict(state.scaler)
        self.epoch, self.position, self.loss_sum = state.epoch, state.position, state.loss_sum
        self.best_value, self.best_epoch = state.best_value, state.best_epoch
        self.best_weights, self.history = state.best_weights, state.history

    def state(self) -> checkpoint.TrainState:
        """What ``restore`` takes."""
        return checkpoint.TrainState(
            model=self.training.state_dict(),
            ema=self.ema.state_dict(),
            optimizer=self.optimizer.state_dict(),
            schedule=self.schedule.state_dict(),
            scaler=self.scaler.state_dict(),
            epoch=self.epoch,
            position=self.position,
            loss_sum=self.loss_sum,
            best_value=self.best_value,
            best_epoch=self.best_epoch,
            best_weights=self.best_weights,
            history=self.history,
        )

    def report(self, metrics: Mapping[str, float]) -> None:
        """Hand these metrics and a checkpoint to the context; without metrics, if it has room."""
        if not metrics and not self.context.has_room():
            return
        is_first = self.context.rank == 0
        self.context.report(metrics, checkpoint.saved(self.state()) if is_first else None)

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

    def keys(self) -> Tensor:
        """Keys (n,) of this worker's part of the batch at ``position``."""
        workers, batch_size = self.context.world_size, self.plan.recipe.batch_size
        own = range(self.position + self.context.rank, self.position + batch_size, workers)
        return torch.tensor([sample_seed(self.plan.seed, self.epoch, p) for p in own])

    def step(self, crops: Tensor, targets: Tensor, share: float) -> Tensor:
        """One optimiser step on this worker's part of the batch at ``position``.

        ``share`` is what a sample keeps of itself in MixUp. The result is this part's share of the
        mean loss over the whole batch: it adds up to it over the workers.
        """
        recipe, workers = self.plan.recipe, self.context.world_size
        others = targets
        if share < 1:
            others = partners(self.context, recipe.batch_size, targets)
            mates = partners(self.context, recipe.batch_size, crops)
            crops = share * crops.float() + (1 - share) * mates.float()
        total, keys = torch.zeros((), device=self.context.device), self.keys().to(targets.device)
        whole = (crops, targets, others, keys)
        parts = zip(*(t.tensor_split(recipe.accumulate) for t in whole), strict=True)
        for number, (part, mine, theirs, its_keys) in enumerate(parts, 1):
            with self._apart(is_last=number == recipe.accumulate):
                with torch.autocast(
                    self.context.device.type, self.dtype, enabled=self.dtype is not torch.float32
                ):
                    outputs = self.model(part, its_keys)
                # The gradients are averaged over workers, whose parts may differ by a sample.
                weight = len(part) * workers / recipe.batch_size
                loss = self.loss(outputs, mine, theirs, share) * weight
                torch.autograd.backward(self.scaler.scale(loss))
            total += loss.detach() / workers
        self._update()
        self.position += recipe.batch_size
        return total

    def _apart(self, *, is_last: bool) -> Any:  # noqa: ANN401  # torch's own is untyped
        """Gradients are exchanged once, with the last part of a batch."""
        return nullcontext() if is_last else getattr(self.model, "no_sync", nullcontext)()

    def _update(self) -> None:
        if self.plan.recipe.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.training.parameters(), self.plan.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
        self.ema.update()

    def run_epoch(self, batches: Iterable[Batch], size_hw: tuple[int, int]) -> float:
        """The rest of an epoch, with checkpoints on the way; its mean loss, of all workers.

        ``size_hw`` is that of the crops.

        Raises:
            CannotTrainError: the loss is not finite.
        """
        self._set_modes()
        recipe, device = self.plan.recipe, self.context.device
        seen_hw = reduced_hw(size_hw, recipe, self.epoch)
        for crops, targets in batches:
            done = self.position // recipe.batch_size
            share = mixup_share(self.plan, epoch=self.epoch, step=done)
            there = resized(crops.to(device, non_blocking=True), seen_hw)
            self.losses.append(self.step(there, targets.to(device, non_blocking=True), share))
            done += 1
            if done % FINITE_EVERY == 1:
                self._add_losses()
            if (
                recipe.checkpoint_every
                and done % recipe.checkpoint_every == 0 < self.num_steps - done
            ):
                self._add_losses()
                self.report({})
        self._add_losses()
        mean = self.loss_sum / self.num_steps
        self.epoch, self.position, self.loss_sum = self.epoch + 1, 0, 0.0
        return mean

    def _set_modes(self) -> None:
        self.model.train()
        if self.epoch < self.plan.recipe.frozen_epochs:
            self.network.features.eval()  # a frozen backbone's batch statistics stay
        if self.plan.recipe.freeze_batch_norm:
            for layer in batch_norms(self.training):
                layer.eval()

    def _add_losses(self) -> None:
        """Add up what the workers lost since the last time.

        Raises:
            CannotTrainError: it is not finite.
        """
        if not self.losses:
            return
        own = torch.stack(self.losses).double().sum()
        self.loss_sum += float(self.context.total(own))
        self.losses.clear()
        self._check_finite(math.isfinite(self.loss_sum))

    def _check_finite(self, is_finite: bool) -> None:
        if not is_finite:
            raise CannotTrainError(
                f"the loss became NaN or infinite by epoch {self.epoch + 1}: "
                "lower --learning-rate, or use --precision fp32"
            )

    def validate(self, valid: Measured, seen: Measured) -> dict[str, float]:
        """Figures of the averaged weights, ``valid_...`` and ``train_...``; the best are kept.

        On rank 0, to which the others contribute; elsewhere none.
        """
        averaged = self.ema.module
        for buffer in averaged.buffers():  # batch statistics may be each worker's own
            of_first = buffer if self.context.rank == 0 else torch.zeros_like(buffer)
            buffer.copy_(self.context.total(of_first))
        self._check_finite(all(bool(torch.isfinite(p).all()) for p in averaged.parameters()))
        attributes = self.plan.attributes
        figures = valid.figures(averaged, attributes)
        of_train = seen.figures(averaged, attributes)
        if self.context.rank:
            return {}
        out = {f"valid_{name}": value for name, value in figures.items()}
        out |= {"train_score": of_train["score"], "train_clean_loss": of_train["loss"]}
        self._keep_best(out.get(f"valid_{self.plan.recipe.best_metric}", -math.inf), averaged)
        return out

    def _keep_best(self, value: float, averaged: AttributeNet) -> None:
        value = -value if self.plan.recipe.best_metric == "loss" else value
        if value > self.best_value or not self.best_weights:
            self.best_value, self.best_epoch = value, self.epoch
            weights = averaged.state_dict().items()
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights}

    @property
    def is_done(self) -> bool:
        """All epochs were run, or none of the last ``patience`` was better."""
        patience = self.plan.recipe.patience
        stalled = patience is not None and self.epoch - self.best_epoch >= patience > 0
        return self.epoch >= self.plan.recipe.epochs or (self.epoch > 0 and stalled)


def _found_by_all(context: TrainContext, found: bool) -> bool:
    return int(context.total(torch.tensor(int(found)))) == context.world_size


def _go_on(trainer: Trainer) -> None:
    """Restore the newest checkpoint; what was fetched and read for it is let go."""
    context = trainer.context
    state = checkpoint.newest(context.checkpoints(), partial(_found_by_all, context))
    if state:
        trainer.restore(state)


def fit(
    context: TrainContext,
    plan: TrainPlan,
    train: LabelledCrops,
    valid: LabelledCrops,
    *,
    num_processes: int = 0,
) -> None:
    """Train for the plan's epochs, from the newest checkpoint on; after each, validate and report.

    ``num_processes`` of each worker make its batches; with 0 it makes them itself.

    Raises:
        CannotTrainError: the loss is not finite, or the memory does not hold a batch.
        RunError: a process that makes batches ended, or no checkpoint can be written.
        UsageError: an image is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    is_gpu = context.device.type == "cuda"
    with (
        repeatable(plan.recipe.deterministic),
        Feed(train, plan, num_processes=num_processes, pin=is_gpu) as feed,
    ):
        trainer = Trainer(context, plan, train.targets)
        _go_on(trainer)
        measured = Measured(context, valid, np.arange(len(valid)))
        seen = Measured(context, train, some_of(len(train), len(valid), seed=plan.seed))
        while not context.agreed(trainer.is_done):
            _epoch(trainer, feed, train.size_hw, measured, seen)


def _is_out_of_memory(err: RuntimeError) -> bool:
    """Whether a GPU's memory is full, or this machine's, for which torch has no class."""
    return isinstance(err, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(err)


def _epoch(
    trainer: Trainer, feed: Feed, size_hw: tuple[int, int], valid: Measured, seen: Measured
) -> None:
    """Run, measure and report one epoch, or the rest of one."""
    context, batch_size, started = trainer.context, trainer.plan.recipe.batch_size, time.monotonic()
    batches = feed.epoch(trainer.epoch, trainer.position, context.rank, context.world_size)
    try:
        loss = trainer.run_epoch(batches, size_hw)
    except RuntimeError as err:
        if not _is_out_of_memory(err):
            raise
        raise CannotTrainError(
            f"out of memory on {context.device} with batches of {batch_size}: "
            f"try --batch-size {max(1, batch_size // 2)}"
        ) from err
    waited = feed.waited_s / (time.monotonic() - started)
    metrics = {"train_loss": loss, "epoch": float(trainer.epoch), "data_wait_share": waited}
    metrics |= trainer.validate(valid, seen)
    metrics["learning_rate"] = max(float(rate) for rate in trainer.schedule.get_last_lr())
    metrics["seconds"] = time.monotonic() - started
    trainer.history.append(metrics)
    trainer.report(metrics)
