import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import skimage.filters
import skimage.transform
import skimage.util
from PIL import Image, ImageFilter

from fattr.crop import (
    CELEBA_POINTS,
    FAIRFACE_POINTS,
    central_crop,
    crop_face,
    crop_scale,
    named_rule,
)
from fattr.detect import source
from fattr.detect.detector import FaceDetector
from fattr.detect.ncnn_backend import NcnnBackend
from fattr.errors import UsageError
from fattr.records import CropRule, TemplatePoint

DATA = Path(__file__).parents[2] / "shared" / "data"
CELEBA = named_rule("celeba", (128, 104))
FAIRFACE = named_rule("fairface", (112, 112))
RULES = [pytest.param(CELEBA, id="celeba"), pytest.param(FAIRFACE, id="fairface")]


def smooth_photo():
    """Without detail that kernels would show differently."""
    return skimage.util.img_as_ubyte(
        skimage.filters.gaussian(skimage.data.astronaut(), 2, channel_axis=2)
    )


def template(rule):
    return np.array([(point.x, point.y) for point in rule.points])


def observed(landmarks, rule):
    return np.array([landmarks[list(point.landmarks)].mean(axis=0) for point in rule.points])


def fitted(landmarks, rule):
    """scikit-image's transform from image to crop."""
    points = observed(landmarks, rule).astype(np.float64), template(rule)
    if hasattr(skimage.transform.SimilarityTransform, "from_estimate"):
        return skimage.transform.SimilarityTransform.from_estimate(*points)
    transform = skimage.transform.SimilarityTransform()
    assert transform.estimate(*points)
    return transform


def face(rule, *, turn=0.0, zoom=1.0, at=(300.0, 300.0)):
    """Landmarks that fit the rule exactly, seen turned (degrees), enlarged, with centre ``at``."""
    five = np.zeros((5, 2))
    for point in rule.points:
        five[list(point.landmarks)] = point.x, point.y
    size = np.array(rule.size_hw[::-1])
    angle = np.deg2rad(turn)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((five - size / 2) * zoom @ rotation.T + at).astype(np.float32)


def real_face(seed):
    """Landmarks of no rule: those of a face, jittered, turned and enlarged."""
    rng = np.random.default_rng(seed)
    five = np.array([[30, 30], [70, 30], [50, 52], [35, 75], [66, 74]]) + rng.normal(0, 4, (5, 2))
    angle = rng.uniform(-np.pi, np.pi)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return (five @ rotation.T * rng.uniform(0.3, 1.5) + rng.uniform(150, 350, 2)).astype(np.float32)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_the_fit_is_scikit_images(rule, seed):
    landmarks = real_face(seed)
    assert crop_scale(landmarks, rule) == pytest.approx(fitted(landmarks, rule).scale, rel=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(5))
def test_a_crop_is_scikit_images_warp(rule, seed):
    """Pixel i covers [i, i + 1) here; scikit-image's pixel i is centred on i."""
    image = smooth_photo()
    landmarks = real_face(seed + 10)
    if crop_scale(landmarks, rule) < 0.55:  # no box reduction in the way
        landmarks = ((landmarks - 256) / 3 + 256).astype(np.float32)
    half = skimage.transform.SimilarityTransform(translation=(0.5, 0.5))
    back = skimage.transform.SimilarityTransform(translation=(-0.5, -0.5))
    to_image = half + skimage.transform.AffineTransform(fitted(landmarks, rule).inverse.params)
    wanted = skimage.transform.warp(
        image, to_image + back, output_shape=rule.size_hw, order=3, mode="edge"
    )
    difference = crop_face(image, landmarks, rule) - 255 * wanted
    assert abs(difference).mean() < 1
    assert abs(difference).max() < 12


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("turn", "zoom", "at"),
    [
        pytest.param(0, 1.0, (300, 300), id="as-is"),
        pytest.param(0, 1.0, (303.25, 288.7), id="between-pixels"),
        pytest.param(20, 1.7, (300, 310), id="turned-and-larger"),
        pytest.param(-75, 0.6, (310, 300), id="turned-and-smaller"),
        pytest.param(180, 1.0, (300, 300), id="upside-down"),
        pytest.param(90, 3.7, (400, 380), id="reduced"),
        pytest.param(33, 4.0, (390.5, 401.25), id="reduced-and-turned"),
    ],
)
def test_landmarks_land_on_the_template(rule, turn, zoom, at):
    landmarks = face(rule, turn=turn, zoom=zoom, at=at)
    y, x = np.mgrid[:800, :800] + 0.5
    for (dot_x, dot_y), wanted in zip(observed(landmarks, rule), template(rule), strict=True):
        width = 2 * zoom
        spot = 250 * np.exp(-((x - dot_x) ** 2 + (y - dot_y) ** 2) / (2 * width**2))
        image = np.repeat(spot.round().astype(np.uint8)[..., None], 3, axis=2)
        crop = crop_face(image, landmarks, rule)[..., 1].astype(float)
        crop[crop < 10] = 0
        rows, columns = np.indices(crop.shape) + 0.5
        centroid = [(crop * columns).sum() / crop.sum(), (crop * rows).sum() / crop.sum()]
        # Pillow's bicubic transform (a = -1) itself is off by up to 0.096 pixel between pixels.
        np.testing.assert_allclose(centroid, wanted, atol=0.11)


@pytest.mark.parametrize("at", [(3, 5), (515, 200), (250, 530), (-30, -20)])
@pytest.mark.parametrize("zoom", [0.7, 1.0, 1.4, 2.5, 4.2])
def test_beyond_the_border_is_the_border_repeated(zoom, at):
    image = skimage.data.astronaut() if zoom <= 1 else smooth_photo()
    landmarks = face(CELEBA, turn=25, zoom=zoom, at=at)
    padding = 600
    padded = np.pad(image, [(padding, padding), (padding, padding), (0, 0)], mode="edge")
    wanted = crop_face(padded, landmarks + np.float32(padding), CELEBA)
    # The pad is a third more to look at: float32 landmarks differ in the last bit.
    difference = abs(crop_face(image, landmarks, CELEBA).astype(int) - wanted)
    if zoom <= 1:
        assert difference.max() <= 2
        assert (difference != 0).mean() < 0.02
    else:  # a shrunk border is repeated, not the border shrunk
        around = np.pad(np.full_like(image, 255), [(padding,) * 2, (padding,) * 2, (0, 0)])
        inside = crop_face(around, landmarks + np.float32(padding), CELEBA)
        near = Image.fromarray(inside[..., 0]).filter(ImageFilter.MinFilter(9))
        assert difference[np.asarray(near) == 255].mean() < 1.6
        assert difference.mean() < 10


@pytest.mark.parametrize("zoom", [1.6, 2.01, 3.5, 4.6])
def test_fine_detail_is_averaged_not_sampled(zoom):
    """Noise, whose spread after a fair reduction is that of Pillow's box filter."""
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3)).astype(np.uint8)
    crop = crop_face(noise, face(CELEBA, zoom=zoom, at=(400, 400)), CELEBA)
    height, width = (zoom * side for side in CELEBA.size_hw)
    box = (400 - width / 2, 400 - height / 2, 400 + width / 2, 400 + height / 2)
    size = CELEBA.size_hw[::-1]
    wanted = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.BOX, box=box))
    sampled = np.asarray(Image.fromarray(noise).resize(size, Image.Resampling.NEAREST, box=box))
    assert crop.std() < 1.5 * wanted.std()
    assert crop.std() < 0.6 * sampled.std()


@pytest.mark.parametrize("zoom", [1.2, 1.5, 1.9, 2.0, 2.3, 3.5, 4.6])
def test_a_reduced_photograph_is_pillows(zoom):
    image = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((1024, 1024)))
    at = (512.0, 500.0)
    crop = crop_face(image, face(FAIRFACE, zoom=zoom, at=at), FAIRFACE)
    half = 112 * zoom / 2
    box = (at[0] - half, at[1] - half, at[0] + half, at[1] + half)
    wanted = np.asarray(
        Image.fromarray(image).resize((112, 112), Image.Resampling.BICUBIC, box=box)
    )
    assert abs(crop.astype(int) - wanted).mean() < 3


@pytest.mark.parametrize("zoom", [1.3, 2.6, 4.4])
@pytest.mark.parametrize("rule", RULES)
def test_a_crop_hardly_depends_on_the_photographs_resolution(zoom, rule):
    small = Image.fromarray(skimage.data.astronaut())
    image = np.asarray(small.resize((1024, 1024), Image.Resampling.BICUBIC))
    landmarks = face(rule, turn=12, zoom=2 * zoom, at=(450, 230))
    halved = np.asarray(Image.fromarray(image).reduce(2))
    one = crop_face(image, landmarks, rule)
    other = crop_face(halved, landmarks / 2, rule)
    assert abs(one.astype(int) - other).mean() < 3


def test_a_central_crop_of_the_rules_size_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (*CELEBA.size_hw, 3)).astype(np.uint8)
    np.testing.assert_array_equal(central_crop(image, CELEBA), image)


@pytest.mark.parametrize(("height", "width"), [(256, 208), (384, 312), (192, 156), (160, 130)])
def test_a_central_crop_of_the_rules_aspect_is_pillows_resize(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    wanted = Image.fromarray(image).resize((104, 128), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(central_crop(image, CELEBA), wanted)


def test_celebas_own_pictures_are_resized():
    """Of nearly the rule's aspect: 178 x 218 against 104 x 128."""
    photo = Image.fromarray(smooth_photo()[60:278, 130:308])
    wanted = np.asarray(photo.resize((104, 128), Image.Resampling.BICUBIC))
    assert abs(central_crop(np.asarray(photo), CELEBA).astype(int) - wanted).mean() < 1.6


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (700, 2), (300, 200), (200, 300)])
def test_a_central_crop_is_centred(shape):
    """Left and right, and above and below, are cut alike: a mirrored image, a mirrored crop."""
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    crop = central_crop(image, CELEBA)
    assert crop.shape == (128, 104, 3)
    mirrored = central_crop(np.ascontiguousarray(image[::-1, ::-1]), CELEBA)[::-1, ::-1]
    assert abs(crop.astype(int) - mirrored).max() <= 2


@pytest.mark.parametrize(
    "landmarks",
    [
        pytest.param(np.zeros((5, 2)), id="all-at-the-origin"),
        pytest.param(np.full((5, 2), 77.25), id="all-equal"),
        pytest.param(real_face(1) * 1e-6 + 60, id="all-but-equal"),
        pytest.param(real_face(1) * 1e4, id="as-wide-as-a-house"),
        pytest.param(real_face(1) + 1e6, id="far-outside"),
        pytest.param(real_face(1) * [1, 0], id="on-a-line"),
        pytest.param(np.array([[0, 0], [1e5, 0], [0, 0], [0, 1e5], [1e5, -1e5]]), id="mad"),
    ],
)
@pytest.mark.parametrize("rule", RULES)
def test_landmarks_of_no_face_cost_little(landmarks, rule):
    image = skimage.data.astronaut()[:200, :300]
    tracemalloc.start()
    crop = crop_face(image, landmarks.astype(np.float32), rule)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert crop.shape == (*rule.size_hw, 3)
    assert peak < 64 * max(image.shape) ** 2 * 3  # bytes; a crop covers 4 long sides, turned


def test_landmarks_as_wide_as_a_house_keep_their_centre():
    """Cut at a sane scale, the crop still shows the place where the landmarks are."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[150:250, 150:250] = 255
    wide = face(CELEBA, zoom=1e4, at=(200, 200))
    wide += np.float32(200) - wide.mean(axis=0)
    crop = crop_face(image, wide, CELEBA)[..., 0].astype(float)
    rows, columns = np.indices(crop.shape) + 0.5
    centroid = (crop * rows).sum() / crop.sum(), (crop * columns).sum() / crop.sum()
    np.testing.assert_allclose(centroid, (64, 52), atol=0.1)


@pytest.mark.parametrize(
    ("name", "canvas_hw", "points"),
    [
        pytest.param("celeba", (218, 178), CELEBA_POINTS, id="celeba"),
        pytest.param("fairface", (224, 224), FAIRFACE_POINTS, id="fairface"),
    ],
)
def test_a_named_rule_scales_with_its_size(name, canvas_hw, points):
    whole = named_rule(name, canvas_hw)
    assert (whole.name, whole.size_hw, whole.points) == (name, canvas_hw, points)
    size_hw = (canvas_hw[0] * 2, canvas_hw[1] // 2)
    stretched = named_rule(name, size_hw)
    assert stretched.size_hw == size_hw
    np.testing.assert_allclose(template(stretched), template(whole) * [0.5, 2])


def test_celebas_points_are_those_of_its_aligned_pictures():
    """Eyes level, and about where the data set's own page has them on average."""
    points = template(named_rule("celeba", (218, 178)))
    np.testing.assert_allclose(points, [(69.5, 111.3), (107.5, 111.2), (88.5, 152.3)], atol=1.5)


def test_a_rule_of_no_name_is_refused():
    with pytest.raises(UsageError) as caught:
        named_rule("ffhq", (8, 8))
    assert str(caught.value) == "unknown crop rule 'ffhq': one of ['celeba', 'fairface'] expected"


def test_a_mean_of_landmarks_is_what_is_aligned():
    """The mouth corners of a turned head: only their middle counts under CelebA's rule."""
    rule = CropRule(
        name="t",
        size_hw=(20, 20),
        points=(TemplatePoint((0, 1), 10, 5), TemplatePoint((3, 4), 10, 15)),
    )
    straight = np.float32([[8, 5], [12, 5], [0, 0], [7, 15], [13, 15]])
    wide = np.float32([[2, 5], [18, 5], [99, 99], [9, 15], [11, 15]])
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop_face(image, straight, rule), image)
    np.testing.assert_array_equal(crop_face(image, wide, rule), image)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        pytest.param("celeba", "celeba/img_align_celeba", id="celeba"),
        pytest.param("fairface", "fairface/val", id="fairface"),
    ],
)
def test_a_data_sets_own_pictures_are_nearly_their_own_crops(name, folder):
    """What a model learnt from the published pictures is what our crops show it."""
    paths = sorted((DATA / folder).glob("*.jpg"))[:24]
    if len(paths) < 24:
        pytest.skip(f"no pictures of {name} here")
    detector = source.shipped()
    backend = NcnnBackend(
        detector.data,
        detector.normalisation,
        score_threshold=0.5,
        nms_iou_threshold=0.4,
        num_threads=1,
    )
    images = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    rule, scales, shifts = named_rule(name, images[0].shape[:2]), [], []
    for faces in FaceDetector(backend, long_side=224, batch_size=1).detect(images):
        if len(faces):
            landmarks = faces.landmarks[0]
            scales.append(crop_scale(landmarks, rule))
            shifts.append((observed(landmarks, rule) - template(rule)).mean(axis=0))
    assert len(scales) >= 20
    assert np.median(scales) == pytest.approx(1, abs=0.08)
    np.testing.assert_allclose(np.median(shifts, axis=0), 0, atol=0.04 * rule.size_hw[0])
