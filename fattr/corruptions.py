"""Ways in which a picture gets worse, each with a grid of how much. numpy and Pillow, no torch.

A picture goes in with the place of its face and comes out worse, with the face's new place. Nothing
here knows how faces are found or labelled. Equal input gives equal output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fattr.records import FloatArray, UInt8Array

GREY = 128  # of what covers a face
BICUBIC_PX = 2  # beyond a point that interpolation looks at


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """An image and one face in it."""

    image: UInt8Array  # (H, W, 3) RGB
    box_xyxy: FloatArray  # (4,) of the face, pixels
    seed: int = 0  # of what is random about its corruptions

    @property
    def face_px(self) -> float:
        """Shorter side of the face's box."""
        x1, y1, x2, y2 = self.box_xyxy.tolist()
        return float(min(x2 - x1, y2 - y1))


Change: TypeAlias = Callable[[Picture, float], Picture | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corruption:
    """One way to get worse. ``change`` returns None where it cannot bring a picture to a value."""

    label: str  # what people read
    unit: str  # of the values
    values: tuple[float, ...]  # rising
    reference: float | None  # the value that leaves pictures as they are, if one does
    is_log: bool = False  # whether the values are best drawn on a logarithmic axis
    change: Change


# Size


def with_face_px(picture: Picture, face_px: float, *, frame_px: int = 0) -> Picture | None:
    """The picture shrunk until its face's shorter side has ``face_px``; None if it is smaller.

    A detector that enlarges small pictures sees the face as large as before, only less sharp. With
    ``frame_px`` the shrunk picture is laid in the middle of one whose long side is as long, the
    border repeated: a small face in a larger photograph. Pictures cut tightly around the face are
    then found less often than photographs of whole heads are.
    """
    scale = face_px / picture.face_px
    if scale > 1:
        return None
    height, width = picture.image.shape[:2]
    size_wh = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(picture.image).resize(size_wh, Image.Resampling.BICUBIC))
    frame = frame_px / max(height, width)
    left, right = _halves(round(width * frame) - size_wh[0])
    top, bottom = _halves(round(height * frame) - size_wh[1])
    framed = np.pad(small, ((top, bottom), (left, right), (0, 0)), mode="edge")
    ratio_xy = np.array([size_wh[0] / width, size_wh[1] / height] * 2)
    box = picture.box_xyxy * ratio_xy + np.array([left, top] * 2)
    return replace(picture, image=framed, box_xyxy=box.astype(np.float32))


def _halves(room: int) -> tuple[int, int]:
    """A space split into what comes before and behind; none where it is negative."""
    room = max(0, room)
    return room // 2, room - room // 2


# Quality


def blurred(picture: Picture, sigma_frac: float) -> Picture:
    """Gaussian blur with a standard deviation of that share of the face's shorter side."""
    if sigma_frac == 0:
        return picture
    blur = ImageFilter.GaussianBlur(sigma_frac * picture.face_px)
    return replace(picture, image=np.asarray(Image.fromarray(picture.image).filter(blur)))


def compressed(picture: Picture, quality: float) -> Picture:
    """Written as JPEG of that quality (1 to 95, chroma halved) and read again."""
    file = BytesIO()
    Image.fromarray(picture.image).save(file, "JPEG", quality=round(quality), subsampling="4:2:0")
    return replace(picture, image=np.asarray(Image.open(file)))


def exposed(picture: Picture, gain: float) -> Picture:
    """Taken with ``gain`` times the light: linear light is multiplied, what is too bright is white.

    Darkness that the camera wrote down is amplified back to few levels of grey, as in a photograph.
    """
    if gain == 1:
        return picture
    levels = np.clip(gain * _to_light(np.arange(256) / 255), 0, 1)
    table = np.round(255 * _from_light(levels)).astype(int).tolist()
    return replace(picture, image=np.asarray(Image.fromarray(picture.image).point(3 * table)))


# sRGB's transfer functions, IEC 61966-2-1; values in [0, 1]
def _to_light(encoded: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def _from_light(light: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


# Place


def turned(picture: Picture, degrees: float) -> Picture:
    """The whole picture turned counterclockwise; it grows to hold all of it, its border repeated.

    The new box is as large as the old one, upright, around the place where its centre went.
    """
    if degrees == 0:
        return picture
    height, width = picture.image.shape[:2]
    turn = _unit(degrees)  # of x + iy, y downwards: old = turn * (new - new_centre) + old_centre
    new_w = round(abs(turn.real) * width + abs(turn.imag) * height)
    new_h = round(abs(turn.imag) * width + abs(turn.real) * height)
    old_centre, new_centre = complex(width, height) / 2, complex(new_w, new_h) / 2
    image = _sampled(picture.image, turn, old_centre - turn * new_centre, (new_w, new_h))
    x1, y1, x2, y2 = picture.box_xyxy.tolist()
    centre = (complex(x1 + x2, y1 + y2) / 2 - old_centre) / turn + new_centre
    ends = [centre + half * complex(x2 - x1, y2 - y1) / 2 for half in (-1, 1)]
    box = np.array([part for end in ends for part in (end.real, end.imag)], np.float32)
    return replace(picture, image=image, box_xyxy=box)


def _sampled(
    image: UInt8Array, turn: complex, start: complex, size_wh: tuple[int, int]
) -> UInt8Array:
    """The image at turn * z + start for every pixel z = x + iy of the result, border repeated."""
    new_w, new_h = size_wh
    corners = [turn * z + start for z in (0, new_w, 1j * new_h, new_w + 1j * new_h)]
    room_x = math.ceil(max(-z.real for z in corners)) + BICUBIC_PX
    room_y = math.ceil(max(-z.imag for z in corners)) + BICUBIC_PX
    roomy = np.pad(image, ((room_y, room_y), (room_x, room_x), (0, 0)), mode="edge")
    x, y = start.real + room_x, start.imag + room_y
    matrix = (turn.real, -turn.imag, x, turn.imag, turn.real, y)
    result = Image.fromarray(roomy).transform(
        size_wh, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    return np.asarray(result)


def _unit(degrees: float) -> complex:
    """On the unit circle; quarter turns without rounding."""
    quarters = degrees / 90
    if quarters == round(quarters):
        return (1 + 0j, 1j, -1 + 0j, -1j)[round(quarters) % 4]
    return complex(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


# Occlusion


def covered_from_top(picture: Picture, share: float) -> Picture:
    """A grey bar over that share of the face's box, from its top down: forehead, then eyes."""
    x1, y1, x2, y2 = picture.box_xyxy.tolist()
    return _covered(picture, x1, y1, x2, y1 + share * (y2 - y1))


def covered_from_bottom(picture: Picture, share: float) -> Picture:
    """A grey bar over that share of the face's box, from its bottom up: chin, mouth, then nose."""
    x1, y1, x2, y2 = picture.box_xyxy.tolist()
    return _covered(picture, x1, y2 - share * (y2 - y1), x2, y2)


def covered_somewhere(picture: Picture, share: float) -> Picture:
    """A grey box of that share of the face's box and of its shape, at a place of its own.

    The place follows from the picture's seed, and is alike for all shares.
    """
    x1, y1, x2, y2 = picture.box_xyxy.tolist()
    width, height = math.sqrt(share) * (x2 - x1), math.sqrt(share) * (y2 - y1)
    across, down = np.random.default_rng(picture.seed).uniform(size=2).tolist()
    left, top = x1 + across * (x2 - x1 - width), y1 + down * (y2 - y1 - height)
    return _covered(picture, left, top, left + width, top + height)


def _covered(picture: Picture, x1: float, y1: float, x2: float, y2: float) -> Picture:
    """Grey where the box is, its edges rounded to pixels."""
    image = picture.image.copy()
    image[round(y1) : round(y2), round(x1) : round(x2)] = GREY
    return replace(picture, image=image)


# The grids

SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)

CORRUPTIONS = {
    "face_size": Corruption(
        label="Face size",
        unit="shorter side of the face, pixels",
        values=(15, 20, 24, 32, 48, 64, 96, 128, 160, 224),
        reference=None,
        is_log=True,
        change=with_face_px,
    ),
    "blur": Corruption(
        label="Blur",
        unit="sigma, share of the face",
        values=(0.0, 0.01, 0.02, 0.03, 0.045, 0.07),
        reference=0.0,
        change=blurred,
    ),
    "jpeg": Corruption(
        label="JPEG",
        unit="quality",
        values=(5, 10, 20, 30, 50, 75, 95),
        reference=None,
        change=compressed,
    ),
    "brightness": Corruption(
        label="Brightness",
        unit="times the light",
        values=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        reference=1.0,
        is_log=True,
        change=exposed,
    ),
    "rotation": Corruption(
        label="Rotation",
        unit="degrees, counterclockwise",
        values=(-90, -60, -45, -30, 0, 30, 45, 60, 90),
        reference=0,
        change=turned,
    ),
    "occlusion_top": Corruption(
        label="Covered from the top",
        unit="share of the face's box",
        values=SHARES,
        reference=0.0,
        change=covered_from_top,
    ),
    "occlusion_bottom": Corruption(
        label="Covered from the bottom",
        unit="share of the face's box",
        values=SHARES,
        reference=0.0,
        change=covered_from_bottom,
    ),
    "occlusion_random": Corruption(
        label="Covered somewhere",
        unit="share of the face's box",
        values=SHARES,
        reference=0.0,
        change=covered_somewhere,
    ),
}
