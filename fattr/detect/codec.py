"""Network outputs relative to anchors -> boxes and landmarks in pixels; numpy and torch alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

VARIANCES = (0.1, 0.2)  # of centres and landmarks, of sizes: as in SSD and RetinaFace

Array = Any  # numpy.ndarray or torch.Tensor, the same kind throughout one call


def decode_boxes(
    loc: Array, anchors: Array, *, exp: Callable[[Array], Array], stack: Callable[..., Array]
) -> Array:
    """Boxes (N, 4) xyxy in pixels of the network's input, from offsets and anchors (N, 4).

    ``exp`` and ``stack`` (along the last axis) are those of the array's library.
    """
    x = anchors[:, 0] + loc[:, 0] * VARIANCES[0] * anchors[:, 2]
    y = anchors[:, 1] + loc[:, 1] * VARIANCES[0] * anchors[:, 3]
    half_w = anchors[:, 2] * exp(loc[:, 2] * VARIANCES[1]) / 2
    half_h = anchors[:, 3] * exp(loc[:, 3] * VARIANCES[1]) / 2
    return stack([x - half_w, y - half_h, x + half_w, y + half_h], -1)


def decode_landmarks(landms: Array, anchors: Array) -> Array:
    """Landmarks (N, 5, 2) x, y in pixels of the network's input, from offsets (N, 10)."""
    offsets = landms.reshape(-1, 5, 2) * VARIANCES[0]
    return anchors[:, None, :2] + offsets * anchors[:, None, 2:]
