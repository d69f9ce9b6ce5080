"""The yardstick: the least code that trains the network, in this one file.

Network and augmentation are fattr's, since they are what is trained and on what; the rest is torch
alone. Like fattr's loop it decays no vectors, lays tensors out channels-last, mirrors every second
crop, augments on one thread and has a fused optimiser: a yardstick must not be slow where that is
easily avoided.

It leaves out what a loop may do without and still learn: averaged weights, schedule, a look whether
the loss is finite, validation, checkpoints, repeatable samples (each is drawn from torch's own
generator, and may be another one for another number of processes). All of this counts as fattr's
overhead. So does the generality of its loss: here all attributes are binary, and one call does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fattr.attributes import Attribute
from fattr.classify.network import AttributeNet
from fattr.classify.transforms import build_augmentation

Batch = tuple[Tensor, Tensor]  # crops (n, h, w, 3) uint8, targets (n, A) int64, -1 where unknown


class Faces(Dataset[Batch]):
    """Crops (N, h, w, 3) uint8 and targets (N, A) held in memory; each changed when asked for."""

    def __init__(
        self, crops: NDArray[np.uint8], targets: NDArray[np.int64], augmentation: str
    ) -> None:
        self.crops, self.targets = torch.from_numpy(crops), torch.from_numpy(targets)
        steps = build_augmentation(augmentation, (crops.shape[1], crops.shape[2]))
        mirrored = augmentation != "none"
        self.change = nn.Sequential(v2.RandomHorizontalFlip(), steps) if mirrored else steps

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Batch:
        crop = self.change(self.crops[index].permute(2, 0, 1)).permute(1, 2, 0)
        return crop, self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Batch]:
        """A batch at once, which torch asks for: on one thread, since crops are small."""
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        batch = [self[index] for index in indices]
        torch.set_num_threads(num_threads)
        return batch


def loader(faces: Faces, *, batch_size: int, processes: int) -> DataLoader[Batch]:
    """Whole batches in a new order each time it is iterated."""
    return DataLoader(
        faces,
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        persistent_workers=processes > 0,
    )


def build(backbone: str, attributes: Sequence[Attribute], *, dropout: float) -> AttributeNet:
    """The network, ready to be trained."""
    network = AttributeNet(backbone, attributes, dropout=dropout)
    return network.to(memory_format=torch.channels_last).train()


def optimizer_of(network: nn.Module, *, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW that decays matrices and filters by 0.05, and no vectors."""
    parameters = list(network.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log loss over samples and attributes; an unknown label costs nothing."""
    known = (targets >= 0).float()
    labels = targets.clamp(min=0).float()
    return F.binary_cross_entropy_with_logits(logits, labels, weight=known)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """Learn from one batch; its loss before."""
    crops, targets = batch
    loss = loss_of(network(crops), targets)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def train(
    network: nn.Module, batches: Iterable[Batch], *, epochs: int, learning_rate: float
) -> None:
    """All of it."""
    optimizer = optimizer_of(network, learning_rate=learning_rate)
    for _ in range(epochs):
        for batch in batches:
            step(network, optimizer, batch)
