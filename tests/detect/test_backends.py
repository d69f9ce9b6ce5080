import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ncnn
import numpy as np
import onnxruntime
import pytest
import torch
from skimage.transform import resize
from torchvision.ops import box_iou

from fattr.detect import source
from fattr.detect.detector import (
    MAX_CANDIDATES,
    FaceDetector,
    Letterbox,
    Normalisation,
    letterbox,
)
from fattr.detect.ncnn_backend import NcnnBackend, canvas
from fattr.detect.torch_backend import TorchBackend


def assert_same_faces(one, other, *, atol):
    assert len(one) == len(other)
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)
    np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=atol)
    np.testing.assert_allclose(one.landmarks, other.landmarks, atol=atol)


@pytest.mark.parametrize("photo", ["astronaut", "hopper"])
def test_both_backends_find_the_same_face(photo, request, ncnn_backend, torch_backend):
    image = request.getfixturevalue(photo)
    box = letterbox(image.shape[:2], 320)
    [by_ncnn], [by_torch] = ncnn_backend([image], [box]), torch_backend([image], [box])
    assert len(by_ncnn) == 1
    assert_same_faces(by_ncnn, by_torch, atol=1e-3 * 320)


def test_both_backends_agree_where_thousands_of_boxes_pass(shipped, network, astronaut):
    """At threshold 0 every anchor is a candidate: the cut to the best and suppression decide."""
    settings = {"score_threshold": 0.0, "nms_iou_threshold": 0.4}
    by_ncnn = NcnnBackend(shipped.data, shipped.normalisation, num_threads=1, **settings)
    by_torch = TorchBackend(network, shipped.normalisation, device="cpu", **settings)
    batch = [astronaut], [letterbox(astronaut.shape[:2], 512)]
    assert MAX_CANDIDATES < 2 * (64 * 64 + 32 * 32 + 16 * 16)
    [one], [other] = by_ncnn(*batch), by_torch(*batch)
    assert len(one) > 100
    assert abs(len(one) - len(other)) <= 2  # candidates of nearly equal score may swap
    np.testing.assert_allclose(one.scores[:20], other.scores[:20], atol=1e-3)


def test_ncnn_says_what_the_published_network_says(shipped, astronaut):
    """Every anchor, not faces alone; the canvas is the image, so that nothing is resized."""
    session = onnxruntime.InferenceSession(shipped.data)
    settings = {"score_threshold": 0.0, "nms_iou_threshold": 1.0, "num_threads": 1}
    backend = NcnnBackend(shipped.data, shipped.normalisation, **settings)
    image = astronaut[:320, :448]
    found = []
    backend._faces = lambda *values: found.extend(values)
    backend([image], [Letterbox(image.shape[:2], image.shape[:2])])
    planes = (
        image[None, ..., ::-1].transpose(0, 3, 1, 2) - np.float32((104, 117, 123))[:, None, None]
    )
    loc, conf, landms = session.run(["loc", "conf", "landmarks"], {"input": planes})
    scores, loc_found, landms_found, grid = found
    assert len(grid) == len(scores) == loc.shape[1]
    np.testing.assert_allclose(scores, conf[0, :, 1], atol=1e-5)
    np.testing.assert_allclose(loc_found, loc[0], atol=1e-3)
    np.testing.assert_allclose(landms_found, landms[0], atol=1e-3)


def test_ncnn_starts_no_threads_but_those_asked_for():
    """In a child: other tests have started threads. Its end also frees all memory in order."""
    code = """
import sys, threading
from pathlib import Path
import numpy as np
from fattr.detect import source
from fattr.detect.detector import letterbox
from fattr.detect.ncnn_backend import NcnnBackend
shipped = source.shipped()
backend = NcnnBackend(
    shipped.data, shipped.normalisation, score_threshold=0.5, nms_iou_threshold=0.4, num_threads=1
)
def count():
    return len(list(Path("/proc/self/task").iterdir()))
before = count()
image = np.zeros((60, 90, 3), np.uint8)
backend([image], [letterbox((60, 90), 128)])
sys.exit(count() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_threads_that_share_it_find_what_one_finds(ncnn_backend, astronaut, hopper):
    """Their feature maps come from one pool."""
    photos = (astronaut, hopper)
    looks = [([p], [letterbox(p.shape[:2], side)]) for p in photos for side in (320, 512)]
    alone = [ncnn_backend(*look)[0].landmarks for look in looks]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda look: ncnn_backend(*look)[0].landmarks, looks * 10))
    for number, landmarks in enumerate(found):
        np.testing.assert_array_equal(landmarks, alone[number % len(looks)])


def test_a_batch_without_a_face_gives_an_empty_answer_for_each_image(backend):
    images = [np.zeros((64, 96, 3), np.uint8), np.zeros((30, 45, 3), np.uint8)]
    found = backend(images, [letterbox(image.shape[:2], 96) for image in images])
    assert [faces.landmarks.shape for faces in found] == [(0, 5, 2)] * 2


def canvas_by_ncnn(image, box, normalisation):
    return np.asarray(canvas(image, box, normalisation, ncnn.Option()))


def canvas_by_torch(image, box, normalisation):
    backend = TorchBackend(
        torch.nn.Identity(), normalisation, score_threshold=0, nms_iou_threshold=0, device="cpu"
    )
    return backend._canvas(image, box)[0].numpy()


@pytest.mark.parametrize("canvas_of", [canvas_by_ncnn, canvas_by_torch])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
@pytest.mark.parametrize("std", [(1, 1, 1), (10, 20, 40)])
@pytest.mark.parametrize("inner_hw", [(40, 60), (33, 50), (90, 135)])
def test_the_canvas_is_scikit_images_resize(canvas_of, order, std, inner_hw):
    normalisation = Normalisation(order, (101, 102, 103), std)
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    made = canvas_of(image, Letterbox(inner_hw, (96, 160)), normalisation)
    resized = resize(image.astype(float), inner_hw, order=1, mode="edge", anti_aliasing=False)
    wanted = (resized[..., :: 1 if order == "rgb" else -1] - (101, 102, 103)) / std
    assert made.shape == (3, 96, 160)
    np.testing.assert_allclose(
        made[:, : inner_hw[0], : inner_hw[1]],
        wanted.transpose(2, 0, 1),
        atol=1 / min(std),  # ncnn rounds to whole numbers
    )
    assert not made[:, inner_hw[0] :].any()
    assert not made[:, :, inner_hw[1] :].any()


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_both_backends_normalise_alike(order, shipped, network, hopper):
    """Deviations other than 1 and either order: what other checkpoints ask for."""
    normalisation = Normalisation(order, (104, 117, 123), (1.1, 0.9, 1.2))
    settings = {"score_threshold": 0.2, "nms_iou_threshold": 0.4}
    by_ncnn = NcnnBackend(shipped.data, normalisation, num_threads=1, **settings)
    by_torch = TorchBackend(network, normalisation, device="cpu", **settings)
    batch = [hopper], [letterbox(hopper.shape[:2], 256)]
    assert len(by_ncnn(*batch)[0])
    assert_same_faces(by_ncnn(*batch)[0], by_torch(*batch)[0], atol=0.1)


def test_faces_of_a_batch_go_to_their_images(torch_backend, astronaut):
    """Also where an image between them has none; all share a canvas."""
    images = [astronaut, np.zeros_like(astronaut), np.ascontiguousarray(astronaut[:, ::-1])]
    boxes = [letterbox(image.shape[:2], 320) for image in images]
    together = torch_backend(images, boxes)
    alone = [torch_backend([i], [box])[0] for i, box in zip(images, boxes, strict=True)]
    assert [len(faces) for faces in together] == [1, 0, 1]
    for one, other in zip(together, alone, strict=True):
        assert_same_faces(one, other, atol=1e-3)


HALVES = [
    ("cpu", "bf16"),
    pytest.param("cuda", "bf16", marks=pytest.mark.gpu),
    pytest.param("cuda", "fp16", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize(("device", "precision"), HALVES)
@pytest.mark.parametrize("photo", ["astronaut", "hopper"])
def test_half_precision_finds_the_same_faces(
    photo, device, precision, request, shipped, ncnn_backend
):
    """As ncnn does in full; the shipped network's weights reach 63, so this is not a given."""
    image = request.getfixturevalue(photo)
    half = TorchBackend(
        source.load_network(shipped),
        shipped.normalisation,
        score_threshold=0.5,
        nms_iou_threshold=0.4,
        device=device,
        precision=precision,
    )
    [full], [found] = (
        FaceDetector(backend, long_side=320, batch_size=1).detect([image])
        for backend in (ncnn_backend, half)
    )
    ious = box_iou(torch.from_numpy(found.boxes_xyxy), torch.from_numpy(full.boxes_xyxy))
    assert ious.shape == (1, 1)
    assert ious.item() >= 0.9
    np.testing.assert_allclose(found.scores, full.scores, atol=0.02)
    np.testing.assert_allclose(found.landmarks, full.landmarks, atol=3)


def test_half_precision_is_what_the_network_computes_in(shipped, astronaut):
    seen = []
    network = source.load_network(shipped)
    network.body.stage1[0][0].register_forward_hook(lambda *args: seen.append(args[2].dtype))
    settings = {"score_threshold": 0.5, "nms_iou_threshold": 0.4, "device": "cpu"}
    for precision in ("fp32", "bf16"):
        backend = TorchBackend(network, shipped.normalisation, precision=precision, **settings)
        [faces] = backend([astronaut], [letterbox(astronaut.shape[:2], 96)])
        assert faces.boxes_xyxy.dtype == np.float32
    assert seen == [torch.float32, torch.bfloat16]
