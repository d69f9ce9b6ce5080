"""In half the precision a shipped model must say of photographs what it says in full."""

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
from PIL import Image

from fattr.bundle import find
from fattr.classify.calibration import probabilities
from fattr.classify.classifier import load_network, onnx_forward, torch_forward
from fattr.crop import crop_face
from fattr.detect import source
from fattr.detect.detector import FaceDetector
from fattr.detect.ncnn_backend import NcnnBackend


@pytest.fixture(scope="module")
def faces():
    """Photographs, each with the landmarks of its one face."""
    shipped = source.shipped()
    settings = {"score_threshold": 0.5, "nms_iou_threshold": 0.4, "num_threads": 1}
    backend = NcnnBackend(shipped.data, shipped.normalisation, **settings)
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photos = [skimage.data.astronaut(), np.asarray(Image.open(file).convert("RGB"))]
    photos += [np.ascontiguousarray(photo[:, ::-1]) for photo in photos]
    found = FaceDetector(backend, long_side=640, batch_size=1).detect(photos)
    return [(photo, one.landmarks[0]) for photo, one in zip(photos, found, strict=True)]


@pytest.mark.parametrize("name", ["demographics", "celeba40"])
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
        pytest.param("cuda", "fp16", marks=pytest.mark.gpu),
    ],
)
def test_half_precision_changes_few_probabilities_by_little(name, device, precision, faces):
    """Against onnxruntime in full; 0.03 is the room that a change of kernels may take."""
    bundle = find(name)
    spec = bundle.spec
    crops = np.stack([crop_face(photo, points, spec.crop_rule) for photo, points in faces])
    network = load_network(spec.backbone, spec.attributes, bundle.weights)
    forwards = (
        onnx_forward(bundle.onnx, num_threads=1),
        torch_forward(network, device=device, precision=precision),
    )
    full, half = (
        probabilities(forward(crops), spec.attributes, spec.calibration) for forward in forwards
    )
    changes = np.concatenate([np.abs(half[a.name] - full[a.name]).ravel() for a in spec.attributes])
    assert changes.any()  # it is half precision indeed
    assert np.mean(changes < 0.03) >= 0.95
    assert changes.max() < 0.1
