"""The training loop: the same on one worker or many, on CPU or GPU."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fattr.attributes import Attribute
from fattr.bundle import Bundle
from fattr.classify.calibration import Calibration, probabilities
from fattr.classify.classifier import AttributeClassifier, torch_forward
from fattr.classify.network import AttributeNet, TrainingNet, load_backbone
from fattr.classify.transforms import augmented, build_augmentation
from fattr.labelled_crops import LabelledCrops
from fattr.metrics.attribute import attribute_metrics
from fattr.records import FloatArray
from fattr.train import checkpoint
from fattr.train.context import TrainContext
from fattr.train.losses import joint_loss, multi_task_loss
from fattr.train.optim import build_optimizer, build_schedule
from fattr.train.transfer import load_bundle_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """What to train and how; the batch size and the learning rate are those of all workers."""

    backbone: str
    attributes: tuple[Attribute, ...]
    augmentation: str
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_frac: float
    ema_decay: float
    dropout: float
    seed: int
    init_weights: Path | None  # a torchvision checkpoint for the backbone
    init_bundle: Bundle | None = None  # a trained model to start from


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples of an epoch in the order they are seen."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def augmentation_seed(seed: int, epoch: int, position: int) -> int:
    """63 bits that depend on the run's seed, the epoch and the sample's position in it."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def batches(
    data: LabelledCrops, plan: TrainPlan, *, epoch: int, rank: int, world_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's part (n, h, w, 3), (n, A) of each whole global batch of an epoch.

    Worker r of W has every W-th position, so the joint batch is the same for every W.
    """
    augment = build_augmentation(plan.augmentation, (data.crops.shape[1], data.crops.shape[2]))
    order = epoch_order(len(data), seed=plan.seed, epoch=epoch)
    for start in range(0, len(order) - plan.batch_size + 1, plan.batch_size):
        positions = range(start + rank, start + plan.batch_size, world_size)
        chosen = [int(order[p]) for p in positions]
        crops = [
            augmented(
                augment,
                torch.from_numpy(data.crops[i].copy()).permute(2, 0, 1),
                augmentation_seed(plan.seed, epoch, p),
            ).permute(1, 2, 0)
            for i, p in zip(chosen, positions, strict=True)
        ]
        yield torch.stack(crops), torch.from_numpy(data.targets[chosen])


def build_network(plan: TrainPlan) -> AttributeNet:
    """The network before training, equal for equal plans."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = AttributeNet(plan.backbone, plan.attributes, dropout=plan.dropout)
    if plan.init_weights:
        load_backbone(network, plan.init_weights)
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


def score(logits: FloatArray, targets: NDArray[np.int64], attributes: Sequence[Attribute]) -> float:
    """What the best epoch is chosen by: mean accuracy over attributes, age by its exact bin."""
    probs = probabilities(logits, attributes, Calibration())
    accuracies = [
        attribute_metrics(a, targets[:, i], probs[a.name])["accuracy"]
        for i, a in enumerate(attributes)
    ]
    return float(np.mean([accuracy for accuracy in accuracies if accuracy is not None]))


class Trainer:
    """Model, average, optimiser and schedule of one worker."""

    def __init__(self, context: TrainContext, plan: TrainPlan, num_samples: int) -> None:
        self.context, self.plan = context, plan
        self.network = build_network(plan)  # what is averaged, saved and served
        self.training = TrainingNet(self.network, seed=plan.seed)
        self.model = context.prepare(self.training)
        average = get_ema_multi_avg_fn(plan.ema_decay)  # type: ignore[no-untyped-call]
        self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimizer = build_optimizer(
            self.model, learning_rate=plan.learning_rate, weight_decay=plan.weight_decay
        )
        steps = plan.epochs * (num_samples // plan.batch_size)
        self.schedule = build_schedule(
            self.optimizer, num_steps=steps, warmup_frac=plan.warmup_frac
        )
        self.epoch, self.best_score, self.best_epoch = 0, -1.0, 0
        self.history: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    def restore(self, state: checkpoint.TrainState) -> None:
        """Continue where ``state`` was taken."""
        self.training.load_state_dict(state.model)
        self.ema.load_state_dict(state.ema)
        self.optimizer.load_state_dict(state.optimizer)
        self.schedule.load_state_dict(state.schedule)
        self.epoch, self.best_score = state.epoch, state.best_score
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
            rng=torch.get_rng_state(),
            epoch=self.epoch,
            best_score=self.best_score,
            best_epoch=self.best_epoch,
            best_weights=self.best_weights,
            history=self.history,
        )

    def run_epoch(self, data: LabelledCrops) -> float:
        """One pass over the training data; the mean loss of this worker's samples."""
        self.model.train()
        losses = []
        context = self.context
        for crops, targets in batches(
            data, self.plan, epoch=self.epoch, rank=context.rank, world_size=context.world_size
        ):
            outputs = self.model(crops.to(context.device))
            truth = targets.to(context.device)
            loss = joint_loss(
                [multi_task_loss(logits, truth, self.plan.attributes) for logits in outputs]
            )
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.schedule.step()
            self.ema.update_parameters(self.network)
            losses.append(loss.detach())
        self.epoch += 1
        return float(torch.stack(losses).mean())

    def validate(self, data: LabelledCrops) -> float:
        """Score of the averaged weights; the best so far are kept."""
        averaged = cast("AttributeNet", self.ema.module)
        attributes = self.plan.attributes
        logits = predict_logits(averaged, data, attributes, self.context.device)
        value = score(logits, data.targets, attributes)
        if value > self.best_score:
            self.best_score, self.best_epoch = value, self.epoch
            weights = averaged.state_dict().items()
            self.best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        return value


def fit(context: TrainContext, plan: TrainPlan, train: LabelledCrops, valid: LabelledCrops) -> None:
    """Train for the plan's epochs; after each, rank 0 validates and a checkpoint is reported."""
    trainer = Trainer(context, plan, len(train))
    if folder := context.latest_checkpoint():
        trainer.restore(checkpoint.load(folder))
    while trainer.epoch < plan.epochs:
        started = time.monotonic()
        metrics = {"train_loss": trainer.run_epoch(train), "epoch": float(trainer.epoch)}
        if context.rank:
            context.report(metrics, None)
            continue
        metrics["valid_score"] = trainer.validate(valid)
        metrics["learning_rate"] = float(trainer.schedule.get_last_lr()[0])
        metrics["seconds"] = time.monotonic() - started
        trainer.history.append(metrics)
        with tempfile.TemporaryDirectory() as folder_name:
            checkpoint.save(Path(folder_name), trainer.state())
            context.report(metrics, Path(folder_name))
