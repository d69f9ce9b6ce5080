"""The stages of annotate as batch callables, in their order: fetch, then decode to labels.

The same objects run in a loop and in an actor; a failed image is a row with a status.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

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
from fattr.spans import Took, seconds_since

Stage: TypeAlias = Callable[[pa.Table], pa.Table]
Pulse: TypeAlias = Callable[[], None]

MAX_FETCHED_BYTES = 64 << 20  # of known sizes, held at once by a fetch
# What an image without a known size is taken for: more than most have, since so many of the largest
# that are allowed may come together.
UNKNOWN_BYTES = 8 << 20
CROPS_PER_PULSE = 64
ITEMS_AT_ONCE = 16

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, pool: ThreadPoolExecutor, ahead: int
) -> Iterator[B]:
    """Results in the order of the items, at most ``ahead`` of them under way."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


# Fetch


@dataclass(frozen=True, slots=True)
class Fetched:
    """One object's bytes, or why there are none."""

    data: bytes | None
    status: str
    reason: str
    seconds: float


class Fetch:
    """Manifest rows -> the same rows with the objects' bytes; many requests in flight.

    Read is ``fetch_uri`` where a row has one, else ``image_uri``. ``read`` gives the bytes behind a
    URI: of an object, as ``options`` say, unless told otherwise.
    """

    def __init__(
        self,
        *,
        num_in_flight: int = 16,
        options: storage.ReadOptions | None = None,
        read: Callable[[str], bytes] | None = None,
    ) -> None:
        self.num_in_flight = num_in_flight
        self._read = read or functools.partial(storage.read_bytes, options=options)

    def __call__(self, manifest: pa.Table) -> pa.Table:
        """Add ``tables.FETCHED_COLUMNS``."""
        with ThreadPoolExecutor(self.num_in_flight) as pool:
            fetched = list(pool.map(self._fetch, _places(manifest)))
        values = (
            [f.data for f in fetched],
            [f.status for f in fetched],
            [f.reason for f in fetched],
            [f.seconds for f in fetched],
        )
        for column, items in zip(tables.FETCHED_COLUMNS, values, strict=True):
            manifest = manifest.append_column(column, pa.array(items, column.type))
        return _with_sizes(manifest)

    def _fetch(self, uri: str) -> Fetched:
        started = time.perf_counter()
        try:
            data, status, reason = self._read(uri), str(Status.OK), ""
        except StorageError as err:
            data, status, reason = None, err.status, err.reason
        return Fetched(data, status, reason, time.perf_counter() - started)


def _places(manifest: pa.Table) -> list[str]:
    """Where each image is read from; its ``image_uri`` may be a hash."""
    uris = manifest.column("image_uri")
    if "fetch_uri" in manifest.schema.names:
        uris = pc.coalesce(manifest.column("fetch_uri"), uris)
    return list(uris.to_pylist())


def _with_sizes(fetched: pa.Table) -> pa.Table:
    """``size_bytes`` filled in where the manifest did not know it."""
    sizes = pc.cast(pc.binary_length(fetched.column("image_bytes")), pa.int64())
    index = fetched.schema.get_field_index("size_bytes")
    known = pc.coalesce(fetched.column("size_bytes"), sizes)
    return fetched.set_column(index, "size_bytes", known)


def by_bytes(manifest: pa.Table, *, max_bytes: int = MAX_FETCHED_BYTES) -> Iterator[pa.Table]:
    """The rows in runs of at most ``max_bytes``, going by ``size_bytes``; a larger one alone."""
    sizes = manifest.column("size_bytes").fill_null(UNKNOWN_BYTES).to_pylist()
    start = total = 0
    for row, size in enumerate(sizes):
        if row > start and total + size > max_bytes:
            yield manifest.slice(start, row - start)
            start, total = row, 0
        total += size
    yield manifest.slice(start)


def timed(step: str, stage: Stage, took: Took) -> Stage:
    """The same stage, whose calls are steps."""

    def run(rows: pa.Table) -> pa.Table:
        started = time.perf_counter()
        made = stage(rows)
        took(step, started)
        return made

    return run


def mark_failed(rows: pa.Table, status: str, reason: str) -> pa.Table:
    """Fetched rows as though they could not be had: the stages pass status and reason on."""
    failed = {"fetch_status": status, "fetch_reason": reason}
    for index, column in enumerate(rows.schema):
        if column.name in failed:
            values = pa.array([failed[column.name]] * rows.num_rows, column.type)
            rows = rows.set_column(index, column, values)
        elif pa.types.is_large_binary(column.type):
            rows = rows.set_column(index, column, pa.nulls(rows.num_rows, column.type))
    return rows


# Decode


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A readable image on its way to the detector, with its bytes for a finer decode."""

    image: DecodedImage
    data: bytes
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What is kept of an image once its pixels are gone."""

    status: str
    reason: str = ""
    size_hw: tuple[int, int] | None = None  # full resolution, upright; None where unreadable
    faces: Detections = field(default_factory=Detections.empty)  # full-resolution pixels
    crops: tuple[list[UInt8Array], ...] = ()  # per model, per face
    decode_s: float = 0.0
    detect_s: float = 0.0
    crop_s: float = 0.0


def _no_pulse() -> None:
    """Nobody watches."""


class Decode:
    """Bytes -> pixels, as few as ``long_side`` needs, or why there are none.

    ``pulse`` is called before each image, ``took`` after it. With ``num_threads``, so many decode
    at a time, ahead of whoever takes the pixels.
    """

    def __init__(
        self,
        *,
        long_side: int,
        max_pixels: int,
        pulse: Pulse = _no_pulse,
        took: Took = seconds_since,
        num_threads: int = 0,
    ) -> None:
        self.long_side, self.max_pixels = long_side, max_pixels
        self._pulse, self._took, self._num_threads = pulse, took, num_threads
        self._pool = ThreadPoolExecutor(num_threads) if num_threads else None

    def __call__(self, fetched: pa.Table) -> Iterator[Decoded | Seen]:
        """The images of fetched rows in their order."""
        items = _items(fetched)
        if self._pool is None:
            return map(self._decode, items)
        return ordered_map(self._decode, items, pool=self._pool, ahead=2 * self._num_threads)

    def _decode(self, fetched: Fetched) -> Decoded | Seen:
        self._pulse()
        if fetched.data is None:
            return Seen(fetched.status, fetched.reason)
        started = time.perf_counter()
        try:
            image = images.decode(
                fetched.data, min_long_side=self.long_side, max_pixels=self.max_pixels
            )
        except ImageError as err:
            return Seen(err.status, err.reason, decode_s=self._took("decode", started))
        return Decoded(image, fetched.data, self._took("decode", started))


def _items(fetched: pa.Table) -> Iterator[Fetched]:
    """Rows one by one: only some of their bytes are held twice."""
    rows = fetched.select([c.name for c in tables.FETCHED_COLUMNS])
    for start in range(0, rows.num_rows, ITEMS_AT_ONCE):
        for item in rows.slice(start, ITEMS_AT_ONCE).to_pylist():
            yield Fetched(*item.values())


# Label


@dataclass(frozen=True, slots=True)
class Model:
    """A bundle at work: its classifier, its crops, and those of its attributes to write."""

    classifier: AttributeClassifier
    crop_rule: CropRule
    calibration: Calibration
    attributes: tuple[Attribute, ...]


class Label:
    """Decoded images -> rows with faces and their attributes, one row an image.

    ``images_per_detection`` images are looked at together; of these only crops are kept, which are
    classified together at the end of the batch. ``pulse`` is called before each step, ``took``
    after it.
    """

    def __init__(
        self,
        detector: FaceDetector,
        models: Sequence[Model],
        *,
        images_per_detection: int,
        min_face_px: float,
        max_pixels: int,
        pulse: Pulse = _no_pulse,
        took: Took = seconds_since,
    ) -> None:
        self._detector, self._models = detector, models
        self._images_per_detection = images_per_detection
        self._min_face_px, self._max_pixels = min_face_px, max_pixels
        self._pulse, self._took = pulse, took
        self._attributes = tuple(a for model in models for a in model.attributes)

    def watched(self, pulse: Pulse, took: Took = seconds_since) -> Label:
        """The same networks with another ``pulse`` and ``took``."""
        return Label(
            self._detector,
            self._models,
            images_per_detection=self._images_per_detection,
            min_face_px=self._min_face_px,
            max_pixels=self._max_pixels,
            pulse=pulse,
            took=took,
        )

    def __call__(self, decoded: Iterable[Decoded | Seen], fetched: pa.Table) -> pa.Table:
        """See the class; ``fetched`` has the images' rows, the result ``tables.staged_schema``."""
        items, seen = iter(decoded), list[Seen]()
        while batch := list(itertools.islice(items, self._images_per_detection)):
            seen += self._see(batch)
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

    def _see(self, decoded: Sequence[Decoded | Seen]) -> list[Seen]:
        readable = [item for item in decoded if isinstance(item, Decoded)]
        self._pulse()
        started = time.perf_counter()
        found = iter(self._detector.detect([item.image.pixels for item in readable]))
        detect_s = self._took("detect", started) / max(1, len(readable))
        return [
            item if isinstance(item, Seen) else self._crop(item, next(found), detect_s)
            for item in decoded
        ]

    def _crop(self, item: Decoded, faces: Detections, detect_s: float) -> Seen:
        """Cut every model's crops; ``faces`` are in pixels of the decoded image."""
        self._pulse()
        started = time.perf_counter()
        pixels, landmarks = self._sharp_enough(item, faces)
        crops = tuple(
            [crop_face(pixels, points, model.crop_rule) for points in landmarks]
            for model in self._models
        )
        full = faces.scaled(item.image.full_per_pixel_xy)
        size_hw = item.image.full_size_hw
        clipped = boxes.clip(full.boxes_xyxy, size_hw=size_hw)
        return Seen(
            Status.OK if len(faces) else Status.NO_FACE,
            size_hw=size_hw,
            faces=Detections(clipped, full.scores, full.landmarks),
            crops=crops,
            decode_s=item.seconds,
            detect_s=detect_s,
            crop_s=self._took("crop", started),
        )

    def _sharp_enough(self, item: Decoded, faces: Detections) -> tuple[UInt8Array, FloatArray]:
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

    def _face_columns(self, seen: Sequence[Seen]) -> tuple[dict[str, pa.Array], float]:
        """Columns over all faces, and the seconds of classification a face took."""
        columns = tables.place_columns([image.faces for image in seen])
        hidden = columns["face_px"].to_numpy() < self._min_face_px
        started = time.perf_counter()
        for index, model in enumerate(self._models):
            crops = [crop for image in seen if image.crops for crop in image.crops[index]]
            probs = self._probabilities(model, crops)
            for attribute in model.attributes:
                own = probs[attribute.name]
                labels = calibrate.labels(own, attribute, model.calibration, hidden)
                columns |= tables.label_columns(attribute, labels, own)
        return columns, self._took("classify", started) / max(1, len(hidden))

    def _probabilities(self, model: Model, crops: Sequence[UInt8Array]) -> dict[str, FloatArray]:
        """Those of the classifier, a pulse for every few crops: a block may show thousands."""
        empty = np.zeros((0, *model.crop_rule.size_hw, 3), np.uint8)
        parts = []
        for start in range(0, max(1, len(crops)), CROPS_PER_PULSE):
            self._pulse()
            some = crops[start : start + CROPS_PER_PULSE]
            parts.append(model.classifier.predict_proba(np.stack(some) if some else empty))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Annotate:
    """Rows with bytes -> rows with faces and their attributes, one row an image.

    ``decode`` and then ``label``, which may also run in two places.
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
        self.decode = Decode(long_side=detector.long_side, max_pixels=max_pixels)
        self.label = Label(
            detector,
            models,
            images_per_detection=images_per_detection,
            min_face_px=min_face_px,
            max_pixels=max_pixels,
        )

    def watch(
        self, pulse: Pulse = _no_pulse, *, took: Took = seconds_since, decode_threads: int = 0
    ) -> None:
        """From now on call ``pulse`` before each step and ``took`` after it.

        With ``decode_threads``, decode ahead on threads of its own.
        """
        self.decode = Decode(
            long_side=self.decode.long_side,
            max_pixels=self.decode.max_pixels,
            pulse=pulse,
            took=took,
            num_threads=decode_threads,
        )
        self.label = self.label.watched(pulse, took)

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """See the class; the result has ``tables.staged_schema``."""
        return self.label(self.decode(fetched), fetched)
