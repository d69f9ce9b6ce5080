"""Crops to probabilities with a bundle's network, on onnxruntime (no torch) or on torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import onnxruntime

from fattr.attributes import Attribute
from fattr.classify import calibration as calibrate
from fattr.classify.calibration import Calibration
from fattr.device import to_device
from fattr.records import FloatArray, UInt8Array

if TYPE_CHECKING:
    from fattr.classify.network import AttributeNet

Forward = Callable[[UInt8Array], FloatArray]  # crops (N, H, W, 3) -> logits (N, L)

BATCH_SIZE = 64  # crops of a call on a GPU
CPU_BATCH_SIZE = 8  # as fast there as 16, which takes 30 MB more, or 64, with 250 MB more


def onnx_forward(model: bytes, *, num_threads: int) -> Forward:
    """The network by onnxruntime on CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(crops: UInt8Array) -> FloatArray:
        logits: FloatArray = session.run(["logits"], {"crops": crops})[0]
        return logits

    return forward


def torch_forward(
    network: AttributeNet,
    *,
    device: str,
    precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    fill_to: int | None = None,
) -> Forward:
    """The network by torch on ``device``.

    Args:
        network: Is moved there.
        device: ``cpu`` or a CUDA device.
        precision: What convolutions and linear layers are computed in.
        fill_to: Fewer crops are filled up to so many. On a GPU the kernels depend on the batch's
            shape, and a face's last digits on the kernels: with one shape they do not depend on
            how many faces are beside it. None: ``BATCH_SIZE`` on a GPU, else as they are.
    """
    import torch
    import torch.nn.functional as F

    is_cuda = device.startswith("cuda")
    network = network.eval().to(device)
    if is_cuda:  # what tensor cores compute in; crops are so already
        network.to(memory_format=torch.channels_last)
    at_least = (BATCH_SIZE if is_cuda else 0) if fill_to is None else fill_to
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    kind, is_half = torch.device(device).type, dtype is not torch.float32

    def forward(crops: UInt8Array) -> FloatArray:
        with torch.inference_mode(), torch.autocast(kind, dtype, enabled=is_half):
            missing = max(0, at_least - len(crops))
            batch = F.pad(to_device(crops, device), (0, 0, 0, 0, 0, 0, 0, missing))
            logits: FloatArray = network(batch)[: len(crops)].float().cpu().numpy()
        return logits

    return forward


def load_network(backbone: str, attributes: Sequence[Attribute], weights: bytes) -> AttributeNet:
    """The torch network of a bundle, in evaluation mode; ``weights`` is safetensors."""
    import torch
    from safetensors.torch import load

    from fattr.classify.network import AttributeNet

    with torch.device("meta"):  # first weights are not drawn, which takes seconds for some
        network = AttributeNet(backbone, attributes)
    network.load_state_dict(load(weights), assign=True)
    return network.eval()


class Crops(Protocol):
    """Crops (N, H, W, 3) of which slices are taken: an array, or what reads them then."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice, /) -> UInt8Array: ...


class AttributeClassifier:
    """Probabilities of all attributes of one bundle."""

    def __init__(
        self,
        forward: Forward,
        attributes: Sequence[Attribute],
        calibration: Calibration,
        *,
        batch_size: int = CPU_BATCH_SIZE,
    ) -> None:
        self._forward, self._attributes, self._calibration = forward, attributes, calibration
        self._batch_size = batch_size
        self._num_logits = sum(a.num_logits for a in attributes)

    def logits(self, crops: Crops) -> FloatArray:
        """Crops (N, H, W, 3) -> (N, L); N = 0 is fine."""
        starts = range(0, len(crops), self._batch_size)
        parts = [self._forward(crops[i : i + self._batch_size]) for i in starts]
        return np.concatenate([np.zeros((0, self._num_logits), np.float32), *parts])

    def predict_proba(self, crops: Crops) -> dict[str, FloatArray]:
        """Crops (N, H, W, 3) -> per attribute (N,) of true, or (N, K) over its classes."""
        return calibrate.probabilities(self.logits(crops), self._attributes, self._calibration)
