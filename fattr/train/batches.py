"""Which samples make a batch, and how each is changed: by seed, epoch and position alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fattr.attributes import Attribute
from fattr.classify.transforms import augmented, build_augmentation
from fattr.labelled_crops import Cut, LabelledCrops
from fattr.records import UInt8Array
from fattr.train.context import TrainContext
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


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """A sample as it is drawn: all that another process needs to make it."""

    source: UInt8Array | Cut  # the crop (h, w, 3), or how to cut it
    targets: NDArray[np.int64]  # (A,)
    seed: int  # of how it is changed

    def crop(self) -> UInt8Array:
        """The crop (h, w, 3), read now where it is not held. May be called by threads."""
        return self.source.crop() if isinstance(self.source, Cut) else self.source


class Change:
    """What training does to a sample, by its seed alone: mirrored or not, then augmented."""

    def __init__(self, plan: TrainPlan, size_hw: tuple[int, int]) -> None:
        self._attributes = plan.attributes
        self._may_mirror = plan.recipe.augmentation != "none"
        self._augment = build_augmentation(plan.recipe.augmentation, size_hw)

    def __call__(self, drawn: Drawn, crop: UInt8Array) -> tuple[Tensor, Tensor]:
        """Crop (h, w, 3) uint8 and targets (A,), both changed."""
        targets = drawn.targets
        if drawn.seed & 1 and self._may_mirror:
            crop, targets = crop[:, ::-1], mirrored_targets(targets, self._attributes)
        pixels = torch.from_numpy(crop.copy()).permute(2, 0, 1)
        changed = augmented(self._augment, pixels, drawn.seed >> 1).permute(1, 2, 0)
        return changed, torch.from_numpy(targets)


class Samples:
    """The samples of a run by epoch and position, each changed in its own way."""

    def __init__(self, data: LabelledCrops, plan: TrainPlan) -> None:
        self._data, self._seed = data, plan.seed
        self.change = Change(plan, data.size_hw)
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """``epoch_order`` of the data; the last one asked for is kept."""
        if epoch != self._epoch:
            self._order = epoch_order(len(self._data), seed=self._seed, epoch=epoch)
            self._epoch = epoch
        return self._order

    def drawn(self, epoch: int, position: int) -> Drawn:
        """What stands at a position, not yet read or changed."""
        index = int(self.order(epoch)[position])
        seed = sample_seed(self._seed, epoch, position)
        return Drawn(self._data.source(index), self._data.targets[index], seed)

    def __call__(self, epoch: int, position: int) -> tuple[Tensor, Tensor]:
        """Crop (h, w, 3) uint8 and targets (A,)."""
        drawn = self.drawn(epoch, position)
        return self.change(drawn, drawn.crop())


def batch_positions(
    num_samples: int, batch_size: int, *, first_position: int, rank: int, world_size: int
) -> Iterator[range]:
    """This worker's positions of each whole global batch of an epoch, from a position on.

    Worker r of W has every W-th one, so that the joint batch is the same for every W.
    """
    for start in range(first_position, num_samples - batch_size + 1, batch_size):
        yield range(start + rank, start + batch_size, world_size)


def examples(
    data: LabelledCrops, plan: TrainPlan, *, num_samples: int, num_epochs: int
) -> UInt8Array:
    """Crops (samples, 1 + epochs, h, w, 3): each as cut, then as the first epochs show it."""
    chosen, sample = range(min(num_samples, len(data))), Samples(data, plan)
    shown = [[data.crop(i) for i in chosen]]
    for epoch in range(num_epochs):
        positions = np.argsort(sample.order(epoch))
        shown.append([sample(epoch, int(positions[i]))[0].numpy() for i in chosen])
    return np.asarray(shown).swapaxes(0, 1)


def mixup_share(plan: TrainPlan, *, epoch: int, step: int) -> float:
    """The share of a sample itself in its mixture, of all samples of a step; at least a half.

    Zhang et al., "mixup", ICLR 2018, with lambda and 1 - lambda taken for the same.
    """
    if not plan.recipe.mixup_alpha:
        return 1.0
    share = np.random.default_rng([plan.seed, epoch, step, 1]).beta(*(plan.recipe.mixup_alpha,) * 2)
    return float(max(share, 1 - share))


def partners(context: TrainContext, batch_size: int, own: Tensor) -> Tensor:
    """For each of a worker's rows the row it is mixed with: half a global batch before it.

    Where another worker has it, the workers exchange their rows.
    """
    half, workers = batch_size // 2, context.world_size
    if batch_size % workers == 0 and half % workers == 0:
        return own.roll(half // workers, dims=0)
    whole = own.new_zeros(batch_size, *own.shape[1:])
    whole[context.rank :: workers] = own
    return context.total(whole).roll(half, dims=0)[context.rank :: workers]


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
