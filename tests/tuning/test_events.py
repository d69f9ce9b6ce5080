"""TensorBoard's own reader is the oracle."""

import tempfile

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fattr.tuning.events import events

ROWS = ({"epoch": 1.0, "valid_score": 0.25}, {"epoch": 2.0, "valid_score": 0.75, "seconds": 3.5})


def test_each_file_adds_an_epoch_to_the_curves(tmp_path):
    for number, row in enumerate(ROWS):
        (tmp_path / f"events.out.tfevents.{number:05}").write_bytes(events(row))
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    points = {
        name: [(event.step, event.value) for event in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }
    assert points == {
        "epoch": [(1, 1.0), (2, 2.0)],
        "valid_score": [(1, 0.25), (2, 0.75)],
        "seconds": [(2, 3.5)],
    }
    assert read.file_version == 2


def test_no_disk_is_needed(monkeypatch):
    def full(*_, **__):
        pytest.fail("a temporary file")

    for name in ("mkstemp", "mkdtemp", "TemporaryFile"):
        monkeypatch.setattr(tempfile, name, full)
    assert events(ROWS[0])
