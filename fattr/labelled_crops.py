"""The faces of a labelled data set as crops with targets, for training and for evaluation.

The same detector and the same crop rule as in serving, so that what a model learns and is measured
on is what it will see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fattr import boxes, images
from fattr.attributes import Attribute
from fattr.crop import central_crop, crop_face
from fattr.datasets import read_image
from fattr.detect.detector import FaceDetector
from fattr.errors import ImageError, StorageError, UsageError
from fattr.records import CropRule, Detections, Sample, Status, UInt8Array

UNKNOWN = -1  # target without a label


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCrops:
    """N labelled faces."""

    crops: UInt8Array  # (N, h, w, 3) RGB, by the crop rule
    targets: NDArray[np.int64]  # (N, A) class index of each attribute, -1 where unknown
    found: NDArray[np.bool_]  # (N,) False: no face was detected, the crop is the picture's centre
    face_px: NDArray[np.float32]  # (N,) shorter side of the box; NaN where not found
    groups: Mapping[str, tuple[str, ...]]  # column -> value of each face

    def __len__(self) -> int:
        return len(self.targets)


def targets_of(samples: Sequence[Sample], attributes: Sequence[Attribute]) -> NDArray[np.int64]:
    """Targets (N, A), -1 where a sample has no label."""
    rows = [[s.targets.get(a.name, UNKNOWN) for a in attributes] for s in samples]
    return np.asarray(rows, np.int64).reshape(len(samples), len(attributes))


def most_central(faces: Detections, size_hw: tuple[int, int]) -> int | None:
    """Index of the face whose box centre is nearest the image's centre; None without faces."""
    if not len(faces):
        return None
    centres = (faces.boxes_xyxy[:, :2] + faces.boxes_xyxy[:, 2:]) / 2
    offsets = centres - np.array([size_hw[1], size_hw[0]], np.float32) / 2
    return int((offsets**2).sum(axis=1).argmin())


def read_labelled_image(uri: str) -> UInt8Array:
    """The upright RGB pixels (H, W, 3) of a data set's image.

    Raises:
        UsageError: it is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    try:
        return images.decode(read_image(uri)).pixels
    except ImageError as err:
        raise UsageError(f"{uri}: {err}; mend or remove this labelled image") from err
    except StorageError as err:
        if err.status not in (Status.MISSING, Status.DENIED):
            raise
        raise UsageError(f"labelled image {err}; mend the data set") from err


def central_face(image: UInt8Array, detector: FaceDetector) -> Detections:
    """The most central face of an image, alone; none where none is found."""
    faces = detector.detect([image])[0]
    face = most_central(faces, (image.shape[0], image.shape[1]))
    one = slice(0, 0) if face is None else slice(face, face + 1)
    return Detections(faces.boxes_xyxy[one], faces.scores[one], faces.landmarks[one])


def _labelled_crop(
    sample: Sample, rule: CropRule, detector: FaceDetector | None
) -> tuple[UInt8Array, float]:
    """The crop and the face's size in pixels, NaN where no face was found or looked for."""
    image = read_labelled_image(sample.image_uri)
    face = central_face(image, detector) if detector else Detections.empty()
    if not len(face):
        return central_crop(image, rule), float("nan")
    face_px = float(boxes.short_sides(face.boxes_xyxy)[0])
    return crop_face(image, face.landmarks[0], rule), face_px


def labelled_crops(
    samples: Sequence[Sample],
    attributes: Sequence[Attribute],
    rule: CropRule,
    *,
    detector: FaceDetector | None,
    num_threads: int,
    progress: Callable[[Iterator[tuple[UInt8Array, float]]], Iterator[tuple[UInt8Array, float]]],
) -> LabelledCrops:
    """Cut one crop a sample: of the face nearest the centre, or of the centre where none is found.

    Without a detector the pictures are taken to be crops already. ``progress`` wraps the iteration.

    Raises:
        UsageError: a labelled image is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    crops = np.empty((len(samples), *rule.size_hw, 3), np.uint8)
    face_px = np.empty(len(samples), np.float32)
    with ThreadPoolExecutor(num_threads) as pool:
        results = pool.map(lambda sample: _labelled_crop(sample, rule, detector), samples)
        for i, (crop, size_px) in enumerate(progress(results)):
            crops[i], face_px[i] = crop, size_px
    columns = sorted({column for sample in samples for column in sample.groups})
    groups = {c: tuple(sample.groups.get(c, "") for sample in samples) for c in columns}
    found = ~np.isnan(face_px)
    return LabelledCrops(crops, targets_of(samples, attributes), found, face_px, groups)
