import numpy as np
import pytest
from PIL import Image

from fattr.attributes import attribute
from fattr.crop import central_crop, crop_face, named_rule
from fattr.errors import UsageError
from fattr.labelled_crops import central_face, labelled_crops, most_central, targets_of
from fattr.records import Detections, Sample

RULE = named_rule("celeba", (32, 26))
ATTRIBUTES = (attribute("smiling"), attribute("bald"))


def faces_at(*boxes):
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    five = np.float32([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
    sides = xyxy[:, None, 2:] - xyxy[:, None, :2]
    scores = np.linspace(0.9, 0.6, len(xyxy), dtype=np.float32)
    return Detections(xyxy, scores, xyxy[:, None, :2] + five * sides)


class Finds:
    """A detector that knows the answer to each image, by its first pixel's red."""

    def __init__(self, answers):
        self.answers = answers

    def detect(self, images):
        return [self.answers.get(int(image[0, 0, 0]), Detections.empty()) for image in images]


@pytest.fixture
def pictures(tmp_path):
    """URIs and pixels of four pictures whose first red is 0, 1, 2, 3."""
    uris, pixels = [], []
    for i in range(4):
        image = np.random.default_rng(i).integers(0, 256, (90 + i, 120, 3)).astype(np.uint8)
        image[0, 0, 0] = i
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        uris.append((tmp_path / f"{i}.png").as_uri())
        pixels.append(image)
    return uris, pixels


def cut(samples, detector, attributes=ATTRIBUTES):
    return labelled_crops(
        samples, attributes, RULE, detector=detector, num_threads=3, progress=lambda items: items
    )


@pytest.mark.parametrize(
    ("boxes", "size_hw", "index"),
    [
        pytest.param([], (100, 200), None, id="no-face"),
        pytest.param([[0, 0, 9, 9]], (100, 200), 0, id="one-face"),
        pytest.param([[0, 0, 20, 20], [90, 40, 110, 60]], (100, 200), 1, id="not-the-best-score"),
        pytest.param([[40, 90, 60, 110], [90, 40, 110, 60]], (200, 100), 0, id="height-is-first"),
        pytest.param([[90, 40, 110, 60], [90, 40, 110, 60]], (100, 200), 0, id="ties-go-to-first"),
    ],
)
def test_the_most_central_face(boxes, size_hw, index):
    assert most_central(faces_at(*boxes), size_hw) == index


def test_the_central_face_comes_alone_with_all_that_is_its_own():
    image = np.zeros((100, 200, 3), np.uint8)
    both = faces_at([0, 0, 20, 20], [90, 40, 110, 60])
    face = central_face(image, Finds({0: both}))
    assert len(face) == 1
    np.testing.assert_array_equal(face.boxes_xyxy[0], both.boxes_xyxy[1])
    np.testing.assert_array_equal(face.landmarks[0], both.landmarks[1])
    assert face.scores[0] == both.scores[1]
    assert len(central_face(image, Finds({}))) == 0


def test_crops_are_of_the_central_face_or_of_the_centre(pictures):
    uris, pixels = pictures
    corner, central = [0, 0, 40, 50], [40, 20, 70, 60]
    detector = Finds({0: faces_at(corner, central), 2: faces_at(corner)})
    got = cut([Sample(uri, {}) for uri in uris], detector)
    wanted = [
        crop_face(pixels[0], faces_at(central).landmarks[0], RULE),
        central_crop(pixels[1], RULE),
        crop_face(pixels[2], faces_at(corner).landmarks[0], RULE),
        central_crop(pixels[3], RULE),
    ]
    np.testing.assert_array_equal(got.crops, wanted)
    assert got.found.tolist() == [True, False, True, False]
    np.testing.assert_array_equal(got.face_px, np.float32([30, np.nan, 40, np.nan]))


def test_without_a_detector_the_pictures_are_the_crops(pictures):
    uris, pixels = pictures
    got = cut([Sample(uri, {}) for uri in uris], None)
    np.testing.assert_array_equal(got.crops, [central_crop(image, RULE) for image in pixels])
    assert not got.found.any()


def test_targets_and_groups_follow_their_samples(pictures):
    uris, _ = pictures
    samples = [
        Sample(uris[3], {"smiling": 1, "young": 1}, {"race": "White"}),
        Sample(uris[0], {"bald": 0}),
        Sample(uris[1], {"bald": 1, "smiling": 0}, {"race": "Black", "split": "a"}),
    ]
    got = cut(samples, None)
    assert len(got) == 3
    assert got.targets.tolist() == [[1, -1], [-1, 0], [0, 1]]
    assert got.groups == {"race": ("White", "", "Black"), "split": ("", "", "a")}
    assert got.crops[1][0, 0].tolist() == cut([samples[1]], None).crops[0][0, 0].tolist()


def test_no_samples_give_empty_arrays_of_the_usual_shapes():
    got = cut([], None)
    assert (got.crops.shape, got.targets.shape, got.groups) == ((0, 32, 26, 3), (0, 2), {})
    assert targets_of([], ATTRIBUTES).shape == (0, 2)


def test_an_image_that_cannot_be_used_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="mend or remove this labelled image") as caught:
        cut([Sample(broken.as_uri(), {})], None)
    assert str(caught.value).startswith(f"{broken.as_uri()}: unreadable: ")
    missing = tmp_path / "missing.jpg"
    with pytest.raises(UsageError, match="mend the data set"):
        cut([Sample(missing.as_uri(), {})], None)
