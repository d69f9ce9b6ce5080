"""A page of one attribute's faces that a model and its labels disagree about. It shows faces."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageDraw

from fattr.records import UInt8Array
from fattr.report.contact_sheet import (
    BAD,
    CARD,
    EDGE,
    EMPTY,
    FAINT,
    GAP,
    INK,
    PAGE,
    draw_title,
    font,
    shortened,
)

PICTURE_SIDE = 184
PAD = 10
TILE_WIDTH = PICTURE_SIDE + 2 * PAD
COLUMNS = 6
PAGE_WIDTH = GAP + COLUMNS * (TILE_WIDTH + GAP)
TITLE_HEIGHT, HEADING_HEIGHT = 84, 44
HEADING_SIZE, TEXT_SIZE, NAME_SIZE = 19, 14, 12
LINE_HEIGHT = 20
TILE_HEIGHT = PICTURE_SIDE + 2 * PAD + 3 * LINE_HEIGHT + 8


@dataclass(frozen=True, slots=True, eq=False)
class ShownFace:
    """One face and what is said of it."""

    pixels: UInt8Array  # (h, w, 3) RGB, a crop or a picture
    labelled: str  # a line: labelled false
    predicted: str  # a line: model says true 0.97
    name: str = ""  # where to find it


@dataclass(frozen=True, slots=True, eq=False)
class Section:
    """Faces under one heading; without any, it says so."""

    heading: str
    faces: Sequence[ShownFace]

    @property
    def height(self) -> int:
        """In pixels of the page."""
        rows = math.ceil(len(self.faces) / COLUMNS)
        return HEADING_HEIGHT + (rows * (TILE_HEIGHT + GAP) if rows else LINE_HEIGHT + GAP)


def mistakes_png(title: str, subtitle: str, sections: Sequence[Section]) -> bytes:
    """``mistakes_page`` as the bytes of a PNG file."""
    file = BytesIO()
    mistakes_page(title, subtitle, sections).save(file, "PNG", optimize=True)
    return file.getvalue()


def mistakes_page(title: str, subtitle: str, sections: Sequence[Section]) -> Image.Image:
    """The sections below each other, each with its faces in rows of ``COLUMNS``."""
    height = TITLE_HEIGHT + sum(section.height for section in sections)
    sheet = Image.new("RGB", (PAGE_WIDTH, height), PAGE)
    draw_title(sheet, title, subtitle)
    top = TITLE_HEIGHT
    for section in sections:
        _draw_section(sheet, section, top)
        top += section.height
    return sheet


def _draw_section(sheet: Image.Image, section: Section, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    heading = shortened(section.heading, size=HEADING_SIZE, width=PAGE_WIDTH - 2 * GAP)
    draw.text((GAP, top + HEADING_HEIGHT // 2), heading, INK, font(HEADING_SIZE), anchor="lm")
    top += HEADING_HEIGHT
    if not section.faces:
        draw.text((GAP, top + LINE_HEIGHT // 2), "none", FAINT, font(TEXT_SIZE), anchor="lm")
    for i, face in enumerate(section.faces):
        row, column = divmod(i, COLUMNS)
        at = (GAP + column * (TILE_WIDTH + GAP), top + row * (TILE_HEIGHT + GAP))
        sheet.paste(draw_face(face), at)


def draw_face(face: ShownFace) -> Image.Image:
    """A card: the face, how it is labelled, what the model says, and its name."""
    card = Image.new("RGB", (TILE_WIDTH, TILE_HEIGHT), CARD)
    draw = ImageDraw.Draw(card)
    draw.rectangle((0, 0, TILE_WIDTH - 1, TILE_HEIGHT - 1), outline=EDGE)
    card.paste(_picture(face.pixels), (PAD, PAD))
    lines = (
        (shortened(face.labelled, size=TEXT_SIZE, width=PICTURE_SIDE), INK, TEXT_SIZE),
        (shortened(face.predicted, size=TEXT_SIZE, width=PICTURE_SIDE), BAD, TEXT_SIZE),
        (_ending(face.name), FAINT, NAME_SIZE),
    )
    middle = PICTURE_SIDE + 2 * PAD + LINE_HEIGHT // 2
    for text, color, size in lines:
        draw.text((PAD, middle), text, color, font(size), anchor="lm")
        middle += LINE_HEIGHT
    return card


def _ending(name: str) -> str:
    """As much of the end of a name as fits: files of a folder often begin alike."""
    return shortened(name[::-1], size=NAME_SIZE, width=PICTURE_SIDE)[::-1]


def _picture(pixels: UInt8Array) -> Image.Image:
    """The face, whole and in the middle of a square."""
    height, width = pixels.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    face = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
    square = Image.new("RGB", (PICTURE_SIDE, PICTURE_SIDE), EMPTY)
    square.paste(face, ((PICTURE_SIDE - size[0]) // 2, (PICTURE_SIDE - size[1]) // 2))
    return square
