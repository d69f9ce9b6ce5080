"""Masked multi-task loss: an unknown label costs nothing and teaches nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fattr.attributes import Attribute, Kind
from fattr.classify.calibration import logit_slices

UNKNOWN = -1


def _each(logits: Tensor, targets: Tensor, attribute: Attribute) -> Tensor:
    """Loss of each sample (N,); targets of unknown samples are any valid value."""
    if attribute.kind is Kind.BINARY:
        return F.binary_cross_entropy_with_logits(
            logits[:, 0], targets.to(logits.dtype), reduction="none"
        )
    return F.cross_entropy(logits, targets, reduction="none")


def multi_task_loss(logits: Tensor, targets: Tensor, attributes: Sequence[Attribute]) -> Tensor:
    """Mean over samples and attributes of the log loss, unknown (-1) targets counting as zero.

    ``logits`` (N, L), ``targets`` (N, A). The divisor is N * A whatever is known, so that the mean
    over workers with equal N is the loss of their joint batch.
    """
    total = torch.zeros((), device=logits.device)
    for index, columns in enumerate(logit_slices(attributes).values()):
        known = targets[:, index] != UNKNOWN
        each = _each(logits[:, columns], targets[:, index].clamp(min=0), attributes[index])
        total = total + (each * known).sum()
    return total / (len(targets) * len(attributes))
