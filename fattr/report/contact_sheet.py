"""One page to look at: the images of an annotate output with boxes and their best attributes.

Faces are blurred unless asked for. Only faces that were found can be: one the detector missed
stays as it was.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

import duckdb
from duckdb import ColumnExpression, ConstantExpression, DuckDBPyRelation
from PIL import Image, ImageDraw, ImageFont

from fattr import images, storage
from fattr.errors import ImageError, StorageError, UsageError
from fattr.published.catalog import Tables, open_tables
from fattr.records import Status, UInt8Array

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Color = tuple[int, int, int]
Box = tuple[float, float, float, float]

PICTURE_WH = (400, 300)
GAP, PAD = 18, 14
TILE_WIDTH = PICTURE_WH[0] + 2 * PAD
UNREADABLE = (duckdb.IOException, duckdb.InvalidInputException)
MAX_COLUMNS = 4
TITLE_SIZE, NAME_SIZE, TEXT_SIZE, NUMBER_SIZE = 30, 18, 15, 13
NUMBER_WH = (26, 18)
NAME_HEIGHT, LINE_HEIGHT = 34, 21
INDENT = 34  # of a face's lines, behind its number
BOX_WIDTH = 3
MAX_FACES, MAX_ATTRIBUTES, MAX_ATTRIBUTE_LINES = 4, 5, 2

# A blurred face keeps this many pixels a side: they are averages, so that nothing can be undone.
BLURRED_SIDE, BLUR_MARGIN_FRAC = 6, 0.2

PAGE, CARD, EDGE, EMPTY = (238, 240, 243), (255, 255, 255), (214, 218, 224), (228, 231, 235)
INK, FAINT, BAD = (28, 33, 40), (105, 113, 124), (176, 42, 48)
FACE_COLORS: tuple[Color, ...] = (  # dark enough for white digits
    (0, 114, 178),
    (196, 78, 0),
    (0, 130, 95),
    (160, 70, 130),
    (120, 94, 0),
    (74, 85, 162),
)


@dataclass(frozen=True, slots=True)
class Face:
    """A face of a tile: its box, what is said first, and what follows."""

    box_xyxy: Box  # pixels of the tile's image
    heading: str
    attributes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One image of the page; without pixels it is grey and gives the reason."""

    name: str
    status: str
    reason: str = ""
    pixels: UInt8Array | None = None  # (H, W, 3) RGB, upright
    faces: tuple[Face, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a caption; ``face_index`` puts that face's number before it."""

    text: str
    color: Color
    face_index: int | None = None
    indent: int = 0


# Words


def face_heading(face: Mapping[str, Any]) -> str:
    """Categories and age of a row of ``faces``: ``masculine 0.98, age 52 (44-60)``."""
    said = []
    for name, value in face.items():
        if isinstance(value, str) and f"{name}_probs" in face:
            said.append(f"{value} {face[f'{name}_prob']:.2f}")
        elif value is not None and f"{name}_low" in face:
            low, high = face[f"{name}_low"], face[f"{name}_high"]
            said.append(f"{name} {value:.0f} ({low:.0f}-{high:.0f})")
    return ", ".join(said)


def face_attributes(face: Mapping[str, Any], *, limit: int = MAX_ATTRIBUTES) -> tuple[str, ...]:
    """The most probable of the true binary attributes of a row: ``smiling 0.97``."""
    true = [(face[f"{name}_prob"], name) for name, value in face.items() if value is True]
    best = sorted(true, key=lambda item: -item[0])[:limit]
    return tuple(f"{name.replace('_', ' ')} {prob:.2f}" for prob, name in best)


def summary(tiles: Sequence[Tile]) -> str:
    """Counts over the tiles: ``13 images, 9 faces: 7 ok, 2 no_face``."""
    by_status = Counter(tile.status for tile in tiles)
    counts = ", ".join(f"{count} {status}" for status, count in by_status.most_common())
    num_faces = sum(len(tile.faces) for tile in tiles)
    said = f"{_counted(len(tiles), 'image')}, {_counted(num_faces, 'face')}"
    return f"{said}: {counts}" if counts else said


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@cache
def font(size: int) -> Font:
    """The page's typeface, ``size`` pixels high."""
    return ImageFont.load_default(size)


def shortened(text: str, *, size: int, width: float) -> str:
    """The text, or as much of its beginning as fits, and an ellipsis."""
    length = font(size).getlength
    if length(text) <= width:
        return text
    n = bisect_right(range(1, len(text)), width, key=lambda n: length(text[:n] + "..."))
    return text[:n].rstrip(" ,") + "..."


def wrapped(parts: Sequence[str], *, size: int, width: float, max_lines: int) -> list[str]:
    """Lines that fit the width; no part is broken, and what is too much is left out."""
    lines: list[str] = []
    for part in parts:
        longer = f"{lines[-1]} {part}" if lines else part
        if lines and font(size).getlength(longer) <= width:
            lines[-1] = longer
        elif len(lines) == max_lines:
            break
        else:
            lines.append(shortened(part, size=size, width=width))
    return lines


def caption(tile: Tile) -> list[Line]:
    """What stands below a picture, but for its name."""
    if not tile.faces:
        return [Line("no face found", FAINT)] if tile.pixels is not None else []
    lines = [line for i, face in enumerate(tile.faces[:MAX_FACES]) for line in _face_lines(i, face)]
    if (more := len(tile.faces) - MAX_FACES) > 0:
        lines.append(Line(f"and {more} more", FAINT, indent=INDENT))
    return lines


def _face_lines(face_index: int, face: Face) -> list[Line]:
    width = PICTURE_WH[0] - INDENT
    said = [(shortened(face.heading, size=TEXT_SIZE, width=width), INK)] if face.heading else []
    listed = [f"{text}," for text in face.attributes]
    folded = wrapped(listed, size=TEXT_SIZE, width=width, max_lines=MAX_ATTRIBUTE_LINES)
    said += [(text, FAINT) for text in [*folded[:-1], *(last.rstrip(",") for last in folded[-1:])]]
    numbers = [face_index, None, None]
    return [
        Line(text, color, number, INDENT)
        for (text, color), number in zip(said or [("no label", FAINT)], numbers, strict=False)
    ]


# Pictures


def page(
    tiles: Sequence[Tile], *, title: str, subtitle: str = "", show_faces: bool = False
) -> Image.Image:
    """The tiles in rows of equal size under a title; faces blurred unless ``show_faces``."""
    columns = max(1, min(MAX_COLUMNS, len(tiles)))
    height = tile_height(tiles)
    top = GAP + 44 + (26 if subtitle else 0)
    rows = math.ceil(len(tiles) / columns)
    size = (GAP + columns * (TILE_WIDTH + GAP), top + rows * (height + GAP))
    sheet = Image.new("RGB", size, PAGE)
    draw_title(sheet, title, subtitle)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        at = (GAP + column * (TILE_WIDTH + GAP), top + row * (height + GAP))
        sheet.paste(draw_tile(tile, height=height, show_faces=show_faces), at)
    return sheet


def tile_height(tiles: Sequence[Tile]) -> int:
    """Height of all tiles: that of the longest caption."""
    num_lines = max((len(caption(tile)) for tile in tiles), default=0)
    return 2 * PAD + PICTURE_WH[1] + NAME_HEIGHT + num_lines * LINE_HEIGHT


def draw_title(sheet: Image.Image, title: str, subtitle: str) -> None:
    """The page's first two lines."""
    draw, width = ImageDraw.Draw(sheet), sheet.width - 2 * GAP
    for text, size, y, color in ((title, TITLE_SIZE, 12, INK), (subtitle, NAME_SIZE, 52, FAINT)):
        fitting = shortened(text, size=size, width=width)
        draw.text((GAP, y), fitting, color, font(size))


def draw_tile(tile: Tile, *, height: int, show_faces: bool) -> Image.Image:
    """A card: picture, name and status, caption."""
    card = Image.new("RGB", (TILE_WIDTH, height), CARD)
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, TILE_WIDTH - 1, height - 1), outline=EDGE)
    picture = (
        _refusal(tile)
        if tile.pixels is None
        else draw_picture(tile.pixels, tile.faces, show_faces=show_faces)
    )
    card.paste(picture, (PAD, PAD))
    y = PAD + PICTURE_WH[1] + NAME_HEIGHT // 2 + 2
    status_color = FAINT if tile.pixels is not None else BAD
    draw.text((TILE_WIDTH - PAD, y), tile.status, status_color, font(TEXT_SIZE), anchor="rm")
    free = PICTURE_WH[0] - font(TEXT_SIZE).getlength(tile.status) - PAD
    name = shortened(tile.name, size=NAME_SIZE, width=free)
    draw.text((PAD, y), name, INK, font(NAME_SIZE), anchor="lm")
    for i, line in enumerate(caption(tile)):
        middle = PAD + PICTURE_WH[1] + NAME_HEIGHT + i * LINE_HEIGHT + LINE_HEIGHT // 2
        _draw_line(draw, line, middle)
    return card


def _draw_line(draw: ImageDraw.ImageDraw, line: Line, middle: int) -> None:
    if line.face_index is not None:
        _draw_number(draw, line.face_index, (PAD, middle - NUMBER_WH[1] // 2))
    at = (PAD + line.indent, middle)
    draw.text(at, line.text, line.color, font(TEXT_SIZE), anchor="lm")


def _draw_number(draw: ImageDraw.ImageDraw, face_index: int, at: tuple[int, int]) -> None:
    """A face's number on its colour."""
    (x, y), (width, height) = at, NUMBER_WH
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=face_color(face_index))
    middle = (x + width // 2, y + height // 2)
    draw.text(middle, f"#{face_index}", CARD, font(NUMBER_SIZE), anchor="mm")


def face_color(face_index: int) -> Color:
    """Of a face's box and number."""
    return FACE_COLORS[face_index % len(FACE_COLORS)]


def _refusal(tile: Tile) -> Image.Image:
    """The picture of an image that could not be read: grey, with the reason."""
    canvas = Image.new("RGB", PICTURE_WH, EMPTY)
    draw = ImageDraw.Draw(canvas)
    x, y = PICTURE_WH[0] // 2, PICTURE_WH[1] // 2
    draw.text((x, y - 36), tile.status, BAD, font(NAME_SIZE + 4), anchor="mm")
    words = tile.reason.split()
    for line in wrapped(words, size=TEXT_SIZE, width=PICTURE_WH[0] - 6 * PAD, max_lines=4):
        draw.text((x, y), line, FAINT, font(TEXT_SIZE), anchor="mm")
        y += LINE_HEIGHT
    return canvas


def fit(size_hw: tuple[int, int]) -> tuple[float, int, int]:
    """Scale, left and top at which an image lies whole in the middle of a picture."""
    height, width = size_hw
    scale = min(PICTURE_WH[0] / width, PICTURE_WH[1] / height)
    left = (PICTURE_WH[0] - round(width * scale)) // 2
    return scale, left, (PICTURE_WH[1] - round(height * scale)) // 2


def draw_picture(pixels: UInt8Array, faces: Sequence[Face], *, show_faces: bool) -> Image.Image:
    """An image with its faces' boxes and numbers."""
    height, width = pixels.shape[:2]
    scale, left, top = fit((height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    boxes = [
        (x1 * scale, y1 * scale, x2 * scale, y2 * scale)
        for x1, y1, x2, y2 in (face.box_xyxy for face in faces)
    ]
    if not show_faces:
        for box in boxes:
            blur(small, box)
    canvas = Image.new("RGB", PICTURE_WH, EMPTY)
    canvas.paste(small, (left, top))
    draw = ImageDraw.Draw(canvas)
    for face_index, (x1, y1, x2, y2) in reversed(list(enumerate(boxes))):  # the best lies on top
        _draw_box(draw, face_index, (x1 + left, y1 + top, x2 + left, y2 + top))
    return canvas


def _draw_box(draw: ImageDraw.ImageDraw, face_index: int, box: Box) -> None:
    """A box, its number above it or, where there is no room, inside."""
    x1, y1, x2, y2 = (round(edge) for edge in box)
    inside = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
    draw.rectangle(inside, outline=face_color(face_index), width=BOX_WIDTH)
    number_xy = (min(x1, PICTURE_WH[0] - NUMBER_WH[0]), y1 if y1 < NUMBER_WH[1] else y1 - 17)
    _draw_number(draw, face_index, number_xy)


def blur(image: Image.Image, box: Box) -> None:
    """Average away what is in the box and a margin around it, in place."""
    x1, y1, x2, y2 = box
    dx, dy = BLUR_MARGIN_FRAC * (x2 - x1), BLUR_MARGIN_FRAC * (y2 - y1)
    left, top = max(0, math.floor(x1 - dx)), max(0, math.floor(y1 - dy))
    right, bottom = min(image.width, math.ceil(x2 + dx)), min(image.height, math.ceil(y2 + dy))
    if right <= left or bottom <= top:
        return
    region = image.crop((left, top, right, bottom))
    few = region.resize((BLURRED_SIDE, BLURRED_SIDE), Image.Resampling.BOX)
    image.paste(few.resize(region.size, Image.Resampling.BICUBIC), (left, top))


# Tables


def contact_sheet(
    output_uri: str, png_uri: str, *, max_images: int = 40, show_faces: bool = False
) -> str:
    """Write a page of an annotate output's first images by URI as PNG and return its title.

    The images are read again where they were; one that is gone is a grey tile.

    Raises:
        UsageError: No run is finished, or the URIs are hashed.
        StorageError: Tables cannot be read, or the page cannot be written.
    """
    tables = open_tables(output_uri)
    with _named_where_unreadable(output_uri):
        rows = _first_images(tables, max_images + 1)
        shown = rows[:max_images]
        faces = _faces_by_image(tables, shown)
    _check_not_hashed(output_uri, rows)
    tiles = [read_tile(row, faces[row["image_id"]]) for row in shown]
    title = ("The first " if len(rows) > max_images else "") + summary(tiles)
    purpose = (tables.schema("images").metadata or {}).get(b"fattr.purpose", b"").decode()
    subtitle = f"Sensitive attributes shown; purpose: {purpose}" if purpose else ""
    sheet = page(tiles, title=title, subtitle=subtitle, show_faces=show_faces)
    file = BytesIO()
    sheet.save(file, "PNG", optimize=True)
    storage.write_bytes(png_uri, file.getvalue())
    return title


@contextmanager
def _named_where_unreadable(output_uri: str) -> Iterator[None]:
    """Tables are read late: DuckDB meets files that the store does not give, or damaged ones."""
    try:
        yield
    except duckdb.Error as err:
        # Its Parquet reader's errors are of no finer class.
        if not isinstance(err, UNREADABLE) and type(err) is not duckdb.Error:
            raise
        reason = "a file of its tables is damaged or not to be had: see `fattr verify`"
        raise StorageError(Status.UNREADABLE, output_uri, reason) from err


def _first_images(tables: Tables, count: int) -> list[dict[str, Any]]:
    """The first rows of ``images`` by URI.

    None of them comes after the last of any ``count`` rows: with that bound only the beginnings of
    the files are read, which are sorted by URI, and not a hundred million URIs.
    """
    any_uris = [uri for (uri,) in tables.images.select("image_uri").limit(count).fetchall()]
    if not any_uris:
        return []
    rows = _up_to(tables.images, max(any_uris)).order("image_uri").limit(count)
    return list(rows.to_arrow_table().to_pylist())


def _faces_by_image(
    tables: Tables, first_images: Sequence[Mapping[str, Any]]
) -> dict[int, list[dict[str, Any]]]:
    """The rows of ``faces`` of these images, by image, best score first."""
    found: dict[int, list[dict[str, Any]]] = {row["image_id"]: [] for row in first_images}
    if first_images:
        rows = _up_to(tables.faces, first_images[-1]["image_uri"]).order("face_index")
        for face in rows.to_arrow_table().to_pylist():
            found[face["image_id"]].append(face)
    return found


def _up_to(rows: DuckDBPyRelation, image_uri: str) -> DuckDBPyRelation:
    return rows.filter(ColumnExpression("image_uri") <= ConstantExpression(image_uri))


def _check_not_hashed(output_uri: str, rows: Sequence[Mapping[str, Any]]) -> None:
    if not all("://" in row["image_uri"] for row in rows):
        raise UsageError(
            f"{output_uri} was made with --hash-uris, so its tables do not tell where the images"
            " lie: expected an output made without, whose images can be read again"
        )


def read_tile(row: Mapping[str, Any], faces: Sequence[Mapping[str, Any]]) -> Tile:
    """The tile of a row of ``images`` and its rows of ``faces``, its image read and decoded."""
    name = row["image_uri"].rpartition("/")[2]
    if row["status"] not in (Status.OK, Status.NO_FACE):
        return Tile(name, row["status"], row["reason"])
    try:
        data = storage.read_bytes(row["image_uri"])
        image = images.decode(data, min_long_side=max(PICTURE_WH))
    except (StorageError, ImageError) as err:
        return Tile(name, err.status, f"no longer: {err.reason}")
    return Tile(
        name,
        row["status"],
        pixels=image.pixels,
        faces=tuple(_face(face, image.scale) for face in faces),
    )


def _face(face: Mapping[str, Any], scale: int) -> Face:
    x1, y1, x2, y2 = (face[f"box_{edge}"] / scale for edge in ("x1", "y1", "x2", "y2"))
    return Face((x1, y1, x2, y2), face_heading(face), face_attributes(face))
