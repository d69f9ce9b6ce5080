"""An ONNX RetinaFace-MobileNet-0.25 with folded batch norms -> tensors under the published names.

The carried graph names its convolutions' weights by number; the node's path tells which one it is.
"""

from __future__ import annotations

import re

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

BATCH_NORM_EPS = 1e-5
HEADS = {"class_head": "ClassHead", "bbox_head": "BboxHead", "landmark_head": "LandmarkHead"}


def convolution_key(node_name: str) -> str | None:
    """The checkpoint's name of a convolution, from its node's path; None for the 1x1 heads.

    ``/fx/stage1/stage1.1/stage1.1.0/stage1.1.0.0/Conv`` is ``body.stage1.1.0``.
    """
    leaf = node_name.removesuffix("/Conv").rpartition("/")[2]
    if block := re.fullmatch(r"(stage\d)\.(\d+)\.([01])(?:\.([01]))?", leaf):
        stage, index, half, nested = block.groups()
        position = 0 if nested is None else 3 * int(half)
        return f"body.{stage}.{index}.{position}"
    if part := re.search(r"/(fpn|ssh\d)/(\w+)/", node_name):
        return f"{part[1]}.{part[2]}.0"
    return None


def _folded(key: str, weight: Tensor, bias: Tensor) -> dict[str, Tensor]:
    """The convolution, and a batch norm that only adds ``bias``."""
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
    graph = onnx.load_from_string(model_bytes).graph
    tensors = {
        item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
        for item in graph.initializer
    }
    alias = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    state: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type == "Conv" and (key := convolution_key(node.name)):
            weight, bias = (tensors[alias.get(name, name)] for name in node.input[1:])
            state |= _folded(key, weight, bias)
    for name, tensor in tensors.items():
        if head := re.fullmatch(r"(\w+_head)\.\w+\.(\d)\.(weight|bias)", name):
            state[f"{HEADS[head[1]]}.{head[2]}.conv1x1.{head[3]}"] = tensor
    return state
