import numpy as np
import pytest

from fattr.detect.backends import MAX_CANDIDATES, OnnxBackend, TorchBackend, normalise
from fattr.detect.detector import Normalisation, letterbox


def assert_same_faces(one, other, *, atol):
    assert len(one) == len(other)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=atol)
    np.testing.assert_allclose(one.landmarks, other.landmarks, atol=atol)


@pytest.mark.parametrize("photo", ["astronaut", "hopper"])
def test_both_backends_find_the_same_face(photo, request, onnx_backend, torch_backend):
    padding = onnx_backend.normalisation.padding_rgb
    image = letterbox(request.getfixturevalue(photo), long_side=320, padding_rgb=padding)
    [by_onnx], [by_torch] = onnx_backend(image[None]), torch_backend(image[None])
    assert len(by_onnx) == 1
    assert_same_faces(by_onnx, by_torch, atol=1e-3 * 320)


def test_both_backends_agree_where_thousands_of_boxes_pass(shipped, network, astronaut):
    """At threshold 0 every anchor is a candidate: the cut to the best and suppression decide."""
    settings = {"score_threshold": 0.0, "nms_iou_threshold": 0.4}
    by_onnx = OnnxBackend(shipped.data, shipped.normalisation, num_threads=1, **settings)
    by_torch = TorchBackend(network, shipped.normalisation, device="cpu", **settings)
    batch = letterbox(astronaut, long_side=512, padding_rgb=(0, 0, 0))[None]
    assert MAX_CANDIDATES < 2 * (64 * 64 + 32 * 32 + 16 * 16)
    [one], [other] = by_onnx(batch), by_torch(batch)
    assert len(one) > 100
    assert abs(len(one) - len(other)) <= 2  # candidates of nearly equal score may swap
    np.testing.assert_allclose(one.scores[:20], other.scores[:20], atol=1e-3)


def test_a_batch_without_a_face_gives_an_empty_answer_for_each_image(backend):
    batch = np.zeros((2, 64, 96, 3), np.uint8)
    assert [found.landmarks.shape for found in backend(batch)] == [(0, 5, 2)] * 2


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalisation_by_hand(order):
    normalisation = Normalisation(order, (1, 2, 3), (10, 20, 40))
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3)).astype(np.uint8)
    planes = normalise(batch, normalisation)
    assert planes.shape == (2, 3, 3, 4)
    for channel in range(3):
        source = batch[..., channel if order == "rgb" else 2 - channel].astype(np.float64)
        wanted = (source - (1, 2, 3)[channel]) / (10, 20, 40)[channel]
        np.testing.assert_allclose(planes[:, channel], wanted, rtol=1e-6)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_both_backends_normalise_alike(order, shipped, network, hopper):
    """Deviations other than 1 and either order: what other checkpoints ask for."""
    normalisation = Normalisation(order, (104, 117, 123), (1.1, 0.9, 1.2))
    settings = {"score_threshold": 0.2, "nms_iou_threshold": 0.4}
    by_onnx = OnnxBackend(shipped.data, normalisation, num_threads=1, **settings)
    by_torch = TorchBackend(network, normalisation, device="cpu", **settings)
    batch = letterbox(hopper, long_side=256, padding_rgb=(0, 0, 0))[None]
    assert len(by_onnx(batch)[0])
    assert_same_faces(by_onnx(batch)[0], by_torch(batch)[0], atol=0.1)
