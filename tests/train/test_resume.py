"""A run that is stopped anywhere and started again ends with the bits of one that was not."""

import dataclasses
import json
import logging

import pytest
import torch
from training_group import StoppedContext, StoppedError

from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.loop import Trainer, fit

pytestmark = pytest.mark.full  # many short trainings


@pytest.fixture(scope="module")
def noisy(plan):
    """Two epochs of 10 steps, reported after steps 3, 6, 9 and 10."""
    changes = {"epochs": 2, "mixup_alpha": 0.4, "checkpoint_every": 3}
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **changes))


def last_state(folder):
    return checkpoint.newest(LocalContext(folder).checkpoints())


@pytest.fixture(scope="module")
def straight(tmp_path_factory, noisy, train_crops, valid_crops):
    folder = tmp_path_factory.mktemp("straight")
    fit(LocalContext(folder), noisy, train_crops, valid_crops)
    return last_state(folder)


def leaves(value, path=()):
    """All tensors and numbers of a state, with where they are; tensors as their bytes."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in ("seconds", "data_wait_share"):
                yield from leaves(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from leaves(inner, (*path, index))
    elif isinstance(value, torch.Tensor):
        yield path, value.contiguous().numpy().tobytes()
    else:
        yield path, value


def assert_same_bits(one, other):
    assert dict(leaves(vars(one))) == dict(leaves(vars(other)))


@pytest.mark.parametrize("kept", [True, False], ids=["after-it-is-kept", "before-it-is-kept"])
@pytest.mark.parametrize("report", range(1, 9))
def test_a_run_stopped_at_any_checkpoint(
    straight, noisy, train_crops, valid_crops, tmp_path, report, kept
):
    torch.manual_seed(report)  # nothing may come from the process's own generator
    context = StoppedContext(tmp_path).stop_at(report, kept=kept)
    with pytest.raises(StoppedError):
        fit(context, noisy, train_crops, valid_crops)
    fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    assert_same_bits(last_state(tmp_path), straight)


def stop_in(monkeypatch, name, call):
    """The trainer's method fails when it is called for this time."""
    method, calls = getattr(Trainer, name), []

    def stopped(self, *args):
        calls.append(name)
        if len(calls) == call:
            raise StoppedError
        return method(self, *args)

    monkeypatch.setattr(Trainer, name, stopped)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        pytest.param("step", 2, id="before-any-checkpoint"),
        pytest.param("step", 8, id="within-the-first-epoch"),
        pytest.param("validate", 1, id="in-the-first-validation"),
        pytest.param("step", 12, id="at-the-beginning-of-the-second"),
        pytest.param("step", 15, id="within-the-second"),
        pytest.param("_update", 15, id="within-a-step"),
        pytest.param("validate", 2, id="in-the-last-validation"),
    ],
)
def test_a_run_stopped_between_checkpoints(
    straight, noisy, train_crops, valid_crops, tmp_path, monkeypatch, name, call
):
    with monkeypatch.context() as patched:
        stop_in(patched, name, call)
        with pytest.raises(StoppedError):
            fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    assert_same_bits(last_state(tmp_path), straight)


def test_a_run_stopped_again_and_again(straight, noisy, train_crops, valid_crops, tmp_path):
    for _ in range(8):
        context = StoppedContext(tmp_path).stop_at(1, kept=True)
        with pytest.raises(StoppedError):
            fit(context, noisy, train_crops, valid_crops)
    fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    assert_same_bits(last_state(tmp_path), straight)


def test_checkpoints_within_epochs_change_no_weight(
    straight, noisy, train_crops, valid_crops, tmp_path
):
    recipe = dataclasses.replace(noisy.recipe, checkpoint_every=None)
    fit(LocalContext(tmp_path), dataclasses.replace(noisy, recipe=recipe), train_crops, valid_crops)
    state = last_state(tmp_path)
    for name in ("model", "ema", "best_weights", "optimizer"):
        assert dict(leaves(getattr(state, name))) == dict(leaves(getattr(straight, name)))
    losses = [row["train_loss"] for row in straight.history]
    assert [row["train_loss"] for row in state.history] == pytest.approx(losses, rel=1e-12)


def test_a_finished_run_is_not_trained_again(straight, noisy, train_crops, valid_crops, tmp_path):
    folder = tmp_path / "checkpoint_000001"
    folder.mkdir()
    checkpoint.save(folder, straight)
    fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    assert list(tmp_path.iterdir()) == [folder]


class FetchingContext(LocalContext):
    """Holds what it fetched until its iterator is closed."""

    held, held_at_reports = 0, ()

    def checkpoints(self):
        self.held += 1
        try:
            yield from super().checkpoints()
        finally:
            self.held -= 1

    def report(self, metrics, checkpoint):
        self.held_at_reports += (self.held,)
        super().report(metrics, checkpoint)


def test_what_was_fetched_is_let_go_before_training(noisy, train_crops, valid_crops, tmp_path):
    with pytest.raises(StoppedError):
        fit(StoppedContext(tmp_path).stop_at(6, kept=True), noisy, train_crops, valid_crops)
    context = FetchingContext(tmp_path)
    fit(context, noisy, train_crops, valid_crops)
    assert context.held_at_reports == (0, 0)


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_used(
    straight, noisy, train_crops, valid_crops, tmp_path, caplog
):
    context = StoppedContext(tmp_path).stop_at(6, kept=True)
    with pytest.raises(StoppedError):
        fit(context, noisy, train_crops, valid_crops)
    newest, before = context.checkpoints()
    data = bytearray((newest / checkpoint.FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / checkpoint.FILE).write_bytes(data)
    assert json.loads((before / checkpoint.NOTE).read_text())["position"] == 3 * 8
    with caplog.at_level(logging.WARNING):
        fit(LocalContext(tmp_path), noisy, train_crops, valid_crops)
    assert [r.getMessage() for r in caplog.records] == [
        f"checkpoint {newest.name} is damaged: state.pt is not the one whose hash is in state.json;"
        f" {before.name} is used"
    ]
    assert_same_bits(last_state(tmp_path), straight)
