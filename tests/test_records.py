import dataclasses

import numpy as np
import pytest

from fattr.records import CropRule, Detections, Status, TemplatePoint

EYES = (TemplatePoint((0,), 1.0, 2.0), TemplatePoint((1,), 3.0, 2.0))


def detections(n):
    rng = np.random.default_rng(n)
    shapes = (n, 4), (n,), (n, 5, 2)
    return Detections(*(rng.random(shape, np.float32) for shape in shapes))


def test_no_face_is_empty_arrays_of_the_usual_shapes():
    none = Detections.empty()
    assert len(none) == 0
    assert [none.boxes_xyxy.shape, none.scores.shape, none.landmarks.shape] == [
        (0, 4),
        (0,),
        (0, 5, 2),
    ]
    assert {a.dtype for a in (none.boxes_xyxy, none.scores, none.landmarks)} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        pytest.param(
            [(0,), (0,), (0, 5, 2)],
            r"boxes_xyxy must have shape \(0, 4\), got \(0,\)",
            id="flat-empty-boxes",
        ),
        pytest.param(
            [(1, 4), (2,), (2, 5, 2)],
            r"boxes_xyxy must have shape \(2, 4\), got \(1, 4\)",
            id="fewer-boxes",
        ),
        pytest.param(
            [(2, 4), (2, 1), (2, 5, 2)],
            r"scores must have shape \(2,\), got \(2, 1\)",
            id="column-of-scores",
        ),
        pytest.param(
            [(2, 4), (2,), (2, 10)],
            r"landmarks must have shape \(2, 5, 2\), got \(2, 10\)",
            id="flat-landmarks",
        ),
    ],
)
def test_detections_that_do_not_fit_together_cannot_be_built(shapes, message):
    with pytest.raises(ValueError, match=message):
        Detections(*(np.zeros(shape, np.float32) for shape in shapes))


@pytest.mark.parametrize("n", [0, 1, 3])
def test_scaling_stretches_x_and_y_apart(n):
    faces = detections(n)
    scaled = faces.scaled((2.0, 0.5))
    for i in range(n):
        x1, y1, x2, y2 = faces.boxes_xyxy[i]
        np.testing.assert_allclose(scaled.boxes_xyxy[i], [2 * x1, y1 / 2, 2 * x2, y2 / 2])
        for got, (x, y) in zip(scaled.landmarks[i], faces.landmarks[i], strict=True):
            np.testing.assert_allclose(got, [2 * x, y / 2])
    np.testing.assert_array_equal(scaled.scores, faces.scores)
    assert scaled.boxes_xyxy.dtype == scaled.landmarks.dtype == np.float32


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections(1).scores = np.zeros(1)


@pytest.mark.parametrize(
    ("size_hw", "points", "message"),
    [
        pytest.param((8, 8), (), "'mine' needs 2 or more points", id="no-point"),
        pytest.param((8, 8), EYES[:1], "'mine' needs 2 or more points", id="one-point"),
        pytest.param((0, 8), EYES, r"size_hw must be positive: \(0, 8\)", id="no-height"),
        pytest.param((8, -1), EYES, r"size_hw must be positive: \(8, -1\)", id="negative-width"),
    ],
)
def test_an_impossible_crop_rule_cannot_be_built(size_hw, points, message):
    with pytest.raises(ValueError, match=message):
        CropRule(name="mine", size_hw=size_hw, points=points)


def test_statuses_are_the_documented_ones():
    documented = "ok no_face unreadable too_large missing denied unavailable timeout poison"
    assert [status.value for status in Status] == documented.split()
