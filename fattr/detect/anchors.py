"""The anchor grid of RetinaFace, in pixels of the network's input."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fattr.records import FloatArray

# https://github.com/biubug6/Pytorch_Retinaface, data/config.py: one row a pyramid level
STRIDES = (8, 16, 32)
SIDES = ((16, 32), (64, 128), (256, 512))
ANCHORS_PER_CELL = 2


def _level(size_hw: tuple[int, int], stride: int, sides: tuple[int, ...]) -> FloatArray:
    rows, columns = (-(-side // stride) for side in size_hw)
    y, x, side = np.meshgrid(
        (np.arange(rows) + 0.5) * stride,
        (np.arange(columns) + 0.5) * stride,
        np.array(sides),
        indexing="ij",
    )
    return np.stack([x, y, side, side], axis=-1).reshape(-1, 4).astype(np.float32)


@lru_cache(maxsize=64)
def anchors(size_hw: tuple[int, int]) -> FloatArray:
    """Anchors (A, 4) as centre x, centre y, width, height, in the order of the network's outputs.

    A = 2 * sum over strides s of ceil(H / s) * ceil(W / s). Read-only: it is cached.
    """
    levels = [_level(size_hw, stride, sides) for stride, sides in zip(STRIDES, SIDES, strict=True)]
    grid = np.concatenate(levels)
    grid.setflags(write=False)
    return grid
