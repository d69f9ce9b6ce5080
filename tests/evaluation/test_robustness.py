"""Robustness on grey pictures, with a detector and a classifier whose every answer is known."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from PIL import Image

from fattr.attributes import attribute
from fattr.classify.calibration import Calibration
from fattr.corruptions import Corruption, with_face_px
from fattr.crop import named_rule
from fattr.errors import UsageError
from fattr.evaluation import robustness
from fattr.evaluation.robustness import evenly_spread, look, robustness_figures
from fattr.records import Detections, Sample
from fattr.stages import Model

SMILING, AGE = attribute("smiling"), attribute("age")
GENDER = attribute("perceived_gender_presentation")
ATTRIBUTES = (SMILING, GENDER, AGE)
LEVELS = range(3, 255, 4)  # 63 greys


def darker(picture, grey):
    image = np.clip(picture.image.astype(int) - int(grey), 0, 255).astype(np.uint8)
    return dataclasses.replace(picture, image=image)


DARKER = Corruption(
    label="Darker", unit="grey levels", values=(0, 64, 128), reference=0, change=darker
)
ONLY_DARKER = {"darker": DARKER}


class FindsTheMiddle:
    """Finds a face in the middle half of every picture that is as bright as ``least``."""

    def __init__(self, least=0, shift=0.0):
        self.least, self.shift = least, shift

    def detect(self, images):
        return [self.face(image) for image in images]

    def face(self, image):
        height, width = image.shape[:2]
        if image.mean() < self.least:
            return Detections.empty()
        box = np.float32([[width, height, 3 * width, 3 * height]]) / 4
        five = np.float32([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
        moved = self.shift * width if image.mean() < 100 else 0
        landmarks = box[:, None, :2] + five * np.float32([width, height]) / 2
        return Detections(box + np.float32(moved), np.float32([0.9]), landmarks)


class ReadsBrightness:
    """Smiling, masculine, and as old as the picture is bright."""

    def predict_proba(self, crops):
        bright = crops.reshape(len(crops), -1).mean(axis=1) / 255 if len(crops) else np.zeros(0)
        bright = bright.astype(np.float32)
        bins = np.eye(9, dtype=np.float32)[np.minimum(bright * 9, 8).astype(int)]
        return {
            "smiling": bright,
            "perceived_gender_presentation": np.stack([1 - bright, bright], axis=1),
            "age": bins,
        }


def model(attributes=ATTRIBUTES, **calibration):
    rule = named_rule("celeba", (32, 26))
    return Model(ReadsBrightness(), rule, Calibration(**calibration), tuple(attributes))


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Grey pictures of 80 x 60 with the labels that their brightness has; every third no age."""
    folder = tmp_path_factory.mktemp("grey")
    made = []
    for i, level in enumerate(LEVELS):
        file = folder / f"{level}.png"
        Image.new("RGB", (60, 80), (level,) * 3).save(file)
        targets = {"smiling": int(level / 255 >= 0.5), GENDER.name: int(level / 255 >= 0.5)}
        if i % 3:
            targets["age"] = int(level / 255 * 9)
        made.append(Sample(file.as_uri(), targets, {"half": "dark" if level < 128 else "bright"}))
    return made


def figures(samples, detector=None, *, own=None, corruptions=ONLY_DARKER, **options):
    options = {"min_face_px": 24} | options
    return robustness_figures(
        samples, own or model(), detector or FindsTheMiddle(), corruptions=corruptions, **options
    )


LEVEL = np.array(LEVELS)


def after(grey):
    return np.clip(LEVEL - grey, 0, 255) / 255


# Figures


def test_every_point_is_what_brightness_makes_of_it(samples):
    got = figures(samples)["darker"]
    assert (got["label"], got["unit"], got["reference"]) == ("Darker", "grey levels", 0)
    assert [point["value"] for point in got["points"]] == [0, 64, 128]
    for point in got["points"]:
        bright = after(point["value"])
        right = (bright >= 0.5) == (LEVEL / 255 >= 0.5)
        has_age = np.arange(len(LEVEL)) % 3 > 0
        same_age = np.minimum(bright * 9, 8).astype(int) == (LEVEL / 255 * 9).astype(int)
        assert point["attributes"]["smiling"] == pytest.approx(right.mean())
        assert point["attributes"]["age"] == pytest.approx(same_age[has_age].mean())
        assert point["accuracy"] == pytest.approx(right.mean())
        assert point["change"] == pytest.approx(right.mean() - 1)
        assert point["as_is_accuracy"] == 1
        assert point["confidence"] == pytest.approx(np.maximum(bright, 1 - bright).mean())
        assert (point["n"], point["detection_recall"]) == (len(LEVEL), 1)
        assert point["abstained_frac"] == 0


def test_the_reference_is_the_pictures_as_they_are(samples):
    got = figures(samples)["darker"]
    as_is = dict(got["as_is"])
    assert as_is.pop("num_images") == len(samples)
    assert got["points"][0] == {"value": 0} | as_is
    assert as_is["accuracy"] == 1


def test_faces_that_are_too_dark_to_be_found_lower_the_recall_only(samples):
    """Those as dark as they are have no face to begin with."""
    got = figures(samples, FindsTheMiddle(least=20))["darker"]
    shown = LEVEL >= 20
    assert got["as_is"]["num_images"] == len(LEVEL)
    assert got["as_is"]["n"] == shown.sum()
    point = got["points"][1]
    found = shown & (LEVEL - 64 >= 20)
    right = (after(64) >= 0.5) == (LEVEL / 255 >= 0.5)
    assert point["n"] == shown.sum()
    assert point["num_found"] == found.sum()
    assert point["detection_recall"] == pytest.approx(found.sum() / shown.sum())
    assert point["accuracy"] == pytest.approx(right[found].mean())


def test_a_face_found_elsewhere_is_not_found(samples):
    """Of dark pictures the detector shows something a third of the width away."""
    got = figures(samples, FindsTheMiddle(shift=0.3))["darker"]
    assert got["as_is"]["detection_recall"] == 1
    stayed = (LEVEL - 64 >= 100) | (LEVEL < 100)  # what was dark is expected where it was found
    assert got["points"][1]["num_found"] == stayed.sum()


def test_probabilities_are_as_wrong_as_they_are(samples):
    """Against the definition: as many faces in each bin, smiling's and the best class's."""
    got = figures(samples, own=model((SMILING, GENDER)))["darker"]["points"][2]
    bright, truth = after(128), LEVEL / 255 >= 0.5
    top = np.maximum(bright, 1 - bright)

    def error(said, came_true):
        order = np.argsort(said, kind="stable")
        bins = np.array_split(order, 10)
        return sum(abs(said[b].mean() - came_true[b].mean()) * len(b) for b in bins) / len(said)

    wanted = (error(bright, truth) + error(top, (bright >= 0.5) == truth)) / 2
    assert got["ece"] == pytest.approx(wanted, abs=0.03)  # equals are in no order
    assert got["ece"] > 0.2


def test_abstention_is_by_the_bands_and_by_the_gate(samples):
    bands = {"abstain": {"smiling": (0.25, 0.75), GENDER.name: (0.5, 0.75)}}
    point = figures(samples, own=model((SMILING, GENDER), **bands))["darker"]["points"][1]
    bright = after(64)
    smiling = (bright >= 0.25) & (bright < 0.75)
    top = np.maximum(bright, 1 - bright)
    gender = (top >= 0.5) & (top < 0.75)
    assert point["abstained_frac"] == pytest.approx((smiling.mean() + gender.mean()) / 2)
    right = (bright >= 0.5) == (LEVEL / 255 >= 0.5)
    wanted = (right[~smiling].mean() + right[~gender].mean()) / 2
    assert point["selective_accuracy"] == pytest.approx(wanted)
    assert point["accuracy"] == pytest.approx(right.mean())
    gated = figures(samples, min_face_px=30.5)["darker"]["points"][1]  # faces have 30
    assert gated["abstained_frac"] == 1
    assert gated["accuracy"] == pytest.approx(right.mean())
    assert figures(samples, min_face_px=30)["darker"]["points"][1]["abstained_frac"] == 0


def test_the_models_thresholds_count(samples):
    own = model((SMILING,), thresholds={"smiling": 0.2})
    point = figures(samples, own=own)["darker"]["points"][1]
    assert point["accuracy"] == pytest.approx(((after(64) >= 0.2) == (LEVEL / 255 >= 0.5)).mean())


def test_groups_are_measured_where_they_are_asked_for(samples):
    assert figures(samples)["darker"]["points"][1]["by_group"] == {}
    twice = [*samples, *samples]
    groups = figures(twice, groups=["half"])["darker"]["points"][1]["by_group"]["half"]
    is_dark = LEVEL < 128
    assert groups["dark"] == {
        "n": 2 * is_dark.sum(),
        "num_found": 2 * is_dark.sum(),
        "status": "ok",
        "detection_recall": 1,
        "accuracy": 1,
    }
    wanted = (after(64) >= 0.5)[~is_dark].mean()
    assert groups["bright"]["accuracy"] == pytest.approx(wanted)


def test_face_sizes_bring_the_gate(samples):
    """Faces of 30 pixels: 10 and 20 can be shown, 40 cannot."""
    sizes = Corruption(
        label="Face size", unit="px", values=(10, 20, 40), reference=None, change=with_face_px
    )
    got = figures(samples, corruptions={"face_size": sizes})["face_size"]
    assert [point["n"] for point in got["points"]] == [len(LEVEL), len(LEVEL), 0]
    assert [point["abstained_frac"] for point in got["points"]] == [1, 1, None]
    assert got["gate"] == {
        "min_face_px": 24,
        "suggested_px": None,  # of fewer than 100 faces
        "max_drop": 0.02,
        "min_recall": 0.95,
    }
    more = figures(samples * 3, corruptions={"face_size": sizes})["face_size"]
    assert more["gate"]["suggested_px"] == 10
    assert "gate" not in figures(samples)["darker"]


def test_the_figures_are_json_and_do_not_depend_on_threads(samples):
    one, four = (figures(samples, groups=["half"], num_threads=n) for n in (1, 4))
    assert json.dumps(one, allow_nan=False) == json.dumps(four, allow_nan=False)


def test_without_any_face_nothing_is_defined(samples):
    got = figures(samples, FindsTheMiddle(least=300), groups=["half"])["darker"]
    assert (got["as_is"]["num_images"], got["as_is"]["n"]) == (len(samples), 0)
    assert all(point["accuracy"] is None for point in got["points"])
    json.dumps(got, allow_nan=False)


# Looking


def test_images_are_decoded_once_and_pictures_are_made_one_at_a_time(samples, monkeypatch):
    """A picture is detected before the next one is made; decoding and looking alternate."""
    calls = []

    def said(name, function):
        def wrapped(*args):
            calls.append(name)
            return function(*args)

        return wrapped

    read = said("read", robustness.read_labelled_image)
    monkeypatch.setattr(robustness, "read_labelled_image", read)
    corruption = dataclasses.replace(DARKER, change=said("change", darker))
    detector = FindsTheMiddle()
    detector.face = said("detect", detector.face)
    classifier = ReadsBrightness()
    classifier.predict_proba = said("classify", classifier.predict_proba)
    own = dataclasses.replace(model(), classifier=classifier)
    look(samples[:3], own, detector, min_face_px=0, corruptions={"darker": corruption})
    once = ["read", "detect", "detect", "change", "detect", "change", "detect", "classify"]
    assert calls == 3 * once


def test_only_crops_of_found_faces_are_classified(samples):
    seen = []

    class Counts(ReadsBrightness):
        def predict_proba(self, crops):
            seen.append(crops.shape)
            return super().predict_proba(crops)

    own = dataclasses.replace(model(), classifier=Counts())
    looks, shown = look(
        samples, own, FindsTheMiddle(least=60), min_face_px=0, corruptions=ONLY_DARKER
    )
    assert [len(one) for one in (shown, seen)] == [(LEVEL >= 60).sum()] * 2
    assert [shape[0] for shape in seen] == looks.found.sum(axis=1).tolist()
    assert {shape[1:] for shape in seen} == {(32, 26, 3)}
    assert np.isnan(looks.said[~looks.found]).all()


def test_chance_follows_the_sample_not_the_thread(samples):
    """The seed of a picture is the place of its sample."""
    seeds, lock = {}, threading.Lock()

    def remember(picture, _):
        with lock:
            seeds[picture.seed] = int(picture.image[0, 0, 0])
        return picture

    corruption = dataclasses.replace(DARKER, change=remember)
    look(
        samples,
        model(),
        FindsTheMiddle(),
        min_face_px=0,
        corruptions={"darker": corruption},
        num_threads=4,
    )
    assert seeds == dict(enumerate(LEVELS))


def test_a_damaged_image_is_named(samples, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    with pytest.raises(UsageError, match="mend or remove this labelled image"):
        figures([*samples[:2], Sample(broken.as_uri(), {})])


# The choice


@pytest.mark.parametrize("n", [0, 1, 10])
def test_few_samples_are_all_taken(n):
    samples = [Sample(str(i), {}) for i in range(n)]
    assert evenly_spread(samples, 10) == samples


def test_the_choice_is_spread_evenly_in_order_and_always_the_same():
    samples = [Sample(str(i), {}) for i in range(1003)]
    chosen = [int(s.image_uri) for s in evenly_spread(samples, 100)]
    assert len(set(chosen)) == 100
    assert chosen == sorted(chosen)
    assert max(np.diff([-1, *chosen, 1003])) <= 22  # at most two parts of 10 or 11
    assert chosen == [int(s.image_uri) for s in evenly_spread(samples, 100)]


def test_the_choice_has_no_period():
    """Of a table with two pictures a person, some of either kind."""
    samples = [Sample(str(i), {}) for i in range(48)]
    chosen = [int(s.image_uri) % 2 for s in evenly_spread(samples, 24)]
    assert 4 < sum(chosen) < 20
