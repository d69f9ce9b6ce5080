"""On a GPU the networks must say what they say on the CPU; selected without one, these fail."""

import numpy as np
import pytest
import skimage.data
import torch

from fattr.attributes import AGE, CELEBA40
from fattr.classify import classifier
from fattr.classify.classifier import torch_forward
from fattr.classify.network import AttributeNet
from fattr.detect import source as detectors
from fattr.detect import torch_backend
from fattr.detect.detector import FaceDetector, letterbox
from fattr.detect.ncnn_backend import NcnnBackend
from fattr.detect.torch_backend import TorchBackend

pytestmark = pytest.mark.gpu
THRESHOLDS = {"score_threshold": 0.5, "nms_iou_threshold": 0.4}


def test_a_gpu_is_there() -> None:
    assert torch.cuda.is_available(), "selected with -m gpu, but there is no CUDA device"


def test_detections_on_the_gpu_equal_those_of_ncnn() -> None:
    source = detectors.shipped()
    on_gpu = TorchBackend(
        detectors.load_network(source), source.normalisation, **THRESHOLDS, device="cuda"
    )
    on_cpu = NcnnBackend(source.data, source.normalisation, **THRESHOLDS, num_threads=1)
    image = skimage.data.astronaut()
    images = [image, image[:400], np.ascontiguousarray(image[:, ::-1])]
    found = FaceDetector(on_gpu, long_side=640, batch_size=8).detect(images)
    expected = FaceDetector(on_cpu, long_side=640, batch_size=1).detect(images)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=0.5)
        np.testing.assert_allclose(one.scores, other.scores, atol=5e-3)


def test_logits_on_the_gpu_equal_those_on_the_cpu() -> None:
    torch.manual_seed(0)
    network = AttributeNet("mobilenet_v2", (*CELEBA40, AGE)).eval()
    crops = np.random.default_rng(0).integers(0, 256, (5, 128, 104, 3), np.uint8)
    on_cpu = torch_forward(network, device="cpu")(crops)
    on_gpu = torch_forward(network, device="cuda")(crops)
    np.testing.assert_allclose(on_gpu, on_cpu, atol=2e-2)


@pytest.mark.parametrize("room", [torch_backend, classifier])
def test_pixels_arrive_though_their_array_is_read_only_or_changes(room) -> None:
    """Of many copies under way, none may be overwritten by the next one."""
    arrays = np.random.default_rng(0).integers(0, 256, (20, 480, 640, 3)).astype(np.uint8)
    wanted = arrays.copy()
    there = []
    for array in arrays:
        view = array[:, ::-1]
        view.setflags(write=False)
        there.append(room.to_device(view, "cuda"))
        array[...] = 0
    for tensor, array in zip(there, wanted, strict=True):
        np.testing.assert_array_equal(tensor.cpu().numpy(), array[:, ::-1])


def test_the_host_waits_for_faces_alone() -> None:
    """Neither sending pixels nor the network makes it wait; torch raises where something does."""
    source = detectors.shipped()
    backend = TorchBackend(
        detectors.load_network(source), source.normalisation, **THRESHOLDS, device="cuda"
    )
    image = skimage.data.astronaut()
    box = letterbox(image.shape[:2], 640)
    assert len(backend([image], [box])[0]) == 1  # and warms up
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            backend._forward(torch.cat([backend._canvas(image, box)]))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_logits_do_not_depend_on_the_faces_beside() -> None:
    network = AttributeNet("mobilenet_v2", (*CELEBA40, AGE)).eval()
    crops = np.random.default_rng(0).integers(0, 256, (20, 128, 104, 3), np.uint8)
    forward = torch_forward(network, device="cuda")
    np.testing.assert_array_equal(forward(crops[:1]), forward(crops)[:1])
