"""How labels suffer when pictures get worse: accuracy, detection and abstention against how much.

The same faces as they are and under each corruption, so that a loss is measured on pairs. Pictures
stream through: a thread holds two at a time, and keeps of them only what the model said.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fattr import boxes
from fattr.classify import calibration as calibrate
from fattr.corruptions import CORRUPTIONS, Corruption, Picture
from fattr.crop import crop_face
from fattr.detect.detector import FaceDetector
from fattr.labelled_crops import UNKNOWN, central_face, read_labelled_image, targets_of
from fattr.metrics.calibration import confidences
from fattr.metrics.intervals import SEED
from fattr.metrics.robustness import Bools, Looks, gate_figures, joined, no_faces, point_figures
from fattr.metrics.selective import is_correct
from fattr.records import FloatArray, Sample, UInt8Array
from fattr.stages import Model

Progress: TypeAlias = Callable[[Iterator[Looks | None]], Iterator[Looks | None]]


def evenly_spread(samples: Sequence[Sample], count: int) -> list[Sample]:
    """``count`` of the samples in their order, one of each of as many equal parts; all if fewer.

    Which one of its part is drawn from a fixed seed: every tenth of a table may be of one kind.
    """
    if len(samples) <= count:
        return list(samples)
    edges = np.arange(count + 1) * len(samples) // count
    chosen = np.random.default_rng(SEED).integers(edges[:-1], edges[1:])
    return [samples[i] for i in chosen]


def robustness_figures(
    samples: Sequence[Sample],
    model: Model,
    detector: FaceDetector,
    *,
    min_face_px: float,
    groups: Sequence[str] = (),
    corruptions: Mapping[str, Corruption] = CORRUPTIONS,
    num_threads: int = 1,
    progress: Progress = lambda items: items,
) -> dict[str, Any]:
    """For each corruption the figures at each of its values, as JSON holds them.

    ``as_is`` are those of the pictures as they are, of which ``num_images`` were looked at; see
    ``metrics.robustness.point_figures``. Groups are columns of the samples. ``face_size`` also has
    ``gate``: the size below which labels are null, and the one that the curve suggests.

    Raises:
        UsageError: a labelled image is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    looks, shown = look(
        samples,
        model,
        detector,
        min_face_px=min_face_px,
        corruptions=corruptions,
        num_threads=num_threads,
        progress=progress,
    )
    columns = {c: np.array([s.groups.get(c, "") for s in shown], np.str_) for c in groups}
    place = {step: k for k, step in enumerate(_steps(corruptions), 1)}

    def point(k: int) -> dict[str, Any]:
        return point_figures(looks, k, model.attributes, columns)

    figures: dict[str, dict[str, Any]] = {
        name: {
            "label": corruption.label,
            "unit": corruption.unit,
            "reference": corruption.reference,
            "is_log": corruption.is_log,
            "as_is": {"num_images": len(samples), **point(0)},
            "points": [{"value": v, **point(place.get((name, v), 0))} for v in corruption.values],
        }
        for name, corruption in corruptions.items()
    }
    if "face_size" in figures:
        figures["face_size"]["gate"] = gate_figures(figures["face_size"]["points"], min_face_px)
    return figures


def look(
    samples: Sequence[Sample],
    model: Model,
    detector: FaceDetector,
    *,
    min_face_px: float,
    corruptions: Mapping[str, Corruption] = CORRUPTIONS,
    num_threads: int = 1,
    progress: Progress = lambda items: items,
) -> tuple[Looks, list[Sample]]:
    """All looks at the most central face of each sample, and the samples in which there is one.

    Each image is read and decoded once. ``progress`` wraps the iteration over the samples.

    Raises:
        UsageError: a labelled image is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    steps = _steps(corruptions)

    def looks_at(seed: int, sample: Sample) -> Looks | None:
        image = read_labelled_image(sample.image_uri)
        face = central_face(image, detector)
        if not len(face):
            return None
        as_is = Picture(image, face.boxes_xyxy[0], seed)
        worse = (corruptions[name].change(as_is, value) for name, value in steps)
        present, face_px, crops = _find(itertools.chain([as_is], worse), detector, model)
        targets = targets_of([sample], model.attributes)[0]
        return _judge(present, face_px, crops, targets, model, min_face_px=min_face_px)

    with ThreadPoolExecutor(num_threads) as pool:
        each = list(progress(pool.map(looks_at, range(len(samples)), samples)))
    faces = [one for one in each if one is not None]
    shown = [sample for sample, one in zip(samples, each, strict=True) if one is not None]
    return joined([no_faces(1 + len(steps), len(model.attributes)), *faces]), shown


def _steps(corruptions: Mapping[str, Corruption]) -> list[tuple[str, float]]:
    """Name and value of every look but the first; a value that changes nothing needs none."""
    return [
        (name, value)
        for name, corruption in corruptions.items()
        for value in corruption.values
        if value != corruption.reference
    ]


def _find(
    pictures: Iterable[Picture | None], detector: FaceDetector, model: Model
) -> tuple[Bools, FloatArray, UInt8Array]:
    """Which of K pictures there are, sizes of the faces found in them, and those faces' crops.

    A face is found where the most central one has its centre inside of the box that is expected.
    """
    present, face_px, crops = [], [], []
    for picture in pictures:
        present.append(picture is not None)
        face_px.append(np.nan)
        if picture is None:
            continue
        face = central_face(picture.image, detector)
        if len(face) and _has_centre_in(picture.box_xyxy, face.boxes_xyxy[0]):
            face_px[-1] = float(boxes.short_sides(face.boxes_xyxy)[0])
            crops.append(crop_face(picture.image, face.landmarks[0], model.crop_rule))
    shape = (len(crops), *model.crop_rule.size_hw, 3)
    return (
        np.array(present),
        np.array(face_px, np.float32),
        np.array(crops, np.uint8).reshape(shape),
    )


def _has_centre_in(outer_xyxy: FloatArray, inner_xyxy: FloatArray) -> bool:
    centre = (inner_xyxy[:2] + inner_xyxy[2:]) / 2
    return bool((centre >= outer_xyxy[:2]).all() and (centre <= outer_xyxy[2:]).all())


def _judge(
    present: Bools,
    face_px: FloatArray,
    crops: UInt8Array,
    targets: NDArray[np.int64],
    model: Model,
    *,
    min_face_px: float,
) -> Looks:
    """The looks at one face, F = 1.

    ``crops`` are of those looks whose ``face_px`` (K,) is not NaN; ``targets`` is (A,).
    """
    found = ~np.isnan(face_px)
    shape = (1, len(face_px), len(model.attributes))
    said, came_true, is_right = (np.full(shape, np.nan) for _ in range(3))
    abstained = np.zeros(shape, bool)
    probs = model.classifier.predict_proba(crops)
    for i, (attribute, target) in enumerate(zip(model.attributes, targets, strict=True)):
        own, truth = probs[attribute.name], np.full(len(crops), target)
        said[0, found, i], holds = confidences(attribute, truth, own)
        if target != UNKNOWN:
            threshold = model.calibration.thresholds.get(attribute.name, 0.5)
            is_right[0, found, i] = is_correct(attribute, truth, own, threshold)
            came_true[0, found, i] = holds
        abstained[0, found, i] = calibrate.abstained(own, attribute, model.calibration)
    abstained |= (face_px < min_face_px)[None, :, None]
    return Looks(present[None], face_px[None], said, came_true, is_right, abstained)
