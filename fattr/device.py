"""Pixels from the host to where torch computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fattr.records import UInt8Array

if TYPE_CHECKING:  # a CPU worker loads no torch
    import torch


def to_device(pixels: UInt8Array, device: str) -> torch.Tensor:
    """A copy on the device; ``pixels`` may be read-only, and may change afterwards.

    For a GPU the copy goes through pinned memory, which torch keeps and uses again, so that the
    host need not wait until the GPU is done with what it was asked before.
    """
    import torch

    if not device.startswith("cuda"):
        return torch.tensor(pixels, device=device)
    pinned = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
    pinned.numpy()[...] = pixels
    return pinned.to(device, non_blocking=True)
