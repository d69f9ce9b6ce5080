"""Images to Detections: letterbox, one of two backends, back to the image's own pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from fattr import boxes
from fattr.records import Detections, UInt8Array

BUCKET = 32  # padded sides are multiples of this, the coarsest stride


@dataclass(frozen=True, slots=True)
class Normalisation:
    """What a checkpoint was trained on: (pixel - mean) / std, channels as in ``order``, 0..255."""

    order: str  # "rgb" or "bgr"; mean and std follow it
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.order not in ("rgb", "bgr"):
            raise ValueError(f"order must be rgb or bgr, got {self.order!r}")

    @property
    def padding_rgb(self) -> tuple[int, int, int]:
        """The colour that normalises to about zero."""
        red, green, blue = self.mean if self.order == "rgb" else self.mean[::-1]
        return round(red), round(green), round(blue)


class Backend(Protocol):
    """The network with its thresholds, on some device."""

    normalisation: Normalisation

    def __call__(self, batch: UInt8Array) -> list[Detections]:
        """Faces of each image of an RGB batch (N, H, W, 3), in pixels of the batch."""


def bucket_hw(size_hw: tuple[int, int], long_side: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) an image is resized to, and that of the padded canvas around it.

    Both depend on the image alone, so that a box never depends on the rest of its batch.
    """
    scale = long_side / max(size_hw)
    inner = (max(1, round(size_hw[0] * scale)), max(1, round(size_hw[1] * scale)))
    return inner, (-(-inner[0] // BUCKET) * BUCKET, -(-inner[1] // BUCKET) * BUCKET)


def letterbox(
    image: UInt8Array, *, long_side: int, padding_rgb: tuple[int, int, int]
) -> UInt8Array:
    """The image resized to ``long_side``, padded right and below to its bucket."""
    (height, width), canvas_hw = bucket_hw((image.shape[0], image.shape[1]), long_side)
    canvas = np.empty((*canvas_hw, 3), np.uint8)
    canvas[:] = padding_rgb
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    canvas[:height, :width] = np.asarray(resized)
    return canvas


def _inside(found: Detections, size_hw: tuple[int, int]) -> Detections:
    """Boxes cut at the image's edges; those with nothing inside are dropped."""
    clipped = boxes.clip(found.boxes_xyxy, size_hw=size_hw)
    kept = boxes.short_sides(clipped) > 0
    return Detections(clipped[kept], found.scores[kept], found.landmarks[kept])


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
        found = [Detections.empty()] * len(images)
        for indices in self._batches(images):
            padding = self._backend.normalisation.padding_rgb
            batch = [
                letterbox(images[i], long_side=self.long_side, padding_rgb=padding) for i in indices
            ]
            for i, faces in zip(indices, self._backend(np.stack(batch)), strict=True):
                found[i] = self._to_image(faces, images[i])
        return found

    def _batches(self, images: Sequence[UInt8Array]) -> Iterator[list[int]]:
        by_bucket: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, image in enumerate(images):
            by_bucket[bucket_hw((image.shape[0], image.shape[1]), self.long_side)[1]].append(i)
        for members in by_bucket.values():
            for start in range(0, len(members), self._batch_size):
                yield members[start : start + self._batch_size]

    def _to_image(self, faces: Detections, image: UInt8Array) -> Detections:
        height, width = image.shape[:2]
        inner_hw, _ = bucket_hw((height, width), self.long_side)
        return _inside(
            faces.scaled((width / inner_hw[1], height / inner_hw[0])), size_hw=(height, width)
        )
