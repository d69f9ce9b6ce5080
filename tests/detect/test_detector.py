import numpy as np
import pytest
import skimage.data
from PIL import Image

from fattr.detect.detector import FaceDetector, Letterbox, Normalisation, letterbox, shrunk
from fattr.records import Detections

GREEN = np.array([0, 255, 0], np.uint8)


class GreenFinder:
    """A backend that finds the one green patch of an image, if there is one."""

    def __init__(self):
        self.batches = []

    def __call__(self, images, boxes):
        assert len({box.canvas_hw for box in boxes}) == 1
        self.batches.append(len(images))
        return [self.patch(self.canvas(*pair)) for pair in zip(images, boxes, strict=True)]

    def canvas(self, image, box):
        size_wh = box.inner_hw[::-1]
        return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BILINEAR), int)

    def patch(self, image):
        y, x = np.nonzero((image[..., 1] - image[..., 0]) > 200)
        if not len(x):
            return Detections.empty()
        box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], np.float32)
        points = np.stack([box[[0, 1]], box[[2, 1]], (box[:2] + box[2:]) / 2, box[[0, 3]], box[2:]])
        return Detections(box[None], np.ones(1, np.float32), points[None])


def with_patch(height, width, x1, y1, x2, y2):
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = GREEN
    return image


@pytest.mark.parametrize(
    ("size_hw", "inner_hw", "canvas_hw"),
    [
        pytest.param((1, 1), (640, 640), (640, 640), id="one-pixel"),
        pytest.param((2, 20000), (1, 640), (32, 640), id="strip"),
        pytest.param((20000, 2), (640, 1), (640, 32), id="standing-strip"),
        pytest.param((480, 640), (480, 640), (480, 640), id="as-is"),
        pytest.param((640, 427), (640, 427), (640, 448), id="portrait"),
        pytest.param((1000, 2000), (320, 640), (320, 640), id="landscape"),
        pytest.param((100, 101), (634, 640), (640, 640), id="enlarged"),
    ],
)
def test_letterbox_geometry(size_hw, inner_hw, canvas_hw):
    assert letterbox(size_hw, 640) == Letterbox(inner_hw, canvas_hw)


@pytest.mark.parametrize(
    ("size_hw", "factor"),
    [
        ((1279, 700), 1),
        ((1280, 700), 2),
        ((1921, 1000), 3),
        ((640, 640), 1),
        ((3, 6399), 3),
        ((30, 6399), 9),
    ],
)
def test_what_is_twice_as_large_is_shrunk_to_means_of_blocks(size_hw, factor):
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    small, made = shrunk(image, 640)
    assert made == factor
    assert small.shape[:2] == tuple(-(-side // factor) for side in size_hw)
    height, width = (side // factor for side in size_hw)
    whole = image[: height * factor, : width * factor].astype(float)
    means = whole.reshape(height, factor, width, factor, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(small[:height, :width], means, atol=0.6)


@pytest.mark.parametrize(
    ("size_hw", "box"),
    [
        pytest.param((640, 640), (100, 200, 300, 260), id="unscaled"),
        pytest.param((1280, 900), (100, 200, 300, 1000), id="halved"),
        pytest.param((2001, 1500), (0, 0, 700, 801), id="corner"),
        pytest.param((97, 64), (20, 30, 40, 50), id="enlarged"),
        pytest.param((400, 1600), (1200, 100, 1600, 400), id="far-corner"),
        pytest.param((3, 6400), (1200, 0, 2400, 3), id="strip-of-one-row"),
        pytest.param((6400, 3), (0, 1200, 3, 2400), id="strip-of-one-column"),
    ],
)
def test_boxes_come_back_in_pixels_of_the_image(size_hw, box):
    detector = FaceDetector(GreenFinder(), long_side=640, batch_size=1)
    [faces] = detector.detect([with_patch(*size_hw, *box)])
    # What a pixel of the network's input is worth; a strip keeps one row whatever the scale.
    pixel = np.array(
        [max(1.0, side / max(1, side * 640 // max(size_hw))) for side in size_hw[::-1]]
    )
    assert (abs(faces.boxes_xyxy - box) <= 1.01 * np.tile(pixel, 2)).all()
    x1, y1, x2, y2 = box
    centre = ((x1 + x2) / 2, (y1 + y2) / 2)
    corners = [(x1, y1), (x2, y1), centre, (x1, y2), (x2, y2)]
    assert (abs(faces.landmarks - [corners]) <= 1.01 * pixel).all()


@pytest.mark.parametrize("size_hw", [(1, 1), (2, 20000), (20000, 2), (3, 5)])
def test_images_of_extreme_shape_pass_through(size_hw, ncnn_backend):
    detector = FaceDetector(ncnn_backend, long_side=320, batch_size=1)
    image = np.random.default_rng(0).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    [faces] = detector.detect([image])
    inside = (faces.boxes_xyxy >= 0) & (faces.boxes_xyxy <= [*size_hw[::-1]] * 2)
    assert inside.all()


def test_boxes_are_cut_at_the_edge_and_dropped_beyond():
    class Fixed:
        def __call__(self, images, boxes):
            xyxy = np.array([[-20, -10, 50, 40], [130, 0, 150, 40], [0, 0, 8, 8]], np.float32)
            return [Detections(xyxy, np.float32([0.9, 0.8, 0.7]), np.zeros((3, 5, 2), np.float32))]

    detector = FaceDetector(Fixed(), long_side=256, batch_size=1)
    [faces] = detector.detect([np.zeros((256, 128, 3), np.uint8)])
    assert faces.boxes_xyxy.tolist() == [[0, 0, 50, 40], [0, 0, 8, 8]]
    assert faces.scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_each_image_gets_its_own_faces_whatever_the_batch(batch_size):
    boxes = [(10 * i, 5, 10 * i + 8, 30 + i) for i in range(1, 7)]
    sizes = [(64, 96), (96, 64), (64, 96), (64, 96), (32, 96), (96, 64)]
    boxes[1], boxes[4], boxes[5] = (5, 50, 20, 80), (5, 5, 20, 20), (30, 3, 60, 9)
    images = [with_patch(*size, *box) for size, box in zip(sizes, boxes, strict=True)]
    images.insert(2, np.zeros((64, 96, 3), np.uint8))  # no face
    backend = GreenFinder()
    found = FaceDetector(backend, long_side=96, batch_size=batch_size).detect(images)
    assert len(found.pop(2)) == 0
    assert [f.boxes_xyxy[0].tolist() for f in found] == [list(box) for box in boxes]
    assert max(backend.batches) == min(batch_size, 4)
    assert sum(backend.batches) == len(images)


def test_no_images_no_answers(ncnn_backend):
    assert FaceDetector(ncnn_backend, long_side=320, batch_size=2).detect([]) == []


def test_the_astronauts_face_is_where_it_is(backend, astronaut):
    [faces] = FaceDetector(backend, long_side=640, batch_size=1).detect([astronaut])
    assert len(faces) == 1
    # As seen by eye: hairline to chin, cheek to cheek; eyes, nose tip, mouth corners.
    np.testing.assert_allclose(faces.boxes_xyxy[0], [178, 60, 272, 178], atol=12)
    seen = [[203, 102], [247, 103], [223, 130], [201, 139], [245, 141]]
    np.testing.assert_allclose(faces.landmarks[0], seen, atol=6)


@pytest.mark.parametrize("name", ["coffee", "chelsea", "coins", "rocket"])
def test_what_is_no_person_has_no_face(name, ncnn_backend):
    """The cat fills its picture and passes for a face (0.69) until there is room around it."""
    image = getattr(skimage.data, name)()
    image = np.stack([image] * 3, -1) if image.ndim == 2 else image
    [faces] = FaceDetector(ncnn_backend, long_side=640, batch_size=1).detect([image])
    assert len(faces) == 0


@pytest.mark.parametrize("photo", ["astronaut", "hopper"])
@pytest.mark.parametrize("margin", [0.0, 0.08, 0.16, 0.3])
def test_a_tight_chip_has_the_photographs_one_face(photo, margin, ncnn_backend, request):
    image = request.getfixturevalue(photo)
    detector = FaceDetector(ncnn_backend, long_side=640, batch_size=1)
    [whole] = detector.detect([image])
    x1, y1, x2, y2 = whole.boxes_xyxy[0]
    side = y2 - y1
    corner = (np.array([(x1 + x2 - side) / 2, y1]) - margin * side).astype(int)
    stop = corner + int(side * (1 + 2 * margin))
    [faces] = detector.detect([image[corner[1] : stop[1], corner[0] : stop[0]]])
    assert len(faces) == 1
    off = abs(faces.landmarks[0] + corner - whole.landmarks[0])
    assert off.max() < 0.045 * side


@pytest.mark.parametrize(
    ("share", "looks"), [pytest.param(0.4, 1, id="once"), pytest.param(0.6, 2, id="twice")]
)
@pytest.mark.parametrize("size_hw", [(640, 640), (1500, 1000)])
def test_a_face_that_fills_its_image_is_looked_at_twice(share, looks, size_hw):
    height = int(share * max(size_hw))
    width = height + 9
    backend = GreenFinder()
    image = with_patch(*size_hw, 0, size_hw[0] - height, width, size_hw[0])
    [faces] = FaceDetector(backend, long_side=640, batch_size=1).detect([image])
    assert len(backend.batches) == looks
    pixel = max(1.0, 2 * max(size_hw) / 640)
    np.testing.assert_allclose(
        faces.boxes_xyxy[0], [0, size_hw[0] - height, width, size_hw[0]], atol=1.01 * pixel
    )


def test_two_looks_show_each_face_once():
    """Large faces as the second look has them, small ones of either, in the image's pixels."""

    class Looks:
        first = np.float32([[0, 0, 320, 320], [100, 100, 300, 300], [500, 0, 540, 40]])
        second = np.float32([[170, 165, 325, 320], [410, 160, 430, 180], [300, 400, 312, 412]])

        def __call__(self, images, boxes):
            xyxy, self.first = self.first, self.second
            points = np.repeat(xyxy[:, None, :2], 5, axis=1)
            return [Detections(xyxy, np.float32([0.9, 0.8, 0.7]), points)]

    [faces] = FaceDetector(Looks(), long_side=640, batch_size=1).detect(
        [np.zeros((640, 640, 3), np.uint8)]
    )
    # Second-look pixels are (x - 160) * 2 in the image.
    wanted = [[20, 10, 330, 320], [500, 0, 540, 40], [280, 480, 304, 504]]
    assert faces.boxes_xyxy.tolist() == wanted
    assert faces.landmarks[:, 3].tolist() == [box[:2] for box in wanted]
    assert faces.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_a_face_moves_with_its_image(ncnn_backend, astronaut):
    """Whole strides and no scaling, so that the network sees the same pixels elsewhere."""
    detector = FaceDetector(ncnn_backend, long_side=640, batch_size=1)
    boxes, points = [], []
    for x, y in ((0, 0), (96, 32), (32, 128)):
        canvas = np.full((640, 640, 3), (123, 117, 104), np.uint8)  # as the padding is
        canvas[y : y + 512, x : x + 512] = astronaut
        [faces] = detector.detect([canvas])
        assert len(faces) == 1
        boxes.append(faces.boxes_xyxy[0] - [x, y, x, y])
        points.append(faces.landmarks[0] - [x, y])
    np.testing.assert_allclose(boxes[1:], [boxes[0]] * 2, atol=1)
    np.testing.assert_allclose(points[1:], [points[0]] * 2, atol=1)


@pytest.fixture(scope="module")
def photos(astronaut, hopper):
    """Of different shapes, two of one shape, one without a face."""
    return [
        astronaut,
        hopper,
        hopper[:512],
        astronaut[:, 20:],
        np.zeros((512, 512, 3), np.uint8),
        np.ascontiguousarray(astronaut[40:, ::-1]),
        astronaut[:300, 100:400],
    ]


@pytest.fixture(scope="module")
def alone(photos, backend):
    detector = FaceDetector(backend, long_side=192, batch_size=1)
    return [detector.detect([photo])[0] for photo in photos]


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_face_does_not_depend_on_its_batch(batch_size, backend, photos, alone):
    together = FaceDetector(backend, long_side=192, batch_size=batch_size).detect(photos)
    assert [len(found) for found in together] == [1, 1, 1, 1, 0, 1, 1]
    for found, wanted in zip(together, alone, strict=True):
        np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, atol=1)
        np.testing.assert_allclose(found.landmarks, wanted.landmarks, atol=1)


def test_impossible_settings_are_refused():
    with pytest.raises(ValueError, match="must be a multiple of 32, got 100"):
        FaceDetector(GreenFinder(), long_side=100, batch_size=1)
    with pytest.raises(ValueError, match="order must be rgb or bgr, got 'gbr'"):
        Normalisation("gbr", (0, 0, 0), (1, 1, 1))
