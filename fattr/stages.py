"""The stages of annotate as batch callables, in their order: fetch, then decode to labels.

The same objects run in a loop and in an actor; a failed image is a row with a status.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fattr import boxes, images, storage, tables
from fattr.attributes import Attribute
from fattr.classify import calibration as calibrate
from fattr.classify.calibration import Calibration
from fattr.classify.classifier import AttributeClassifier
from fattr.crop import crop_face, crop_scale
from fattr.detect.detector import FaceDetector
from fattr.errors import ImageError, StorageError
from fattr.images import DecodedImage
from fattr.records import CropRule, Detections, FloatArray, Status, UInt8Array


@dataclass(frozen=True, slots=True)
class Fetched:
    """One object's bytes, or why there are none."""

    data: bytes | None
    status: str
    reason: str
    seconds: float


class Fetch:
    """Manifest rows -> the same rows with the objects' bytes; many requests in flight.

    ``read`` gives the bytes behind a URI: of an object, unless told otherwise.
    """

    def __init__(
        self, *, num_in_flight: int = 16, read: Callable[[str], bytes] | None = None
    ) -> None:
        self._num_in_flight, self._read = num_in_flight, read or storage.read_bytes

    def __call__(self, manifest: pa.Table) -> pa.Table:
        """Add ``tables.FETCHED_COLUMNS``."""
        with ThreadPoolExecutor(self._num_in_flight) as pool:
            uris = manifest.column("image_uri").to_pylist()
            fetched = list(pool.map(lambda uri: _fetch(uri, self._read), uris))
        values = (
            [f.data for f in fetched],
            [f.status for f in fetched],
            [f.reason for f in fetched],
            [f.seconds for f in fetched],
        )
        for column, items in zip(tables.FETCHED_COLUMNS, values, strict=True):
            manifest = manifest.append_column(column, pa.array(items, column.type))
        return _with_sizes(manifest)


def _fetch(uri: str, read: Callable[[str], bytes]) -> Fetched:
    started = time.perf_counter()
    try:
        data, status, reason = read(uri), str(Status.OK), ""
    except StorageError as err:
        data, status, reason = None, err.status, err.reason
    return Fetched(data, status, reason, time.perf_counter() - started)


def _with_sizes(fetched: pa.Table) -> pa.Table:
    """``size_bytes`` filled in where the manifest did not know it."""
    sizes = pc.cast(pc.binary_length(fetched.column("image_bytes")), pa.int64())
    index = fetched.schema.get_field_index("size_bytes")
    known = pc.coalesce(fetched.column("size_bytes"), sizes)
    return fetched.set_column(index, "size_bytes", known)


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle at work: its classifier, its crops, and those of its attributes to write."""

    classifier: AttributeClassifier
    crop_rule: CropRule
    calibration: Calibration
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Decoded:
    """A readable image on its way to the detector, with its bytes for a finer decode."""

    image: DecodedImage
    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What is kept of an image once its pixels are gone."""

    status: str
    reason: str = ""
    size_hw: tuple[int, int] | None = None  # full resolution, upright; None where unreadable
    faces: Detections = field(default_factory=Detections.empty)  # full-resolution pixels
    crops: tuple[list[UInt8Array], ...] = ()  # per model, per face
    decode_s: float = 0.0
    detect_s: float = 0.0
    crop_s: float = 0.0


class Annotate:
    """Rows with bytes -> rows with faces and their attributes, one row an image.

    ``images_per_detection`` images are decoded at a time; of these only crops are kept, which are
    classified together at the end of the batch.
    """

    def __init__(
        self,
        detector: FaceDetector,
        models: Sequence[Model],
        *,
        images_per_detection: int,
        min_face_px: float,
        max_pixels: int,
    ) -> None:
        self._detector, self._models = detector, models
        self._images_per_detection = images_per_detection
        self._min_face_px, self._max_pixels = min_face_px, max_pixels
        self._attributes = tuple(a for model in models for a in model.attributes)

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """See the class; the result has ``tables.staged_schema``."""
        items = fetched.select([c.name for c in tables.FETCHED_COLUMNS]).to_pylist()
        step = self._images_per_detection
        seen = [
            image
            for start in range(0, len(items), step)
            for image in self._see(
                [Fetched(*item.values()) for item in items[start : start + step]]
            )
        ]
        columns, classify_s = self._face_columns(seen)
        faces_per_image = np.array([len(image.faces) for image in seen], np.int32)
        made = {
            "width": [image.size_hw and image.size_hw[1] for image in seen],
            "height": [image.size_hw and image.size_hw[0] for image in seen],
            "num_faces": faces_per_image,
            "status": [str(image.status) for image in seen],
            "reason": [image.reason for image in seen],
            "faces": tables.face_lists(self._attributes, columns, faces_per_image),
            "decode_s": [image.decode_s for image in seen],
            "detect_s": [image.detect_s for image in seen],
            "crop_s": [image.crop_s for image in seen],
            "classify_s": faces_per_image * np.float32(classify_s),
        }
        return tables.staged_table(fetched, made, self._attributes)

    def _see(self, fetched: Sequence[Fetched]) -> list[_Seen]:
        decoded = [self._decode(item) for item in fetched]
        readable = [item for item in decoded if isinstance(item, _Decoded)]
        started = time.perf_counter()
        found = iter(self._detector.detect([item.image.pixels for item in readable]))
        detect_s = (time.perf_counter() - started) / max(1, len(readable))
        return [
            item if isinstance(item, _Seen) else self._crop(item, next(found), detect_s)
            for item in decoded
        ]

    def _decode(self, fetched: Fetched) -> _Decoded | _Seen:
        if fetched.data is None:
            return _Seen(fetched.status, fetched.reason)
        started = time.perf_counter()
        try:
            image = images.decode(
                fetched.data, min_long_side=self._detector.long_side, max_pixels=self._max_pixels
            )
        except ImageError as err:
            return _Seen(err.status, err.reason, decode_s=time.perf_counter() - started)
        return _Decoded(image, fetched.data, time.perf_counter() - started)

    def _crop(self, item: _Decoded, faces: Detections, detect_s: float) -> _Seen:
        """Cut every model's crops; ``faces`` are in pixels of the decoded image."""
        started = time.perf_counter()
        pixels, landmarks = self._sharp_enough(item, faces)
        crops = tuple(
            [crop_face(pixels, points, model.crop_rule) for points in landmarks]
            for model in self._models
        )
        full = faces.scaled(item.image.full_per_pixel_xy)
        size_hw = item.image.full_size_hw
        clipped = boxes.clip(full.boxes_xyxy, size_hw=size_hw)
        return _Seen(
            Status.OK if len(faces) else Status.NO_FACE,
            size_hw=size_hw,
            faces=Detections(clipped, full.scores, full.landmarks),
            crops=crops,
            decode_s=item.seconds,
            detect_s=detect_s,
            crop_s=time.perf_counter() - started,
        )

    def _sharp_enough(self, item: _Decoded, faces: Detections) -> tuple[UInt8Array, FloatArray]:
        """Pixels and landmarks to crop from: decoded finer where a labelled face needs it."""
        image = item.image
        labelled = boxes.short_sides(faces.boxes_xyxy) * image.scale >= self._min_face_px
        enlargement = max(
            (
                crop_scale(points, model.crop_rule)
                for points in faces.landmarks[labelled]
                for model in self._models
            ),
            default=0.0,
        )
        if image.scale == 1 or enlargement <= 1:
            return image.pixels, faces.landmarks
        long_side = math.ceil(max(image.pixels.shape[:2]) * enlargement)
        finer = images.decode(item.data, min_long_side=long_side, max_pixels=self._max_pixels)
        return finer.pixels, faces.landmarks * np.float32(image.scale / finer.scale)

    def _face_columns(self, seen: Sequence[_Seen]) -> tuple[dict[str, pa.Array], float]:
        """Columns over all faces, and the seconds of classification a face took."""
        columns = tables.place_columns([image.faces for image in seen])
        hidden = columns["face_px"].to_numpy() < self._min_face_px
        started = time.perf_counter()
        for index, model in enumerate(self._models):
            crops = [crop for image in seen if image.crops for crop in image.crops[index]]
            empty = np.zeros((0, *model.crop_rule.size_hw, 3), np.uint8)
            probs = model.classifier.predict_proba(np.stack(crops) if crops else empty)
            for attribute in model.attributes:
                own = probs[attribute.name]
                labels = calibrate.labels(own, attribute, model.calibration, hidden)
                columns |= tables.label_columns(attribute, labels, own)
        return columns, (time.perf_counter() - started) / max(1, len(hidden))
