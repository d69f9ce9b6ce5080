"""An ONNX RetinaFace-MobileNet-0.25 with folded batch norms -> its convolutions by published names.

The carried graph names its convolutions' weights by number; the node's path tells which one it is.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import onnx
from onnx import numpy_helper

from fattr.records import FloatArray

if TYPE_CHECKING:  # only what trains or runs in torch loads it
    from torch import Tensor

BATCH_NORM_EPS = 1e-5
HEADS = {"class": "ClassHead", "bbox": "BboxHead", "landmark": "LandmarkHead"}


def convolution_key(node_name: str) -> str | None:
    """The checkpoint's name of a convolution, from its node's path; None for any other node.

    ``/fx/stage1/stage1.1/stage1.1.0/stage1.1.0.0/Conv`` is ``body.stage1.1.0``.
    """
    leaf = node_name.removesuffix("/Conv").rpartition("/")[2]
    if block := re.fullmatch(r"(stage\d)\.(\d+)\.([01])(?:\.([01]))?", leaf):
        stage, index, half, nested = block.groups()
        position = 0 if nested is None else 3 * int(half)
        return f"body.{stage}.{index}.{position}"
    if head := re.fullmatch(r"(class|bbox|landmark)_head\.(\d)", leaf):
        return f"{HEADS[head[1]]}.{head[2]}.conv1x1"
    if part := re.search(r"/(fpn|ssh\d)/(\w+)/", node_name):
        return f"{part[1]}.{part[2]}.0"
    return None


def convolutions(model_bytes: bytes) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Weight (O, I, k, k) and bias of each convolution, batch norms folded in, by its name."""
    graph = onnx.load_from_string(model_bytes).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    alias = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    found = {}
    for node in graph.node:
        if node.op_type == "Conv" and (key := convolution_key(node.name)):
            weight, bias = (arrays[alias.get(name, name)] for name in node.input[1:])
            found[key] = weight, bias
    return found


def _folded(key: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The convolution, and a batch norm that only adds ``bias``."""
    import torch

    prefix, _, index = key.rpartition(".")
    norm = f"{prefix}.{int(index) + 1}"
    return {
        f"{key}.weight": weight,
        f"{norm}.weight": torch.full_like(bias, (1 + BATCH_NORM_EPS) ** 0.5),
        f"{norm}.bias": bias,
        f"{norm}.running_mean": torch.zeros_like(bias),
        f"{norm}.running_var": torch.ones_like(bias),
        f"{norm}.num_batches_tracked": torch.tensor(0),
    }


def state_dict_of(model_bytes: bytes) -> dict[str, Tensor]:
    """The tensors of ``network.RetinaFace("mobilenet025")`` held by the ONNX bytes."""
    import torch

    state: dict[str, Tensor] = {}
    for key, arrays in convolutions(model_bytes).items():
        weight, bias = (torch.from_numpy(array.copy()) for array in arrays)
        is_head = key.endswith("conv1x1")
        head = {f"{key}.weight": weight, f"{key}.bias": bias}
        state |= head if is_head else _folded(key, weight, bias)
    return state
