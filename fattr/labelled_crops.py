"""The faces of a labelled data set as crops with targets, for training and for evaluation.

The same detector and the same crop rule as in serving, so that what a model learns and is measured
on is what it will see. Crops are held in memory, or cut anew from their images whenever they are
asked for; both are equal to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fattr import boxes, images
from fattr.attributes import Attribute
from fattr.crop import central_crop, crop_face
from fattr.datasets import read_image
from fattr.detect.detector import FaceDetector
from fattr.errors import ImageError, StorageError, UsageError
from fattr.records import CropRule, Detections, FloatArray, Sample, Status, UInt8Array

UNKNOWN = -1  # target without a label
READ_AT_ONCE = 16  # images of a slice; storage far away answers many as soon as one
SAMPLES_AT_ONCE = 1024  # handed to the threads; each costs memory until its turn has come


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """One crop that is not held: from which image it is cut, and where."""

    image_uri: str
    landmarks: FloatArray  # (5, 2) in the upright image's pixels; NaN: the picture's centre is cut
    rule: CropRule

    def crop(self) -> UInt8Array:
        """The crop (h, w, 3), read and cut now.

        Raises:
            UsageError: the image is missing or cannot be decoded.
            StorageError: the storage failed, perhaps only for now.
        """
        return self.of(read_labelled_image(self.image_uri))

    def of(self, image: UInt8Array) -> UInt8Array:
        """The crop of the image's pixels (H, W, 3), where they are there already."""
        if np.isnan(self.landmarks).any():
            return central_crop(image, self.rule)
        return crop_face(image, self.landmarks, self.rule)


@dataclass(frozen=True, slots=True, eq=False)
class StreamedCrops:
    """N crops that are cut whenever they are asked for; indexed like an array (N, h, w, 3)."""

    image_uris: pa.LargeStringArray
    landmarks: FloatArray  # (N, 5, 2), see ``Cut``
    rule: CropRule

    def __len__(self) -> int:
        return len(self.landmarks)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As of the array."""
        return (len(self), *self.rule.size_hw, 3)

    def cut(self, index: int) -> Cut:
        """How one of them is cut."""
        return Cut(self.image_uris[index].as_py(), self.landmarks[index], self.rule)

    @overload
    def __getitem__(self, key: int) -> UInt8Array: ...
    @overload
    def __getitem__(self, key: slice) -> UInt8Array: ...
    def __getitem__(self, key: int | slice) -> UInt8Array:
        """One crop (h, w, 3), or those of a slice (n, h, w, 3), which are read in threads."""
        if isinstance(key, int):
            return self.cut(key).crop()
        chosen = range(*key.indices(len(self)))
        out = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        with ThreadPoolExecutor(READ_AT_ONCE) as pool:
            for i, crop in enumerate(pool.map(self.__getitem__, chosen)):
                out[i] = crop
        return out

    def part(self, chosen: NDArray[np.int64]) -> StreamedCrops:
        """Those with these indices; none is read."""
        return StreamedCrops(self.image_uris.take(chosen), self.landmarks[chosen], self.rule)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledCrops:
    """N labelled faces."""

    crops: UInt8Array | StreamedCrops  # (N, h, w, 3) RGB, by the crop rule
    targets: NDArray[np.int64]  # (N, A) class index of each attribute, -1 where unknown
    found: NDArray[np.bool_]  # (N,) False: no face was detected, the crop is the picture's centre
    face_px: NDArray[np.float32]  # (N,) shorter side of the box; NaN where not found
    groups: Mapping[str, tuple[str, ...]]  # column -> value of each face

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of a crop in pixels."""
        return self.crops.shape[1], self.crops.shape[2]

    def source(self, index: int) -> UInt8Array | Cut:
        """A crop (h, w, 3) that is held, or how it is cut: all that another process needs."""
        crops = self.crops
        return crops.cut(index) if isinstance(crops, StreamedCrops) else crops[index]

    def crop(self, index: int) -> UInt8Array:
        """One crop (h, w, 3).

        Raises:
            UsageError: its image is missing or cannot be decoded.
            StorageError: the storage failed, perhaps only for now.
        """
        crop: UInt8Array = self.crops[index]
        return crop

    def part(self, chosen: NDArray[np.int64]) -> LabelledCrops:
        """The samples with these indices, in their order."""
        crops = self.crops
        return LabelledCrops(
            crops.part(chosen) if isinstance(crops, StreamedCrops) else crops[chosen],
            self.targets[chosen],
            self.found[chosen],
            self.face_px[chosen],
            {name: tuple(values[i] for i in chosen) for name, values in self.groups.items()},
        )


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


@dataclass(frozen=True, slots=True, eq=False)
class LookedAt:
    """What is kept of a sample's image."""

    landmarks: FloatArray  # (5, 2), NaN where no face was found or looked for
    face_px: float  # shorter side of the box, NaN likewise
    crop: UInt8Array | None  # None where crops are not held


def labelled_crops(
    samples: Sequence[Sample],
    attributes: Sequence[Attribute],
    rule: CropRule,
    *,
    detector: FaceDetector | None,
    num_threads: int,
    progress: Callable[[Iterator[LookedAt]], Iterator[LookedAt]],
    held: bool = True,
) -> LabelledCrops:
    """One crop a sample: of the face nearest the centre, or of the centre where none is found.

    Without a detector the pictures are taken to be crops already. ``progress`` wraps the iteration.
    Crops that are not ``held`` in memory are cut when asked for; faces are looked for now.

    Raises:
        UsageError: a labelled image is missing or cannot be decoded.
        StorageError: the storage failed, perhaps only for now.
    """
    landmarks = np.empty((len(samples), 5, 2), np.float32)
    face_px = np.empty(len(samples), np.float32)
    crops = np.empty((len(samples) if held else 0, *rule.size_hw, 3), np.uint8)

    def look(sample: Sample) -> LookedAt:
        return _look(sample.image_uri, rule, detector, held)

    with ThreadPoolExecutor(num_threads) as pool:
        for i, seen in enumerate(progress(_in_order(look, samples, pool))):
            landmarks[i], face_px[i] = seen.landmarks, seen.face_px
            if seen.crop is not None:
                crops[i] = seen.crop
    uris = pa.array([sample.image_uri for sample in samples], pa.large_string())
    return LabelledCrops(
        crops if held else StreamedCrops(uris, landmarks, rule),
        targets_of(samples, attributes),
        ~np.isnan(face_px),
        face_px,
        _groups(samples),
    )


def _look(uri: str, rule: CropRule, detector: FaceDetector | None, held: bool) -> LookedAt:
    image = read_labelled_image(uri)
    face = central_face(image, detector) if detector else Detections.empty()
    landmarks, face_px = np.full((5, 2), np.nan, np.float32), float("nan")
    if len(face):
        landmarks = face.landmarks[0]
        face_px = float(boxes.short_sides(face.boxes_xyxy)[0])
    crop = Cut(uri, landmarks, rule).of(image) if held else None
    return LookedAt(landmarks, face_px, crop)


def _in_order(
    look: Callable[[Sample], LookedAt], samples: Sequence[Sample], pool: ThreadPoolExecutor
) -> Iterator[LookedAt]:
    for start in range(0, len(samples), SAMPLES_AT_ONCE):
        yield from pool.map(look, samples[start : start + SAMPLES_AT_ONCE])


def _groups(samples: Sequence[Sample]) -> dict[str, tuple[str, ...]]:
    columns = sorted({column for sample in samples for column in sample.groups})
    return {c: tuple(sample.groups.get(c, "") for sample in samples) for c in columns}
