"""Which of the faces with known places were found."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fattr import boxes
from fattr.records import FloatArray

SAME_FACE_IOU = 0.4
MIN_FACE_PX = 20.0


def recall(known: Mapping[str, FloatArray], found: Mapping[str, FloatArray]) -> tuple[int, int]:
    """Faces found and faces known, of at least 20 pixels, in the files that were looked at."""
    pairs = [(known[name], found[name]) for name in known.keys() & found.keys()]
    large = [(truth[boxes.short_sides(truth) >= MIN_FACE_PX], seen) for truth, seen in pairs]
    return sum(matched(*pair) for pair in large), sum(len(truth) for truth, _ in large)


def matched(truth: FloatArray, seen: FloatArray) -> int:
    """How many of ``truth`` (N, 4) have a box of ``seen`` (M, 4) to themselves."""
    if not len(truth) or not len(seen):
        return 0
    shares = np.stack([boxes.iou(box, seen) for box in truth])
    count = 0
    while (best := np.unravel_index(shares.argmax(), shares.shape)) and (
        shares[best] >= SAME_FACE_IOU
    ):
        shares[best[0]], shares[:, best[1]] = -1, -1
        count += 1
    return count
