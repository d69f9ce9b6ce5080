"""Geometry of boxes in pixels, numpy only. ``xyxy`` is x1, y1, x2, y2 with no +1 on widths."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fattr.records import FloatArray


def areas(boxes_xyxy: FloatArray) -> FloatArray:
    """Area of each box, (N,), square pixels."""
    return (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])


def iou(box_xyxy: FloatArray, boxes_xyxy: FloatArray) -> FloatArray:
    """Intersection over union of one box (4,) with each of ``boxes_xyxy`` (N, 4).

    Two boxes without area share nothing: 0.
    """
    top_left = np.maximum(box_xyxy[:2], boxes_xyxy[:, :2])
    bottom_right = np.minimum(box_xyxy[2:], boxes_xyxy[:, 2:])
    overlap = np.prod(np.maximum(bottom_right - top_left, 0), axis=1)
    union = areas(box_xyxy[None])[0] + areas(boxes_xyxy) - overlap
    shares: FloatArray = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
    return shares


def nms(boxes_xyxy: FloatArray, scores: FloatArray, *, iou_threshold: float) -> NDArray[np.intp]:
    """Indices of the boxes to keep, best score first.

    A box goes when its IoU with a better kept one is over ``iou_threshold``; ties keep input order.
    """
    order = np.argsort(-scores, kind="stable")
    keep = []
    while order.size:
        best, rest = order[0], order[1:]
        keep.append(best)
        order = rest[iou(boxes_xyxy[best], boxes_xyxy[rest]) <= iou_threshold]
    return np.asarray(keep, np.intp)


def batched_nms(
    boxes_xyxy: FloatArray, scores: FloatArray, groups: NDArray[np.intp], *, iou_threshold: float
) -> NDArray[np.intp]:
    """As ``nms``, boxes of different ``groups`` (N,) never suppressing each other."""
    kept = [
        members[nms(boxes_xyxy[members], scores[members], iou_threshold=iou_threshold)]
        for members in (np.flatnonzero(groups == group) for group in np.unique(groups))
    ]
    indices = np.concatenate([np.zeros(0, np.intp), *kept])
    return indices[np.argsort(-scores[indices], kind="stable")]


def clip(boxes_xyxy: FloatArray, *, size_hw: tuple[int, int]) -> FloatArray:
    """The part of each box inside an image of ``size_hw``; may be empty (zero width or height)."""
    height, width = size_hw
    bounds = np.array([width, height, width, height], np.float32)
    return np.clip(boxes_xyxy, np.float32(0), bounds)


def short_sides(boxes_xyxy: FloatArray) -> FloatArray:
    """Shorter side of each box, (N,), pixels."""
    sides: FloatArray = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).min(axis=1, initial=np.inf)
    return sides
