"""The multi-head attribute network over a torchvision backbone; takes uint8 crops as cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from fattr import weights
from fattr.attributes import Attribute
from fattr.errors import UsageError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def _tiny() -> tuple[nn.Module, int]:
    """Three convolutions, for tests: learns flat drawings in seconds."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers), 64


def _mobilenet_v2() -> tuple[nn.Module, int]:
    return models.mobilenet_v2(weights=None).features, 1280


def _resnet(build: Callable[[], nn.Module], width: int) -> tuple[nn.Module, int]:
    return nn.Sequential(*list(build().children())[:-2]), width


BACKBONES: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "tiny": _tiny,
    "mobilenet_v2": _mobilenet_v2,
    "resnet18": lambda: _resnet(models.resnet18, 512),
    "resnet50": lambda: _resnet(models.resnet50, 2048),
}


class AttributeNet(nn.Module):
    """RGB crops (N, H, W, 3) uint8 -> logits (N, L), attribute after attribute in their order."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, backbone: str, attributes: Sequence[Attribute], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise UsageError(f"unknown backbone {backbone!r}: one of {sorted(BACKBONES)} expected")
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.features, width = BACKBONES[backbone]()
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleDict({a.name: nn.Linear(width, a.num_logits) for a in attributes})

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        x = (crops.permute(0, 3, 1, 2).float() - self.mean) / self.std
        pooled = self.dropout(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))
        return torch.cat([head(pooled) for head in self.heads.values()], dim=1)


def load_backbone(network: AttributeNet, checkpoint: Path) -> None:
    """Put the features of a torchvision classifier's checkpoint into the network.

    Raises:
        UsageError: the file does not hold this backbone's features.
    """
    prefix = "features."
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        features = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        network.features.load_state_dict(features)
    except weights.DAMAGED as err:
        raise UsageError(f"{checkpoint}: not weights of this backbone's features") from err
