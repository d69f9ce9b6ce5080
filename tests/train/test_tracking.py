import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import sklearn.metrics
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.train.tracking import FOLDER, HISTORY, Tracker, write_history


def events(output):
    read = EventAccumulator(str(output / FOLDER), size_guidance={"tensors": 0})
    read.Reload()
    return read


def test_epochs_are_scalars_at_their_step(tmp_path):
    with Tracker(tmp_path) as tracker:
        tracker.epoch({"epoch": 1.0, "valid_score": 0.5})
        tracker.epoch({"epoch": 2.0, "valid_score": 0.75})
        seen = events(tmp_path).Scalars("valid_score")  # while the run goes on
    assert [(e.step, e.value) for e in seen] == [(1, 0.5), (2, 0.75)]


def test_a_run_that_is_told_again_is_seen_once(tmp_path):
    """A run was killed and gone on with from an earlier epoch; its end adds to what there is."""
    for scores in ((0.1, 0.2, 0.3), (0.1, 0.25)):
        with Tracker(tmp_path, is_whole=True) as tracker:
            tracker.crops(np.zeros((1, 1, 4, 4, 3), np.uint8))
            for epoch, score in enumerate(scores, 1):
                tracker.epoch({"epoch": float(epoch), "valid_score": score})
    with Tracker(tmp_path) as tracker:
        tracker.epoch({"epoch": 3.0, "valid_score": 0.5})
    assert len(list((tmp_path / FOLDER).iterdir())) == 3
    read = events(tmp_path)
    seen = [(e.step, e.value) for e in read.Scalars("valid_score")]
    assert seen == [(1, pytest.approx(0.1)), (2, 0.25), (3, 0.5)]
    assert len(read.Images("crops/0")) == 1


def test_crops_are_images(tmp_path):
    crops = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 6, 3)).astype(np.uint8)
    with Tracker(tmp_path) as tracker:
        tracker.crops(crops)
    read = events(tmp_path)
    assert read.Tags()["images"] == ["crops/0", "crops/1"]
    shown = Image.open(io.BytesIO(read.Images("crops/1")[0].encoded_image_string))
    assert (shown.height, shown.width) == (8, 18)  # the variants beside one another
    np.testing.assert_array_equal(np.asarray(shown), np.hstack(list(crops[1])))


def test_precision_and_recall_are_scikit_learns(tmp_path):
    """At the threshold of a half; faces without a label are left out, ages have no such curve."""
    rng = np.random.default_rng(1)
    attributes = (attribute("smiling"), PERCEIVED_GENDER_PRESENTATION, AGE)
    targets = rng.integers(0, 2, (300, 3))
    targets[::3, 0] = -1
    smiling = rng.random(300).astype(np.float32)
    masculine = rng.random(300).astype(np.float32)
    probs = {
        "smiling": smiling,
        PERCEIVED_GENDER_PRESENTATION.name: np.stack([1 - masculine, masculine], axis=1),
        "age": np.full((300, 9), 1 / 9, np.float32),
    }
    with Tracker(tmp_path) as tracker:
        tracker.precision_recall(attributes, targets, probs, 4)
    read = events(tmp_path)
    presentation = PERCEIVED_GENDER_PRESENTATION.name
    names = {"smiling", f"{presentation}/feminine", f"{presentation}/masculine"}
    assert set(read.Tags()["tensors"]) == names
    known = targets[:, 0] >= 0
    for name, truth, prob in (
        ("smiling", targets[known, 0], smiling[known]),
        (f"{presentation}/masculine", targets[:, 1], masculine),
    ):
        [event] = read.Tensors(name)
        assert event.step == 4
        precision, recall = make_ndarray(event.tensor_proto)[4:]
        half = len(precision) // 2  # thresholds go from 0 to 1
        assert precision[half] == pytest.approx(
            sklearn.metrics.precision_score(truth, prob >= half / (len(precision) - 1)), abs=0.02
        )
        assert recall[half] == pytest.approx(
            sklearn.metrics.recall_score(truth, prob >= half / (len(recall) - 1)), abs=0.02
        )


def test_history_has_a_row_an_epoch(tmp_path):
    rows = [{"epoch": 1.0, "train_loss": 0.5}, {"epoch": 2.0, "train_loss": 0.25, "f1/bald": 0.1}]
    write_history(tmp_path, rows)
    assert pq.read_table(tmp_path / HISTORY).to_pylist() == [rows[0] | {"f1/bald": None}, rows[1]]
