"""Corruptions against other libraries' results, and against what is known by construction."""

import dataclasses

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import skimage.transform
from PIL import Image

from fattr import corruptions
from fattr.build import build_detector
from fattr.config import EvaluateConfig
from fattr.corruptions import CORRUPTIONS, GREY, Picture
from fattr.detect import source
from fattr.labelled_crops import central_face

FACE_OF_ASTRONAUT = (175, 60, 272, 200)  # x1, y1, x2, y2


def picture(image, box=None, seed=0):
    height, width = image.shape[:2]
    box = box or (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
    return Picture(image, np.float32(box), seed)


@pytest.fixture(scope="session")
def face(astronaut):
    return picture(astronaut, FACE_OF_ASTRONAUT)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def difference(a, b):
    """Mean absolute difference in grey levels."""
    return np.abs(a.astype(float) - b.astype(float)).mean()


# All of them


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_value_gives_an_image_and_the_same_one_again(name, face):
    corruption = CORRUPTIONS[name]
    before = face.image.copy()
    for value in corruption.values:
        worse, again = corruption.change(face, value), corruption.change(face, value)
        if worse is None:
            assert name == "face_size"
            assert again is None
            assert value > face.face_px
            continue
        np.testing.assert_array_equal(worse.image, again.image)
        assert worse.image.dtype == np.uint8
        assert worse.image.ndim == 3
        assert worse.image.shape[2] == 3
        assert worse.box_xyxy.dtype == np.float32
        assert worse.seed == face.seed
        centre = (worse.box_xyxy[:2] + worse.box_xyxy[2:]) / 2
        assert (centre > 0).all()
        assert (centre < worse.image.shape[1::-1]).all()
    np.testing.assert_array_equal(face.image, before)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_grids_rise_and_their_reference_changes_nothing(name, face):
    corruption = CORRUPTIONS[name]
    assert list(corruption.values) == sorted(set(corruption.values))
    if corruption.is_log:
        assert min(corruption.values) > 0
    if corruption.reference is not None:
        assert corruption.reference in corruption.values
        same = corruption.change(face, corruption.reference)
        np.testing.assert_array_equal(same.image, face.image)
        np.testing.assert_array_equal(same.box_xyxy, face.box_xyxy)
    for value in set(corruption.values) - {corruption.reference}:
        worse = corruption.change(face, value)
        assert worse is None or not np.array_equal(worse.image, face.image)


# Size


@pytest.mark.parametrize("face_px", [15, 24, 48, 80])
def test_the_detector_measures_the_size_asked_for(face_px, astronaut):
    config = EvaluateConfig(model="", data="", output="")
    detector = build_detector(source.find(config.detector), config, device="cpu")
    found = central_face(astronaut, detector)
    shrunk = corruptions.with_face_px(Picture(astronaut, found.boxes_xyxy[0]), face_px)
    again = central_face(shrunk.image, detector).boxes_xyxy[0]
    assert min(again[2:] - again[:2]) == pytest.approx(face_px, rel=0.12)
    np.testing.assert_allclose(again, shrunk.box_xyxy, atol=0.15 * face_px)


def test_a_shrunk_picture_and_its_box_keep_their_proportions():
    shrunk = corruptions.with_face_px(picture(noise(300, 200), (20, 30, 120, 230)), 25)
    assert shrunk.image.shape == (75, 50, 3)
    np.testing.assert_allclose(shrunk.box_xyxy, [5, 7.5, 30, 57.5])
    assert shrunk.face_px == 25
    flat = corruptions.with_face_px(picture(np.full((90, 90, 3), 77, np.uint8)), 9)
    assert (flat.image == 77).all()


def test_a_face_is_never_enlarged(face):
    assert face.face_px == 97
    assert corruptions.with_face_px(face, 97.1) is None
    np.testing.assert_array_equal(corruptions.with_face_px(face, 97).image, face.image)


def test_a_frame_holds_the_shrunk_picture_in_its_middle():
    whole = picture(noise(60, 40), (10, 10, 30, 40))
    bare = corruptions.with_face_px(whole, 10)
    framed = corruptions.with_face_px(whole, 10, frame_px=90)
    assert framed.image.shape == (90, 60, 3)
    np.testing.assert_array_equal(framed.image[30:60, 20:40], bare.image)
    np.testing.assert_array_equal(framed.image[0, 20:40], bare.image[0])
    np.testing.assert_array_equal(framed.image[30:60, 59], bare.image[:, -1])
    np.testing.assert_array_equal(framed.box_xyxy, bare.box_xyxy + np.float32([20, 30, 20, 30]))


def test_what_is_larger_than_the_frame_gets_none():
    whole = picture(noise(60, 40), (10, 10, 30, 40))
    bare = corruptions.with_face_px(whole, 10)
    framed = corruptions.with_face_px(whole, 10, frame_px=20)
    np.testing.assert_array_equal(framed.image, bare.image)
    np.testing.assert_array_equal(framed.box_xyxy, bare.box_xyxy)


# Quality


@pytest.mark.parametrize("sigma_frac", [0.01, 0.045, 0.1])
def test_blur_is_that_of_scipy(sigma_frac, face):
    sigma = sigma_frac * 97
    wanted = scipy.ndimage.gaussian_filter(
        face.image.astype(float), (sigma, sigma, 0), mode="nearest", truncate=6
    )
    blurred = corruptions.blurred(face, sigma_frac).image
    assert difference(blurred, wanted) < 0.7
    assert difference(blurred, face.image) > 1.5


def test_blur_is_relative_to_the_face(face):
    small = corruptions.blurred(dataclasses.replace(face, box_xyxy=face.box_xyxy / 4), 0.08)
    np.testing.assert_array_equal(small.image, corruptions.blurred(face, 0.02).image)


@pytest.mark.parametrize("quality", [5, 50, 95])
def test_jpeg_is_that_of_a_file(quality, face, tmp_path):
    Image.fromarray(face.image).save(tmp_path / "a.jpg", quality=quality)
    wanted = np.asarray(Image.open(tmp_path / "a.jpg"))
    np.testing.assert_array_equal(corruptions.compressed(face, quality).image, wanted)


def test_a_lower_quality_is_further_off(face):
    qualities = CORRUPTIONS["jpeg"].values
    errors = [difference(corruptions.compressed(face, q).image, face.image) for q in qualities]
    assert errors == sorted(errors, reverse=True)


def test_half_the_light_of_white_is_188():
    white = picture(np.full((4, 4, 3), 255, np.uint8))
    assert (corruptions.exposed(white, 0.5).image == 188).all()
    assert (corruptions.exposed(white, 3.0).image == 255).all()


@pytest.mark.parametrize("gain", [0.1, 0.3, 3.0])
def test_exposure_multiplies_linear_light(gain, face):
    """In XYZ, which is linear, as scikit-image converts it."""
    exposed = corruptions.exposed(face, gain).image
    light, wanted = skimage.color.rgb2xyz(exposed), gain * skimage.color.rgb2xyz(face.image)
    unclipped = (exposed < 255).all(axis=2)
    assert unclipped.mean() > 0.3
    np.testing.assert_allclose(light[unclipped], wanted[unclipped], atol=0.005)


# Place


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (-90, -1), (180, 2), (270, 3)])
@pytest.mark.parametrize("shape", [(40, 40), (31, 48), (50, 33)])
def test_quarter_turns_are_exact(degrees, quarters, shape):
    image = noise(*shape)
    turned = corruptions.turned(picture(image), degrees).image
    np.testing.assert_array_equal(turned, np.rot90(image, quarters))


@pytest.mark.parametrize("degrees", [-60, 17, 45])
def test_other_turns_are_those_of_skimage(degrees, face):
    wanted = skimage.transform.rotate(
        face.image, degrees, resize=True, order=3, mode="edge", preserve_range=True
    )
    turned = corruptions.turned(face, degrees).image
    off = np.array(turned.shape) - wanted.shape
    assert np.abs(off).max() <= 1
    both = np.minimum(turned.shape, wanted.shape)[:2]
    assert difference(turned[: both[0], : both[1]], wanted[: both[0], : both[1]]) < 4
    assert difference(turned[: both[0], : both[1]], wanted[: both[1], : both[0]][::-1]) > 30


@pytest.mark.parametrize("degrees", [-90, -45, 10, 30, 90])
def test_the_box_turns_with_its_face(degrees):
    image = np.zeros((120, 80, 3), np.uint8)
    image[28:33, 18:23] = 255  # its centre is at x 20.5, y 30.5
    turned = corruptions.turned(picture(image, (10.5, 15.5, 30.5, 45.5)), degrees)
    y, x = np.nonzero(turned.image[:, :, 0] > 127)
    centre = (turned.box_xyxy[:2] + turned.box_xyxy[2:]) / 2
    np.testing.assert_allclose(centre, [x.mean() + 0.5, y.mean() + 0.5], atol=0.6)
    np.testing.assert_allclose(turned.box_xyxy[2:] - turned.box_xyxy[:2], [20, 30], atol=1e-3)


def test_a_turned_border_is_repeated():
    turned = corruptions.turned(picture(np.full((30, 50, 3), 201, np.uint8)), 33).image
    assert (turned == 201).all()


# Occlusion


BOX = (20, 10, 60, 90)  # 40 x 80
OCCLUSIONS = [name for name in CORRUPTIONS if name.startswith("occlusion")]


def covered(name, share, seed=0):
    """Where (H, W) a picture without grey is covered."""
    white = picture(np.full((100, 80, 3), 255, np.uint8), BOX, seed)
    return (CORRUPTIONS[name].change(white, share).image == GREY).all(axis=2)


def test_bars_cover_from_the_top_and_from_the_bottom():
    top, bottom = covered("occlusion_top", 0.3), covered("occlusion_bottom", 0.45)
    wanted = np.zeros((100, 80), bool)
    wanted[10:34, 20:60] = True
    np.testing.assert_array_equal(top, wanted)
    wanted[:] = False
    wanted[54:90, 20:60] = True
    np.testing.assert_array_equal(bottom, wanted)


@pytest.mark.parametrize("share", [0.15, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(5))
def test_a_box_somewhere_has_its_share_and_stays_on_the_face(share, seed):
    mask = covered("occlusion_random", share, seed)
    assert mask.sum() == pytest.approx(share * 40 * 80, rel=0.06)
    assert not mask[:10].any()
    assert not mask[90:].any()
    assert not mask[:, :20].any()
    assert not mask[:, 60:].any()
    rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
    assert rows / columns == pytest.approx(2, rel=0.1)


def test_places_differ_by_seed_and_grow_from_one_share_to_the_next():
    places = {np.nonzero(covered("occlusion_random", 0.15, seed))[0][0] for seed in range(8)}
    assert len(places) > 4
    small, large = (covered("occlusion_random", share, 3) for share in (0.15, 0.45))
    assert (small & ~large).sum() <= 20  # but for rounding
