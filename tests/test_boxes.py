import numpy as np
import pytest
import torch
from torchvision import ops

from fattr import boxes


def random_boxes(n, seed, *, span=60, integers=True):
    """Boxes that overlap a lot; whole pixels make equal overlaps and degenerate boxes likely."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((n, 2, 2)) * span, axis=1).reshape(n, 4)
    return (corners.round() if integers else corners).astype(np.float32)


def tied_scores(n, seed):
    return (np.random.default_rng(seed).integers(0, 5, n) / 5).astype(np.float32)


@pytest.mark.parametrize("n", [0, 1, 2, 50, 400])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_nms_equals_torchvisions(n, threshold):
    xyxy, scores = random_boxes(n, n), tied_scores(n, n)
    wanted = ops.nms(torch.from_numpy(xyxy), torch.from_numpy(scores), threshold)
    kept = boxes.nms(xyxy, scores, iou_threshold=threshold)
    assert kept.tolist() == wanted.tolist()


def test_nms_of_boxes_without_area_equals_torchvisions():
    point, line = [5, 5, 5, 5], [5, 5, 9, 5]
    xyxy = np.array([point, point, line, line, [0, 0, 9, 9]], np.float32)
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.7], np.float32)
    wanted = ops.nms(torch.from_numpy(xyxy), torch.from_numpy(scores), 0.4)
    assert boxes.nms(xyxy, scores, iou_threshold=0.4).tolist() == wanted.tolist()


@pytest.mark.parametrize("n", [0, 1, 200])
def test_batched_nms_equals_torchvisions(n):
    xyxy = random_boxes(n, 7)
    scores = np.random.default_rng(8).permutation(n).astype(np.float32)  # ties: see below
    groups = np.random.default_rng(9).integers(0, 4, n)
    wanted = ops.batched_nms(*(torch.from_numpy(part) for part in (xyxy, scores, groups)), 0.4)
    kept = boxes.batched_nms(xyxy, scores, groups, iou_threshold=0.4)
    assert kept.tolist() == wanted.tolist()


def test_batched_nms_of_tied_scores_keeps_what_nms_of_each_group_keeps():
    xyxy, scores, groups = random_boxes(200, 1), tied_scores(200, 2), np.arange(200) % 3
    kept = boxes.batched_nms(xyxy, scores, groups, iou_threshold=0.4)
    wanted = []
    for group in range(3):
        members = np.flatnonzero(groups == group)
        chosen = ops.nms(torch.from_numpy(xyxy[members]), torch.from_numpy(scores[members]), 0.4)
        wanted += members[chosen.numpy()].tolist()
    assert sorted(kept) == sorted(wanted)
    assert (np.diff(scores[kept]) <= 0).all()


@pytest.mark.parametrize("n", [0, 1, 300])
def test_iou_equals_torchvisions(n):
    xyxy = random_boxes(n, 3, integers=False)
    one = np.array([10, 10, 40, 35], np.float32)
    wanted = ops.box_iou(torch.from_numpy(one[None]), torch.from_numpy(xyxy))[0]
    np.testing.assert_allclose(boxes.iou(one, xyxy), wanted, atol=1e-6)


def test_iou_of_boxes_without_area_is_zero():
    point = np.array([5, 5, 5, 5], np.float32)
    assert boxes.iou(point, point[None]).tolist() == [0.0]


@pytest.mark.parametrize("n", [0, 40])
def test_areas_and_clip_equal_torchvisions(n):
    xyxy = random_boxes(n, 4, integers=False) - 20
    tensor = torch.from_numpy(xyxy)
    np.testing.assert_allclose(boxes.areas(xyxy), ops.box_area(tensor), rtol=1e-6)
    wanted = ops.clip_boxes_to_image(tensor, (25, 15))
    clipped = boxes.clip(xyxy, size_hw=(25, 15))
    np.testing.assert_array_equal(clipped, wanted)
    assert clipped.dtype == np.float32


@pytest.mark.parametrize(
    ("xyxy", "sides"),
    [
        pytest.param(np.zeros((0, 4), np.float32), [], id="no-box"),
        pytest.param([[0, 0, 3, 5], [1, 1, 9, 3], [2, 2, 2, 8]], [3, 2, 0], id="three"),
    ],
)
def test_short_sides(xyxy, sides):
    assert boxes.short_sides(np.asarray(xyxy, np.float32)).tolist() == sides
