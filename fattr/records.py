"""The records that rooms share: one frozen, validated record per hop. Knows no room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
UInt8Array: TypeAlias = NDArray[np.uint8]


class Status(StrEnum):
    """What became of one input image."""

    OK = "ok"
    NO_FACE = "no_face"
    UNREADABLE = "unreadable"
    TOO_LARGE = "too_large"
    MISSING = "missing"
    DENIED = "denied"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    POISON = "poison"


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Faces of one image, best score first; N = 0 where there is none.

    Float32, pixels of the upright image. Landmarks are (x, y) of image-left eye, image-right eye,
    nose tip, image-left and image-right mouth corner.
    """

    boxes_xyxy: FloatArray  # (N, 4)
    scores: FloatArray  # (N,) in [0, 1]
    landmarks: FloatArray  # (N, 5, 2)

    def __post_init__(self) -> None:
        n = len(self.scores)
        shapes = {"boxes_xyxy": (n, 4), "scores": (n,), "landmarks": (n, 5, 2)}
        for name, want in shapes.items():
            if (got := getattr(self, name).shape) != want:
                raise ValueError(f"{name} must have shape {want}, got {got}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """No face."""
        zeros = np.zeros(0, np.float32)
        return cls(zeros.reshape(0, 4), zeros, zeros.reshape(0, 5, 2))

    def scaled(self, factor_xy: tuple[float, float]) -> Detections:
        """The same faces in an image ``factor_xy`` times as wide and as high."""
        xy = np.asarray(factor_xy, np.float32)
        return Detections(self.boxes_xyxy * np.tile(xy, 2), self.scores, self.landmarks * xy)


@dataclass(frozen=True, slots=True)
class TemplatePoint:
    """Where the mean of some landmarks lands in a crop; x, y in pixels of the crop."""

    landmarks: tuple[int, ...]  # indices into the five landmarks
    x: float
    y: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CropRule:
    """How a crop is cut: the similarity transform that best takes landmarks to template points.

    Coordinates are continuous, pixel i covering [i, i + 1), as for boxes. Interpolation is bicubic,
    antialiased where the crop is smaller; outside the image, the nearest border pixel is repeated.
    """

    name: str
    size_hw: tuple[int, int]
    points: tuple[TemplatePoint, ...]

    def __post_init__(self) -> None:
        if len(self.points) < 2:
            raise ValueError(f"crop rule {self.name!r} needs 2 or more points: {self.points}")
        if min(self.size_hw) < 1:
            raise ValueError(f"crop rule {self.name!r}: size_hw must be positive: {self.size_hw}")


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image of a data set; an attribute without a label is absent from ``targets``."""

    image_uri: str
    targets: Mapping[str, int]  # attribute name -> class index (binary: 0 or 1; age: bin)
    groups: Mapping[str, str] = field(default_factory=dict)  # as annotated; no head predicts these
