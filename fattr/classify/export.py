"""The trained network as the bytes a bundle holds."""

from __future__ import annotations

import logging

import onnx
import torch
from safetensors.torch import save

from fattr.classify.network import AttributeNet


def weights_bytes(network: AttributeNet) -> bytes:
    """The state as safetensors."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    return save(state)


def onnx_bytes(network: AttributeNet, size_hw: tuple[int, int]) -> bytes:
    """The network as ONNX: ``crops`` (N, H, W, 3) uint8 -> ``logits`` (N, L), any N."""
    example = torch.zeros((2, *size_hw, 3), dtype=torch.uint8)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        network.cpu().eval(),
        (example,),
        input_names=["crops"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    del model.metadata_props[:]
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
