"""The one place that cuts a crop, for training and serving alike. numpy and Pillow, no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fattr.errors import UsageError
from fattr.records import CropRule, FloatArray, TemplatePoint, UInt8Array

BORDER = 3  # pixels beyond the crop that bicubic interpolation may look at
REDUCING_GAP = 3.0  # large photographs are box-reduced to 3 times the crop's scale first
MAX_ZOOM_OUT = 4.0  # a crop covers at most this many long sides of its image

LEFT_EYE, RIGHT_EYE, NOSE, MOUTH_LEFT, MOUTH_RIGHT = range(5)

# CelebA's own aligner: similarity from eyes and mouth centre to these points of a 178 x 218 canvas
# (1-based pixel centres (70.745, 112), (108.237, 112), (89.432, 153.514) less a half).
CELEBA_CANVAS_HW = (218, 178)
CELEBA_POINTS = (
    TemplatePoint((LEFT_EYE,), 70.245, 111.5),
    TemplatePoint((RIGHT_EYE,), 107.737, 111.5),
    TemplatePoint((MOUTH_LEFT, MOUTH_RIGHT), 88.932, 153.014),
)

# FairFace publishes dlib chips with a margin of 0.25; these are the medians of the landmarks that
# the default detector finds on 1,500 of its 224-pixel training chips, made symmetric. The nose is
# left out: it moves with the head's turn (interquartile range 18 pixels, the eyes' 6).
FAIRFACE_CANVAS_HW = (224, 224)
FAIRFACE_POINTS = (
    TemplatePoint((LEFT_EYE,), 71.4, 66.5),
    TemplatePoint((RIGHT_EYE,), 151.0, 66.5),
    TemplatePoint((MOUTH_LEFT,), 77.3, 151.8),
    TemplatePoint((MOUTH_RIGHT,), 145.1, 151.8),
)

RULES = {
    "celeba": (CELEBA_POINTS, CELEBA_CANVAS_HW),
    "fairface": (FAIRFACE_POINTS, FAIRFACE_CANVAS_HW),
}


def named_rule(name: str, size_hw: tuple[int, int]) -> CropRule:
    """One of ``RULES`` at ``size_hw``; "celeba" takes in hair and shoulders, "fairface" does not.

    Raises:
        UsageError: no rule has that name.
    """
    if name not in RULES:
        raise UsageError(f"unknown crop rule {name!r}: one of {sorted(RULES)} expected")
    points, canvas_hw = RULES[name]
    fy, fx = size_hw[0] / canvas_hw[0], size_hw[1] / canvas_hw[1]
    scaled = tuple(TemplatePoint(p.landmarks, p.x * fx, p.y * fy) for p in points)
    return CropRule(name=name, size_hw=size_hw, points=scaled)


def _similarity(landmarks: FloatArray, rule: CropRule) -> tuple[complex, complex]:
    """(a, b) with crop = a * image + b as complex x + iy: least squares over rotation and scale."""
    means = np.array([_centre(landmarks, p.landmarks) for p in rule.points], np.float64)
    source = means[:, 0] + 1j * means[:, 1]
    target = np.array([complex(p.x, p.y) for p in rule.points])
    centred = source - source.mean()
    spread = float((abs(centred) ** 2).sum())
    a = complex((centred.conj() * target).sum()) / spread if spread else 1 + 0j
    return a, complex(target.mean() - a * source.mean())


def _centre(landmarks: FloatArray, of: tuple[int, ...]) -> FloatArray:
    point: FloatArray = landmarks[of[0]] if len(of) == 1 else landmarks[list(of)].mean(axis=0)
    return point


def crop_scale(landmarks: FloatArray, rule: CropRule) -> float:
    """Crop pixels per image pixel for a face with these landmarks (5, 2)."""
    return abs(_similarity(landmarks, rule)[0])


def crop_face(image: UInt8Array, landmarks: FloatArray, rule: CropRule) -> UInt8Array:
    """The crop (h, w, 3) of one face of an RGB image; ``landmarks`` (5, 2) in its pixels."""
    a, b = _similarity(landmarks, rule)
    smallest = max(rule.size_hw) / (MAX_ZOOM_OUT * max(image.shape[:2]))
    if abs(a) < smallest:  # landmarks of no face: keep the centre, cut a region of sane size
        centre = complex(*landmarks.mean(axis=0).tolist())
        b, a = complex(rule.size_hw[1] / 2, rule.size_hw[0] / 2) - smallest * centre, smallest + 0j
    return _warp(image, 1 / a, -b / a, rule.size_hw)


def central_crop(image: UInt8Array, rule: CropRule) -> UInt8Array:
    """The largest centred window of the rule's shape: for pictures that are crops already."""
    (height, width), (crop_h, crop_w) = image.shape[:2], rule.size_hw
    step = min(height / crop_h, width / crop_w)
    corner = complex(width - step * crop_w, height - step * crop_h) / 2
    return _warp(image, complex(step), corner, rule.size_hw)


@dataclass(frozen=True, slots=True)
class _Side:
    """Width or height of the region a crop looks at, shrunk."""

    start: int  # of its part inside the image, in the image's pixels
    stop: int
    size: int  # shrunk pixels of that part
    first: int  # shrunk pixel at which the region begins, and ends; 0 is at ``start``
    last: int

    @property
    def step(self) -> float:
        """Image pixels to a shrunk one."""
        return (self.stop - self.start) / self.size

    @property
    def is_inside(self) -> bool:
        """Whether no border needs repeating."""
        return self.first >= 0 and self.last <= self.size

    @property
    def indices(self) -> NDArray[np.intp]:
        """Of the region's pixels in the part inside, the border repeated."""
        return np.clip(np.arange(self.first, self.last), 0, self.size - 1)

    def coefficients(self, *linear: float, constant: float) -> tuple[float, ...]:
        """The same affine form in the region's pixels instead of the image's."""
        shifted = (constant - self.start) / self.step - self.first
        return (*(c / self.step for c in linear), shifted)


def _side(corners: list[float], length: int, shrink: float) -> _Side:
    low, high = min(corners) - BORDER * shrink, max(corners) + BORDER * shrink
    start = min(max(math.floor(low), 0), length - 1)
    stop = max(min(math.ceil(high), length), start + 1)
    size = max(1, round((stop - start) / shrink))
    step = (stop - start) / size
    return _Side(
        start, stop, size, math.floor((low - start) / step), math.ceil((high - start) / step)
    )


def _warp(image: UInt8Array, a: complex, b: complex, size_hw: tuple[int, int]) -> UInt8Array:
    """Sample ``image`` at a * crop + b for every crop pixel.

    What is larger than the crop is first shrunk with antialiasing, and only then its border
    repeated, so that a large photograph costs no more memory than its own.
    """
    crop_h, crop_w = size_hw
    corners = [a * z + b for z in (0, crop_w, 1j * crop_h, crop_w + 1j * crop_h)]
    shrink = max(1.0, abs(a))
    x = _side([z.real for z in corners], image.shape[1], shrink)
    y = _side([z.imag for z in corners], image.shape[0], shrink)
    inside = np.ascontiguousarray(image[y.start : y.stop, x.start : x.stop])
    shrunk = Image.fromarray(inside).resize(
        (x.size, y.size), Image.Resampling.BICUBIC, reducing_gap=REDUCING_GAP
    )
    if x.is_inside and y.is_inside:
        region = shrunk.crop((x.first, y.first, x.last, y.last))
    else:
        region = Image.fromarray(np.asarray(shrunk)[y.indices[:, None], x.indices])
    matrix = (
        *x.coefficients(a.real, -a.imag, constant=b.real),
        *y.coefficients(a.imag, a.real, constant=b.imag),
    )
    warped = region.transform(
        (crop_w, crop_h), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(warped)
