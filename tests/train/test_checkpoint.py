import errno
import hashlib
import json
from pathlib import Path

import pytest
import torch

from fattr.errors import RunError
from fattr.train import checkpoint
from fattr.train.checkpoint import FILE, NOTE, DamagedError, TrainState
from fattr.train.context import LocalContext


class WritesAFile:
    """Unpickled, it runs code: here, code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def state(**changes):
    fields = {
        "model": {"weight": torch.tensor([1.5, -2.0])},
        "ema": {},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}},
        "schedule": {"last_epoch": 3},
        "scaler": {},
        "epoch": 2,
        "position": 24,
        "loss_sum": 1.25,
        "best_value": float("-inf"),
        "best_epoch": 1,
        "best_weights": {},
        "history": [{"epoch": 1.0}],
    }
    return TrainState(**fields | changes)


@pytest.fixture
def folder(tmp_path):
    checkpoint.save(tmp_path, state())
    return tmp_path


def test_a_checkpoint_is_what_was_saved_and_says_where_it_stands(folder):
    loaded = checkpoint.load(folder)
    assert torch.equal(loaded.model["weight"], torch.tensor([1.5, -2.0]))
    assert (loaded.epoch, loaded.position, loaded.loss_sum) == (2, 24, 1.25)
    assert loaded.history == [{"epoch": 1.0}]
    note = json.loads((folder / NOTE).read_text())
    digest = hashlib.sha256((folder / FILE).read_bytes()).hexdigest()
    assert note == {"format": 1, "sha256": digest, "epoch": 2, "position": 24}


def test_a_checkpoint_never_runs_code(tmp_path):
    """Though its hash is right."""
    trace = tmp_path / "was-run"
    torch.save({"model": WritesAFile(trace)}, tmp_path / FILE)
    digest = hashlib.sha256((tmp_path / FILE).read_bytes()).hexdigest()
    (tmp_path / NOTE).write_text(json.dumps({"format": 1, "sha256": digest}))
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(tmp_path)
    assert not trace.exists()


def without_note(folder):
    (folder / NOTE).unlink()


def without_state(folder):
    (folder / FILE).unlink()


def cut_short(folder):
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])


def half_a_note(folder):
    (folder / NOTE).write_text((folder / NOTE).read_text()[:20])


def of_the_future(folder):
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).write_text(json.dumps(note | {"format": 2}))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_note, "checkpoint NAME is not whole: no state.json"),
        (without_state, "checkpoint NAME is not whole: no state.pt"),
        (
            cut_short,
            "checkpoint NAME is damaged: state.pt is not the one whose hash is in state.json",
        ),
        (half_a_note, "checkpoint NAME is damaged: state.json is no JSON"),
        (of_the_future, "checkpoint NAME is of another format than 1"),
    ],
)
def test_a_damaged_checkpoint_is_refused(folder, damage, said):
    damage(folder)
    with pytest.raises(DamagedError) as caught:
        checkpoint.load(folder)
    assert str(caught.value) == said.replace("NAME", folder.name)


def three(tmp_path, *damaged):
    """Folders of epochs 3, 2, 1."""
    folders = []
    for epoch in (3, 2, 1):
        folder = tmp_path / str(epoch)
        folder.mkdir()
        checkpoint.save(folder, state(epoch=epoch))
        folders.append(folder)
        if epoch in damaged:
            cut_short(folder)
    return folders


@pytest.mark.parametrize(("damaged", "epoch"), [((), 3), ((3,), 2), ((3, 2), 1), ((3, 2, 1), None)])
def test_the_newest_whole_one_is_used_and_the_log_says_which(tmp_path, caplog, damaged, epoch):
    found = checkpoint.newest(three(tmp_path, *damaged))
    assert (found and found.epoch) == epoch
    used = f"{epoch} is used" if epoch else "there is no whole one: training begins anew"
    reason = "state.pt is not the one whose hash is in state.json"
    assert caplog.messages == [f"checkpoint {n} is damaged: {reason}; {used}" for n in damaged]


def test_no_older_one_is_fetched_than_needed(tmp_path):
    asked = []
    folders = (asked.append(f) or f for f in three(tmp_path, 3))
    assert checkpoint.newest(folders).epoch == 2
    assert len(asked) == 2


def test_one_that_another_worker_found_damaged_is_not_used(tmp_path, caplog):
    told = []

    def agreed(found):
        told.append(found)
        return found and len(told) > 1

    assert checkpoint.newest(three(tmp_path), agreed).epoch == 2
    assert told == [True, True]
    assert caplog.messages == ["checkpoint 3 is not whole for another worker; 2 is used"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match=r"a checkpoint cannot be written: No space left on device$"):
        checkpoint.saved(state())
    assert not any(tmp_path.iterdir())


def test_a_local_run_that_reported_nothing_has_no_checkpoint(tmp_path):
    context = LocalContext(tmp_path / "run")
    context.report({"epoch": 1}, None)
    assert not list(context.checkpoints())


def test_a_local_run_keeps_the_last_two_checkpoints_and_takes_their_folders(tmp_path):
    context = LocalContext(tmp_path / "run")
    for text in ("one", "two", "three"):
        (tmp_path / text).mkdir()
        (tmp_path / text / FILE).write_text(text)
        context.report({}, tmp_path / text)
    assert [(f / FILE).read_text() for f in context.checkpoints()] == ["three", "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
