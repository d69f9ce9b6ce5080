import numpy as np
import pytest
from PIL import Image

from fattr import storage
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


def cut(samples, detector, attributes=ATTRIBUTES, *, held=True):
    return labelled_crops(
        samples,
        attributes,
        RULE,
        detector=detector,
        num_threads=3,
        progress=lambda items: items,
        held=held,
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


@pytest.fixture(params=["local", "s3"])
def places(request, pictures):
    """URIs of the same pictures in a folder or in a bucket."""
    uris, _ = pictures
    if request.param == "local":
        return uris
    bucket = request.getfixturevalue("s3_bucket")
    there = [f"{bucket}/{i}.png" for i in range(len(uris))]
    for uri, key in zip(uris, there, strict=True):
        storage.write_bytes(key, storage.read_bytes(uri))
    return there


def test_streamed_crops_are_the_held_ones_to_the_byte(places):
    faces = Finds({0: faces_at([40, 20, 70, 60]), 2: faces_at([0, 0, 40, 50])})
    samples = [Sample(uri, {"bald": i % 2}, {"race": str(i)}) for i, uri in enumerate(places)]
    held, streamed = cut(samples, faces), cut(samples, faces, held=False)
    np.testing.assert_array_equal(streamed.crops[:], held.crops)
    np.testing.assert_array_equal(streamed.crops[1:9:2], held.crops[1:9:2])
    for i in range(4):
        np.testing.assert_array_equal(streamed.crop(i), held.crop(i))
        np.testing.assert_array_equal(streamed.source(i).crop(), held.source(i))
    assert streamed.crops.shape == held.crops.shape
    assert streamed.size_hw == held.size_hw == RULE.size_hw
    np.testing.assert_array_equal(streamed.targets, held.targets)
    np.testing.assert_array_equal(streamed.face_px, held.face_px)
    assert (streamed.found.tolist(), streamed.groups) == (held.found.tolist(), held.groups)


@pytest.mark.parametrize("held", [True, False])
def test_a_part_has_all_that_belongs_to_its_samples(pictures, held):
    uris, _ = pictures
    faces = Finds({0: faces_at([40, 20, 70, 60]), 2: faces_at([0, 0, 40, 50])})
    samples = [Sample(uri, {"bald": i % 2}, {"race": str(i)}) for i, uri in enumerate(uris)]
    part = cut(samples, faces, held=held).part(np.array([2, 0]))
    wanted = cut([samples[2], samples[0]], faces)
    np.testing.assert_array_equal(part.crops[:], wanted.crops)
    np.testing.assert_array_equal(part.targets, wanted.targets)
    np.testing.assert_array_equal(part.face_px, wanted.face_px)
    assert (part.found.tolist(), part.groups) == (wanted.found.tolist(), wanted.groups)


def test_streamed_crops_are_read_anew_and_their_images_may_be_lost_meanwhile(pictures, tmp_path):
    uris, _ = pictures
    streamed = cut([Sample(uri, {}) for uri in uris], None, held=False)
    Image.new("RGB", (50, 50), "red").save(tmp_path / "1.png")
    assert (streamed.crop(1) == [255, 0, 0]).all()
    (tmp_path / "1.png").unlink()
    with pytest.raises(UsageError, match=r"1\.png: missing.*mend the data set"):
        streamed.crops[:]


@pytest.mark.parametrize("held", [True, False])
def test_samples_keep_their_order_over_several_handfuls(pictures, monkeypatch, held):
    monkeypatch.setattr("fattr.labelled_crops.SAMPLES_AT_ONCE", 3)
    uris, pixels = pictures
    got = cut([Sample(uri, {}) for uri in uris], None, held=held)
    np.testing.assert_array_equal(got.crops[:], [central_crop(image, RULE) for image in pixels])


def test_no_samples_give_empty_arrays_of_the_usual_shapes():
    got = cut([], None)
    assert (got.crops.shape, got.targets.shape, got.groups) == ((0, 32, 26, 3), (0, 2), {})
    assert targets_of([], ATTRIBUTES).shape == (0, 2)
    assert cut([], None, held=False).crops[:].shape == (0, 32, 26, 3)


def test_an_image_that_cannot_be_used_is_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="mend or remove this labelled image") as caught:
        cut([Sample(broken.as_uri(), {})], None)
    assert str(caught.value).startswith(f"{broken.as_uri()}: unreadable: ")
    missing = tmp_path / "missing.jpg"
    with pytest.raises(UsageError, match="mend the data set"):
        cut([Sample(missing.as_uri(), {})], None)
