"""A training on noise of a stated size, for what measures the time around it."""

from __future__ import annotations

import numpy as np

from fattr.attributes import attribute
from fattr.labelled_crops import LabelledCrops
from fattr.runs.checkpoints import CheckpointStore
from fattr.train.plan import Recipe, TrainPlan

NUM_VALID = 16
ATTRIBUTES = tuple(map(attribute, ("smiling", "bald", "eyeglasses", "young")))


def plan(backbone: str, *, epochs: int, batch_size: int, checkpoint_every: int | None) -> TrainPlan:
    """What to train."""
    recipe = Recipe(
        augmentation="none",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=1e-4,
        checkpoint_every=checkpoint_every,
    )
    return TrainPlan(
        backbone=backbone, attributes=ATTRIBUTES, recipe=recipe, seed=0, init_weights=None
    )


def faces(num_samples: int, crop_px: int, seed: int) -> LabelledCrops:
    """Noise with labels by chance."""
    rng = np.random.default_rng(seed)
    crops = rng.integers(0, 256, (num_samples, crop_px, crop_px, 3), np.uint8)
    targets = rng.integers(0, 2, (num_samples, len(ATTRIBUTES)))
    found = np.ones(num_samples, bool)
    return LabelledCrops(crops, targets, found, found.astype(np.float32), {})


def store_of(uri: str) -> CheckpointStore:
    """Where the checkpoints go."""
    return CheckpointStore(uri, num_best=1, metric="valid_score", lower_is_better=False)
