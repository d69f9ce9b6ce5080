"""The tables' columns, and lists of faces made and taken apart, against plain loops."""

from __future__ import annotations

import json

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import tables
from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify import calibration as calibrate
from fattr.classify.calibration import Calibration
from fattr.records import Detections

ATTRIBUTES = (attribute("smiling"), PERCEIVED_GENDER_PRESENTATION, AGE)
MIDDLES = np.array([1.5, 6.5, 15, 25, 35, 45, 55, 65, 80])
FACES = {
    "image_id": "int64 not null",
    "image_uri": "string not null",
    "face_index": "int32 not null",
    "box_x1": "float not null",
    "box_y1": "float not null",
    "box_x2": "float not null",
    "box_y2": "float not null",
    "det_score": "float not null",
    "landmarks": "fixed_size_list<item: float>[10] not null",
    "face_px": "float not null",
    "smiling": "bool",
    "smiling_prob": "float",
    "perceived_gender_presentation": "string",
    "perceived_gender_presentation_prob": "float",
    "perceived_gender_presentation_probs": "list<item: float>",
    "age": "float",
    "age_low": "float",
    "age_high": "float",
    "age_probs": "list<item: float>",
    "model_id": "string not null",
}
IMAGES = {
    "image_id": "int64 not null",
    "image_uri": "string not null",
    "etag": "string",
    "size_bytes": "int64",
    "width": "int32",
    "height": "int32",
    "num_faces": "int32 not null",
    "status": "string not null",
    "reason": "string not null",
}


def types_of(schema: pa.Schema) -> dict[str, str]:
    return {f.name: f"{f.type}{'' if f.nullable else ' not null'}" for f in schema}


def test_columns_are_as_documented():
    assert list(types_of(tables.faces_schema(ATTRIBUTES)).items()) == list(FACES.items())
    assert list(types_of(tables.IMAGES).items()) == list(IMAGES.items())


def test_without_attributes_there_are_no_labels():
    documented = [name for name in FACES if not name.startswith(("smiling", "perceived", "age"))]
    assert tables.faces_schema(()).names == documented


def test_schemas_say_their_version_and_the_order_of_probabilities():
    schema = tables.faces_schema(ATTRIBUTES)
    assert schema.metadata == {b"fattr.schema": b"faces/1"}
    assert tables.IMAGES.metadata == {b"fattr.schema": b"images/1"}
    for one in ATTRIBUTES[1:]:
        stated = json.loads(schema.field(f"{one.name}_probs").metadata[b"fattr.classes"])
        assert tuple(stated) == one.classes


def random_detections(rng: np.random.Generator, count: int) -> Detections:
    corners = rng.uniform(0, 500, (count, 2, 2)).astype(np.float32)
    xyxy = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    points = rng.uniform(0, 500, (count, 5, 2)).astype(np.float32)
    return Detections(xyxy, rng.uniform(size=count).astype(np.float32), points)


def random_probs(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    return {
        a.name: rng.uniform(size=count).astype(np.float32)
        if a.num_logits == 1
        else rng.dirichlet(np.ones(a.num_logits), count).astype(np.float32)
        for a in ATTRIBUTES
    }


def staged(found: list[Detections], probs: dict, hidden: np.ndarray, first_id: int = 0) -> pa.Table:
    columns = tables.place_columns(found)
    for one in ATTRIBUTES:
        labels = calibrate.labels(probs[one.name], one, Calibration(), hidden)
        columns |= tables.label_columns(one, labels, probs[one.name])
    counts = np.array([len(d) for d in found], np.int32)
    ids = range(first_id, first_id + len(found))
    manifest = pa.table(
        {
            "image_id": pa.array(ids, pa.int64()),
            "image_uri": pa.array([f"file:///{i}.jpg" for i in ids], pa.string()),
            "etag": pa.nulls(len(found), pa.string()),
            "size_bytes": pa.array([7] * len(found), pa.int64()),
        }
    )
    made = {
        "width": [500] * len(found),
        "height": [400] * len(found),
        "num_faces": counts,
        "status": ["ok" if count else "no_face" for count in counts],
        "reason": [""] * len(found),
        "faces": tables.face_lists(ATTRIBUTES, columns, counts),
        **{name: np.zeros(len(found), np.float32) for name in tables.STAGE_SECONDS},
    }
    return tables.staged_table(manifest, made, ATTRIBUTES)


def brute_force_rows(found: list[Detections], probs: dict, hidden: np.ndarray) -> list[dict]:
    rows = []
    for image, faces in enumerate(found):
        for rank in range(len(faces)):
            n = len(rows)
            box = [float(v) for v in faces.boxes_xyxy[rank]]
            gender = probs["perceived_gender_presentation"][n]
            ages = probs["age"][n]
            rows.append(
                {
                    "image_id": image,
                    "image_uri": f"file:///{image}.jpg",
                    "face_index": rank,
                    **dict(zip(("box_x1", "box_y1", "box_x2", "box_y2"), box, strict=True)),
                    "det_score": float(faces.scores[rank]),
                    "landmarks": [float(v) for point in faces.landmarks[rank] for v in point],
                    "face_px": pytest.approx(min(box[2] - box[0], box[3] - box[1]), rel=1e-6),
                    "smiling": None if hidden[n] else bool(probs["smiling"][n] >= 0.5),
                    "smiling_prob": float(probs["smiling"][n]),
                    "perceived_gender_presentation": None
                    if hidden[n]
                    else ("feminine" if gender[0] > gender[1] else "masculine"),
                    "perceived_gender_presentation_prob": float(max(gender)),
                    "perceived_gender_presentation_probs": [float(p) for p in gender],
                    "age": None if hidden[n] else pytest.approx(sum(ages * MIDDLES), rel=1e-5),
                    "age_probs": [float(p) for p in ages],
                    "model_id": "m",
                }
            )
    return rows


def without_interval(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("age_low", "age_high")} for row in rows]


@pytest.mark.parametrize(
    "faces_per_image",
    [
        pytest.param([], id="no-images"),
        pytest.param([0], id="one-image-no-face"),
        pytest.param([0, 0, 0], id="no-faces"),
        pytest.param([1], id="one-face"),
        pytest.param([0, 3, 0, 0, 1, 2, 0], id="all-counts"),
    ],
)
def test_rows_equal_those_of_a_plain_loop(faces_per_image):
    rng = np.random.default_rng(0)
    found = [random_detections(rng, count) for count in faces_per_image]
    total = sum(faces_per_image)
    probs, hidden = random_probs(rng, total), rng.uniform(size=total) < 0.3
    rows = staged(found, probs, hidden)
    schema = tables.faces_schema(ATTRIBUTES)
    faces = tables.faces_table(rows, schema, "m")
    expected = brute_force_rows(found, probs, hidden)
    assert without_interval(faces.to_pylist()) == expected
    assert faces.schema.equals(schema, check_metadata=True)
    lists = [
        {k: v for k, v in row.items() if k not in ("image_id", "image_uri", "model_id")}
        for row in expected
    ]
    nested = rows.column("faces").to_pylist()
    assert [len(faces) for faces in nested] == faces_per_image
    assert without_interval([row for faces in nested for row in faces]) == lists
    images = tables.images_table(rows)
    assert images.schema.equals(tables.IMAGES, check_metadata=True)
    assert images.column("num_faces").to_pylist() == faces_per_image


def test_rows_of_many_chunks_and_slices_are_flattened_alike():
    rng = np.random.default_rng(1)
    found = [random_detections(rng, count) for count in (2, 0, 1, 3, 0, 2)]
    probs, hidden = random_probs(rng, 8), np.zeros(8, bool)
    whole = staged(found, probs, hidden)
    schema = tables.faces_schema(ATTRIBUTES)
    parts = [whole.slice(0, 1), whole.slice(1, 3), whole.slice(4, 2)]
    flat = tables.faces_table(pa.concat_tables(parts), schema, "m")
    assert flat.equals(tables.faces_table(whole, schema, "m"))
    each = pa.concat_tables([tables.faces_table(part, schema, "m") for part in parts])
    assert each.equals(tables.faces_table(whole, schema, "m"))


def test_labels_are_null_where_hidden_and_probabilities_stay():
    rng = np.random.default_rng(2)
    found, probs = [random_detections(rng, 3)], random_probs(rng, 3)
    hidden = np.array([True, False, True])
    faces = tables.faces_table(
        staged(found, probs, hidden), tables.faces_schema(ATTRIBUTES), "m"
    ).to_pydict()
    for name in ("smiling", "perceived_gender_presentation", "age", "age_low", "age_high"):
        assert [value is None for value in faces[name]] == hidden.tolist()
    for name in FACES:
        if "prob" in name:
            assert None not in faces[name]
    low, mean, high = (faces[name][1] for name in ("age_low", "age", "age_high"))
    assert 0 <= low < high <= 90
    assert 0 < mean < 90


def test_files_have_one_schema_and_common_readers_read_them(tmp_path):
    rng = np.random.default_rng(3)
    schema = tables.faces_schema(ATTRIBUTES)
    some = staged([random_detections(rng, 2)], random_probs(rng, 2), np.array([False, False]))
    nulls = staged([random_detections(rng, 1)], random_probs(rng, 1), np.array([True]), first_id=1)
    none = staged([], random_probs(rng, 0), np.zeros(0, bool))
    for name, rows in (("a", some), ("b", nulls), ("c", none)):
        pq.write_table(tables.faces_table(rows, schema, "m"), tmp_path / f"{name}.parquet")
    read = [pq.read_schema(path) for path in sorted(tmp_path.iterdir())]
    assert read[0].equals(schema)
    assert read[0].metadata == schema.metadata
    classes = read[0].field("perceived_gender_presentation_probs").metadata[b"fattr.classes"]
    assert json.loads(classes) == ["feminine", "masculine"]
    assert all(one.equals(read[0], check_metadata=True) for one in read)

    with duckdb.connect() as connection:
        asked = connection.execute(
            "SELECT count(*), count(smiling), sum(len(age_probs)), min(landmarks[10]), max(face_px)"
            f" FROM '{tmp_path}/*.parquet'"
        ).fetchone()
    both = pa.concat_tables([tables.faces_table(rows, schema, "m") for rows in (some, nulls)])
    points, sizes = both.column("landmarks").to_pylist(), both.column("face_px").to_pylist()
    assert asked == (3, 2, 27, min(p[9] for p in points), max(sizes))

    frame = pd.read_parquet(tmp_path)
    assert len(frame) == 3
    assert frame["face_px"].max() == max(sizes)
    assert frame["smiling"].isna().sum() == 1
