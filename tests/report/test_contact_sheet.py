"""The contact sheet, looked at pixel by pixel, and read back from tables."""

from __future__ import annotations

import io
import math
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_output import ATTRIBUTES, Photo, add_run, finish, put_manifest, put_parquet, staged

from fattr import storage
from fattr.cli import run_job
from fattr.errors import StorageError, UsageError
from fattr.published.publish import publish
from fattr.report import contact_sheet as sheets
from fattr.report.contact_sheet import Face, Tile
from fattr.runs.manifest import UriNames
from fattr.runs.run import Run

NOISE = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
BOX = (200.0, 160.0, 400.0, 400.0)  # in NOISE; half of it in the picture
FACE = Face(BOX, "masculine 0.98, age 52 (44-60)", ("smiling 0.97", "eyeglasses 0.71"))
GONE = Tile("gone.jpg", "unreadable", "damaged jpeg: image file is truncated")


def tile(*faces: Face, name: str = "photo.jpg") -> Tile:
    return Tile(name, "ok" if faces else "no_face", pixels=NOISE, faces=faces)


def picture(image: Image.Image) -> np.ndarray:
    """The picture of a card."""
    left_top = (sheets.PAD, sheets.PAD)
    right_bottom = np.add(left_top, sheets.PICTURE_WH)
    return np.asarray(image.crop((*left_top, *right_bottom)))


def widths(card: Image.Image) -> list[int]:
    """Of each row below the picture: where the last pixel that is not white is."""
    ink = np.asarray(card)[sheets.PAD + sheets.PICTURE_WH[1] : -1, 1:-1].min(axis=2) < 255
    return [int(np.flatnonzero(row)[-1]) + 2 if row.any() else 0 for row in ink]


# Words


@pytest.mark.parametrize(
    ("face", "heading", "attributes"),
    [
        pytest.param({}, "", (), id="nothing"),
        pytest.param(
            {"smiling": None, "smiling_prob": 0.5, "age": None, "age_low": None, "age_high": None},
            "",
            (),
            id="abstained",
        ),
        pytest.param({"bald": False, "bald_prob": 0.1}, "", (), id="false-is-not-said"),
        pytest.param(
            {"no_beard": True, "no_beard_prob": 0.7, "smiling": True, "smiling_prob": 0.974},
            "",
            ("smiling 0.97", "no beard 0.70"),
            id="most-probable-first",
        ),
        pytest.param(
            {
                "image_uri": "file:///a.jpg",
                "age": 51.6,
                "age_low": 44.2,
                "age_high": 60.4,
                "age_probs": [1.0],
                "perceived_gender_presentation": "masculine",
                "perceived_gender_presentation_prob": 0.981,
                "perceived_gender_presentation_probs": [0.019, 0.981],
            },
            "age 52 (44-60), masculine 0.98",
            (),
            id="categories-and-age-in-the-order-of-columns",
        ),
    ],
)
def test_a_face_in_words(face, heading, attributes):
    assert sheets.face_heading(face) == heading
    assert sheets.face_attributes(face) == attributes


def test_only_the_best_attributes_are_said():
    row = {f"a{i}": True for i in range(9)} | {f"a{i}_prob": i / 10 for i in range(9)}
    expected = ("a8 0.80", "a7 0.70", "a6 0.60", "a5 0.50", "a4 0.40")
    assert sheets.face_attributes(row) == expected


def test_summary_counts_images_faces_and_statuses():
    assert sheets.summary([]) == "0 images, 0 faces"
    assert sheets.summary([tile(FACE)]) == "1 image, 1 face: 1 ok"
    tiles = [tile(FACE, FACE), tile(), tile(FACE), GONE]
    assert sheets.summary(tiles) == "4 images, 3 faces: 2 ok, 1 no_face, 1 unreadable"


def test_wrapped_keeps_parts_whole_and_within_the_width():
    parts = [f"attribute number {i}," for i in range(9)]
    lines = sheets.wrapped(parts, size=15, width=300, max_lines=3)
    assert len(lines) == 3
    assert " ".join(lines).startswith("attribute number 0, attribute number 1,")
    assert all(line.endswith(",") for line in lines)
    assert all(sheets.font(15).getlength(line) <= 300 for line in lines)
    assert sheets.wrapped([], size=15, width=300, max_lines=3) == []


def test_shortened_fits():
    assert sheets.shortened("short", size=15, width=100) == "short"
    cut = sheets.shortened("W" * 200, size=15, width=100)
    assert cut.startswith("W")
    assert cut.endswith("...")
    assert sheets.font(15).getlength(cut) <= 100


# Pictures


def test_the_box_has_the_colour_of_its_face():
    faces = (FACE, Face((500.0, 300.0, 700.0, 500.0), "", ()))
    pixels = np.asarray(sheets.draw_picture(NOISE, faces, show_faces=True))
    for index, face in enumerate(faces):
        x1, y1, x2, y2 = (round(edge / 2) for edge in face.box_xyxy)
        edges = (
            pixels[y1 : y1 + 3, x1:x2],
            pixels[y2 - 3 : y2, x1:x2],
            pixels[y1:y2, x1 : x1 + 3],
            pixels[y1:y2, x2 - 3 : x2],
        )
        for edge in edges:
            assert (edge == sheets.face_color(index)).all()
        assert (pixels[y1 + 3, x1 + 3 : x2 - 3] != sheets.face_color(index)).any()
    assert sheets.face_color(0) != sheets.face_color(1)


@pytest.mark.parametrize(
    "size_hw",
    [(600, 800), (300, 2000), (900, 100), (30, 20)],
    ids=lambda size: "x".join(map(str, size)),
)
def test_an_image_lies_whole_in_the_middle(size_hw):
    white = np.full((*size_hw, 3), 255, np.uint8)
    shown = np.asarray(sheets.draw_picture(white, (), show_faces=False))
    assert shown.shape == (sheets.PICTURE_WH[1], sheets.PICTURE_WH[0], 3)
    rows, columns = np.nonzero((shown == 255).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert width == sheets.PICTURE_WH[0] or height == sheets.PICTURE_WH[1]
    assert width / height == pytest.approx(size_hw[1] / size_hw[0], rel=0.02)
    assert abs(rows.min() - (shown.shape[0] - 1 - rows.max())) <= 1
    assert abs(columns.min() - (shown.shape[1] - 1 - columns.max())) <= 1


def test_faces_are_blurred_unless_shown():
    hidden, shown = (
        np.asarray(sheets.draw_picture(NOISE, (FACE,), show_faces=show)).astype(float)
        for show in (False, True)
    )
    inside = np.s_[90:190, 110:190]
    assert hidden[inside].std() < 0.25 * shown[inside].std()
    margin = np.s_[100:180, 82:98]  # hair and ears lie outside a box
    assert hidden[margin].std() < 0.25 * shown[margin].std()
    elsewhere = np.s_[:, 250:]
    np.testing.assert_array_equal(hidden[elsewhere], shown[elsewhere])


def test_what_is_blurred_away_cannot_be_told_apart():
    """Two faces of equal coarse brightness look the same once blurred."""
    fine = np.indices((300, 400)).sum(axis=0) % 2 * 255
    pictures = [Image.fromarray(np.stack([v] * 3, 2).astype(np.uint8)) for v in (fine, 255 - fine)]
    for one in pictures:
        sheets.blur(one, (0, 0, 400, 300))
    first, second = (np.asarray(one).astype(int) for one in pictures)
    assert np.abs(first - second).max() <= 2


@pytest.mark.parametrize(
    "box", [(-500, -500, -400, -400), (50, 50, 50, 50), (380, 280, 900, 900)], ids=str
)
def test_a_box_at_or_beyond_the_edge_can_be_drawn(box):
    face = Face(tuple(float(edge) for edge in box), "", ())
    assert sheets.draw_picture(NOISE, (face,), show_faces=False).size == sheets.PICTURE_WH


def test_an_unreadable_image_is_grey_with_its_reason():
    card = sheets.draw_tile(GONE, height=sheets.tile_height([GONE]), show_faces=False)
    shown = picture(card)
    assert (shown == sheets.EMPTY).all(axis=2).mean() > 0.95
    assert (shown == sheets.BAD).all(axis=2).any()
    other = Tile(GONE.name, GONE.status, "another reason")
    assert not np.array_equal(
        shown, picture(sheets.draw_tile(other, height=card.height, show_faces=False))
    )


# The page


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (4, 4), (5, 4), (9, 4)], ids=str)
def test_tiles_are_equal_and_in_a_grid(count, columns):
    tiles = [GONE, tile(FACE, FACE), tile(), *[tile(FACE)] * 6][:count]
    sheet = sheets.page(tiles, title="title", show_faces=True)
    height = sheets.tile_height(tiles)
    assert sheet.width == sheets.GAP + columns * (sheets.TILE_WIDTH + sheets.GAP)
    top = sheet.height - math.ceil(count / columns) * (height + sheets.GAP)
    for i, one in enumerate(tiles):
        left = sheets.GAP + i % columns * (sheets.TILE_WIDTH + sheets.GAP)
        upper = top + i // columns * (height + sheets.GAP)
        found = sheet.crop((left, upper, left + sheets.TILE_WIDTH, upper + height))
        expected = sheets.draw_tile(one, height=height, show_faces=True)
        assert found.tobytes() == expected.tobytes()


def test_a_page_without_tiles_is_a_title():
    sheet = sheets.page([], title="0 images")
    assert sheet.height < 100
    assert np.asarray(sheet).min() < 100


@pytest.mark.parametrize("num_faces", [0, 1, 2, 4, 9])
def test_captions_stay_within_their_card(num_faces):
    wordy = Face(BOX, "word " * 60, tuple(f"attribute {i} 0.{99 - i}" for i in range(60)))
    crowd = tile(*[wordy] * num_faces, name="a very long name " * 20)
    card = sheets.draw_tile(crowd, height=sheets.tile_height([crowd]), show_faces=True)
    assert max(widths(card)) <= sheets.TILE_WIDTH - sheets.PAD + 1
    assert not any(widths(card)[-sheets.PAD + 4 :])  # nor below
    texts = [line.text for line in sheets.caption(crowd)]
    assert (f"and {num_faces - sheets.MAX_FACES} more" in texts) == (num_faces > sheets.MAX_FACES)
    for line in sheets.caption(crowd):
        assert (
            sheets.font(sheets.TEXT_SIZE).getlength(line.text) + line.indent
            <= (sheets.PICTURE_WH[0])
        )


def test_a_caption_line_for_what_is_known():
    assert [line.text for line in sheets.caption(tile(FACE))] == [
        "masculine 0.98, age 52 (44-60)",
        "smiling 0.97, eyeglasses 0.71",
    ]
    assert [line.text for line in sheets.caption(tile(Face(BOX, "", ())))] == ["no label"]
    assert [line.text for line in sheets.caption(tile())] == ["no face found"]
    assert sheets.caption(GONE) == []
    numbers = [line.face_index for line in sheets.caption(tile(FACE, FACE))]
    assert numbers == [0, None, 1, None]


# Tables


SMILE, NO_SMILE = (
    dict(zip(("box_x1", "box_y1", "box_x2", "box_y2"), BOX, strict=True))
    | {"face_px": 200.0, "smiling": smiling, "smiling_prob": 0.9 if smiling else 0.1}
    for smiling in (True, False)
)
FIRST, SECOND = "20261123T211700Z-3f9c1a", "20261124T211700Z-3f9c1b"


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path) -> str:
    """URI of a folder with two images; the page goes into another one."""
    if request.param == "local":
        uri = storage.canonical_uri(str(tmp_path / "in put"))
    else:
        uri = request.getfixturevalue("s3_bucket")
    for name in ("faces.png", "none.png"):
        storage.write_bytes(f"{uri}/{name}", encoded(NOISE))
    return uri


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def output(folder) -> str:
    """Tables of three images: two faces; none; and a broken one."""
    photos = [
        Photo(f"{folder}/x.jpg", status="unreadable", reason="damaged jpeg: cut"),
        Photo(f"{folder}/faces.png", [SMILE, NO_SMILE]),
        Photo(f"{folder}/none.png", status="no_face"),
    ]
    run = Run(f"{folder}/out", FIRST)
    put_manifest(run, photos)
    put_parquet(staged(photos), storage.join(run.staging, "a.parquet"))
    publish(run, attributes=ATTRIBUTES, model_id="m", metadata={"fattr.purpose": "a test"})
    finish(run, 3, 2)
    return run.output


@pytest.fixture
def pages(monkeypatch) -> list[list[Tile]]:
    """The tiles of every page that is made, which stays empty."""
    made: list[list[Tile]] = []

    def keep(tiles, **_):
        made.append(list(tiles))
        return Image.new("RGB", (8, 8))

    monkeypatch.setattr(sheets, "page", keep)
    return made


def opened(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_page_from_tables(output, tmp_path):
    title = sheets.contact_sheet(output, str(tmp_path / "page.png"), show_faces=True)
    assert title == "3 images, 2 faces: 1 ok, 1 no_face, 1 unreadable"
    tiles = [
        Tile(
            "faces.png",
            "ok",
            pixels=NOISE,
            faces=(Face(BOX, "", ("smiling 0.90",)), Face(BOX, "", ())),
        ),
        Tile("none.png", "no_face", pixels=NOISE),
        Tile("x.jpg", "unreadable", "damaged jpeg: cut"),
    ]
    expected = sheets.page(
        tiles,
        title=title,
        subtitle="Sensitive attributes shown; purpose: a test",
        show_faces=True,
    )
    np.testing.assert_array_equal(opened(tmp_path / "page.png"), np.asarray(expected))


def test_boxes_follow_an_image_decoded_smaller(tmp_path):
    huge = Image.fromarray(NOISE).resize((3200, 2400))
    huge.save(tmp_path / "huge.jpg")
    row = {"image_uri": str(tmp_path / "huge.jpg"), "status": "ok", "reason": ""}
    read = sheets.read_tile(row, [SMILE])
    assert read.pixels is not None
    scale = 3200 / read.pixels.shape[1]
    assert scale > 1
    assert read.faces[0].box_xyxy == pytest.approx([edge / scale for edge in BOX])


def test_an_image_that_is_gone_since_is_a_grey_tile(output, folder, tmp_path):
    files, path = storage.filesystem(f"{folder}/faces.png")
    files.delete_file(path)
    storage.write_bytes(f"{folder}/none.png", b"")
    title = sheets.contact_sheet(output, str(tmp_path / "page.png"))
    assert title == "3 images, 0 faces: 2 unreadable, 1 missing"


@pytest.mark.parametrize(("flags", "show_faces"), [([], False), (["--show-faces"], True)])
def test_the_command_blurs_unless_told(output, tmp_path, flags, show_faces):
    written, same, other = (tmp_path / name for name in ("written.png", "same.png", "other.png"))
    assert run_job("contact-sheet", ["--output", output, "--png", str(written), *flags]) == 0
    sheets.contact_sheet(output, str(same), show_faces=show_faces)
    sheets.contact_sheet(output, str(other), show_faces=not show_faces)
    assert written.read_bytes() == same.read_bytes() != other.read_bytes()


def test_only_so_many_images(output, tmp_path):
    png = str(tmp_path / "page.png")
    titles = [sheets.contact_sheet(output, png, max_images=n) for n in (1, 2, 3)]
    assert titles == [
        "The first 1 image, 2 faces: 1 ok",
        "The first 2 images, 2 faces: 1 ok, 1 no_face",
        "3 images, 2 faces: 1 ok, 1 no_face, 1 unreadable",
    ]


def test_the_newest_rows_of_finished_runs_are_shown(output, folder, tmp_path, pages):
    uris = [f"{folder}/{name}" for name in ("none.png", "x.jpg", "a.jpg")]
    newer = [Photo(uris[0], [SMILE]), *(Photo(uri, status="denied") for uri in uris[1:])]
    run = add_run(output, SECOND, newer, replaced=[(FIRST, uri) for uri in uris[:2]])
    finished = storage.read_bytes(run.file("_SUCCESS"))
    files, path = storage.filesystem(run.file("_SUCCESS"))
    files.delete_file(path)
    png = str(tmp_path / "page.png")
    assert sheets.contact_sheet(output, png).startswith("3 images, 2 faces: 1 ok, 1 no_face, 1 unr")

    storage.write_bytes(run.file("_SUCCESS"), finished)
    assert sheets.contact_sheet(output, png) == "4 images, 3 faces: 2 denied, 2 ok"
    assert [(one.name, one.status, len(one.faces)) for one in pages[1]] == [
        ("a.jpg", "denied", 0),
        ("faces.png", "ok", 2),
        ("none.png", "ok", 1),
        ("x.jpg", "denied", 0),
    ]


def test_the_first_images_of_many_runs(tmp_path, pages):
    random = Random(0)
    newest: dict[str, str] = {}  # URI to the run that made its row last
    for day in range(10, 16):
        run_id = f"202611{day}T211700Z-000000"
        uris = [f"s3://p/{n:02d} it's é.jpg" for n in random.sample(range(40), 9)]
        replaced = [(newest[uri], uri) for uri in uris if uri in newest]
        photos = [Photo(uri, status="denied", reason=run_id) for uri in uris]
        add_run(str(tmp_path), run_id, photos, replaced=replaced, rows_per_file=4)
        newest |= dict.fromkeys(uris, run_id)
    expected = [(uri.rpartition("/")[2], newest[uri]) for uri in sorted(newest)]
    for count in (1, 2, 5, len(newest) - 1, len(newest), len(newest) + 1):
        title = sheets.contact_sheet(str(tmp_path), str(tmp_path / "p.png"), max_images=count)
        assert [(one.name, one.reason) for one in pages[-1]] == expected[:count]
        assert title.startswith("The first ") == (count < len(newest))


def test_rows_of_later_images_are_not_read(tmp_path):
    """All of them but the URIs is destroyed, and nobody notices."""
    photos = [Photo(f"s3://p/{n:03d}.jpg", [SMILE], status="denied") for n in range(100)]
    add_run(str(tmp_path), FIRST, photos, rows_per_file=10)
    for part in [*tmp_path.glob("images/**/*.parquet"), *tmp_path.glob("faces/**/*.parquet")]:
        if part.name != "part-00000.parquet":
            destroy(part, ["image_uri"] if "images" in part.parts else [])
    png = str(tmp_path / "page.png")
    title = sheets.contact_sheet(str(tmp_path), png, max_images=9)
    assert title == "The first 9 images, 0 faces: 9 denied"
    with pytest.raises(StorageError, match=r"tables is damaged.*fattr verify") as caught:
        sheets.contact_sheet(str(tmp_path), png, max_images=20)
    assert "\n" not in str(caught.value)


def destroy(part: Path, spared: list[str]) -> None:
    """Overwrite the columns of a file; its statistics stay."""
    data = bytearray(part.read_bytes())
    group = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        if column.path_in_schema not in spared:
            start = column.dictionary_page_offset or column.data_page_offset
            data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    part.write_bytes(data)


def test_finished_runs_without_images_are_an_empty_page(tmp_path):
    add_run(str(tmp_path), FIRST, [])
    assert sheets.contact_sheet(str(tmp_path), str(tmp_path / "p.png")) == "0 images, 0 faces"


def test_hashed_uris_are_refused(tmp_path):
    name = UriNames(b"a key of thirty-two bytes, or so").name("file:///photographs/a.jpg")[1]
    add_run(str(tmp_path / "out"), FIRST, [Photo(name, [SMILE])])
    with pytest.raises(UsageError, match=r"out was made with --hash-uris.*made without") as caught:
        sheets.contact_sheet(str(tmp_path / "out"), str(tmp_path / "page.png"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "page.png").exists()


def test_an_output_without_tables_is_refused(tmp_path, capsys):
    with pytest.raises(UsageError, match="no finished run"):
        sheets.contact_sheet(str(tmp_path), str(tmp_path / "page.png"))
    argv = ["--output", str(tmp_path), "--png", str(tmp_path / "page.png")]
    assert run_job("contact-sheet", argv) == 2
    assert run_job("contact-sheet", [*argv, "--max-images", "0"]) == 2
    assert "--max-images must be 1 or more: 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
