"""How faces are found, in every job that looks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.config.checks import check_detect_size, check_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectConfig:
    """How faces are found."""

    detector: str = "retinaface_mobilenet025"
    """Shipped name, or a RetinaFace checkpoint (.pth, .safetensors)."""
    detect_size: int = 640
    """Long side in pixels at which faces are looked for; small images are enlarged to it."""
    score_threshold: float = 0.5
    """A face is kept at or above this score."""
    nms_iou_threshold: float = 0.4
    """Of two boxes that overlap more than this, the better stays."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        check_detect_size(self.detect_size)
        check_fraction("--score-threshold", self.score_threshold)
        check_fraction("--nms-iou-threshold", self.nms_iou_threshold)
