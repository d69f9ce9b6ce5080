"""The backbones by name: torchvision's architectures without their classifying layers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision import models

from fattr.errors import UsageError

# What pretrained weights expect: torchvision's figures on the scale 0 .. 255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
INCEPTION_MEAN = INCEPTION_STD = (127.5, 127.5, 127.5)

# Features (N, 3, H, W) -> (N, C, h, w); neck, pooled features (N, C) -> (N, width); width.
Parts = tuple[nn.Sequential, nn.Module, int]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backbone:
    """An architecture: how to build it, with random weights, and what it takes.

    ``auxiliary_after`` names the layer of the features whose map an auxiliary head learns from
    while training.
    """

    build: Callable[[], Parts]
    min_px: int = 1  # shortest side of a crop that leaves something of the map
    mean: Triple = IMAGENET_MEAN
    std: Triple = IMAGENET_STD
    auxiliary_after: str | None = None


def _tiny() -> Parts:
    """Three convolutions, for tests: learns flat drawings in seconds."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers), nn.Identity(), 64


def _vgg16_bn() -> Parts:
    """Only the convolutions: the two layers of 4,096 hold 120 of 138 million parameters."""
    layers = models.vgg.make_layers(models.vgg.cfgs["D"], batch_norm=True)
    return layers, nn.Identity(), 512


def _without(model: nn.Module, *left_out: str) -> nn.Sequential:
    """The layers of a model under their names, but for some."""
    layers = OrderedDict((n, m) for n, m in model.named_children() if n not in left_out)
    return nn.Sequential(layers)


def _resnet(model: nn.Module, width: int) -> Parts:
    return _without(model, "avgpool", "fc"), nn.Identity(), width


def _inception_v3() -> Parts:
    # torchvision's own initialisation takes seconds; batch norm follows every convolution.
    model = models.inception_v3(weights=None, init_weights=False)
    return _without(model, "AuxLogits", "avgpool", "dropout", "fc"), nn.Identity(), 2048


def _mobilenet_v2() -> Parts:
    return models.mobilenet_v2(weights=None).features, nn.Identity(), 1280


def _mobilenet_v3(model: models.MobileNetV3, width: int) -> Parts:
    """The last stage stands behind the pooling, to be cheap: it is the neck."""
    return model.features, model.classifier[:2], width


def _efficientnet_b0() -> Parts:
    return models.efficientnet_b0(weights=None).features, nn.Identity(), 1280


def _convnext_tiny() -> Parts:
    neck = nn.Sequential(nn.LayerNorm(768, eps=1e-6))  # in a sequence, as torchvision names it
    return models.convnext_tiny(weights=None).features, neck, 768


BACKBONES: dict[str, Backbone] = {
    "tiny": Backbone(build=_tiny),
    "vgg16_bn": Backbone(build=_vgg16_bn, min_px=32),
    "resnet18": Backbone(build=lambda: _resnet(models.resnet18(weights=None), 512)),
    "resnet50": Backbone(build=lambda: _resnet(models.resnet50(weights=None), 2048)),
    "inception_v3": Backbone(
        build=_inception_v3,
        min_px=75,
        mean=INCEPTION_MEAN,
        std=INCEPTION_STD,
        auxiliary_after="Mixed_6e",
    ),
    "mobilenet_v2": Backbone(build=_mobilenet_v2),
    "mobilenet_v3_small": Backbone(
        build=lambda: _mobilenet_v3(models.mobilenet_v3_small(weights=None), 1024)
    ),
    "mobilenet_v3_large": Backbone(
        build=lambda: _mobilenet_v3(models.mobilenet_v3_large(weights=None), 1280)
    ),
    "efficientnet_b0": Backbone(build=_efficientnet_b0),
    "convnext_tiny": Backbone(build=_convnext_tiny, min_px=32),
}


def backbone_named(name: str) -> Backbone:
    """The architecture called ``name``.

    Raises:
        UsageError: there is none.
    """
    if name not in BACKBONES:
        raise UsageError(f"unknown backbone {name!r}: one of {sorted(BACKBONES)} expected")
    return BACKBONES[name]


def check_crop_size(name: str, size_hw: tuple[int, int]) -> None:
    """Refuse crops that leave nothing of the backbone's last map.

    Raises:
        UsageError: a side is too short, or there is no such backbone.
    """
    min_px = backbone_named(name).min_px
    if min(size_hw) < min_px:
        raise UsageError(
            f"backbone {name} needs crops of {min_px} px or more a side, "
            f"got {size_hw[0]}x{size_hw[1]} (height x width): take larger crops or another backbone"
        )
