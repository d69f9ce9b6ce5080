"""Fetch and annotate without an engine, on fakes and on the shipped detector."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from s3_server import Answer, canned_server

from fattr import images, storage, tables
from fattr.attributes import attribute
from fattr.build import build_detector
from fattr.classify.calibration import Calibration
from fattr.config import DetectConfig
from fattr.crop import crop_face, named_rule
from fattr.detect import source as detectors
from fattr.evaluation.split import DecodeRows, LabelRows
from fattr.records import Detections, Status
from fattr.runs import manifest
from fattr.stages import Annotate, Fetch, Model, by_bytes, mark_failed, timed

EYEGLASSES, SMILING = attribute("eyeglasses"), attribute("smiling")
GATE_PX = 24
SMALL_RULE = named_rule("celeba", (16, 13))
LANDMARKS = np.float32([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.8], [0.65, 0.8]])


class FakeDetector:
    """Finds as many faces as the first pixel's red says, in a row, each as wide as its green."""

    long_side = 64

    def __init__(self) -> None:
        self.sizes_hw = []

    def detect(self, pictures) -> list[Detections]:
        self.sizes_hw += [picture.shape[:2] for picture in pictures]
        return [self._faces(*picture[0, 0, :2].tolist()) for picture in pictures]

    def _faces(self, count: int, side: int) -> Detections:
        corners = np.float32([[2 + 40 * i, 3] for i in range(count)]).reshape(count, 2)
        points = corners[:, None] + LANDMARKS * side
        scores = np.linspace(0.9, 0.6, count, dtype=np.float32)
        return Detections(np.hstack([corners, corners + side]), scores, points.astype(np.float32))


class FakeClassifier:
    """Probability: the mean of the crop. Remembers the crops."""

    def __init__(self) -> None:
        self.crops = []

    def predict_proba(self, crops) -> dict[str, np.ndarray]:
        self.crops += list(crops)
        mean = crops.mean(axis=(1, 2, 3)).astype(np.float32) / np.float32(255)
        return {"eyeglasses": mean, "smiling": 1 - mean}


class LeftRightClassifier:
    """Probability: how much brighter the crop's left half is than its right."""

    def predict_proba(self, crops) -> dict[str, np.ndarray]:
        middle = crops.shape[2] // 2
        left, right = crops[:, :, :middle].mean((1, 2, 3)), crops[:, :, middle:].mean((1, 2, 3))
        return {"eyeglasses": (0.5 + (left - right) / 255).astype(np.float32)}


def annotator(detector, classifier=None, rule=SMALL_RULE, written=(EYEGLASSES,), **settings):
    model = Model(classifier or FakeClassifier(), rule, Calibration(), written)
    defaults = {"images_per_detection": 1, "min_face_px": GATE_PX, "max_pixels": 10**8}
    return Annotate(detector, [model], **defaults | settings)


def picture(num_faces: int, face_px: int = 30, seed: int = 0, size_hw=(48, 128)) -> bytes:
    """A PNG of noise that the fake detector reads as asked."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)
    pixels[0, 0, :2] = num_faces, face_px
    return encoded(pixels, "PNG")


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def listed(*uris: str, sizes=None, fetch_uris=None) -> pa.Table:
    ids = [manifest.image_id(uri) for uri in uris]
    nothing = [None] * len(uris)
    columns = [ids, list(uris), fetch_uris or nothing, sizes or nothing, nothing]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, manifest.MANIFEST_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=manifest.MANIFEST_SCHEMA)


def fetched(*items: bytes | str) -> pa.Table:
    """Rows as ``Fetch`` makes them: bytes, or the status of a failure."""
    rows = listed(*(f"s3://bucket/{i}" for i in range(len(items))))
    columns = (
        [item if isinstance(item, bytes) else None for item in items],
        ["ok" if isinstance(item, bytes) else item for item in items],
        ["" if isinstance(item, bytes) else f"because {item}" for item in items],
        [0.5] * len(items),
    )
    for column, values in zip(tables.FETCHED_COLUMNS, columns, strict=True):
        rows = rows.append_column(column, pa.array(values, column.type))
    return rows


def timeless(staged: pa.Table) -> pa.Table:
    return staged.drop_columns(list(tables.STAGE_SECONDS))


@pytest.fixture(scope="module")
def detector():
    return build_detector(detectors.shipped(), DetectConfig(), device="cpu")


# Fetch


def test_nothing_to_fetch():
    assert Fetch()(listed()).num_rows == 0


def test_bytes_come_in_order_and_fill_in_sizes(tmp_path):
    for n in range(40):
        (tmp_path / f"{n}.jpg").write_bytes(b"x" * n)
    uris = [(tmp_path / f"{n}.jpg").as_uri() for n in range(40)]
    got = Fetch(num_in_flight=8)(listed(*uris))
    assert got.column("image_bytes").to_pylist() == [b"x" * n for n in range(40)]
    assert got.column("size_bytes").to_pylist() == list(range(40))
    assert set(got.column("fetch_status").to_pylist()) == {"ok"}
    assert got.schema.field("size_bytes").type == pa.int64()


def test_what_cannot_be_fetched_is_a_row(tmp_path):
    there, gone = tmp_path / "there.jpg", tmp_path / "gone.jpg"
    there.write_bytes(b"abc")
    got = Fetch()(listed(gone.as_uri(), there.as_uri(), tmp_path.as_uri(), sizes=[9, None, None]))
    assert got.column("fetch_status").to_pylist() == ["missing", "ok", "unavailable"]
    assert got.column("image_bytes").to_pylist() == [None, b"abc", None]
    assert got.column("size_bytes").to_pylist() == [9, 3, None]
    assert "No such file" in got.column("fetch_reason")[0].as_py()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(403, "AccessDenied"), "denied"),
        (Answer(404, "NoSuchKey"), "missing"),
        (Answer(400, "RequestTimeout"), "timeout"),
    ],
)
def test_what_s3_refuses_is_a_row(use_endpoint, answer, status):
    with canned_server(answer) as url:
        use_endpoint(url)
        got = Fetch()(listed("s3://bucket/a.jpg"))
    assert got.column("fetch_status").to_pylist() == [status]
    assert got.column("image_bytes").to_pylist() == [None]
    assert answer.code in got.column("fetch_reason")[0].as_py()


def test_what_is_read_is_the_fetch_uri_where_there_is_one():
    """Under --hash-uris the rows' own URIs lead nowhere."""
    places = ["s3://a/1.jpg", None, "s3://a/3.jpg"]
    rows = listed("hash-1", "file:///b.jpg", "hash-3", fetch_uris=places)
    read = []
    got = Fetch(num_in_flight=1, read=lambda uri: read.append(uri) or b"x")(rows)
    assert read == ["s3://a/1.jpg", "file:///b.jpg", "s3://a/3.jpg"]
    assert got.column("image_uri").to_pylist() == ["hash-1", "file:///b.jpg", "hash-3"]


def test_an_object_over_the_limit_is_too_large_and_keeps_its_etag(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x" * 11)
    rows = listed((tmp_path / "a.jpg").as_uri())
    etag = rows.schema.get_field_index("etag")
    rows = rows.set_column(etag, "etag", pa.array(["as listed"]))
    for max_bytes, status in ((10, "too_large"), (11, "ok")):
        got = Fetch(options=storage.ReadOptions(max_bytes=max_bytes))(rows)
        assert got.column("fetch_status").to_pylist() == [status]
        assert got.column("etag").to_pylist() == ["as listed"]


def test_rows_are_fetched_in_runs_of_so_many_bytes():
    rng = np.random.default_rng(0)
    sizes = [None if rng.random() < 0.2 else int(size) for size in rng.integers(0, 3 << 20, 200)]
    rows = listed(*(f"s3://b/{n}" for n in range(200)), sizes=[*sizes[:-1], 100 << 20])
    parts = list(by_bytes(rows, max_bytes=20 << 20))
    assert pa.concat_tables(parts).equals(rows)
    known = [part.column("size_bytes").fill_null(8 << 20).to_pylist() for part in parts]
    assert all(sum(part) <= 20 << 20 or len(part) == 1 for part in known)
    for one, other in itertools.pairwise(known):
        assert sum(one) + other[0] > 20 << 20  # as long as can be
    assert max(part.num_rows for part in by_bytes(listed(*map(str, range(99))))) == 8  # no sizes
    (nothing,) = by_bytes(rows.slice(0, 0))
    assert nothing.equals(rows.slice(0, 0))


# One row an image


def test_no_rows():
    staged = annotator(FakeDetector())(fetched())
    assert staged.num_rows == 0
    assert staged.schema.equals(tables.staged_schema((EYEGLASSES,)))


def test_one_row_whatever_becomes_of_an_image():
    items = [
        "missing",
        picture(0),
        b"not an image",
        picture(3),
        picture(1)[:200],
        b"",
        "denied",
        picture(1, size_hw=(200, 200)),
    ]
    rows = fetched(*items)
    staged = annotator(FakeDetector(), max_pixels=200 * 200 - 1)(rows)
    assert staged.schema.equals(tables.staged_schema((EYEGLASSES,)))
    got = staged.to_pydict()
    assert got["image_uri"] == rows.column("image_uri").to_pylist()
    assert got["status"] == [
        Status.MISSING,
        Status.NO_FACE,
        Status.UNREADABLE,
        Status.OK,
        Status.UNREADABLE,
        Status.UNREADABLE,
        Status.DENIED,
        Status.TOO_LARGE,
    ]
    assert got["num_faces"] == [len(f) for f in got["faces"]] == [0, 0, 0, 3, 0, 0, 0, 0]
    assert got["width"] == [None, 128, None, 128, None, None, None, None]
    assert got["height"] == [None, 48, None, 48, None, None, None, None]
    assert [bool(reason) for reason in got["reason"]] == [
        status not in (Status.OK, Status.NO_FACE) for status in got["status"]
    ]
    assert got["reason"][0] == "because missing"
    assert [face["face_index"] for face in got["faces"][3]] == [0, 1, 2]


def test_a_batch_without_one_readable_image():
    staged = annotator(FakeDetector(), images_per_detection=4)(fetched("missing", b"", "timeout"))
    assert staged.column("status").to_pylist() == ["missing", "unreadable", "timeout"]


def test_boxes_are_cut_at_the_edges_of_the_image():
    staged = annotator(FakeDetector())(fetched(picture(2, face_px=60)))
    boxes = [
        [face[f"box_{e}"] for e in ("x1", "y1", "x2", "y2")] for face in staged["faces"][0].as_py()
    ]
    assert boxes == [[2, 3, 62, 48], [42, 3, 102, 48]]


def test_faces_below_the_gate_have_rows_and_probabilities_but_no_label():
    staged = annotator(FakeDetector())(
        fetched(*(picture(1, side, seed=side) for side in (GATE_PX - 1, GATE_PX, GATE_PX + 1)))
    )
    faces = [faces[0] for faces in staged.column("faces").to_pylist()]
    assert [face["face_px"] for face in faces] == [GATE_PX - 1, GATE_PX, GATE_PX + 1]
    assert [face["eyeglasses"] is None for face in faces] == [True, False, False]
    assert all(0.3 < face["eyeglasses_prob"] < 0.7 for face in faces)


def test_each_model_cuts_its_own_crops_and_writes_only_what_it_should():
    small, large = FakeClassifier(), FakeClassifier()
    wide = named_rule("fairface", (32, 32))
    models = [
        Model(small, SMALL_RULE, Calibration(), (SMILING,)),
        Model(large, wide, Calibration(thresholds={"eyeglasses": 0.99}), (EYEGLASSES,)),
    ]
    data = [picture(2), picture(0), picture(1, seed=1)]
    stage = Annotate(
        FakeDetector(), models, images_per_detection=2, min_face_px=0, max_pixels=10**6
    )
    faces = [face for faces in stage(fetched(*data))["faces"].to_pylist() for face in faces]
    place = tables.face_fields(())
    assert list(faces[0])[len(place) :] == [
        "smiling", "smiling_prob", "eyeglasses", "eyeglasses_prob",
    ]  # fmt: skip
    expected = [
        crop_face(images.decode(data[i]).pixels, LANDMARKS * 30 + np.float32([2 + 40 * n, 3]), rule)
        for rule in (SMALL_RULE, wide)
        for i, n in ((0, 0), (0, 1), (2, 0))
    ]
    for got, crop in zip(small.crops + large.crops, expected, strict=True):
        np.testing.assert_array_equal(got, crop)
    for face, own, other in zip(faces, small.crops, large.crops, strict=True):
        assert face["smiling_prob"] == pytest.approx(1 - own.mean() / 255, abs=1e-5)
        assert face["eyeglasses_prob"] == pytest.approx(other.mean() / 255, abs=1e-5)
        assert face["eyeglasses"] is False


# Decoding coarsely, cropping finely


@pytest.fixture(scope="module")
def large_jpeg() -> bytes:
    """Blocks of 16 x 16 noise, which survive JPEG; the fake detector sees one face of 30 pixels."""
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (32, 64, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    pixels[:32, :32] = (1, 30, 0)
    return encoded(pixels, "JPEG", quality=100, subsampling=0)


@pytest.mark.parametrize(
    ("size_hw", "scale"),
    [
        pytest.param((16, 13), 8, id="coarse-is-enough"),
        pytest.param((128, 104), 4, id="twice-as-fine"),
        pytest.param((512, 416), 1, id="full-resolution"),
    ],
)
def test_a_face_that_would_be_enlarged_is_cut_from_a_finer_decode(large_jpeg, size_hw, scale):
    fake, classifier, rule = FakeDetector(), FakeClassifier(), named_rule("celeba", size_hw)
    fake._faces = lambda *_: FakeDetector._faces(fake, 1, 30)
    fake.long_side = 128
    staged = annotator(fake, classifier, rule)(fetched(large_jpeg))
    coarse = images.decode(large_jpeg, min_long_side=128)
    assert fake.sizes_hw == [(64, 128)]
    assert coarse.scale == 8
    landmarks = LANDMARKS * 30 + np.float32([2, 3])
    source = images.decode(large_jpeg, min_long_side=1024 // scale)
    assert source.scale == scale
    expected = crop_face(source.pixels, landmarks * np.float32(8 / scale), rule)
    np.testing.assert_array_equal(classifier.crops[0], expected)
    face = staged["faces"][0].as_py()[0]
    assert [face[f"box_{e}"] for e in ("x1", "y1", "x2", "y2")] == [16, 24, 256, 264]
    assert face["face_px"] == 240
    np.testing.assert_allclose(face["landmarks"], landmarks.reshape(-1) * 8, rtol=1e-6)
    assert (staged["width"][0].as_py(), staged["height"][0].as_py()) == (1024, 512)


def test_a_face_that_gets_no_label_is_not_worth_a_finer_decode(large_jpeg):
    fake, classifier, rule = FakeDetector(), FakeClassifier(), named_rule("celeba", (128, 104))
    fake._faces = lambda *_: FakeDetector._faces(fake, 1, 30)
    annotator(fake, classifier, rule, min_face_px=241)(fetched(large_jpeg))
    coarse = images.decode(large_jpeg, min_long_side=fake.long_side)
    expected = crop_face(coarse.pixels, LANDMARKS * 30 + np.float32([2, 3]), rule)
    np.testing.assert_array_equal(classifier.crops[0], expected)


def test_boxes_of_a_coarse_decode_are_those_of_the_full_image(detector, astronaut):
    large = np.asarray(Image.fromarray(astronaut).resize((2048, 2048), Image.Resampling.BICUBIC))
    data = encoded(large, "JPEG", quality=92)
    assert images.decode(data, min_long_side=detector.long_side).scale > 1
    face = annotator(detector)(fetched(data))["faces"][0].as_py()[0]
    whole = detector.detect([images.decode(data).pixels])[0]
    found = [face[f"box_{e}"] for e in ("x1", "y1", "x2", "y2")]
    np.testing.assert_allclose(found, whole.boxes_xyxy[0], atol=2)
    np.testing.assert_allclose(face["landmarks"], whole.landmarks[0].reshape(-1), atol=2)


# How upright pixels lie in a file with this EXIF orientation.
STORED = {
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_makes_no_difference(detector, astronaut, orientation):
    upright = astronaut[:400]  # not square: exchanged sides would show
    tag = Image.Exif()
    tag[0x0112] = orientation
    options = {"quality": 95, "subsampling": 0}
    data = [
        encoded(upright, "JPEG", **options),
        encoded(STORED[orientation](upright), "JPEG", exif=tag, **options),
    ]
    rows = annotator(detector, LeftRightClassifier())(fetched(*data)).to_pylist()
    plain, turned = rows
    assert (turned["width"], turned["height"]) == (plain["width"], plain["height"]) == (512, 400)
    assert turned["num_faces"] == plain["num_faces"] == 1
    one, other = plain["faces"][0], turned["faces"][0]
    for name in ("box_x1", "box_y1", "box_x2", "box_y2", "landmarks"):
        np.testing.assert_allclose(other[name], one[name], atol=2)
    assert abs(one["eyeglasses_prob"] - 0.5) > 0.03  # a mirrored crop would show
    assert other["eyeglasses_prob"] == pytest.approx(one["eyeglasses_prob"], abs=0.01)
    assert other["eyeglasses"] == one["eyeglasses"]


# Under watch


def test_there_is_a_pulse_before_whatever_may_take_long(monkeypatch):
    """Between two pulses, at most one image is decoded, or some crops are classified."""
    events = []

    def noted(name, function):
        return lambda *args, **kwargs: events.append(name) or function(*args, **kwargs)

    fake, classifier = FakeDetector(), FakeClassifier()
    monkeypatch.setattr(images, "decode", noted("decode", images.decode))
    monkeypatch.setattr(fake, "detect", noted("detect", fake.detect))
    monkeypatch.setattr(classifier, "predict_proba", noted("classify", classifier.predict_proba))
    stage = annotator(fake, classifier, min_face_px=0)
    stage.watch(lambda: events.append("pulse"))
    staged = stage(fetched(*(picture(3, 20, seed=n) for n in range(50))))
    assert staged.column("num_faces").to_pylist() == [3] * 50
    assert [events.count(name) for name in ("decode", "detect", "classify")] == [50, 50, 3]
    work = [event for event in events if event != "pulse"]
    before = [one for one, other in itertools.pairwise(["", *events]) if other != "pulse"]
    assert set(before) == {"pulse"}
    assert len(work) == 103


def test_a_pulse_that_never_comes_again_is_noticed_though_others_decode_ahead():
    """The images after one that hangs are decoded no further than a few ahead."""
    stage, hung, seen = annotator(FakeDetector()), threading.Event(), []

    def decode(item):
        seen.append(item)
        if len(seen) == 3:
            hung.wait(20)
        return plain(item)

    stage.watch(lambda: None, decode_threads=2)
    plain = stage.decode._decode
    stage.decode._decode = decode
    rows = fetched(*(picture(1, seed=n) for n in range(40)))
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(stage, rows)
        time.sleep(1)
        assert len(seen) < 10
        hung.set()
        assert result.result(timeout=20).num_rows == 40


def test_threads_that_decode_ahead_change_nothing(photo_folder):
    rows = fetched("missing", *photographs(photo_folder), picture(2), b"")
    stage = annotator(FakeDetector(), images_per_detection=4)
    whole = timeless(stage(rows))
    stage.watch(lambda: None, decode_threads=3)
    assert timeless(stage(rows)).equals(whole)


@pytest.mark.parametrize("decode_threads", [0, 2])
def test_whoever_listens_hears_of_each_step_and_its_seconds(decode_threads):
    told, lock = [], threading.Lock()

    def took(step: str, started: float) -> float:
        with lock:
            told.append((step, started, time.perf_counter()))
        return 2.0 ** len(told)

    stage = annotator(FakeDetector(), images_per_detection=2)
    stage.watch(took=took, decode_threads=decode_threads)
    staged = stage(fetched("missing", picture(2), b"no image", picture(0), picture(1)))
    steps = [step for step, *_ in told]
    assert Counter(steps) == {"decode": 4, "detect": 3, "crop": 3, "classify": 1}
    assert all(started <= ended for _, started, ended in told)
    # What a step answers is what the row says, divided among those that shared it.
    crops = [2.0 ** (n + 1) for n, step in enumerate(steps) if step == "crop"]
    assert staged.column("crop_s").to_pylist() == [0, crops[0], 0, *crops[1:]]
    (classified,) = [2.0 ** (n + 1) for n, step in enumerate(steps) if step == "classify"]
    shares = np.array([0, 2, 0, 0, 1]) * classified / 3
    np.testing.assert_allclose(staged.column("classify_s"), shares, rtol=1e-6)


def test_a_timed_stage_is_the_same_stage():
    told = []
    timed_fetch = timed("fetch", Fetch(), lambda step, started: told.append(step) or 0.0)
    assert timed_fetch(listed()).equals(Fetch()(listed()))
    assert told == ["fetch"]


# In two places


def test_decoding_elsewhere_changes_nothing(detector, photo_folder, large_jpeg):
    """Nor does what was lost on the way change more than its own row."""
    rows = fetched("denied", *photographs(photo_folder), large_jpeg, picture(2), b"")
    stage = annotator(detector, rule=named_rule("celeba", (128, 104)), images_per_detection=3)
    whole = timeless(stage(rows))
    decode, label = DecodeRows(stage.decode), LabelRows(stage.label)
    decoded = decode(rows)
    assert timeless(label(decoded)).equals(whole)
    assert decode(rows.slice(0, 0)).schema.equals(decoded.schema)
    kept = decoded.column("image_bytes").is_valid().to_pylist()
    scales = decoded.column("scale").to_pylist()
    assert kept == [scale is not None and scale > 1 for scale in scales]
    assert any(kept)
    assert not all(kept)
    marked = mark_failed(decoded, Status.POISON, "because")
    lost = label(marked).to_pylist()
    assert {row["status"] for row in lost if row["width"] is None} >= {"poison", "denied"}
    assert not any(row["num_faces"] for row in lost)


# Batches


def photographs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("[!._]*")) if path.is_file()]


def test_results_do_not_depend_on_how_rows_are_batched(detector, photo_folder):
    rows = fetched(*photographs(photo_folder))
    stage = annotator(detector)
    whole = timeless(stage(rows))
    assert sum(whole.column("num_faces").to_pylist()) >= 6
    for size in (1, 3):
        parts = [stage(rows.slice(i, size)) for i in range(0, rows.num_rows, size)]
        assert timeless(pa.concat_tables(parts)).equals(whole)


def test_results_do_not_depend_on_the_detectors_batch(detector, photo_folder):
    rows = fetched(*photographs(photo_folder))
    whole = timeless(annotator(detector)(rows)).to_pylist()
    batched = build_detector(detectors.shipped(), DetectConfig(), device="cpu", batch_size=4)
    others = timeless(annotator(batched, images_per_detection=4)(rows)).to_pylist()
    for one, other in zip(whole, others, strict=True):
        faces, other_faces = one.pop("faces"), other.pop("faces")
        assert one == other
        for face, other_face in zip(faces, other_faces, strict=True):
            label, other_label = face.pop("eyeglasses"), other_face.pop("eyeglasses")
            assert label == other_label
            for name, value in face.items():
                np.testing.assert_allclose(other_face[name], value, atol=0.01)
