"""Optimiser and schedule: AdamW without decay on biases and norms, linear warm-up, cosine."""

from __future__ import annotations

import math

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW; vectors (biases, norms) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def build_schedule(
    optimizer: torch.optim.Optimizer, *, num_steps: int, warmup_frac: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Factor of the learning rate: up to 1 over the warm-up, then half a cosine down to 0."""
    warmup = max(1, round(num_steps * warmup_frac))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = (step - warmup) / max(1, num_steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * progress))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
