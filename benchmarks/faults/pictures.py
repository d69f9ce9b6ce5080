"""Seeded photographs from the installed packages: public-domain faces, and things without one."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 300
KINDS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")


@cache
def originals() -> tuple[Image.Image, ...]:
    """Two faces, a cat and a cup."""
    import matplotlib.cbook
    import skimage.data

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper = Image.open(io.BytesIO(file.read())).convert("RGB")
    others = (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee())
    astronaut, cat, cup = (Image.fromarray(pixels) for pixels in others)
    return astronaut, hopper.crop((0, 0, 512, 512)), astronaut, cat, cup


def picture(seed: int, side_px: int = SIDE_PX) -> Image.Image:
    """A crop, enlarged or shrunk, mirrored or not, with noise: another one for each seed."""
    rng = np.random.default_rng(seed)
    image = originals()[int(rng.integers(len(originals())))]
    side = int(min(image.size) * rng.uniform(0.75, 1.0))
    left, top = (int(rng.integers(0, room - side + 1)) for room in image.size)
    image = image.crop((left, top, left + side, top + side)).resize((side_px, side_px))
    pixels = np.asarray(image, np.int16)
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    noise: NDArray[np.int16] = rng.normal(0, rng.uniform(0, 8), pixels.shape).astype(np.int16)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    """An image file's bytes, of one of ``KINDS``."""
    pillow_heif.register_heif_opener()
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=85)
    return buffer.getvalue()


def photographs(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and bytes of ``count`` small JPEG files, in order of their names."""
    for number in range(count):
        yield f"{number:06d}.jpg", encoded(picture(seed * 1_000_000 + number))


def write_photographs(folder: Path, count: int, seed: int = 0) -> None:
    """The same as files, a hundred to a subfolder."""
    for number, (name, data) in enumerate(photographs(count, seed)):
        path = folder / f"{number // 100:04d}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
