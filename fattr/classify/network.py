"""The multi-head attribute network over a torchvision backbone; takes uint8 crops as cut."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.inception import BasicConv2d

from fattr import weights
from fattr.attributes import Attribute
from fattr.classify.backbones import backbone_named
from fattr.classify.noise import key_noise
from fattr.errors import UsageError

# The parts of torchvision's classifiers that are no features.
CLASSIFYING = ("classifier.", "fc.", "AuxLogits.")
AUXILIARY_MAP = 5  # sides of the map that the auxiliary head's last convolution takes in whole


def _heads(width: int, attributes: Sequence[Attribute]) -> nn.ModuleDict:
    return nn.ModuleDict({a.name: nn.Linear(width, a.num_logits) for a in attributes})


def _joined(heads: nn.ModuleDict, features: Tensor) -> Tensor:
    return torch.cat([head(features) for head in heads.values()], dim=1)


class AttributeNet(nn.Module):
    """RGB crops (N, H, W, 3) uint8 -> logits (N, L), attribute after attribute in their order.

    Raises:
        UsageError: no backbone has that name.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, attributes: Sequence[Attribute], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        spec = backbone_named(backbone)
        self.backbone, self.attributes = backbone, tuple(attributes)
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1))
        self.features, self.neck, width = spec.build()
        self.dropout = nn.Dropout(dropout)
        self.heads = _heads(width, attributes)

    def normalised(self, crops: Tensor) -> Tensor:
        """Crops (N, H, W, 3) -> what the features take, (N, 3, H, W) float."""
        return (crops.permute(0, 3, 1, 2).float() - self.mean) / self.std

    def classify(self, maps: Tensor) -> Tensor:
        """Features (N, C, h, w) -> logits (N, L)."""
        pooled = F.adaptive_avg_pool2d(maps, 1).flatten(1)
        return _joined(self.heads, self.dropout(self.neck(pooled)))

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        return self.classify(self.features(self.normalised(crops)))


class AuxiliaryHead(nn.Module):
    """Logits (N, L) from a map (N, 768, h, w) in the middle of Inception-v3.

    That of Szegedy et al., Rethinking the Inception Architecture (2015), as torchvision builds it,
    but for the pooling: theirs takes a map of 17 x 17, which crops of 299 px have, to 5 x 5; this
    one takes any map there, so that it needs no larger crops than the network does.
    """

    def __init__(self, attributes: Sequence[Attribute]) -> None:
        super().__init__()
        self.conv0 = BasicConv2d(768, 128, kernel_size=1)
        self.conv1 = BasicConv2d(128, 768, kernel_size=AUXILIARY_MAP)
        self.heads = _heads(768, attributes)

    def forward(self, maps: Tensor) -> Tensor:
        """See the class."""
        pooled = self.conv0(F.adaptive_avg_pool2d(maps, AUXILIARY_MAP))
        return _joined(self.heads, self.conv1(pooled).flatten(1))


class TrainingNet(nn.Module):
    """A network as it is trained: crops -> its logits, and those of an auxiliary head if any.

    The auxiliary head belongs to this module alone, so that the network that is averaged, saved
    and exported never carries it. It starts from random weights, drawn from ``seed`` alone.
    The network's dropout and stochastic depth come to depend on the samples' keys alone.
    """

    def __init__(self, network: AttributeNet, *, seed: int = 0) -> None:
        super().__init__()
        self.network, self.keys = network, key_noise(network)
        self.after = backbone_named(network.backbone).auxiliary_after
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.auxiliary = AuxiliaryHead(network.attributes) if self.after else None

    def forward(self, crops: Tensor, keys: Tensor) -> tuple[Tensor, ...]:
        """Crops (N, H, W, 3) and their keys (N,) int64 -> logits (N, L), once or twice."""
        self.keys.now = keys
        if self.auxiliary is None:
            return (self.network(crops),)
        maps, extra = self.network.normalised(crops), []
        for name, layer in self.network.features.named_children():
            maps = layer(maps)
            if name == self.after:
                extra.append(self.auxiliary(maps))
        return (self.network.classify(maps), *extra)


def load_backbone(network: AttributeNet, checkpoint: Path | BinaryIO) -> None:
    """Put the features and the neck of a torchvision classifier's checkpoint into the network.

    Raises:
        UsageError: the file does not hold those of this backbone.
    """
    neck_names = network.neck.state_dict().keys()
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        features = {
            name.removeprefix("features."): tensor
            for name, tensor in state.items()
            if not name.startswith(CLASSIFYING)
        }
        neck = {name: state[f"classifier.{name}"] for name in neck_names}
        network.features.load_state_dict(features)
        network.neck.load_state_dict(neck)
    except weights.DAMAGED as err:
        raise UsageError(f"{checkpoint}: not torchvision's weights of {network.backbone}") from err
