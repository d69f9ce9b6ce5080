"""Masked multi-task losses: an unknown label costs nothing and teaches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fattr.attributes import Attribute, Kind
from fattr.train.loss_settings import LossSettings

UNKNOWN = -1
LOG_LOSS = LossSettings()
AUXILIARY_WEIGHT = 0.4  # of Inception-v3's second head, as in torchvision's training reference


@dataclass(frozen=True, slots=True, kw_only=True)
class LossWeights:
    """Factors, one an attribute in their order; an empty tuple is 1 for all."""

    attribute: tuple[float, ...] = ()
    positive: tuple[float, ...] = ()  # of the true samples of binary attributes


EQUAL = LossWeights()


def positive_weights(
    targets: NDArray[np.int64], attributes: Sequence[Attribute], *, largest: float
) -> tuple[float, ...]:
    """``LossWeights.positive`` from the training targets (N, A): false samples over true ones.

    Never below 1, for a frequent attribute is not held back, nor above ``largest``; 1 where nothing
    is labelled, and for attributes that are not binary.
    """

    def weight(own: NDArray[np.int64], attribute: Attribute) -> float:
        if attribute.kind is not Kind.BINARY or not (own >= 0).any():
            return 1.0
        ratio = (own == 0).sum() / max(1, (own == 1).sum())
        return float(np.clip(ratio, 1.0, largest))

    return tuple(weight(targets[:, i], a) for i, a in enumerate(attributes))


def _focal(logits: Tensor, is_true: Tensor, settings: LossSettings) -> Tensor:
    """Lin et al., Focal Loss for Dense Object Detection (2017): -(1 - p_t)^gamma log p_t."""
    signed = torch.where(is_true, logits, -logits)
    loss = torch.exp(settings.focal_gamma * F.logsigmoid(-signed)) * -F.logsigmoid(signed)
    if settings.focal_alpha is None:
        return loss
    return torch.where(is_true, settings.focal_alpha, 1 - settings.focal_alpha) * loss


def _asymmetric(logits: Tensor, is_true: Tensor, settings: LossSettings) -> Tensor:
    """Ridnik et al., Asymmetric Loss for Multi-Label Classification (2021).

    True: -(1 - p)^gamma_pos log p. False: -q^gamma_neg log(1 - q) with q = max(p - clip, 0).
    """
    clip = settings.asymmetric_clip
    of_true = torch.exp(settings.asymmetric_gamma_pos * F.logsigmoid(-logits))
    of_true = of_true * -F.logsigmoid(logits)
    shifted = torch.sigmoid(logits) - clip
    counts = shifted > 0
    # A base of 1 where the sample costs nothing: the slope of 0^gamma may be infinite.
    base = torch.where(counts, shifted, 1.0)
    log_rest = torch.log(torch.sigmoid(-logits) + clip) if clip else F.logsigmoid(-logits)
    of_false = torch.where(counts, base**settings.asymmetric_gamma_neg * -log_rest, 0.0)
    return torch.where(is_true, of_true, of_false)


def _binary(logits: Tensor, targets: Tensor, weights: Tensor, settings: LossSettings) -> Tensor:
    """Loss (N, B) of binary attributes together; ``weights`` (B,) of their true samples."""
    is_true = targets == 1
    if settings.binary == "focal":
        loss = _focal(logits, is_true, settings)
    elif settings.binary == "asymmetric":
        loss = _asymmetric(logits, is_true, settings)
    else:
        loss = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        )
    return torch.where(is_true, weights * loss, loss)


def soft_age_targets(bin_edges: Sequence[float], sigma: float) -> Tensor:
    """Probabilities (K, K) of the bins for a face labelled with each bin.

    A normal distribution about the middle of the labelled bin, integrated between the edges and
    scaled to sum to 1: Gao et al., Deep Label Distribution Learning (2017), over bins.
    """
    edges = torch.tensor(bin_edges, dtype=torch.float64)
    middles = (edges[1:] + edges[:-1]) / 2
    below = torch.special.ndtr((edges - middles[:, None]) / sigma)
    mass: Tensor = below.diff(dim=1)
    return mass / mass.sum(dim=1, keepdim=True)


def _class(logits: Tensor, targets: Tensor, attribute: Attribute, settings: LossSettings) -> Tensor:
    """Loss (N,) of an attribute with several classes."""
    if attribute.kind is Kind.AGE and settings.age_sigma:
        soft = soft_age_targets(attribute.bin_edges, settings.age_sigma).to(logits)
        return F.cross_entropy(logits, soft[targets], reduction="none")
    smoothing = settings.label_smoothing if attribute.kind is Kind.CATEGORICAL else 0.0
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


@lru_cache(maxsize=64)
def _row(values: tuple[float | int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: each time, a GPU would be waited for. Also for gradients, whoever asks first."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def _sum(
    logits: Tensor,
    targets: Tensor,
    attributes: Sequence[Attribute],
    weights: LossWeights,
    settings: LossSettings,
) -> Tensor:
    """Sum of the losses of all samples and attributes, each times its attribute's factor.

    Binary attributes are computed together: forty times a dozen small operations would show.
    """
    known, true = targets != UNKNOWN, targets.clamp(min=0)
    factors = weights.attribute or (1.0,) * len(attributes)
    positive = weights.positive or (1.0,) * len(attributes)
    firsts = accumulate((a.num_logits for a in attributes), initial=0)
    total, together = logits.new_zeros(()), list[tuple[int, int]]()  # attribute, its logit
    for i, (attribute, first) in enumerate(zip(attributes, firsts, strict=False)):
        if attribute.kind is Kind.BINARY:
            together.append((i, first))
            continue
        own = logits[:, first : first + attribute.num_logits]
        losses = _class(own, true[:, i], attribute, settings)
        total = total + (losses * known[:, i]).sum() * factors[i]
    if together:
        chosen, columns = map(list, zip(*together, strict=True))
        like = (logits.dtype, logits.device)
        losses = _binary(
            _columns(logits, columns),
            _columns(true, chosen),
            _row(tuple(positive[i] for i in chosen), *like),
            settings,
        )
        scales = _row(tuple(factors[i] for i in chosen), *like)
        total = total + (losses * _columns(known, chosen) * scales).sum()
    return total


def _columns(rows: Tensor, chosen: list[int]) -> Tensor:
    """Those columns of (N, C); all of them in their order cost nothing."""
    if chosen == list(range(rows.shape[1])):
        return rows
    return rows.index_select(1, _row(tuple(chosen), torch.int64, rows.device))


def multi_task_loss(
    logits: Tensor,
    targets: Tensor,
    attributes: Sequence[Attribute],
    settings: LossSettings = LOG_LOSS,
    weights: LossWeights = EQUAL,
) -> Tensor:
    """Mean over samples and attributes of their losses, unknown (-1) targets counting as zero.

    ``logits`` (N, L) of any precision, ``targets`` (N, A). The divisor is N * A whatever is known
    and whatever the weights, so that the mean over workers with equal N is the loss of their joint
    batch. Without any label the loss is 0, and so are its gradients.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = _sum(logits, targets, attributes, weights, settings)
    return total / (len(targets) * len(attributes))


def mixed_loss(
    logits: Tensor,
    targets: Tensor,
    others: Tensor,
    share: float,
    attributes: Sequence[Attribute],
    settings: LossSettings = LOG_LOSS,
    weights: LossWeights = EQUAL,
) -> Tensor:
    """Loss of mixed samples: share * loss(targets) + (1 - share) * loss(others).

    Zhang et al., mixup (2018). Where both labels are known and the loss is linear in the target
    (BCE, cross-entropy, smoothed or over soft ages), this is the loss against the mixed target
    share * onehot(targets) + (1 - share) * onehot(others); with focal or asymmetric loss it is the
    expected loss of a label drawn with these shares. An unknown label loses its share alone.
    """
    own = multi_task_loss(logits, targets, attributes, settings, weights)
    other = multi_task_loss(logits, others, attributes, settings, weights)
    return share * own + (1 - share) * other


def joint_loss(losses: Sequence[Tensor]) -> Tensor:
    """Loss of a ``TrainingNet`` from those of its outputs: the auxiliary head's counts 0.4."""
    auxiliary = sum(losses[1:], torch.zeros_like(losses[0]))
    return losses[0] + AUXILIARY_WEIGHT * auxiliary
