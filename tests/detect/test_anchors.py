import numpy as np
import pytest

from fattr.detect.anchors import anchors


def looped(height, width):
    """As in Pytorch_Retinaface's PriorBox: cell after cell, the smaller anchor first."""
    found = []
    for stride, sides in ((8, (16, 32)), (16, (64, 128)), (32, (256, 512))):
        for row in range(-(-height // stride)):
            for column in range(-(-width // stride)):
                for side in sides:
                    found.append(((column + 0.5) * stride, (row + 0.5) * stride, side, side))
    return np.array(found, np.float32)


@pytest.mark.parametrize("size_hw", [(1, 1), (32, 32), (64, 96), (160, 225), (33, 7), (640, 480)])
def test_anchors_equal_a_loop(size_hw):
    grid = anchors(size_hw)
    np.testing.assert_array_equal(grid, looped(*size_hw))
    assert grid.dtype == np.float32


def test_the_cached_grid_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        anchors((32, 32))[0] = 0
