"""Which losses a network learns by, as plain values. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.errors import UsageError

BinaryLoss = Literal["bce", "focal", "asymmetric"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSettings:
    """The loss of each kind of attribute; the defaults are the log loss of all."""

    binary: BinaryLoss = "bce"
    focal_gamma: float = 2.0
    focal_alpha: float | None = None  # weight of true samples, 1 - alpha of false; None: 1 of both
    asymmetric_gamma_pos: float = 0.0
    asymmetric_gamma_neg: float = 4.0
    asymmetric_clip: float = 0.05  # probability below which a false sample costs nothing
    max_positive_weight: float = 1.0  # cap of the weight of rare true samples; 1: no weighting
    label_smoothing: float = 0.0  # of categorical attributes
    age_sigma: float = 0.0  # years; 0: the labelled bin alone is right

    def __post_init__(self) -> None:
        if self.binary not in ("bce", "focal", "asymmetric"):
            raise UsageError(f"binary loss: bce, focal or asymmetric expected: {self.binary}")
        for name in ("focal_gamma", "asymmetric_gamma_pos", "asymmetric_gamma_neg", "age_sigma"):
            if not getattr(self, name) >= 0:
                raise UsageError(f"{name} must be 0 or more: {getattr(self, name)}")
        for name in ("asymmetric_clip", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} must be in [0, 1): {getattr(self, name)}")
        if self.focal_alpha is not None and not 0 <= self.focal_alpha <= 1:
            raise UsageError(f"focal_alpha must be in [0, 1]: {self.focal_alpha}")
        if not self.max_positive_weight >= 1:
            raise UsageError(f"max_positive_weight must be 1 or more: {self.max_positive_weight}")
