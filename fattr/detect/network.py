"""RetinaFace in torch. Parameter names are those of the published checkpoints, so they load as is.

Layout after Deng et al., RetinaFace (CVPR 2020), as published by biubug6/Pytorch_Retinaface
(MobileNet-0.25, ResNet-50) and ternaus/retinaface (ResNet-50).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50

from fattr.detect.anchors import ANCHORS_PER_CELL
from fattr.errors import UsageError

Backbone: TypeAlias = Literal["mobilenet025", "resnet50"]


def _conv(
    inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, leak: float | None = None
) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if leak is not None:
        layers.append(nn.LeakyReLU(leak, inplace=True))
    return nn.Sequential(*layers)


def _depthwise(inputs: int, outputs: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1, inplace=True),
    )


class MobileNet025(nn.Module):
    """MobileNetV1 at a quarter of its width; features at strides 8, 16 and 32."""

    channels = (64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv(3, 8, stride=2, leak=0.1),
            _depthwise(8, 16),
            _depthwise(16, 32, stride=2),
            _depthwise(32, 32),
            _depthwise(32, 64, stride=2),
            _depthwise(64, 64),
        )
        repeats = [_depthwise(128, 128) for _ in range(5)]
        self.stage2 = nn.Sequential(_depthwise(64, 128, stride=2), *repeats)
        self.stage3 = nn.Sequential(_depthwise(128, 256, stride=2), _depthwise(256, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> three feature maps, finest first."""
        fine = self.stage1(x)
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)


class ResNet50(nn.Module):
    """torchvision's ResNet-50 without its classifier; features at strides 8, 16 and 32."""

    channels = (512, 1024, 2048)

    def __init__(self) -> None:
        super().__init__()
        net = resnet50(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2 = net.layer1, net.layer2
        self.layer3, self.layer4 = net.layer3, net.layer4

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 3, H, W) -> three feature maps, finest first."""
        fine = self.layer2(self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x))))))
        middle = self.layer3(fine)
        return fine, middle, self.layer4(middle)


class FPN(nn.Module):
    """Feature pyramid: lateral 1x1 convolutions and a top-down path by nearest upsampling."""

    def __init__(self, channels: tuple[int, int, int], outputs: int, leak: float) -> None:
        super().__init__()
        self.output1 = _conv(channels[0], outputs, kernel=1, leak=leak)
        self.output2 = _conv(channels[1], outputs, kernel=1, leak=leak)
        self.output3 = _conv(channels[2], outputs, kernel=1, leak=leak)
        self.merge1 = _conv(outputs, outputs, leak=leak)
        self.merge2 = _conv(outputs, outputs, leak=leak)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Three maps, finest first, to three maps of equal width."""
        fine, middle, coarse = features
        top = self.output3(coarse)
        lateral = self.output2(middle)
        centre = self.merge2(lateral + F.interpolate(top, size=lateral.shape[2:], mode="nearest"))
        lateral = self.output1(fine)
        bottom = self.merge1(lateral + F.interpolate(centre, size=lateral.shape[2:]))
        return bottom, centre, top


class SSH(nn.Module):
    """Context module of Najibi et al., SSH (ICCV 2017): 3x3, 5x5 and 7x7 receptive fields."""

    def __init__(self, width: int, leak: float) -> None:
        super().__init__()
        self.conv3X3 = _conv(width, width // 2)
        self.conv5X5_1 = _conv(width, width // 4, leak=leak)
        self.conv5X5_2 = _conv(width // 4, width // 4)
        self.conv7X7_2 = _conv(width // 4, width // 4, leak=leak)
        self.conv7x7_3 = _conv(width // 4, width // 4)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        shared = self.conv5X5_1(x)
        parts = self.conv3X3(x), self.conv5X5_2(shared), self.conv7x7_3(self.conv7X7_2(shared))
        return F.relu(torch.cat(parts, dim=1))


class Head(nn.Module):
    """A 1x1 convolution that gives ``values`` numbers for each anchor of each cell."""

    def __init__(self, width: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(width, ANCHORS_PER_CELL * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, H * W * anchors, values)."""
        out: Tensor = self.conv1x1(x)
        return out.permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.values)


class RetinaFace(nn.Module):
    """The detector: (N, 3, H, W) normalised pixels -> offsets, class logits, landmark offsets.

    Outputs are (N, A, 4), (N, A, 2) and (N, A, 10), A as in ``anchors``; class 1 is "face".
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.body = MobileNet025() if backbone == "mobilenet025" else ResNet50()
        width, leak = (64, 0.1) if backbone == "mobilenet025" else (256, 0.0)
        self.fpn = FPN(self.body.channels, width, leak)
        self.ssh1, self.ssh2, self.ssh3 = (SSH(width, leak) for _ in range(3))
        self.ClassHead = nn.ModuleList(Head(width, 2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(width, 4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(Head(width, 10) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        pyramid = self.fpn(self.body(x))
        contexts = [ssh(map_) for ssh, map_ in zip(self._contexts(), pyramid, strict=True)]
        loc, conf, landms = (
            torch.cat([head(map_) for head, map_ in zip(heads, contexts, strict=True)], dim=1)
            for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead)
        )
        return loc, conf, landms

    def _contexts(self) -> tuple[SSH, SSH, SSH]:
        return self.ssh1, self.ssh2, self.ssh3


def load_checkpoint(state: Mapping[str, Tensor]) -> tuple[RetinaFace, Backbone]:
    """A network in evaluation mode with the tensors of a published checkpoint.

    Raises:
        UsageError: the names or shapes are not those of MobileNet-0.25 or ResNet-50.
    """
    tensors = OrderedDict((name.removeprefix("module."), tensor) for name, tensor in state.items())
    backbone: Backbone = "mobilenet025" if any("stage1" in name for name in tensors) else "resnet50"
    network = RetinaFace(backbone)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as err:
        problem = str(err).splitlines()[1].strip() if "\n" in str(err) else str(err)
        raise UsageError(
            f"not a RetinaFace checkpoint ({backbone} expected): {problem[:200]}"
        ) from err
    return network.eval(), backbone
