"""Images to Detections: letterbox, a backend, back to the image's own pixels.

An image with a face that fills it is looked at a second time with room around it. Without, half of
a face passes for another one: of 500 FairFace chips, whose faces take 0.75 of the frame, 90 showed
more than one face, with room 12; and crops placed by the landmarks scattered by 7 % of the chip,
with room by 4.7 %, as they do in photographs. At 0.4 of the frame a second look changes nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from fattr import boxes
from fattr.records import Detections, FloatArray, UInt8Array

BUCKET = 32  # padded sides are multiples of this, the coarsest stride
# Of an image's long side, for the shorter side of a face:
CLOSE_UP = 0.45  # more asks for a second look,
SMALL = 0.15  # and less stays as the first look found it
SAME_FACE_IOU = 0.4
MAX_CANDIDATES = 5000  # per image, before suppression: bounds the worst case


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a checkpoint was trained on: (pixel - mean) / std, channels as in ``order``, 0..255."""

    order: str  # "rgb" or "bgr"; mean and std follow it
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order must be rgb or bgr, got {self.order!r}")


@dataclass(frozen=True, slots=True)
class Letterbox:
    """How the network sees an image: resized, at the upper left of a canvas of the mean colour.

    Resizing is bilinear between pixel centres, without antialiasing; see ``shrunk``.
    """

    inner_hw: tuple[int, int]  # the image resized
    canvas_hw: tuple[int, int]


class Backend(Protocol):
    """The network with its thresholds, on some device."""

    def __call__(
        self, images: Sequence[UInt8Array], boxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """Faces of each RGB image (H, W, 3), in pixels of the canvas, which all of them share."""


def letterbox(size_hw: tuple[int, int], long_side: int) -> Letterbox:
    """The letterbox of an image of this size, its long side resized to ``long_side``.

    It depends on the image alone, so that a box never depends on the rest of its batch.
    """
    scale = long_side / max(size_hw)
    inner = (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))
    return Letterbox(inner, (-(-inner[0] // BUCKET) * BUCKET, -(-inner[1] // BUCKET) * BUCKET))


def shrunk(image: UInt8Array, long_side: int) -> tuple[UInt8Array, int]:
    """The means of blocks of n x n pixels, and n: less than twice ``long_side``, where it was more.

    Resizing to ``long_side`` then skips no pixel. Where n does not divide a side, its last blocks
    are smaller; n is at most the shorter side.
    """
    factor = max(1, min(max(image.shape[:2]) // long_side, *image.shape[:2]))
    if factor == 1:
        return image, 1
    return np.asarray(Image.fromarray(image).reduce(factor)), factor


def _inside(found: Detections, size_hw: tuple[int, int]) -> Detections:
    """Boxes cut at the image's edges; those with nothing inside are dropped."""
    clipped = boxes.clip(found.boxes_xyxy, size_hw=size_hw)
    kept = boxes.short_sides(clipped) > 0
    return Detections(clipped[kept], found.scores[kept], found.landmarks[kept])


def with_room(image: UInt8Array, *, long_side: int) -> UInt8Array:
    """The image at half of ``long_side`` with its border repeated for a quarter on all sides."""
    height, width = letterbox((image.shape[0], image.shape[1]), long_side // 2).inner_hw
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    room = long_side // 4
    return np.pad(np.asarray(small), ((room, room), (room, room), (0, 0)), "edge")


def _shares(faces: Detections, size_hw: tuple[int, int]) -> FloatArray:
    """Shorter side of each face, (N,), as a share of the image's long side."""
    return boxes.short_sides(faces.boxes_xyxy) / np.float32(max(size_hw))


def _merged(first: Detections, second: Detections, size_hw: tuple[int, int]) -> Detections:
    """All faces of the second look and the small ones of the first, each once."""
    small = _shares(first, size_hw) < SMALL
    boxes_xyxy = np.concatenate([second.boxes_xyxy, first.boxes_xyxy[small]])
    scores = np.concatenate([second.scores, first.scores[small]])
    landmarks = np.concatenate([second.landmarks, first.landmarks[small]])
    kept = boxes.nms(boxes_xyxy, scores, iou_threshold=SAME_FACE_IOU)
    return Detections(boxes_xyxy[kept], scores[kept], landmarks[kept])


class FaceDetector:
    """Finds the faces of images of any size."""

    def __init__(self, backend: Backend, *, long_side: int, batch_size: int) -> None:
        if long_side % BUCKET:
            raise ValueError(f"long_side must be a multiple of {BUCKET}, got {long_side}")
        self._backend = backend
        self._batch_size = batch_size
        self.long_side = long_side

    def detect(self, images: Sequence[UInt8Array]) -> list[Detections]:
        """Faces of each RGB image (H, W, 3), in that image's pixels, best score first."""
        found = self._look(images)
        sizes_hw = [(image.shape[0], image.shape[1]) for image in images]
        twice = [i for i, hw in enumerate(sizes_hw) if (_shares(found[i], hw) > CLOSE_UP).any()]
        again = self._look([with_room(images[i], long_side=self.long_side) for i in twice])
        for i, faces in zip(twice, again, strict=True):
            found[i] = _merged(found[i], self._without_room(faces, images[i]), sizes_hw[i])
        return found

    def _look(self, images: Sequence[UInt8Array]) -> list[Detections]:
        small = [shrunk(image, self.long_side) for image in images]
        fits = [letterbox((p.shape[0], p.shape[1]), self.long_side) for p, _ in small]
        found = [Detections.empty()] * len(images)
        for indices in self._batches(fits):
            batch = self._backend([small[i][0] for i in indices], [fits[i] for i in indices])
            for i, faces in zip(indices, batch, strict=True):
                (height, width), inner = small[i][0].shape[:2], fits[i].inner_hw
                factor = small[i][1]
                scale_xy = (factor * width / inner[1], factor * height / inner[0])
                size_hw = (images[i].shape[0], images[i].shape[1])
                found[i] = _inside(faces.scaled(scale_xy), size_hw)
        return found

    def _batches(self, fits: Sequence[Letterbox]) -> Iterator[list[int]]:
        by_canvas: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, fit in enumerate(fits):
            by_canvas[fit.canvas_hw].append(i)
        for members in by_canvas.values():
            for start in range(0, len(members), self._batch_size):
                yield members[start : start + self._batch_size]

    def _without_room(self, faces: Detections, image: UInt8Array) -> Detections:
        height, width = image.shape[:2]
        inner_hw = letterbox((height, width), self.long_side // 2).inner_hw
        room = np.float32(self.long_side // 4)
        small = Detections(faces.boxes_xyxy - room, faces.scores, faces.landmarks - room)
        return _inside(small.scaled((width / inner_hw[1], height / inner_hw[0])), (height, width))
