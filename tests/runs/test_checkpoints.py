"""Where a training run keeps its checkpoints, and which."""

from __future__ import annotations

import errno
import json
import os

import pyarrow.fs
import pytest

from fattr import storage
from fattr.errors import RunError, StorageError
from fattr.runs import checkpoints
from fattr.runs.checkpoints import CheckpointStore, kept, name_of
from fattr.storage import retries


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_WAIT_S", 0)


@pytest.fixture(params=["disk", "bucket"])
def store(request, tmp_path) -> CheckpointStore:
    """Keeps the best by accuracy."""
    root = tmp_path if request.param == "disk" else request.getfixturevalue("s3_bucket")
    return CheckpointStore(f"{root}/out", num_best=1, metric="accuracy", lower_is_better=False)


def made(tmp_path, epoch: int, position: int, content: bytes = b"state"):
    """A folder as the loop leaves it."""
    folder = tmp_path / f"made-{epoch}-{position}"
    folder.mkdir(exist_ok=True)
    (folder / "state.pt").write_bytes(content)
    (folder / "state.json").write_text(json.dumps({"epoch": epoch, "position": position}))
    return folder


def add(store: CheckpointStore, tmp_path, epoch: int, position: int, **metrics: float) -> str:
    folder = made(tmp_path, epoch, position, f"{epoch} {position}".encode())
    store.put(name_of(folder), folder, metrics)
    return name_of(folder)


def test_later_checkpoints_sort_after_earlier_ones(tmp_path):
    places = [(0, 64), (0, 128), (0, 10240), (1, 0), (2, 0), (10, 0), (10, 64), (100, 0)]
    names = [name_of(made(tmp_path, *place)) for place in places]
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("scores", "num_best", "expected"),
    [
        pytest.param({}, 1, "de", id="the-newest-two"),
        pytest.param({"a": 0.5, "b": 0.9, "c": 0.7}, 1, "bde", id="the-best-as-well"),
        pytest.param({"a": 0.9, "b": 0.9}, 1, "ade", id="the-earlier-of-equal-ones"),
        pytest.param({"a": 0.5, "b": 0.9, "c": 0.7}, 2, "bcde", id="the-two-best"),
        pytest.param({"d": 0.9, "gone": 1.0}, 1, "de", id="which-may-be-new-or-gone"),
    ],
)
def test_which_ones_stay(scores, num_best, expected):
    assert kept("dbace", scores, num_best) == set(expected)


def test_few_are_kept_and_each_is_what_was_put_there(store, tmp_path):
    best = add(store, tmp_path, 1, 0, accuracy=0.9)
    for epoch in range(2, 5):
        add(store, tmp_path, epoch, 64)
        add(store, tmp_path, epoch + 1, 0, accuracy=0.8)
    names = ["epoch-00005-position-0000000000", "epoch-00004-position-0000000064", best]
    assert store.names() == names
    states = [(folder / "state.pt").read_bytes() for folder in store.folders()]
    assert states == [b"5 0", b"4 64", b"1 0"]
    again = CheckpointStore(store.uri, num_best=1, metric="accuracy", lower_is_better=True)
    newest = add(again, tmp_path, 5, 64)  # by another process, which has yet to read the scores
    assert again.names() == [newest, names[0]]  # by a loss, epoch 5 is as good as any


def test_one_that_was_cut_short_is_none_and_is_cleared_away(store, tmp_path):
    whole = add(store, tmp_path, 1, 0)
    storage.write_bytes(
        storage.join(store.uri, "epoch-00001-position-0000000064", "state.pt"), b"h"
    )
    assert store.names() == [whole]
    later = add(store, tmp_path, 2, 0)
    assert store.names() == [later, whole]
    assert storage.list_folders(store.uri) == [whole, later]


def test_one_put_again_replaces_the_damaged_one(store, tmp_path):
    name = add(store, tmp_path, 1, 0)
    storage.write_bytes(storage.join(store.uri, name, "state.pt"), b"damaged")
    storage.write_bytes(storage.join(store.uri, name, "more"), b"")
    add(store, tmp_path, 1, 0)
    with store.fetched(name) as folder:
        assert (folder / "state.pt").read_bytes() == b"1 0"
        assert not (folder / "more").exists()


def test_later_ones_are_of_no_use_once_the_run_went_on_from_an_earlier_one(store, tmp_path):
    """The newest was damaged, though it has the best figure."""
    before = add(store, tmp_path, 1, 0, accuracy=0.5)
    damaged = add(store, tmp_path, 2, 0, accuracy=0.9)
    storage.write_bytes(storage.join(store.uri, damaged, "metrics.json"), b"{")
    again = CheckpointStore(store.uri, num_best=1, metric="accuracy", lower_is_better=False)
    fresh = add(again, tmp_path, 1, 64)
    assert again.names() == [fresh, before]
    assert storage.list_folders(again.uri) == [before, fresh]


def test_a_fetched_one_bears_its_name_and_goes_with_the_iterator(
    store, tmp_path, tmp_path_factory, monkeypatch
):
    name = add(store, tmp_path, 1, 0)
    temporary = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    copy, calls = pyarrow.fs.copy_files, []

    def angry_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise OSError("S3 is angry")
        copy(*args)

    monkeypatch.setattr(pyarrow.fs, "copy_files", angry_once)
    folders = store.folders()
    folder = next(folders)
    assert folder.name == name
    assert (folder / "state.pt").read_bytes() == b"1 0"
    folders.close()
    assert not any(temporary.iterdir())
    assert len(calls) == (2 if store.uri.startswith("s3:") else 0)


def failing(monkeypatch, *numbers: int | None) -> list[str]:
    """Have the next copies fail with these errors of the system; None is one without a number."""
    calls, copy = [], checkpoints._copy
    errors = list(numbers)

    def fail(path, uri):
        calls.append(path.name)
        if errors:
            number = errors.pop(0)
            raise OSError(number, os.strerror(number)) if number else OSError("S3 is angry")
        copy(path, uri)

    monkeypatch.setattr(checkpoints, "_copy", fail)
    return calls


def test_what_may_go_away_is_tried_again(store, tmp_path, monkeypatch):
    calls = failing(monkeypatch, None, errno.EIO, None)
    name = add(store, tmp_path, 1, 0)
    assert calls == ["state.pt"] * 4
    assert store.names() == [name]


def test_a_full_disk_is_told_at_once_and_what_is_there_stays(store, tmp_path, monkeypatch):
    before = add(store, tmp_path, 1, 0)
    calls = failing(monkeypatch, errno.ENOSPC)
    with pytest.raises(RunError) as caught:
        add(store, tmp_path, 2, 0)
    assert calls == ["state.pt"]
    assert "No space left on device; what is done is kept" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.names() == [before]


def test_superfluous_ones_that_stay_are_told_and_the_new_one_counts(
    store, tmp_path, monkeypatch, caplog
):
    names = [add(store, tmp_path, epoch, 0) for epoch in (1, 2)]
    delete = storage.delete_tree

    def refused(uri):
        if uri.endswith(names[0]):
            raise StorageError("denied", uri, "AccessDenied")
        delete(uri)

    monkeypatch.setattr(storage, "delete_tree", refused)
    third = add(store, tmp_path, 3, 0)
    assert store.names() == [third, *reversed(names)]
    assert caplog.messages == [
        f"superfluous checkpoints were not deleted: {store.uri}/{names[0]}: denied: AccessDenied"
    ]


def test_a_store_that_never_recovers_is_told_in_one_line(store, tmp_path, monkeypatch):
    failing(monkeypatch, *[None] * 99)
    told = r"the storage failed \(OSError\), 10 attempts; what is done is kept"
    with pytest.raises(RunError, match=told):
        add(store, tmp_path, 1, 0)
