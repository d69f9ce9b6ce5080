"""Files made here with Pillow and NumPy go in; what must come out is known or found another way."""

from __future__ import annotations

import csv
import pickle
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import ExifTags, Image, ImageOps

from fattr import images
from fattr.errors import ImageError
from fattr.images import MAX_PIXELS, DecodedImage, decode, sniff

ODD = Path(__file__).parents[2] / "shared/data/odd"
TALL = (40, 56)  # width, height; a multiple of 8, so that every scale divides it


def scene(size: tuple[int, int] = TALL) -> Image.Image:
    """A smooth picture without any symmetry: each orientation of it looks different."""
    width, height = size
    y, x = np.mgrid[:height, :width] / max(size)
    channels = np.stack([x, y, 0.5 * x * y + 0.2], axis=2)
    return Image.fromarray((channels * 200 + 20).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags.tobytes()


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def reason_of(data: bytes, status: str, **options) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert caught.value.status == status
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- what is no image -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"\0", "unknown", id="one-byte"),
        pytest.param(b"junk" * 9, "unknown", id="text"),
        pytest.param(b"\x1f\x8b\x08rest", "gzip", id="gzip"),
        pytest.param(b"PK\3\4rest", "zip", id="zip"),
        pytest.param(b"%PDF-1.7", "pdf", id="pdf"),
        pytest.param(b"\x76\x2f\x31\x01rest", "exr", id="exr"),
        pytest.param(
            b"\xef\xbb\xbf\n<!DOCTYPE HTML><title>404</title>", "html", id="html-with-bom"
        ),
        pytest.param(b'<?xml version="1.0"?>\n<svg width="9">', "svg", id="svg-behind-prolog"),
        pytest.param(b'<?xml version="1.0"?><Error/>', "xml", id="storage-error"),
        pytest.param(b"<3", "unknown", id="no-markup"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", "riff", id="sound"),
        pytest.param(b"\0\0\0\x14ftypisom\0\0\2\0mp41", "mp4", id="film"),
    ],
)
def test_what_is_no_image_is_refused_with_its_kind(data: bytes, kind: str) -> None:
    assert sniff(data) == kind
    assert reason_of(data, "unreadable").endswith(kind)


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        pytest.param([b"avif", b"mif1"], "avif", id="avif"),
        pytest.param([b"mif1", b"miaf", b"avif"], "avif", id="avif-among-compatible"),
        pytest.param([b"mif1", b"heic"], "heic", id="heic-among-compatible"),
        pytest.param([b"heic", b"mif1"], "heic", id="heic"),
    ],
)
def test_brands_tell_avif_from_heic(brands: list[bytes], kind: str) -> None:
    box = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    data = (len(box) + 4).to_bytes(4, "big") + box + b"avif"  # behind the box: no brand
    assert sniff(data) == kind


@pytest.mark.parametrize(
    ("file_format", "kind", "options"),
    [
        ("JPEG", "jpeg", {}),
        ("PNG", "png", {}),
        ("GIF", "gif", {}),
        ("WEBP", "webp", {"lossless": True}),
        ("BMP", "bmp", {}),
        ("TIFF", "tiff", {"compression": "tiff_lzw"}),
        ("TIFF", "tiff", {"big_tiff": True}),
        ("AVIF", "avif", {}),
        ("HEIF", "heic", {}),
        ("JPEG2000", "jp2", {}),
        ("JPEG2000", "jp2", {"no_jp2": True}),
        ("ICO", "ico", {"sizes": [TALL]}),
        ("PPM", "ppm", {}),
    ],
)
def test_every_format_is_told_and_decoded(file_format: str, kind: str, options: dict) -> None:
    data = encode(scene(), file_format, **options)
    assert sniff(data) == kind
    image = decode(data)
    assert image.full_size_hw == (TALL[1], TALL[0])
    assert image.pixels.dtype == np.uint8
    assert mean_difference(image.pixels, np.asarray(scene())) < 6  # lossy, or GIF's palette


# --- damage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.95])
@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "HEIF"]
)
def test_a_cut_file_is_unreadable(file_format: str, kept: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), file_format)
    reason = reason_of(data[: int(len(data) * kept)], "unreadable")
    assert reason.startswith(f"damaged {sniff(data)}: ")
    assert "BytesIO" not in reason


def test_random_damage_raises_nothing_but_image_errors() -> None:
    rng = np.random.default_rng(1)
    originals = [
        np.frombuffer(encode(scene(), file_format, exif=exif(6)), np.uint8)
        for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")
    ]
    statuses = set()
    for trial in range(600):
        data = originals[trial % len(originals)].copy()
        data[rng.integers(0, min(len(data), 300), 3)] = rng.integers(0, 256, 3)
        try:
            decode(data.tobytes(), min_long_side=16, max_pixels=1_000_000)
        except ImageError as err:
            statuses.add(err.status)
    assert "unreadable" in statuses


def test_the_reason_is_the_same_twice_and_survives_pickling() -> None:
    data = encode(scene(), "PNG")[:20]
    assert reason_of(data, "unreadable") == reason_of(data, "unreadable")
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- size limits ------------------------------------------------------------------------------


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few pixels do not have."""
    data = bytearray(encode(scene(), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "max_pixels", "status"),
    [
        pytest.param(encode(scene(), "PNG"), 40 * 56, None, id="at-the-limit"),
        pytest.param(encode(scene(), "PNG"), 40 * 56 - 1, "too_large", id="one-over"),
        pytest.param(encode(scene(), "JPEG"), 40 * 56 - 1, "too_large", id="jpeg-before-draft"),
        pytest.param(encode(scene(), "HEIF"), 40 * 56 - 1, "too_large", id="heif"),
        pytest.param(encode(scene(), "ICO", sizes=[TALL]), 40 * 56 - 1, "too_large", id="ico"),
        pytest.param(bomb(30_000, 30_000), MAX_PIXELS, "too_large", id="bomb"),
        pytest.param(bomb(30_000, 30_000), 10**12, "too_large", id="bomb-under-a-loose-limit"),
        # Pillow warns of such a size: not too large, only truncated.
        pytest.param(bomb(12_000, 10_000), MAX_PIXELS, "unreadable", id="large-but-allowed"),
    ],
)
def test_the_limit_holds_for_the_header(data: bytes, max_pixels: int, status: str | None) -> None:
    if status is None:
        assert decode(data, max_pixels=max_pixels).full_size_hw == (56, 40)
    else:
        reason_of(data, status, max_pixels=max_pixels, min_long_side=8)


# --- orientation ------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_as_pillow_applies_it(file_format: str, orientation: int) -> None:
    data = encode(scene(), file_format, exif=exif(orientation))
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    image = decode(data)
    assert np.array_equal(image.pixels, np.asarray(upright))
    assert image.full_size_hw == ((40, 56) if orientation >= 5 else (56, 40))


def test_heif_is_not_turned_twice() -> None:
    """Its file says the rotation twice, in the container and in EXIF; libheif applies the first."""
    lying = scene().transpose(Image.Transpose.ROTATE_90)
    heif = pillow_heif.from_pillow(lying)
    heif.info["exif"] = exif(6)
    file = BytesIO()
    heif.save(file, quality=95)
    assert mean_difference(decode(file.getvalue()).pixels, np.asarray(scene())) < 3


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"Exif\0\0", id="empty"),
        pytest.param(b"Exif\0\0junk, no TIFF", id="no-tiff"),
        pytest.param(b"Exif\0\0" + exif(6)[6:-8], id="cut"),
        pytest.param(exif(9), id="out-of-range"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x02\0" * 9, id="lying-count"),
    ],
)
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_costs_the_orientation_at_most(file_format: str, broken: bytes) -> None:
    sound = decode(encode(scene(), file_format)).pixels
    pixels = decode(encode(scene(), file_format, exif=broken), min_long_side=56).pixels
    assert sorted(pixels.shape) == sorted(sound.shape)
    assert abs(float(pixels.mean()) - float(sound.mean())) < 0.01


# --- scaled decoding --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "orientation", "min_long_side", "scale"),
    [
        pytest.param((1, 1), 1, 1, 1, id="one-pixel"),
        pytest.param((640, 480), 1, None, 1, id="not-asked"),
        pytest.param((640, 480), 1, 1000, 1, id="smaller-than-asked"),
        pytest.param((640, 480), 1, 640, 1, id="just-asked"),
        pytest.param((640, 480), 1, 321, 1, id="one-more-than-half"),
        pytest.param((640, 480), 1, 320, 2, id="half"),
        pytest.param((480, 640), 6, 160, 4, id="quarter-turned"),
        pytest.param((640, 480), 1, 1, 8, id="never-below-an-eighth"),
        pytest.param((639, 479), 1, 320, 2, id="odd-rounds-up"),
        pytest.param((633, 473), 5, 80, 8, id="odd-transposed-maps-exactly"),
        pytest.param((633, 472), 3, 80, 1, id="odd-mirrored-width-would-shift"),
        pytest.param((632, 473), 2, 79, 8, id="odd-height-under-mirrored-width"),
        pytest.param((636, 480), 8, 80, 4, id="mirrored-width-divides-by-4"),
        pytest.param((800, 15), 1, 100, 8, id="flat"),
        pytest.param((800, 3), 1, 100, 2, id="flatter-than-a-block"),
    ],
)
def test_the_smallest_sufficient_scale(
    size: tuple[int, int], orientation: int, min_long_side: int | None, scale: int
) -> None:
    data = encode(scene(size), "JPEG", quality=95, exif=exif(orientation))
    full, small = decode(data), decode(data, min_long_side=min_long_side)
    assert (full.scale, small.scale) == (1, scale)
    assert small.full_per_pixel_xy == (scale, scale)
    assert small.full_size_hw == full.full_size_hw == full.pixels.shape[:2]
    averaged = np.asarray(Image.fromarray(full.pixels).reduce(scale))
    assert mean_difference(small.pixels, averaged) < 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(256, 192), (253, 187), (252, 188), (250, 190)])
def test_coordinates_map_exactly(size: tuple[int, int], orientation: int) -> None:
    """The centre of a bright spot near the corner, in full pixels, is where it was."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[16:48, 160:240] = 255
    data = encode(Image.fromarray(pixels), "JPEG", quality=95, exif=exif(orientation))
    full, small = decode(data), decode(data, min_long_side=30)
    expected, got = centre_xy(full), centre_xy(small) * small.full_per_pixel_xy
    assert got == pytest.approx(expected, abs=0.15)


def centre_xy(image: DecodedImage) -> np.ndarray:
    weights = image.pixels[:, :, 0].astype(float)
    y, x = np.mgrid[: weights.shape[0], : weights.shape[1]] + 0.5
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum()


@pytest.mark.parametrize(
    ("size", "scale"),
    [(size, scale) for size in ((640, 480), (633, 479), (17, 9)) for scale in (1, 2, 4, 8)]
    + [((1, 1), 1)],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    "options",
    [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2, "progressive": True}],
    ids=["444", "422", "420-progressive"],
)
def test_a_jpeg_has_the_pixels_that_pillow_gives_it(size, mode, options, scale, monkeypatch):
    data = encode(scene(size).convert(mode), "JPEG", quality=80, exif=exif(6), **options)
    min_long_side = -(-max(size) // scale)
    fast_ones = []
    with monkeypatch.context() as patch:
        by_turbojpeg = images._by_turbojpeg
        patch.setattr(images, "_by_turbojpeg", lambda *a: fast_ones.append(by_turbojpeg(*a)))
        decode(data, min_long_side=min_long_side)
    assert fast_ones[0] is not None
    fast = decode(data, min_long_side=min_long_side)
    with monkeypatch.context() as patch:
        patch.setattr("fattr.images.simplejpeg.decode_jpeg", refuse)
        slow = decode(data, min_long_side=min_long_side)
    assert (fast.scale, fast.full_size_hw) == (slow.scale, slow.full_size_hw)
    np.testing.assert_array_equal(fast.pixels, slow.pixels)


def refuse(*_args, **_options):
    raise ValueError


@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
@pytest.mark.parametrize("damage", [b"", b"\xff\xd9 and more behind the end"])
def test_other_colours_and_trailing_bytes_are_decoded_as_pillow_does(mode, damage):
    data = encode(scene((64, 48)).convert(mode), "JPEG", quality=95) + damage
    wanted = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data).pixels, wanted)


def test_a_12_megapixel_photograph_is_decoded_at_a_quarter() -> None:
    data = encode(scene((4032, 3024)), "JPEG")
    assert decode(data, min_long_side=640).pixels.shape == (756, 1008, 3)


def test_only_jpeg_is_scaled() -> None:
    image = decode(encode(scene(), "PNG"), min_long_side=8)
    assert (image.scale, image.pixels.shape) == (1, (56, 40, 3))


def test_a_record_of_another_size_cannot_be_built() -> None:
    pixels = np.zeros((10, 20, 3), np.uint8)
    DecodedImage(pixels, (79, 153), 8)
    with pytest.raises(ValueError, match=r"shape \(11, 20, 3\), got \(10, 20, 3\)"):
        DecodedImage(pixels, (81, 160), 8)


# --- modes ------------------------------------------------------------------------------------

GREY_RAMP = np.linspace(0, 255, 256).astype(np.uint8).reshape(16, 16)
GREY_RGB = np.repeat(GREY_RAMP[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("values", "file_format"),
    [
        pytest.param(GREY_RAMP, "PNG", id="8-bit"),
        pytest.param(GREY_RAMP.astype(np.uint16) * 257, "PNG", id="16-bit-png"),
        pytest.param(GREY_RAMP.astype(np.uint16) * 257, "TIFF", id="16-bit-tiff"),
        pytest.param(GREY_RAMP.astype(">u2") * 257, "TIFF", id="16-bit-big-endian"),
        pytest.param(GREY_RAMP.astype(np.uint16) * 257, "PPM", id="16-bit-pgm"),
        pytest.param(GREY_RAMP.astype(np.int32), "TIFF", id="32-bit-to-255"),
        pytest.param(GREY_RAMP.astype(np.int32) * 257, "TIFF", id="32-bit-to-65535"),
        pytest.param(GREY_RAMP.astype(np.int32) * 4_000_000, "TIFF", id="32-bit-to-the-peak"),
        pytest.param(GREY_RAMP.astype(np.float32) / 255, "TIFF", id="float-to-1"),
        pytest.param(GREY_RAMP.astype(np.float32), "TIFF", id="float-to-255"),
    ],
)
def test_deep_grey_is_scaled_not_clipped(values: np.ndarray, file_format: str) -> None:
    pixels = decode(encode(Image.fromarray(values), file_format)).pixels
    assert np.abs(pixels.astype(int) - GREY_RGB).max() <= 1


def test_float_without_a_number_is_black() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, -3.0, 0.5, 1.0]], np.float32)
    pixels = decode(encode(Image.fromarray(values), "TIFF")).pixels
    assert pixels[0, :, 0].tolist() == [0, 0, 0, 0, 128, 255]


@pytest.mark.parametrize(
    ("mode", "colour", "file_format", "expected"),
    [
        pytest.param("CMYK", (0, 255, 255, 0), "JPEG", (255, 0, 0), id="cmyk-jpeg"),
        pytest.param("CMYK", (0, 255, 255, 0), "TIFF", (255, 0, 0), id="cmyk-tiff"),
        pytest.param("YCbCr", (150, 44, 21), "TIFF", (0, 255, 1), id="ycbcr"),
        pytest.param("LAB", (138, 209, 198), "TIFF", (255, 0, 0), id="lab"),
        pytest.param("1", 1, "PNG", (255, 255, 255), id="1-bit"),
        pytest.param("LA", (90, 255), "PNG", (90, 90, 90), id="grey-opaque"),
        pytest.param("LA", (90, 0), "PNG", (255, 255, 255), id="grey-transparent"),
        pytest.param("RGBA", (255, 0, 0, 255), "PNG", (255, 0, 0), id="opaque"),
        pytest.param("RGBA", (255, 0, 0, 0), "PNG", (255, 255, 255), id="transparent-is-white"),
        pytest.param("RGBA", (255, 0, 0, 128), "WEBP", (255, 127, 127), id="half-transparent"),
    ],
)
def test_known_colours(mode: str, colour, file_format: str, expected: tuple) -> None:
    options = {"lossless": True} if file_format == "WEBP" else {}
    data = encode(Image.new(mode, (8, 8), colour), file_format, **options)
    assert np.abs(decode(data).pixels.astype(int) - expected).max() <= 5  # LAB in 8 bits is coarse


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [(10, 20, 30), (200, 100, 50)], id="palette"),
        pytest.param({"transparency": 0}, [(255, 255, 255), (200, 100, 50)], id="one-index"),
        pytest.param({"transparency": b"\0\xff"}, [(255,) * 3, (200, 100, 50)], id="bytes"),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_palettes(options: dict, expected: list, file_format: str) -> None:
    if file_format == "GIF" and isinstance(options.get("transparency"), bytes):
        options = {"transparency": 0}
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode(encode(image, file_format, **options)).pixels[0].tolist() == [
        list(colour) for colour in expected
    ]


def test_a_colour_key_is_transparent() -> None:
    image = Image.new("RGB", (2, 1), (9, 9, 9))
    image.putpixel((1, 0), (200, 0, 0))
    data = encode(image, "PNG", transparency=(9, 9, 9))
    assert decode(data).pixels.tolist() == [[[255, 255, 255], [200, 0, 0]]]


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF", "TIFF", "MPO"])
def test_the_first_frame_is_the_image(file_format: str) -> None:
    red, blue, lime = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime"))
    data = encode(red, file_format, save_all=True, append_images=[blue, lime])
    assert Image.open(BytesIO(data)).n_frames == 3
    assert mean_difference(decode(data).pixels, np.asarray(red)) < 3


# --- warnings ---------------------------------------------------------------------------------


def warning_file() -> bytes:
    """A JPEG on whose EXIF Pillow warns."""
    data = encode(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0\1\0\0\0")
    with pytest.warns(UserWarning, match="Corrupt EXIF"):
        Image.open(BytesIO(data)).getexif()
    return data


@pytest.mark.parametrize("action", ["error", "always"])
def test_pillow_warnings_are_silent_inside_and_only_inside(action: str) -> None:
    data = warning_file()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter(action)
        decode(data)
        assert seen == []
        warnings.simplefilter("always")
        Image.open(BytesIO(data)).getexif()
    assert any("Corrupt EXIF" in str(entry.message) for entry in seen)


def test_decoding_threads_leave_the_filters_of_others_alone() -> None:
    data, until = warning_file(), time.monotonic() + 0.3

    def decode_on() -> int:
        count = 0
        while time.monotonic() < until:
            decode(data)  # would raise: tests run with warnings as errors
            count += 1
        return count

    filters = warnings.filters
    with ThreadPoolExecutor(4) as pool:
        decoded = [pool.submit(decode_on) for _ in range(4)]
        while time.monotonic() < until:
            with pytest.raises(UserWarning, match="Corrupt EXIF"):
                Image.open(BytesIO(data)).getexif()
    assert min(future.result() for future in decoded) > 0
    assert warnings.filters is filters


# --- a folder of odd files ---------------------------------------------------------------------

NEWER_THAN_THE_MANIFEST = {"tiny__small__heif.heif": "ok"}  # Pillow alone cannot; pillow-heif can


def odd_cases() -> list:
    manifest = ODD / "manifest.csv"
    if not manifest.exists():
        reason = f"needs the folder of odd files with its manifest.csv at {ODD}"
        return [pytest.param("", "", marks=pytest.mark.skip(reason=reason), id="absent")]
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [pytest.param(row["file"], odd_status(row), id=row["file"]) for row in rows]


def odd_status(row: dict[str, str]) -> str:
    if row["file"] in NEWER_THAN_THE_MANIFEST:
        return NEWER_THAN_THE_MANIFEST[row["file"]]
    if row["pillow"].startswith("DecompressionBombError"):
        return "too_large"
    return "ok" if row["pillow"] == "ok" else "unreadable"


@pytest.mark.parametrize(("name", "status"), odd_cases())
def test_odd_file(name: str, status: str) -> None:
    data = (ODD / name).read_bytes()
    if status != "ok":
        reason_of(data, status)
        return
    image, small = decode(data), decode(data, min_long_side=100)
    assert image.full_size_hw == small.full_size_hw == image.pixels.shape[:2]
    assert max(small.pixels.shape) >= min(100, max(image.pixels.shape))
    assert abs(float(small.pixels.mean()) - float(image.pixels.mean())) < 2


ODD_FACES = sorted(path.name for path in ODD.glob("face__*") if "1bit" not in path.name)


@pytest.mark.skipif(not ODD_FACES, reason=f"needs the face__* files of {ODD}")
def test_every_encoding_of_the_odd_face_looks_the_same() -> None:
    """But for the dithered one."""
    expected = decode((ODD / "face__exif1.jpg").read_bytes()).pixels
    luminance = expected.mean(axis=2)
    seen = 0
    for name in ODD_FACES:
        try:
            pixels = decode((ODD / name).read_bytes()).pixels
        except ImageError:
            continue
        if pixels.shape == expected.shape:
            seen += 1
            assert np.abs(pixels.mean(axis=2) - luminance).mean() < 8, name
    assert seen >= 20


def test_an_image_that_asks_for_more_memory_than_there_is_is_too_large(monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    monkeypatch.setattr(Image.Image, "convert", exhausted)
    monkeypatch.setattr(Image.Image, "load", exhausted)
    with pytest.raises(ImageError, match="tiff needs more memory than there is") as raised:
        decode(buffer.getvalue())
    assert raised.value.status == "too_large"


def test_a_line_of_a_million_pixels_is_decoded_and_a_longer_one_is_too_large():
    for width, expected in ((1_000_000, None), (1_000_001, "too_large")):
        buffer = BytesIO()
        Image.new("L", (width, 1)).save(buffer, "TIFF")
        if expected is None:
            assert decode(buffer.getvalue()).pixels.shape == (1, width, 3)
        else:
            with pytest.raises(ImageError, match="1000001 x 1: a side has more than") as raised:
                decode(buffer.getvalue())
            assert raised.value.status == expected
