"""Which output a training goes on with, and what it leaves in one; nothing is trained."""

from __future__ import annotations

import dataclasses
import logging
import shutil

import pytest
from s3_server import Answer, canned_server

from fattr import storage
from fattr.cli import run_job
from fattr.commands import train, train_data
from fattr.commands.train import (
    Job,
    carry_out,
    checked,
    is_finished,
    note_epoch,
    plan_job,
    read_run,
    record_of,
)
from fattr.config import TrainConfig
from fattr.datasets import synthetic
from fattr.errors import FattrError, RunError, StorageError, UsageError
from fattr.train.tracking import Tracker


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "faces"
    synthetic.write(folder, 40, seed=0, image_px=64)
    return folder


@pytest.fixture(params=["disk", "bucket"])
def output(request, tmp_path) -> str:
    if request.param == "disk":
        return (tmp_path / "out").as_uri()
    return request.getfixturevalue("s3_bucket") + "/out"


def job(faces, output: str = "o", **flags: object) -> Job:
    return plan_job(
        TrainConfig(preset="tiny", data=(f"synthetic:{faces}",), output=output, **flags)
    )


def begin(one: Job) -> None:
    with record_of(one, read_run(one), Held()):
        pass


def test_settings_are_what_changes_the_result(faces, tmp_path):
    settings = job(faces).settings
    (tmp_path / "elsewhere").symlink_to(faces)
    same = [
        {"workers": "2:4"},
        {"gpus": True},
        {"num_checkpoints": 3, "checkpoint_every": 2},
        {"cache_bytes": 1, "input_processes": 2},
    ]
    for flags in same:
        assert job(faces, "p", **flags).settings == settings
    assert job(tmp_path / "elsewhere").settings == settings
    other = {"learning_rate": 0.5, "seed": 1, "binary": "focal", "backbone": "resnet18", "limit": 9}
    for name, value in other.items():
        changed = job(faces, **{name: value}).settings
        differ = {key for key in settings if settings[key] != changed[key]}
        assert differ == {{"limit": "data"}.get(name, name)}


def test_a_changed_label_is_another_data_set(faces):
    one = job(faces)
    (split,) = one.train
    name, value = next(iter(split.samples[3].targets.items()))
    changed = dataclasses.replace(split.samples[3], targets={name: 1 - value})
    samples = (*split.samples[:3], changed, *split.samples[4:])
    from fattr.commands.train_plan import settings_of

    relabelled = dataclasses.replace(split, samples=samples)
    settings = settings_of(one.config, one.preset, one.plan, [relabelled], one.valid)
    assert {key for key in settings if settings[key] != one.settings[key]} == {"data"}


def test_a_data_set_of_which_more_is_left_out_is_another(faces, tmp_path, monkeypatch):
    """An image of train is in test as well; test was there, and is not any more."""
    own = tmp_path / "faces"
    shutil.copytree(faces, own)
    one = job(own, str(tmp_path / "out"))
    (test,) = train_data.held_out_splits(one.config.data, None)
    leaked, *others = one.train[0].samples
    shutil.copy(storage.local_path(test.samples[0].image_uri), storage.local_path(leaked.image_uri))
    begun = checked(one)
    assert [sample.image_uri for sample in begun.train[0].samples] == [s.image_uri for s in others]
    begin(begun)
    said = read_run(one)
    assert not is_finished(one, said)
    assert not is_finished(checked(one), said)
    monkeypatch.setattr(train_data, "held_out_splits", lambda specs, limit: [])
    now = checked(one)
    assert now.train[0].samples == one.train[0].samples
    with pytest.raises(UsageError, match="a run with other settings \\(used "):
        is_finished(now, said)


class Held:
    """A lease that is held, or was lost."""

    def __init__(self, *, is_lost: bool = False):
        self.is_lost = is_lost

    def check(self):
        if self.is_lost:
            raise RunError("the lease was lost")


def refuse_writes(monkeypatch):
    def refused(uri, *_):
        raise StorageError("unavailable", uri, "SlowDown")

    monkeypatch.setattr(storage, "write_bytes", refused)


def test_an_epoch_that_cannot_be_put_down_is_told(faces, output, caplog, monkeypatch, tmp_path):
    one = job(faces, output)
    with record_of(one, {}, Held()) as record:
        before = read_run(one)
        with monkeypatch.context() as patched:
            refuse_writes(patched)
            note_epoch(one, record, Held(), 3, tmp_path)
        reason = f"{output}/run.json: unavailable: SlowDown"
        assert caplog.messages == [f"epoch 3 was not put down in {output}: {reason}"]
        assert read_run(one) == before
        note_epoch(one, record, Held(), 4, tmp_path)
    assert read_run(one)["epochs"] == 4


def test_an_epoch_without_the_lease_ends_training_and_is_not_put_down(faces, output, tmp_path):
    one = job(faces, output)
    with record_of(one, {}, Held()) as record:
        before = read_run(one)
        with pytest.raises(RunError, match="the lease was lost"):
            note_epoch(one, record, Held(is_lost=True), 3, tmp_path)
        assert read_run(one) == before


def test_an_epoch_puts_tensorboards_events_into_the_bucket(faces, s3_bucket, tmp_path):
    one = job(faces, f"{s3_bucket}/out")
    with record_of(one, {}, Held()) as record, Tracker(tmp_path) as tracker:
        (tmp_path / "crops.png").write_bytes(b"not now")
        for epoch in (1, 2):
            tracker.epoch({"epoch": float(epoch), "valid_score": 0.5})
            note_epoch(one, record, Held(), epoch, tmp_path)
            (events,) = (tmp_path / "tensorboard").iterdir()
            there = storage.read_bytes(f"{one.output}/tensorboard/{events.name}")
            assert there == events.read_bytes()
    assert not storage.exists(f"{one.output}/crops.png")


@pytest.mark.parametrize("wrong", ["nothing", "storage", "lease"])
def test_a_run_that_fails_says_why_and_leaves_what_there_is(
    faces, s3_bucket, caplog, monkeypatch, wrong
):
    one = job(faces, f"{s3_bucket}/out")

    def fail(*arguments):
        (arguments[-1] / "tensorboard").mkdir()
        (arguments[-1] / "tensorboard" / "events").write_bytes(b"e")
        raise RunError("no luck")

    monkeypatch.setattr(train, "fit", fail)
    if wrong == "storage":
        refuse_writes(monkeypatch)
    with pytest.raises(FattrError, match=r"^no luck$"):
        carry_out(one, None, None, None, Held(is_lost=wrong == "lease"))
    assert storage.exists(f"{one.output}/tensorboard/events") == (wrong == "nothing")
    assert len(caplog.messages) == (wrong != "nothing")


def test_an_output_is_gone_on_with_by_its_own_settings_alone(faces, output, caplog):
    one = job(faces, output)
    assert read_run(one) == {}
    begin(one)
    said = read_run(one)
    assert not is_finished(one, said)
    assert is_finished(one, {}) is False
    with pytest.raises(UsageError) as caught:
        is_finished(job(faces, output, learning_rate=0.5, seed=1), said)
    assert str(caught.value) == (
        f"--output {output} holds a run with other settings (learning_rate 0.01, not 0.5;"
        " seed 0, not 1): choose another --output, or the settings of that run"
    )
    begin(job(faces, output, workers="2"))
    again = read_run(one)
    assert again["run_id"] == said["run_id"]
    events = [event["event"] for event in again["timeline"]["events"]]
    assert events == ["began", "continued"]
    storage.write_bytes(storage.join(output, "_SUCCESS"), b"")
    with caplog.at_level(logging.INFO, logger="fattr"):
        assert is_finished(one, again)
    assert caplog.messages == [f"{output} holds this run, finished: nothing to do"]


def test_a_place_that_holds_something_else_is_refused(faces, output):
    one = job(faces, output)
    storage.write_bytes(storage.join(output, "_runs", "lease.json"), b"{}")
    assert read_run(one) == {}
    storage.write_bytes(storage.join(output, "holiday", "sea.jpg"), b"")
    with pytest.raises(UsageError, match=r"holds a run already \(holiday\): choose another"):
        read_run(one)
    storage.write_bytes(storage.join(output, "run.json"), b"{")
    with pytest.raises(UsageError, match="is damaged: choose another --output"):
        read_run(one)


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        pytest.param(RunError("no luck"), "no luck", 3, id="run"),
        pytest.param(
            OSError(28, "No space left on device"),
            "reading or writing OUTPUT failed: No space left on device; what is done is kept: mend"
            " that and run the same command again",
            3,
            id="full-disk",
        ),
        pytest.param(
            StorageError("denied", "s3://b/k", "AccessDenied"),
            "s3://b/k: denied: AccessDenied; what is done is kept: mend that and run the same"
            " command again",
            3,
            id="storage",
        ),
        pytest.param(UsageError("no such image"), "no such image", 2, id="usage"),
    ],
)
def test_a_failure_is_put_down(faces, output, error, message, code):
    one = job(faces, output)
    message = message.replace("OUTPUT", output)
    with (
        pytest.raises(UsageError if code == 2 else RunError) as caught,
        record_of(one, {}, Held()),
    ):
        raise error
    assert str(caught.value) == message
    said = read_run(one)
    assert (said["exit_code"], said["error"]) == (code, message)


@pytest.mark.parametrize(
    "error",
    [RunError("the lease was lost"), OSError(28, "x"), UsageError("no"), KeyboardInterrupt()],
    ids=["lease", "disk", "usage", "stopped"],
)
def test_the_run_that_took_over_keeps_its_record(faces, output, error):
    one, lease = job(faces, output), Held()
    theirs = b'{"run_id": "theirs"}'

    def lose() -> None:
        with record_of(one, {}, lease):
            lease.is_lost = True
            storage.write_bytes(f"{output}/run.json", theirs)
            raise error

    with pytest.raises((FattrError, KeyboardInterrupt)):
        lose()
    assert storage.read_bytes(f"{output}/run.json") == theirs


def test_a_bucket_that_may_not_be_written_is_one_line(faces, use_endpoint, capsys):
    with canned_server(Answer(403, "AccessDenied")) as url:
        use_endpoint(url)
        argv = ["--preset", "tiny", "--data", f"synthetic:{faces}", "--output", "s3://bucket/out"]
        assert run_job("train", argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "s3://bucket/out" in said
