"""Training and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.config.checks import check_least, check_positive, parse_range
from fattr.config.detect import DetectConfig
from fattr.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(DetectConfig):
    """Train a multi-attribute classifier and write it as a bundle."""

    preset: str
    """Named recipe (see fattr.presets), or a .toml file like the best.toml of fattr tune."""
    data: tuple[str, ...]
    """Data set as NAME:DIR; repeat for several, which then train one network together."""
    output: str
    """Folder or s3:// prefix for bundle, checkpoints and figures; again: goes on there."""
    workers: str = "1"
    """Ray Train workers, as N, or as MIN:MAX of a cluster that grows and shrinks; batch size and
    learning rate are those of all of them together."""
    gpus: bool = False
    """One GPU for each worker."""
    augmentation: str | None = None
    """Instead of the preset's: none, photo, tight_photo, bucket, tight_bucket."""
    epochs: int | None = None
    """Instead of the preset's."""
    batch_size: int | None = None
    """Of all workers together, instead of the preset's."""
    learning_rate: float | None = None
    """Instead of the preset's."""
    optimizer: Literal["adamw", "sgd"] | None = None
    """Instead of the preset's."""
    weight_decay: float | None = None
    """Instead of the preset's; biases and norms are never decayed."""
    binary: Literal["bce", "focal", "asymmetric"] | None = None
    """Loss of yes/no attributes."""
    max_positive_weight: float | None = None
    """Weigh rare true samples up by prevalence, at most this much."""
    label_smoothing: float | None = None
    """Of attributes with several classes."""
    age_sigma: float | None = None
    """Spread of an age's soft target in years; 0: the labelled bin alone."""
    focal_gamma: float | None = None
    """How little the focal loss counts what is easy; 2 is usual."""
    dropout: float | None = None
    """Before the heads, instead of the preset's."""
    ema_decay: float | None = None
    """Of the averaged weights, which are the ones kept."""
    warmup_frac: float | None = None
    """Share of the steps over which the learning rate rises."""
    clip_norm: float | None = None
    """Largest norm of all gradients together."""
    accumulate: int | None = None
    """Cut a batch into this many parts, where it does not fit into memory at once."""
    mixup_alpha: float | None = None
    """Mix pairs of samples by shares from Beta(alpha, alpha); 0.2 is usual, 0 is off."""
    frozen_epochs: int | None = None
    """First epochs in which only the heads learn."""
    first_scale: float | None = None
    """Begin with crops of this share of their size and let them grow."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    """Of the forward pass; auto is fp32 on CPU, and bf16 or fp16 on a GPU."""
    compile: bool = False
    """Compile the network with torch.compile first."""
    best_metric: Literal["score", "accuracy", "f1", "average_precision", "loss"] | None = None
    """What the kept epoch is best in, on the valid split."""
    patience: int | None = None
    """Stop after this many epochs without a better one."""
    num_checkpoints: int | None = None
    """Keep the checkpoints of this many best epochs."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; without it there is one after each epoch."""
    deterministic: bool = False
    """Only algorithms that repeat to the bit, which are slower on a GPU."""
    freeze_batch_norm: bool = False
    """Keep the first statistics of batch norm layers, whatever the number of workers."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""
    backbone: str | None = None
    """Instead of the preset's: see fattr architectures."""
    init: str | None = None
    """Instead of the preset's: imagenet, none (random weights) or a torchvision checkpoint."""
    init_from: str | None = None
    """Trained model (shipped name, bundle folder or training output) to start from instead."""
    limit: int | None = None
    """Take only the first images of each split."""
    cache_bytes: int | None = None
    """Most memory for a split's crops; more are cut anew each epoch. Default: an eighth of all."""
    input_processes: int | None = None
    """Processes that make the batches of each worker; 0: none. Default: by its CPUs."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        counts = ("epochs", "batch_size", "limit", "accumulate", "patience")
        for flag in (*counts, "num_checkpoints", "checkpoint_every"):
            check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        check_least("--input-processes", self.input_processes, 0)
        _ = self.worker_range  # raises if it is no range
        if not self.data:
            raise UsageError("--data NAME:DIR: name at least one data set")
        if self.init is not None and self.init_from is not None:
            raise UsageError("--init and --init-from exclude each other: give one of them")

    @property
    def worker_range(self) -> tuple[int, int]:
        """The least and the most workers.

        Raises:
            UsageError: it is no range.
        """
        return parse_range("--workers", self.workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitecturesConfig:
    """List the backbones with their parameters, multiply-adds and times on this machine."""

    crop_size: tuple[int, int] = (128, 104)
    """Height and width of the crops in pixels."""
    batch_size: int = 16
    """Crops at once, besides one alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_positive("--crop-size", min(self.crop_size))
        check_positive("--batch-size", self.batch_size)
