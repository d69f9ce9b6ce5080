"""The scoring stage on photographs, computed again by hand, and its rows put back into order."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from s3_server import Answer, canned_server

from fattr import bundle
from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.build import build_classifier, build_detector
from fattr.config import DetectConfig
from fattr.crop import central_crop, crop_face
from fattr.datasets.image_bytes import parquet_image_uri
from fattr.detect import source as detectors
from fattr.errors import RunError, UsageError
from fattr.evaluation import scoring
from fattr.evaluation.scoring import (
    ScoredModel,
    ScoreFaces,
    gather,
    read_labelled,
    samples_table,
    scored_schema,
)
from fattr.local_engine import score_locally
from fattr.records import Sample, Status
from fattr.stages import Fetch

SMILING, YOUNG, HAT = attribute("smiling"), attribute("young"), attribute("wearing_hat")
PRESENTATION = PERCEIVED_GENDER_PRESENTATION
PHOTOS = ("1-face.jpg", "2-faces.jpg", "coffee.png", "1-face-tiny.png", "1-face-rotated.jpg")
ASTRONAUT_PX = 512


@pytest.fixture(scope="module")
def detector():
    return build_detector(detectors.shipped(), DetectConfig(), device="cpu")


@pytest.fixture(scope="module")
def bundles(models):
    """Two crop rules, two sets of attributes."""
    return bundle.load(models.people), bundle.load(models.looks)


@pytest.fixture(scope="module")
def stage(detector, bundles) -> ScoreFaces:
    return ScoreFaces(
        detector,
        [ScoredModel(build_classifier(b, device="cpu"), b.spec.crop_rule) for b in bundles],
    )


def samples_at(*paths: Path) -> list[Sample]:
    return [Sample(path.as_uri(), {}) for path in paths]


def scored(stage: ScoreFaces, samples: list[Sample]) -> pa.Table:
    return stage(Fetch(read=read_labelled)(samples_table(samples)))


def upright(path: Path) -> np.ndarray:
    """RGB pixels by nothing but Pillow."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def central_face(detector, pixels: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Landmarks (5, 2) and shorter side of the face nearest the centre."""
    faces = detector.detect([pixels])[0]
    centre = np.array(pixels.shape[1::-1]) / 2
    by_offset = [
        (float(np.hypot(*((box[:2] + box[2:]) / 2 - centre))), n)
        for n, box in enumerate(faces.boxes_xyxy)
    ]
    if not by_offset:
        return None
    nearest = min(by_offset)[1]
    x1, y1, x2, y2 = faces.boxes_xyxy[nearest].tolist()
    return faces.landmarks[nearest], min(x2 - x1, y2 - y1)


def logits_of(model: bundle.Bundle, crop: np.ndarray) -> np.ndarray:
    """Logits (L,) of one crop by nothing but onnxruntime."""
    session = onnxruntime.InferenceSession(model.onnx, providers=["CPUExecutionProvider"])
    return session.run(None, {"crops": crop[np.newaxis]})[0][0]


# One row a photograph


def test_logits_are_those_of_the_face_nearest_the_centre(stage, detector, bundles, photo_folder):
    paths = [photo_folder / name for name in PHOTOS]
    rows = scored(stage, samples_at(*paths))
    assert rows.schema.equals(scored_schema(2))
    assert rows.column("status").to_pylist() == [Status.OK] * len(paths)
    assert rows.column("found").to_pylist() == [True, True, False, True, True]
    for path, row in zip(paths, rows.to_pylist(), strict=True):
        pixels = upright(path)
        face = central_face(detector, pixels)
        assert row["face_px"] == (pytest.approx(face[1], rel=1e-6) if face else None)
        for i, model in enumerate(bundles):
            rule = model.spec.crop_rule
            crop = crop_face(pixels, face[0], rule) if face else central_crop(pixels, rule)
            np.testing.assert_allclose(row[f"logits_{i}"], logits_of(model, crop), atol=1e-4)


def test_two_models_see_their_own_crops(stage, bundles, detector, astronaut, tmp_path):
    """The same picture by the other's rule would give other logits."""
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    row = scored(stage, samples_at(tmp_path / "a.png")).to_pylist()[0]
    landmarks, _ = central_face(detector, astronaut)
    for i, model in enumerate(bundles):
        own, other = (bundles[i].spec.crop_rule, bundles[1 - i].spec.crop_rule)
        expected = logits_of(model, crop_face(astronaut, landmarks, own))
        wrong = logits_of(model, crop_face(astronaut, landmarks, other))
        assert np.abs(expected - wrong).max() > 0.01
        np.testing.assert_allclose(row[f"logits_{i}"], expected, atol=1e-5)


def test_without_a_detector_pictures_are_crops(bundles, astronaut, tmp_path):
    Image.fromarray(astronaut).save(tmp_path / "a.png")
    model = bundles[0]
    stage = ScoreFaces(
        None, [ScoredModel(build_classifier(model, device="cpu"), model.spec.crop_rule)]
    )
    row = scored(stage, samples_at(tmp_path / "a.png")).to_pylist()[0]
    expected = logits_of(model, central_crop(astronaut, model.spec.crop_rule))
    np.testing.assert_allclose(row["logits_0"], expected, atol=1e-4)
    assert (row["found"], row["face_px"]) == (False, None)


def test_what_cannot_be_read_is_a_row_among_the_others(stage, photo_folder, tmp_path):
    shutil.copy(photo_folder / "sub folder" / "truncated 100%.jpg", tmp_path / "half.jpg")
    paths = [
        tmp_path / "gone.jpg",
        photo_folder / "1-face.jpg",
        tmp_path / "half.jpg",
        photo_folder / "empty.jpg",
        photo_folder / "coffee.png",
    ]
    rows = scored(stage, samples_at(*paths)).to_pylist()
    assert [row["index"] for row in rows] == list(range(5))
    assert [row["status"] for row in rows] == ["missing", "ok", "unreadable", "unreadable", "ok"]
    assert [bool(row["reason"]) for row in rows] == [True, False, True, True, False]
    assert [row["logits_1"] is None for row in rows] == [True, False, True, True, False]
    alone = scored(stage, samples_at(paths[4])).to_pylist()[0]
    np.testing.assert_allclose(rows[4]["logits_1"], alone["logits_1"], atol=1e-5)


def test_a_batch_without_one_image_and_one_without_rows(stage, tmp_path):
    rows = scored(stage, samples_at(tmp_path / "gone.jpg"))
    assert rows.schema.equals(scored_schema(2))
    assert rows.column("logits_0").to_pylist() == [None]
    none = stage(Fetch(read=read_labelled)(samples_table([])))
    assert none.schema.equals(scored_schema(2))
    assert none.num_rows == 0


def test_threads_and_batches_make_no_difference(stage, photo_folder, monkeypatch):
    samples = samples_at(*[photo_folder / name for name in PHOTOS] * 4)
    whole = scored(stage, samples)
    monkeypatch.setattr("fattr.local_engine.ROWS_PER_BATCH", 3)
    parts = list(score_locally(samples, stage, num_threads=3))
    assert [part.num_rows for part in parts] == [3] * 6 + [2]
    assert pa.concat_tables(parts).equals(whole)


# Images in cells of Parquet files


def write_cells(path: Path, photo_folder: Path) -> None:
    """Photographs as Hugging Face keeps them, two to a row group, the last row empty."""
    images = [{"bytes": (photo_folder / name).read_bytes(), "path": name} for name in PHOTOS]
    pq.write_table(pa.table({"image": [*images, None], "n": range(6)}), path, row_group_size=2)


def test_images_in_parquet_cells_are_as_good_as_files(stage, photo_folder, tmp_path):
    write_cells(tmp_path / "a b.parquet", photo_folder)
    uri = (tmp_path / "a b.parquet").as_uri()
    cells = [Sample(parquet_image_uri(uri, row, "image"), {}) for row in range(len(PHOTOS))]
    files = samples_at(*(photo_folder / name for name in PHOTOS))
    assert scored(stage, cells).equals(scored(stage, files))


@pytest.mark.parametrize(
    ("row", "column", "message"),
    [
        (5, "image", "the row has no image; mend or remove this labelled image"),
        (6, "image", "the file has 6 rows; mend"),
        (0, "n", "column 'n' must hold image bytes, it holds int64; mend"),
        (0, "photo", "has no column 'photo'; mend"),
    ],
)
def test_a_wrong_cell_is_named(stage, photo_folder, tmp_path, row, column, message):
    write_cells(tmp_path / "a.parquet", photo_folder)
    samples = [Sample(parquet_image_uri((tmp_path / "a.parquet").as_uri(), row, column), {})]
    with pytest.raises(UsageError) as caught:
        gather_of(scored(stage, samples), samples)
    assert str(caught.value).startswith(f"{samples[0].image_uri}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


# Rows back into order


EVERY = ((AGE, SMILING, PRESENTATION), (YOUNG, HAT, SMILING))
KEPT = ((PRESENTATION, AGE), (SMILING, YOUNG))  # in an order of their own
NUM_ROWS = 40


def gather_of(*parts, folder=Path(), models=2):
    *parts, samples = parts
    return gather(parts, samples, list(zip(EVERY, KEPT, strict=True))[:models], folder=folder)


@pytest.fixture(scope="module")
def labelled() -> list[Sample]:
    """Some without some labels, some in no group."""
    return [
        Sample(
            f"file:///{i}.jpg",
            {name: i % 2 for name in ("age", "smiling", "young") if (i + len(name)) % 3},
            {"race": f"r{i % 4}"} | ({"head": "hat"} if i % 5 == 0 else {}),
        )
        for i in range(NUM_ROWS)
    ]


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    """Each logit is told by its value: 1000 a model, 10 a row, one a logit."""
    columns = {
        "index": range(NUM_ROWS),
        "status": ["ok"] * NUM_ROWS,
        "reason": [""] * NUM_ROWS,
        "found": [i % 7 != 0 for i in range(NUM_ROWS)],
        "face_px": [None if i % 7 == 0 else i + 0.5 for i in range(NUM_ROWS)],
    }
    for n, width in enumerate((12, 3)):
        columns[f"logits_{n}"] = [
            [1000 * n + 10 * row + logit / 4 for logit in range(width)] for row in range(NUM_ROWS)
        ]
    return pa.table(columns, schema=scored_schema(2))


@pytest.fixture(params=["memory", "spilled"])
def gathered(request, rows, labelled, tmp_path, monkeypatch):
    """The scores of both models, of rows that came in any order and once more than once."""
    if request.param == "spilled":
        monkeypatch.setattr(scoring, "MAX_SCORES_IN_MEMORY", 1)
        monkeypatch.setattr(scoring, "ROWS_PER_GROUP", 16)
    order = np.random.default_rng(0).permutation(NUM_ROWS)
    shuffled = rows.take(order)
    parts = [shuffled.slice(30), shuffled.slice(0, 0), shuffled.slice(0, 11), shuffled.slice(8, 22)]
    return gather_of(*parts, labelled, folder=tmp_path)


def test_rows_in_any_order_are_put_in_order(gathered, labelled):
    assert [scores.attributes for scores in gathered] == list(KEPT)
    firsts = [{"age": 0, PRESENTATION.name: 10}, {"young": 0, "smiling": 2}]
    for n, (scores, first) in enumerate(zip(gathered, firsts, strict=True)):
        assert scores.image_uris == [sample.image_uri for sample in labelled]
        for one in scores.attributes:
            logits = first[one.name] + np.arange(one.num_logits)
            expected = 1000 * n + 10 * np.arange(NUM_ROWS)[:, np.newaxis] + logits / 4
            np.testing.assert_array_equal(scores.logits(one), expected)
            wanted = [sample.targets.get(one.name, -1) for sample in labelled]
            assert scores.targets(one).tolist() == wanted
        assert scores.found.tolist() == [i % 7 != 0 for i in range(NUM_ROWS)]
        np.testing.assert_array_equal(
            scores.face_px, [np.nan if i % 7 == 0 else i + 0.5 for i in range(NUM_ROWS)]
        )
        assert scores.group_names == ("head", "race")
        assert scores.groups("race") == tuple(f"r{i % 4}" for i in range(NUM_ROWS))
        assert scores.groups("head") == tuple("" if i % 5 else "hat" for i in range(NUM_ROWS))


def test_only_what_is_large_is_a_file_and_nothing_else_is_left(
    rows, labelled, tmp_path, monkeypatch
):
    widths = [sum(a.num_logits for a in kept) for kept in KEPT]
    assert widths == [11, 2]
    monkeypatch.setattr(scoring, "MAX_SCORES_IN_MEMORY", NUM_ROWS * 2)
    large, small = gather_of(rows, labelled, folder=tmp_path)
    assert large.source == tmp_path / "scores-0.parquet"
    assert isinstance(small.source, pa.Table)
    assert [path.name for path in tmp_path.iterdir()] == ["scores-0.parquet"]
    monkeypatch.undo()
    whole, _ = gather_of(rows, labelled, folder=tmp_path)
    assert pq.read_table(large.source).equals(whole.source)


def failed(rows: pa.Table, index: int, status: str, reason: str) -> pa.Table:
    """The rows, one of them without an image."""
    items = rows.to_pylist()
    items[index] |= {"status": status, "reason": reason, "found": False, "face_px": None}
    items[index] |= {"logits_0": None, "logits_1": None}
    return pa.Table.from_pylist(items, schema=rows.schema)


@pytest.mark.parametrize("status", ["missing", "denied", "unreadable", "too_large"])
def test_a_damaged_image_is_refused_by_name(rows, labelled, status):
    with pytest.raises(UsageError) as caught:
        gather_of(failed(rows, 17, status, "for a reason"), labelled)
    assert str(caught.value) == ("file:///17.jpg: for a reason; mend or remove this labelled image")


@pytest.mark.parametrize("status", ["unavailable", "timeout"])
def test_a_storage_that_fails_is_no_fault_of_the_data(rows, labelled, status):
    with pytest.raises(RunError, match=r"^file:///17\.jpg: for a reason; run again when"):
        gather_of(failed(rows, 17, status, "for a reason"), labelled)


def test_a_row_that_never_came_is_told(rows, labelled):
    with pytest.raises(RunError, match="3 of 40 images were not scored"):
        gather_of(rows.slice(0, 20), rows.slice(23), labelled)


def test_what_a_store_says_decides_whose_fault_it_is(stage, use_endpoint):
    samples = [Sample("s3://bucket/a.jpg", {})]
    expected = [
        (
            Answer(404, "NoSuchKey"),
            UsageError,
            r"^s3://bucket/a\.jpg: NoSuchKey \(HTTP 404\); mend",
        ),
        (Answer(403, "AccessDenied"), UsageError, r"^s3://bucket/a\.jpg: AccessDenied .*; mend"),
        (Answer(503, "SlowDown"), RunError, r"^s3://bucket/a\.jpg: SlowDown .*; run again"),
    ]
    for answer, error, message in expected:
        with canned_server(answer) as url:
            use_endpoint(url)
            with pytest.raises(error, match=message):
                gather_of(scored(stage, samples), samples)
