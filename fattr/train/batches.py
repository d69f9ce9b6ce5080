"""Which samples make a batch, and how each is changed: by seed, epoch and position alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fattr.attributes import Attribute
from fattr.classify.transforms import augmented, build_augmentation
from fattr.labelled_crops import LabelledCrops
from fattr.records import UInt8Array
from fattr.train.plan import Recipe, TrainPlan

SIDE_STEP = 8  # sides of reduced crops are multiples of this
WHOLE_FROM = 2 / 3  # of the epochs: crops are no longer reduced


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """The samples of an epoch in the order they are seen."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def sample_seed(seed: int, epoch: int, position: int) -> int:
    """63 bits that depend on the run's seed, the epoch and the sample's position in it."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def mirrored_targets(
    targets: NDArray[np.int64], attributes: Sequence[Attribute]
) -> NDArray[np.int64]:
    """Targets (A,) of the same face in a mirror; -1 stays -1."""
    out = targets.copy()
    for i, attribute in enumerate(attributes):
        if attribute.mirrored and targets[i] >= 0:
            out[i] = attribute.mirrored[targets[i]]
    return out


class _Samples:
    """The samples of an epoch by position, each changed in its own way."""

    def __init__(self, data: LabelledCrops, plan: TrainPlan, epoch: int) -> None:
        self._data, self._plan, self._epoch = data, plan, epoch
        size_hw = (data.crops.shape[1], data.crops.shape[2])
        self._augment = build_augmentation(plan.recipe.augmentation, size_hw)
        self.order = epoch_order(len(data), seed=plan.seed, epoch=epoch)

    def __call__(self, position: int) -> tuple[Tensor, Tensor]:
        """Crop (h, w, 3) uint8 and targets (A,)."""
        plan, index = self._plan, int(self.order[position])
        seed = sample_seed(plan.seed, self._epoch, position)
        crop, targets = self._data.crops[index], self._data.targets[index]
        if seed & 1 and plan.recipe.augmentation != "none":
            crop, targets = crop[:, ::-1], mirrored_targets(targets, plan.attributes)
        pixels = torch.from_numpy(crop.copy()).permute(2, 0, 1)
        changed = augmented(self._augment, pixels, seed >> 1).permute(1, 2, 0)
        return changed, torch.from_numpy(targets)


def batches(
    data: LabelledCrops, plan: TrainPlan, *, epoch: int, rank: int, world_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's part (n, h, w, 3) uint8, (n, A) of each whole global batch of an epoch.

    Worker r of W has every W-th position, so the joint batch is the same for every W. Half of the
    crops are mirrored, unless the augmentation is "none".
    """
    sample, batch_size = _Samples(data, plan, epoch), plan.recipe.batch_size
    for start in range(0, len(sample.order) - batch_size + 1, batch_size):
        positions = range(start + rank, start + batch_size, world_size)
        crops, targets = zip(*map(sample, positions), strict=True)
        yield torch.stack(crops), torch.stack(targets)


def examples(
    data: LabelledCrops, plan: TrainPlan, *, num_samples: int, num_epochs: int
) -> UInt8Array:
    """Crops (samples, 1 + epochs, h, w, 3): each as cut, then as the first epochs show it."""
    chosen = range(min(num_samples, len(data)))
    shown = [[data.crops[i] for i in chosen]]
    for epoch in range(num_epochs):
        sample = _Samples(data, plan, epoch)
        positions = np.argsort(sample.order)
        shown.append([sample(int(positions[i]))[0].numpy() for i in chosen])
    return np.asarray(shown).swapaxes(0, 1)


def mixup_share(plan: TrainPlan, *, epoch: int, step: int) -> float:
    """The share of a sample itself in its mixture, of all samples of a step; at least a half.

    Zhang et al., "mixup", ICLR 2018, with lambda and 1 - lambda taken for the same.
    """
    if not plan.recipe.mixup_alpha:
        return 1.0
    share = np.random.default_rng([plan.seed, epoch, step, 1]).beta(*(plan.recipe.mixup_alpha,) * 2)
    return float(max(share, 1 - share))


def partners(batch: Tensor) -> Tensor:
    """For each sample of a worker's batch the one it is mixed with: half a batch further.

    Where the batch is even, it is the same one for every number of workers.
    """
    return batch.roll(len(batch) // 2, dims=0)


def reduced_hw(size_hw: tuple[int, int], recipe: Recipe, epoch: int) -> tuple[int, int]:
    """Size of the crops that the network sees in an epoch: growing, then whole."""
    progress = min(1.0, epoch / max(1.0, WHOLE_FROM * recipe.epochs))
    scale = recipe.first_scale + (1 - recipe.first_scale) * progress
    if scale >= 1:
        return size_hw
    height, width = (max(SIDE_STEP, round(s * scale / SIDE_STEP) * SIDE_STEP) for s in size_hw)
    return min(height, size_hw[0]), min(width, size_hw[1])


def resized(crops: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Crops (N, H, W, 3), uint8 or float, at another size, as float where it differs."""
    if tuple(crops.shape[1:3]) == size_hw:
        return crops
    planes = crops.permute(0, 3, 1, 2).float()
    return F.interpolate(planes, size_hw, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
