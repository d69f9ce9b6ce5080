"""A toy data set that a small network learns in seconds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fattr.attributes import PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.labelled_crops import LabelledCrops
from fattr.train.plan import Recipe, TrainPlan


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks on a busy machine: more threads only wait for one another."""
    torch.set_num_threads(1)


def coloured(n: int, seed: int) -> LabelledCrops:
    """Red or blue tells one attribute, bright or dark another, each sometimes unlabelled."""
    rng = np.random.default_rng(seed)
    is_red, is_bright = rng.integers(0, 2, (2, n))
    crops = rng.integers(0, 60, (n, 32, 24, 3))
    crops[np.arange(n), :, :, np.where(is_red, 0, 2)] += (80 + 100 * is_bright)[:, None, None]
    targets = np.stack([is_red, is_bright], axis=1).astype(np.int64)
    targets[rng.random((n, 2)) < 0.1] = -1
    found = np.ones(n, bool)
    return LabelledCrops(crops.astype(np.uint8), targets, found, found.astype(np.float32), {})


@pytest.fixture(scope="session")
def train_crops():
    return coloured(80, 0)


@pytest.fixture(scope="session")
def valid_crops():
    return coloured(60, 1)


@pytest.fixture(scope="session")
def plan():
    return TrainPlan(
        backbone="tiny",
        attributes=(attribute("smiling"), PERCEIVED_GENDER_PRESENTATION),
        seed=3,
        init_weights=None,
        recipe=Recipe(
            augmentation="photo",
            epochs=4,
            batch_size=8,
            learning_rate=1e-2,
            weight_decay=0.05,
            warmup_frac=0.1,
            ema_decay=0.8,
            dropout=0.2,
        ),
    )
