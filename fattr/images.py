"""Bytes of an image file -> upright RGB pixels, or an ImageError that says why not.

Knows nothing of where the bytes came from, nor of what will be looked for in the pixels.
"""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import cast

import numpy as np
import pillow_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from fattr.errors import ImageError
from fattr.records import FloatArray, Status, UInt8Array

MAX_PIXELS = 178_956_970  # twice Pillow's default MAX_IMAGE_PIXELS: where Pillow itself refuses
MAX_SIDE = 1_000_000  # no camera's; shrinking a line of 100 million pixels takes gigabytes

_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jp2"),
    (b"\xff\x4f\xff\x51", "jp2"),
    (b"\0\0\1\0", "ico"),
    (b"P1", "ppm"),
    (b"P2", "ppm"),
    (b"P3", "ppm"),
    (b"P4", "ppm"),
    (b"P5", "ppm"),
    (b"P6", "ppm"),
    (b"\x76\x2f\x31\x01", "exr"),
    (b"#?RADIANCE", "hdr"),
    (b"\xff\x0a", "jxl"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "jxl"),
    (b"8BPS", "psd"),
    (b"%PDF", "pdf"),
    (b"%!PS", "postscript"),
    (b"\x1f\x8b", "gzip"),
    (b"PK\3\4", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1a\x45\xdf\xa3", "matroska"),
    (b"PAR1", "parquet"),
)
_MARKUP = ((b"<svg", "svg"), (b"<html", "html"), (b"<!doctype html", "html"), (b"<?xml", "xml"))

_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_HEIF_CONTAINERS = {b"mif1", b"msf1"}

# Only these plugins ever see the bytes: others would start Ghostscript, or guess without a magic.
_PILLOW_FORMAT = {
    "jpeg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "webp": "WEBP",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "heic": "HEIF",
    "jp2": "JPEG2000",
    "ico": "ICO",
    "ppm": "PPM",
}

# What Pillow and its plugins were seen to raise on damaged files (random byte changes and cuts),
# or raise by their source. They are bugs elsewhere, but here all of them say: a damaged file.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    EOFError,
    MemoryError,
    RuntimeError,
    BufferError,
    struct.error,
    zlib.error,
    ImageCms.PyCMSError,
    Warning,  # where another thread has just made errors of them
)

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Orientations that turn the stored image's right (bottom) edge into the edge where x (y) is 0.
_MIRRORS_WIDTH = {2, 3, 7, 8}
_MIRRORS_HEIGHT = {3, 4, 6, 7}
_SWAPS_SIDES = {5, 6, 7, 8}

# Such files do not say which value is white: these are tried, least first.
_DEEP_WHITES = {"I": (255.0, 65535.0), "F": (1.0, 255.0, 65535.0)}

pillow_heif.register_heif_opener()


@dataclass(frozen=True, slots=True, eq=False)
class DecodedImage:
    """An upright image, its EXIF orientation applied; no metadata is kept.

    A decoded pixel stands for exactly ``scale`` x ``scale`` pixels of the full image; those of the
    last row and column may reach beyond its edge.
    """

    pixels: UInt8Array  # (H, W, 3) RGB, may be read-only
    full_size_hw: tuple[int, int]  # of the upright image at full resolution
    scale: int = 1

    def __post_init__(self) -> None:
        height, width = (-(-side // self.scale) for side in self.full_size_hw)
        if (got := self.pixels.shape) != (height, width, 3):
            raise ValueError(f"pixels must have shape {(height, width, 3)}, got {got}")

    @property
    def full_per_pixel_xy(self) -> tuple[float, float]:
        """Full pixels per decoded pixel: multiply decoded x, y (0 = left, top edge) by it."""
        return float(self.scale), float(self.scale)


def sniff(data: bytes) -> str:
    """The kind of file by its first bytes: ``jpeg``, ``png``, ... ``gzip``, ``empty``, ``unknown``.

    No file name is asked. A kind is a claim: the rest of the file may still be damaged.
    """
    if not data:
        return "empty"
    if data[:4] == b"RIFF":
        return "webp" if data[8:12] == b"WEBP" else "riff"
    if data[4:8] == b"ftyp":
        return _sniff_ftyp(data)
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    return _sniff_markup(data)


def _sniff_ftyp(data: bytes) -> str:
    """AVIF and HEIC share a container with MP4: the brands tell."""
    brands_end = min(int.from_bytes(data[:4], "big"), 256)
    brands = {data[8:12], *(data[at : at + 4] for at in range(16, brands_end, 4))}
    if brands & _AVIF_BRANDS:
        return "avif"
    return "heic" if brands & (_HEIF_BRANDS | _HEIF_CONTAINERS) else "mp4"


def _sniff_markup(data: bytes) -> str:
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head.startswith(b"<"):
        return "unknown"
    return next((kind for tag, kind in _MARKUP if tag in head), "unknown")


def decode(
    data: bytes, *, min_long_side: int | None = None, max_pixels: int = MAX_PIXELS
) -> DecodedImage:
    """The first image of a file as upright RGB.

    With ``min_long_side``, a JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 whose long side
    still has that many pixels. ``max_pixels`` holds for the size in the header, before pixels are
    decoded; Pillow's own limit, ``MAX_PIXELS``, stays in force above it. Safe in threads.

    Raises:
        ImageError: ``unreadable``, or ``too_large``.
    """
    kind = sniff(data)
    if kind not in _PILLOW_FORMAT:
        raise ImageError(Status.UNREADABLE, f"not a supported image: {kind}")
    with _pillow_silenced():
        try:
            return _decode(data, _PILLOW_FORMAT[kind], min_long_side, max_pixels)
        except Image.DecompressionBombError as err:
            raise ImageError(Status.TOO_LARGE, str(err).partition(",")[0]) from err
        except MemoryError as err:  # a damaged header may ask for any amount
            raise ImageError(Status.TOO_LARGE, f"{kind} needs more memory than there is") from err
        except _DAMAGE as err:
            raise ImageError(Status.UNREADABLE, f"damaged {kind}: {_one_line(err)}") from err


def _decode(
    data: bytes, pillow_format: str, min_long_side: int | None, max_pixels: int
) -> DecodedImage:
    image = Image.open(BytesIO(data), formats=[pillow_format])
    _check_pixels(image.size, max_pixels)
    stored_size, scale = image.size, 1
    if pillow_format == "JPEG" and min_long_side is not None:
        scale = _jpeg_scale(image.size, _orientation(image), min_long_side)
    pixels = _by_turbojpeg(image, data, scale) if pillow_format == "JPEG" else None
    if pixels is None:
        _draft(image, scale)
        image.load()
        _check_pixels(image.size, max_pixels)  # some containers' headers lie
    # Asked for after loading: PNG may carry EXIF behind its pixels, TIFF turns itself upright.
    orientation = _orientation(image)
    if pixels is None or orientation in _TRANSPOSE:
        upright = image if pixels is None else Image.fromarray(pixels)
        if orientation in _TRANSPOSE:
            upright = upright.transpose(_TRANSPOSE[orientation])
        pixels = _to_rgb(upright)
    if scale == 1:
        return DecodedImage(pixels, pixels.shape[:2])
    width, height = stored_size[::-1] if orientation in _SWAPS_SIDES else stored_size
    return DecodedImage(pixels, (height, width), scale)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        reason = f"{width} x {height} pixels are more than {max_pixels}"
        raise ImageError(Status.TOO_LARGE, reason)
    if max(size) > MAX_SIDE:
        reason = f"{width} x {height}: a side has more than {MAX_SIDE} pixels"
        raise ImageError(Status.TOO_LARGE, reason)


def _by_turbojpeg(image: ImageFile.ImageFile, data: bytes, scale: int) -> UInt8Array | None:
    """The stored pixels in about half of Pillow's time, and equal; None where Pillow must look.

    It knows no CMYK, and of a damaged file Pillow says what is wrong, or makes out something.
    """
    if image.mode not in ("RGB", "L"):
        return None
    width, height = (-(-side // scale) for side in image.size)
    try:
        pixels: UInt8Array = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def _draft(image: ImageFile.ImageFile, scale: int) -> None:
    """Ask Pillow for a JPEG at 1 / ``scale``."""
    if scale == 1:
        return
    # Pillow takes the greatest of 8, 4, 2, 1 that goes into both sides / requested sides. Those
    # quotients lie in [scale, 2 * scale) for sides rounded down; rounded up, they can miss scale.
    width, height = image.size
    image.draft(None, (width // scale, height // scale))


def _jpeg_scale(size: tuple[int, int], orientation: int, min_long_side: int) -> int:
    """The greatest scale whose long side suffices and whose pixels map exactly to full ones.

    libjpeg rounds sides up: a partial last block hangs over the right and bottom edges. Where EXIF
    mirrors that edge to 0 it would shift all coordinates, so that such a side must divide evenly.
    """
    width, height = size
    for scale in (8, 4, 2):
        is_enough = -(-max(size) // scale) >= min_long_side and min(size) >= scale
        shifts_x = orientation in _MIRRORS_WIDTH and width % scale
        shifts_y = orientation in _MIRRORS_HEIGHT and height % scale
        if is_enough and not (shifts_x or shifts_y):
            return scale
    return 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where it is absent, damaged or out of range."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _DAMAGE:  # the photograph may be sound though its metadata is not
        return 1
    return value if value in _TRANSPOSE else 1


def _to_rgb(image: Image.Image) -> UInt8Array:
    """Any of Pillow's modes as (H, W, 3); greys beyond 8 bits are scaled, as Pillow would clip."""
    if image.mode.startswith("I;16"):
        return _grey_to_rgb(np.asarray(image), white=65535.0)
    if image.mode in _DEEP_WHITES:
        values = np.nan_to_num(np.asarray(image, np.float32), posinf=0.0, neginf=0.0)
        return _grey_to_rgb(values, white=_guess_white(values, _DEEP_WHITES[image.mode]))
    if image.has_transparency_data:
        image = _on_white(image)
    elif image.mode == "LAB":
        image = _lab_to_rgb(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _guess_white(values: FloatArray, whites: tuple[float, ...]) -> float:
    """The usual white that the brightest value reaches at most, else that value."""
    peak = float(values.max())
    return next((white for white in whites if peak <= white), peak)


def _grey_to_rgb(values: NDArray[np.number], *, white: float) -> UInt8Array:
    """(H, W) values in 0..white, others clipped -> (H, W, 3) in 0..255."""
    grey = (values.clip(0, white) * np.float32(255.0 / white) + np.float32(0.5)).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a transparent image on white, as viewers do.

    Dropping alpha instead would show what its author hid, often noise or black.
    """
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert converted is not None, "profileToProfile returns None only when in place"
    return converted


def _one_line(err: BaseException) -> str:
    """What went wrong; equal for equal files, so no address of an object."""
    if isinstance(err, UnidentifiedImageError):
        return "the header cannot be read"
    return " ".join(str(err).split())[:120] or type(err).__name__


class _SilencedModules(threading.local):
    """A module pattern for a warning filter: matches Pillow's modules, in a thread that is on."""

    on = False

    def match(self, module: str) -> bool:
        return self.on and module.startswith(("PIL.", "pillow_heif."))


_SILENCED = _SilencedModules()
_SILENCING_FILTER = ("ignore", None, Warning, _SILENCED, 0)


@contextmanager
def _pillow_silenced() -> Iterator[None]:
    """Hide Pillow's warnings (damaged EXIF, odd palettes), from this thread, in this block.

    ``warnings.catch_warnings`` swaps the filters of all threads, and a decoding thread may restore
    stale ones. This filter stays in the list, yet matches nothing outside such a block.
    """
    filters = cast("list[object]", warnings.filters)
    if filters[:1] != [_SILENCING_FILTER]:  # the first match wins
        filters.insert(0, _SILENCING_FILTER)
    _SILENCED.on = True
    try:
        yield
    finally:
        _SILENCED.on = False
