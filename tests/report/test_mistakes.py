"""Pages of mistakes, looked at pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from fattr.report import mistakes
from fattr.report.contact_sheet import BAD, CARD, EMPTY, FAINT, INK, PAGE
from fattr.report.mistakes import Section, ShownFace, draw_face, mistakes_page, mistakes_png

NOISE = np.random.default_rng(0).integers(0, 256, (128, 104, 3), np.uint8)
SIDE, PAD = mistakes.PICTURE_SIDE, mistakes.PAD


def face(labelled="labelled false", predicted="model says true 0.97", name="1.png", pixels=NOISE):
    return ShownFace(pixels, labelled, predicted, name)


def picture(card: Image.Image) -> np.ndarray:
    return np.asarray(card.crop((PAD, PAD, PAD + SIDE, PAD + SIDE)))


def line(card: Image.Image, number: int) -> np.ndarray:
    """The pixels of one line of text, to the card's edge."""
    top = SIDE + 2 * PAD + number * mistakes.LINE_HEIGHT
    return np.asarray(card)[top : top + mistakes.LINE_HEIGHT, 1:-1].astype(int)


@pytest.mark.parametrize(
    "size_hw", [(128, 104), (64, 64), (10, 300), (500, 700)], ids=lambda s: f"{s[0]}x{s[1]}"
)
def test_a_face_is_shown_whole_in_the_middle(size_hw):
    white = np.full((*size_hw, 3), 255, np.uint8)
    shown = (picture(draw_face(face(pixels=white))) == 255).all(axis=2)
    rows, columns = np.nonzero(shown)
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert max(height, width) == SIDE
    assert height / width == pytest.approx(size_hw[0] / size_hw[1], rel=0.1)
    for low, high in ((rows.min(), rows.max()), (columns.min(), columns.max())):
        assert abs(low - (SIDE - 1 - high)) <= 1
    around = picture(draw_face(face(pixels=white)))[~shown]
    assert (around == EMPTY).all()


def test_label_answer_and_name_stand_below_each_other_in_their_colours():
    card = draw_face(face())
    for number, color in enumerate((INK, BAD, FAINT)):
        drawn = line(card, number)
        assert (drawn == color).all(axis=2).any()
        for other in {INK, BAD, FAINT} - {color}:
            assert not (drawn == other).all(axis=2).any()


def test_each_line_is_what_it_was_given():
    cards = [draw_face(face()), draw_face(face(labelled="labelled true"))]
    same = [np.array_equal(line(cards[0], i), line(cards[1], i)) for i in range(3)]
    assert same == [False, True, True]
    cards[1] = draw_face(face(predicted="model says true 0.96"))
    assert [np.array_equal(line(cards[0], i), line(cards[1], i)) for i in range(3)] == [
        True,
        False,
        True,
    ]


def test_long_lines_stay_within_the_picture_and_names_keep_their_end():
    long = face("labelled " + "W" * 90, "model says " + "W" * 90, "W" * 90 + "/000123.png")
    card = draw_face(long)
    for number in range(3):
        columns = np.flatnonzero((line(card, number) != CARD).any(axis=2).any(axis=0))
        assert columns.max() + 1 <= PAD + SIDE + 1
    assert mistakes._ending(long.name).endswith("/000123.png")
    assert mistakes._ending(long.name).startswith("...")
    assert mistakes._ending("short.png") == "short.png"


def test_a_page_holds_each_face_of_each_section_in_rows_of_six():
    first, second = ([face(name=f"{i}.png") for i in range(n)] for n in (8, 1))
    sections = [Section("mistakes", first), Section("label errors", second)]
    page = mistakes_page("smiling", "some words", sections)
    assert page.size == (
        mistakes.PAGE_WIDTH,
        mistakes.TITLE_HEIGHT + sum(section.height for section in sections),
    )
    width, height, gap = mistakes.TILE_WIDTH, mistakes.TILE_HEIGHT, mistakes.GAP
    tops = [mistakes.TITLE_HEIGHT + mistakes.HEADING_HEIGHT]
    tops += [tops[0] + height + gap, tops[0] + sections[0].height]
    places = [(i % 6, tops[i // 6], one) for i, one in enumerate(first)] + [(0, tops[2], second[0])]
    for column, top, one in places:
        left = gap + column * (width + gap)
        found = page.crop((left, top, left + width, top + height))
        assert found.tobytes() == draw_face(one).tobytes()
    left = gap + 2 * (width + gap)  # nothing follows the eighth
    assert (np.asarray(page)[tops[1] : tops[1] + height, left:] == PAGE).all()


def test_a_section_without_faces_says_none():
    page = np.asarray(mistakes_page("smiling", "", [Section("label errors", [])]))
    body = page[mistakes.TITLE_HEIGHT + mistakes.HEADING_HEIGHT :]
    assert (body == FAINT).all(axis=2).any()
    assert len(body) < 60


def test_the_file_holds_the_page():
    sections = [Section("mistakes", [face()])]
    with Image.open(io.BytesIO(mistakes_png("smiling", "", sections))) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(
            np.asarray(opened), np.asarray(mistakes_page("smiling", "", sections))
        )
