"""Scores in memory and in a Parquet file: the same columns, whatever is missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, Attribute, Kind, attribute
from fattr.evaluation import scores as module
from fattr.evaluation.scores import Scores, scores_schema, scores_table

SMILING, PRESENTATION = attribute("smiling"), PERCEIVED_GENDER_PRESENTATION
GROUP_PHOTO = Attribute(
    name="group_photo", kind=Kind.BINARY, description="More than one face.", sensitive=False
)
ATTRIBUTES = (AGE, SMILING, PRESENTATION, GROUP_PHOTO)
NUM_FACES = 50
WIDTHS = {a.name: a.num_logits for a in ATTRIBUTES}


@pytest.fixture(scope="module")
def arrays() -> dict:
    """What ``scores_table`` takes; a third of the labels and a quarter of the faces are missing."""
    rng = np.random.default_rng(0)
    num_classes = [len(AGE.classes), 2, 2, 2]
    targets = rng.integers(0, num_classes, (NUM_FACES, len(ATTRIBUTES)))
    targets[rng.random(targets.shape) < 0.33] = -1
    found = rng.random(NUM_FACES) < 0.75
    return {
        "image_uris": [f"file:///faces/{i}%20.jpg" for i in range(NUM_FACES)],
        "found": found,
        "face_px": np.where(found, rng.uniform(10, 200, NUM_FACES), np.nan).astype(np.float32),
        "targets": targets,
        "logits": rng.normal(0, 5, (NUM_FACES, sum(WIDTHS.values()))).astype(np.float32),
        "groups": {
            "race": rng.choice(["", "Black", "White"], NUM_FACES).tolist(),
            "skin.type": [f"{i % 3}" for i in range(NUM_FACES)],
        },
    }


@pytest.fixture(scope="module", params=["memory", "written", "row groups"])
def scores(request, arrays, tmp_path_factory) -> Scores:
    """The same faces from each source."""
    made = Scores(ATTRIBUTES, scores_table(ATTRIBUTES, **arrays))
    if request.param == "memory":
        return made
    path = tmp_path_factory.mktemp("scores") / "scores.parquet"
    if request.param == "written":
        made.write(path)
    else:  # as they are spilled
        with pq.ParquetWriter(path, scores_schema(ATTRIBUTES, tuple(arrays["groups"]))) as writer:
            for start in range(0, NUM_FACES, 7):
                writer.write_table(made.source.slice(start, 7))
    return Scores(ATTRIBUTES, path)


def test_every_column_is_what_went_in(scores, arrays):
    assert len(scores) == NUM_FACES
    assert scores.image_uris == arrays["image_uris"]
    np.testing.assert_array_equal(scores.found, arrays["found"])
    np.testing.assert_array_equal(scores.face_px, arrays["face_px"])
    assert (scores.found.dtype, scores.face_px.dtype) == (bool, np.float32)
    start = 0
    for i, one in enumerate(ATTRIBUTES):
        logits = arrays["logits"][:, start : start + WIDTHS[one.name]]
        start += WIDTHS[one.name]
        np.testing.assert_array_equal(scores.logits(one), logits)
        np.testing.assert_array_equal(scores.targets(one), arrays["targets"][:, i])
        assert (scores.logits(one).dtype, scores.targets(one).dtype) == (np.float32, np.int64)


def test_groups_are_told_from_attributes_named_alike(scores, arrays):
    assert scores.group_names == ("race", "skin.type")
    for name, values in arrays["groups"].items():
        assert scores.groups(name) == tuple(values)


def test_a_copy_of_the_scores_is_equal(scores, arrays, tmp_path):
    scores.write(tmp_path / "copy.parquet")
    expected = scores_table(ATTRIBUTES, **arrays)
    assert pq.read_table(tmp_path / "copy.parquet").equals(expected)


def test_other_readers_see_nulls_where_nothing_is_known(arrays, tmp_path):
    path = tmp_path / "scores.parquet"
    Scores(ATTRIBUTES, scores_table(ATTRIBUTES, **arrays)).write(path)
    table = pq.read_table(path)
    assert table.column("smiling_target").null_count == (arrays["targets"][:, 1] < 0).sum() > 0
    assert table.column("face_px").null_count == (~arrays["found"]).sum() > 0
    assert table.schema.field("age_logits").type == pa.list_(pa.float32(), len(AGE.classes))
    assert table.schema.field("smiling_logits").type == pa.float32()


def test_a_large_file_is_read_in_row_groups(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_GROUP", 20)
    path = tmp_path / "scores.parquet"
    Scores(ATTRIBUTES, scores_table(ATTRIBUTES, **arrays)).write(path)
    assert pq.ParquetFile(path).num_row_groups == 3


def test_no_faces(tmp_path):
    empty = scores_table(
        ATTRIBUTES,
        image_uris=[],
        found=np.zeros(0, bool),
        face_px=np.zeros(0, np.float32),
        targets=np.zeros((0, len(ATTRIBUTES)), np.int64),
        logits=np.zeros((0, sum(WIDTHS.values())), np.float32),
        groups={},
    )
    Scores(ATTRIBUTES, empty).write(tmp_path / "scores.parquet")
    for scores in (Scores(ATTRIBUTES, empty), Scores(ATTRIBUTES, tmp_path / "scores.parquet")):
        assert len(scores) == len(scores.targets(AGE)) == len(scores.found) == 0
        assert scores.logits(AGE).shape == (0, len(AGE.classes))
        assert scores.group_names == ()
