"""A training on noise of a stated size, for what measures the time around it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fattr.attributes import Attribute, Kind, attribute
from fattr.classify.network import AttributeNet
from fattr.labelled_crops import LabelledCrops
from fattr.runs.checkpoints import CheckpointStore
from fattr.train.plan import Recipe, TrainPlan

NUM_VALID = 16
ATTRIBUTES = tuple(map(attribute, ("smiling", "bald", "eyeglasses", "young")))


def crowd(num_classes: int) -> Attribute:
    """One of so many: it has a large head."""
    classes = tuple(map(str, range(num_classes)))
    return Attribute(name="crowd", kind=Kind.CATEGORICAL, description="size", classes=classes)


def filled_up(backbone: str, megabytes: float) -> tuple[Attribute, ...]:
    """Attributes with which a network's weights are that large, or as large as its backbone's."""

    def size(num_classes: int) -> float:
        network = AttributeNet(backbone, (*ATTRIBUTES, crowd(num_classes)))
        return sum(p.numel() * p.element_size() for p in network.parameters()) / 1e6

    smallest, each = size(2), size(3) - size(2)
    return (*ATTRIBUTES, crowd(2 + max(0, math.ceil((megabytes - smallest) / each))))


def plan(
    backbone: str,
    attributes: tuple[Attribute, ...],
    *,
    epochs: int,
    batch_size: int,
    checkpoint_every: int | None,
) -> TrainPlan:
    """What to train."""
    recipe = Recipe(
        augmentation="none",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-4,
        checkpoint_every=checkpoint_every,
    )
    return TrainPlan(
        backbone=backbone, attributes=attributes, recipe=recipe, seed=0, init_weights=None
    )


def faces(
    attributes: Sequence[Attribute], num_samples: int, crop_px: int, seed: int
) -> LabelledCrops:
    """Noise with labels by chance, of two classes."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (num_samples, crop_px, crop_px, 3), np.uint8)
    targets = rng.integers(0, 2, (num_samples, len(attributes)))
    found = np.ones(num_samples, bool)
    return LabelledCrops(crops, targets, found, found.astype(np.float32), {})


def store_of(uri: str) -> CheckpointStore:
    """Where the checkpoints go."""
    return CheckpointStore(uri, num_best=1, metric="valid_score", lower_is_better=False)
