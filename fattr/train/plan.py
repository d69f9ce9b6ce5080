"""What to train and how, as plain values that can be sent to workers. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from fattr.attributes import Attribute
from fattr.bundle import Bundle
from fattr.train.loss_settings import LossSettings

Optimizer = Literal["adamw", "sgd"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
BestMetric = Literal["score", "accuracy", "f1", "average_precision", "loss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train. Batch size and learning rate are those of all workers together."""

    augmentation: str
    epochs: int
    batch_size: int  # samples to an optimiser step
    learning_rate: float
    losses: LossSettings = field(default_factory=LossSettings)
    optimizer: Optimizer = "adamw"
    weight_decay: float = 0.05
    warmup_frac: float = 0.1
    ema_decay: float = 0.99
    dropout: float = 0.2
    clip_norm: float | None = None  # of all gradients together
    accumulate: int = 1  # parts that a worker's batch is cut into, one after another
    mixup_alpha: float = 0.0  # of the Beta distribution; 0: no MixUp
    frozen_epochs: int = 0  # first epochs in which only the heads learn
    first_scale: float = 1.0  # of the crop's sides at first; whole from two thirds on
    precision: Precision = "fp32"
    channels_last: bool = True  # a sixth faster on CPU, more on recent GPUs
    compile: bool = False
    deterministic: bool = False  # only algorithms that repeat to the bit; slower on GPU
    freeze_batch_norm: bool = False  # first statistics of its layers stay
    best_metric: BestMetric = "score"  # on valid: which epoch is kept
    patience: int | None = None  # epochs without a better one, then stop
    num_checkpoints: int = 1  # of the best epochs; the last is kept besides
    checkpoint_every: int | None = None  # steps within an epoch; None: only after epochs

    def __post_init__(self) -> None:
        self._check_ranges()
        if self.checkpoint_every is not None and self.checkpoint_every < 1:
            raise ValueError(f"checkpoint_every must be 1 or more: {self.checkpoint_every}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide {self.batch_size}: {self.accumulate}")
        if not 0 <= self.frozen_epochs < self.epochs:
            raise ValueError(f"frozen_epochs must be under {self.epochs}: {self.frozen_epochs}")

    def _check_ranges(self) -> None:
        for name in ("learning_rate", "clip_norm"):
            if (value := getattr(self, name)) is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number over 0: {value}")
        for name in ("weight_decay", "mixup_alpha"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} must be 0 or more: {value}")
        for name in ("dropout", "ema_decay"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be in [0, 1): {value}")
        if not 0 <= self.warmup_frac <= 1:
            raise ValueError(f"warmup_frac must be in [0, 1]: {self.warmup_frac}")
        if not 0 < self.first_scale <= 1:
            raise ValueError(f"first_scale must be in (0, 1]: {self.first_scale}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """One run: what to predict, with which network, how, from which weights."""

    backbone: str
    attributes: tuple[Attribute, ...]
    recipe: Recipe
    seed: int
    init_weights: bytes | None = field(repr=False)  # a torchvision checkpoint for the backbone
    init_bundle: Bundle | None = None  # a trained model to start from
