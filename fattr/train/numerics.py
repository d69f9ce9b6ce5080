"""How numbers are computed: precision, repeatability, batch statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def dtype_of(precision: str, device: torch.device) -> torch.dtype:
    """What the forward pass computes in; "auto" is fp32 on CPU, else bf16, or fp16 without it."""
    if precision == "auto":
        if device.type == "cpu":
            return torch.float32
        precision = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


@contextmanager
def repeatable(wanted: bool) -> Iterator[None]:
    """Only algorithms that give the same bits each time, if wanted; as it was afterwards.

    On a GPU ``CUBLAS_WORKSPACE_CONFIG`` must be ``:4096:8`` before the process first uses it.
    """
    if not wanted:
        yield
        return
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
        cudnn.deterministic, cudnn.benchmark = flags


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers whose training depends on the whole batch."""
    return [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
