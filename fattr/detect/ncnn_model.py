"""RetinaFace-MobileNet-0.25 as an ncnn network, written from its convolutions; no torch.

ncnn computes 3 x 3 convolutions by Winograd's transform, which takes a third of the detector's time
off; onnxruntime and OpenVINO do not (benchmarks/RESULTS.md). Its files are a text that lists layers
and a row of weights: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from fattr.detect.anchors import STRIDES
from fattr.records import FloatArray

Convolutions: TypeAlias = Mapping[str, tuple[FloatArray, FloatArray]]  # weight (O, I, k, k), bias

INPUT = "image"
OUTPUTS = tuple(f"head{stride}" for stride in STRIDES)
LEAK = 0.1
MAGIC = 7767517
FLOAT32 = np.zeros(1, "<u4")  # the tag before weights that are stored as they are

_STAGES = (  # of each stage, the strides of its depthwise convolutions
    ("stage1", (1, 2, 1, 2, 1)),
    ("stage2", (2, 1, 1, 1, 1, 1)),
    ("stage3", (2, 1)),
)
_PAIRS = {"wide": ("conv3X3", "conv5X5_1"), "shared": ("conv5X5_2", "conv7X7_2")}


@dataclass(slots=True)
class _Layers:
    """What has been written so far. A blob is read once: whoever needs it again splits it."""

    convolutions: Convolutions
    lines: list[str] = field(default_factory=list)
    blobs: int = 0
    weights: list[np.ndarray] = field(default_factory=list)

    def add(self, kind: str, name: str, reads: list[str], writes: list[str], *options: str) -> None:
        self.blobs += len(writes)
        counts = f"{len(reads)} {len(writes)}"
        self.lines.append(" ".join([kind, name, counts, *reads, *writes, *options]))

    def convolve(
        self, key: str, read: str, *, stride: int = 1, leak: float | None = LEAK, to: str = ""
    ) -> str:
        """A convolution, its result max(x, leak * x) unless that is None."""
        weight, bias = self.convolutions[key]
        outputs, inputs, kernel, _ = weight.shape
        options = {"0": outputs, "1": kernel, "3": stride, "4": kernel // 2, "5": 1}
        options["6"] = weight.size
        if is_depthwise := inputs == 1:
            options["7"] = outputs
        told = [f"{name}={value}" for name, value in options.items()]
        if leak is not None:
            told += ["9=2", f"-23310=1,{leak}"]
        kind = "ConvolutionDepthWise" if is_depthwise else "Convolution"
        self.add(kind, key, [read], [to or key], *told)
        self.weights += [FLOAT32, weight.astype("<f4"), bias.astype("<f4")]
        return to or key

    def rectify(self, read: str, leak: float) -> str:
        self.add("ReLU", f"{read}/relu", [read], [f"{read}/relu"], f"0={leak}")
        return f"{read}/relu"

    def split(self, read: str, times: int) -> list[str]:
        copies = [f"{read}/{i}" for i in range(times)]
        self.add("Split", f"{read}/split", [read], copies)
        return copies

    def convolve_both(self, key: str, read: str, sizes: tuple[int, int]) -> list[str]:
        """Two convolutions that read the same as one, whose outputs are so many channels."""
        whole = self.convolve(key, read, leak=None)
        parts = [f"{key}/{i}" for i in range(2)]
        self.add("Slice", f"{key}/slice", [whole], parts, f"-23300=2,{sizes[0]},{sizes[1]}", "1=0")
        return parts

    def raise_onto(self, coarse: str, fine: str) -> str:
        """The coarse map, enlarged twice, added to the fine one."""
        self.add("Interp", f"{coarse}/up", [coarse], [f"{coarse}/up"], "0=1", "1=2", "2=2")
        self.add("BinaryOp", f"{fine}/sum", [f"{coarse}/up", fine], [f"{fine}/sum"], "0=0")
        return f"{fine}/sum"


def network_of(convolutions: Convolutions) -> tuple[str, bytes]:
    """What ncnn reads from its two files: a network from ``INPUT`` to ``OUTPUTS``.

    It takes (3, H, W), normalised, H and W multiples of 32. Each output is (32, H / s, W / s) for
    a stride s: of the cell's two anchors two class logits each, then of both four offsets of the
    box, then of both ten of the landmarks.
    """
    layers = _Layers(_joined(convolutions))
    layers.add("Input", INPUT, [], [INPUT])
    fine, middle, coarse = _backbone(layers)
    for level, context in enumerate(_pyramid(layers, fine, middle, coarse), 1):
        parts = _context(layers, f"ssh{level}", context)
        layers.add("Concat", f"ssh{level}", parts, [f"ssh{level}"], "0=0")
        layers.convolve(f"head.{level - 1}", f"ssh{level}", leak=None, to=OUTPUTS[level - 1])
    text = "\n".join([str(MAGIC), f"{len(layers.lines)} {layers.blobs}", *layers.lines, ""])
    return text, b"".join(part.tobytes() for part in layers.weights)


def _joined(convolutions: Convolutions) -> Convolutions:
    """Those that read the same map side by side, so that it is read and transformed once."""
    joined = dict(convolutions)
    for level, _ in enumerate(STRIDES):
        ssh = f"ssh{level + 1}"
        heads = [f"{kind}.{level}.conv1x1" for kind in ("ClassHead", "BboxHead", "LandmarkHead")]
        joined[f"head.{level}"] = _side_by_side(convolutions, *heads)
        for both, parts in _PAIRS.items():
            joined[f"{ssh}.{both}"] = _side_by_side(
                convolutions, *(f"{ssh}.{part}.0" for part in parts)
            )
    return joined


def _side_by_side(convolutions: Convolutions, *keys: str) -> tuple[FloatArray, FloatArray]:
    weights, biases = zip(*(convolutions[key] for key in keys), strict=True)
    return np.concatenate(weights), np.concatenate(biases)


def _backbone(layers: _Layers) -> list[str]:
    """Three maps, finest first, the finer two to be read twice."""
    last = layers.convolve("body.stage1.0.0", INPUT, stride=2)
    maps, first = [], 1
    for stage, strides in _STAGES:
        for block, stride in enumerate(strides, first):
            depthwise = layers.convolve(f"body.{stage}.{block}.0", last, stride=stride)
            last = layers.convolve(f"body.{stage}.{block}.3", depthwise)
        first = 0
        if stage != _STAGES[-1][0]:
            lateral, last = layers.split(last, 2)
            maps.append(lateral)
    return [*maps, last]


def _pyramid(layers: _Layers, fine: str, middle: str, coarse: str) -> list[str]:
    top = layers.convolve("fpn.output3.0", coarse)
    top, below = layers.split(top, 2)
    summed = layers.raise_onto(below, layers.convolve("fpn.output2.0", middle))
    centre, below = layers.split(layers.convolve("fpn.merge2.0", summed), 2)
    summed = layers.raise_onto(below, layers.convolve("fpn.output1.0", fine))
    return [layers.convolve("fpn.merge1.0", summed), centre, top]


def _context(layers: _Layers, ssh: str, read: str) -> list[str]:
    """The three parts of a context module, each without its negative values."""
    three, shared = layers.convolve_both(f"{ssh}.wide", read, (32, 16))
    five, seven = layers.convolve_both(f"{ssh}.shared", layers.rectify(shared, LEAK), (16, 16))
    last = layers.convolve(f"{ssh}.conv7x7_3.0", layers.rectify(seven, LEAK), leak=0.0)
    return [layers.rectify(three, 0.0), layers.rectify(five, 0.0), last]
