import numpy as np
import pytest
import torch

from fattr.detect import codec
from fattr.detect.anchors import anchors


def stack(parts, axis):
    return np.stack(parts, axis)


def encoded(xyxy, landmarks, priors):
    """What a network is trained to answer, as SSD and RetinaFace define it, a face at a time."""
    loc, landms = [], []
    for (x1, y1, x2, y2), points, (cx, cy, w, h) in zip(xyxy, landmarks, priors, strict=True):
        loc.append(
            [
                ((x1 + x2) / 2 - cx) / (0.1 * w),
                ((y1 + y2) / 2 - cy) / (0.1 * h),
                np.log((x2 - x1) / w) / 0.2,
                np.log((y2 - y1) / h) / 0.2,
            ]
        )
        landms.append([v for x, y in points for v in ((x - cx) / (0.1 * w), (y - cy) / (0.1 * h))])
    shapes = (len(priors), 4), (len(priors), 10)
    return [np.float32(part).reshape(s) for part, s in zip((loc, landms), shapes, strict=True)]


@pytest.fixture(params=[0, 1, 40])
def faces(request):
    """Boxes, landmarks and one anchor for each."""
    rng = np.random.default_rng(request.param)
    priors = rng.permutation(anchors((96, 64)))[: request.param]
    top_left = rng.random((len(priors), 2)) * 60
    xyxy = np.hstack([top_left, top_left + 1 + rng.random((len(priors), 2)) * 80])
    return xyxy, rng.random((len(priors), 5, 2)) * 90, priors


def test_decoding_undoes_encoding(faces):
    xyxy, landmarks, priors = faces
    loc, landms = encoded(xyxy, landmarks, priors)
    boxes = codec.decode_boxes(loc, priors, exp=np.exp, stack=stack)
    np.testing.assert_allclose(boxes, xyxy, atol=1e-3)
    np.testing.assert_allclose(codec.decode_landmarks(landms, priors), landmarks, atol=1e-3)


def test_numpy_and_torch_decode_alike(faces):
    loc, landms = encoded(*faces)
    priors = faces[2]
    tensors = [torch.from_numpy(part.copy()) for part in (loc, landms, priors)]
    boxes = codec.decode_boxes(loc, priors, exp=np.exp, stack=stack)
    same = codec.decode_boxes(tensors[0], tensors[2], exp=torch.exp, stack=torch.stack)
    np.testing.assert_allclose(boxes, same, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(
        codec.decode_landmarks(landms, priors),
        codec.decode_landmarks(tensors[1], tensors[2]),
        rtol=1e-6,
        atol=1e-4,
    )
