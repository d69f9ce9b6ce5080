"""Compiled and in half precision, on a CPU: what needs a GPU is in tests/gpu."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.loop import Trainer, fit


def with_recipe(plan, **changes):
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **changes))


def trained(plan, train, valid, folder):
    context = LocalContext(folder)
    fit(context, plan, train, valid)
    return checkpoint.newest(context.checkpoints())


def losses(state):
    return [row[name] for row in state.history for name in ("train_loss", "valid_loss")]


@pytest.mark.full
@pytest.mark.filterwarnings("default")  # of torch's compiler
def test_a_compiled_network_learns_what_one_that_is_not_does(
    plan, train_crops, valid_crops, tmp_path
):
    plan = with_recipe(plan, epochs=2)
    one, other = (
        trained(with_recipe(plan, compile=wanted), train_crops, valid_crops, tmp_path / str(wanted))
        for wanted in (True, False)
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses(one) == pytest.approx(losses(other), rel=1e-3)
    assert one.model.keys() == other.model.keys()
    for name, tensor in one.model.items():
        torch.testing.assert_close(tensor, other.model[name], rtol=1e-2, atol=1e-3)


def test_half_precision_learns_what_full_precision_does(plan, train_crops, valid_crops, tmp_path):
    half, full = (
        trained(with_recipe(plan, precision=name), train_crops, valid_crops, tmp_path / name)
        for name in ("fp16", "fp32")
    )
    assert half.scaler["scale"] > 1
    assert full.scaler == {}
    assert losses(half) == pytest.approx(losses(full), abs=0.02)  # the first is 0.31
    assert losses(half) != losses(full)


@pytest.fixture
def recipe():
    return {"precision": "fp16", "clip_norm": 1.0, "accumulate": 2}


@pytest.fixture
def trainer(plan, recipe, train_crops, tmp_path):
    return Trainer(LocalContext(tmp_path), with_recipe(plan, **recipe), train_crops.targets)


def step(trainer, crops):
    batch = slice(0, trainer.plan.recipe.batch_size)
    targets = torch.from_numpy(crops.targets[batch])
    trainer.step(torch.from_numpy(np.asarray(crops.crops[batch])), targets, 1.0)
    trainer.position = 0
    return [p.detach().clone() for p in trainer.training.parameters()]


def test_gradients_do_not_depend_on_their_scale(trainer, train_crops):
    """They are unscaled before they are clipped."""
    start = copy.deepcopy(trainer.state())
    found = []
    for scale in (1.0, 2.0**12):
        trainer.restore(copy.deepcopy(start))
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found.append(step(trainer, train_crops))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "recipe", [{"precision": "fp16", "optimizer": name} for name in ("adamw", "sgd")], ids=str
)
@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step")
def test_a_step_that_overflows_is_left_out_and_the_scale_lowered(trainer, train_crops):
    before = [p.detach().clone() for p in trainer.training.parameters()]
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    after = step(trainer, train_crops)
    assert all(map(torch.equal, after, before))
    assert trainer.scaler.get_scale() == 2.0**59
    assert not trainer.optimizer.state  # nor is anything remembered of it
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    assert not all(map(torch.equal, step(trainer, train_crops), before))


def test_the_scale_is_kept_with_a_checkpoint(trainer, plan, train_crops, tmp_path):
    trainer.scaler.load_state_dict(trainer.scaler.state_dict() | {"scale": 8.0})
    step(trainer, train_crops)
    folder = checkpoint.saved(trainer.state())
    again = Trainer(LocalContext(tmp_path), trainer.plan, train_crops.targets)
    again.restore(checkpoint.newest(iter([folder])))
    assert again.scaler.get_scale() == 8.0


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_checkpoint_of_another_device_does_not_choose_the_optimisers_kernel(
    plan, train_crops, tmp_path, precision
):
    first, again = (
        Trainer(LocalContext(tmp_path), with_recipe(plan, precision=precision), train_crops.targets)
        for _ in range(2)
    )
    own = first.optimizer.defaults["fused"]
    step(first, train_crops)
    state = copy.deepcopy(first.state())
    for group in state.optimizer["param_groups"]:
        group["fused"] = None if own else True
    again.restore(state)
    assert {group["fused"] for group in again.optimizer.param_groups} == {own}
    assert all(map(torch.equal, step(again, train_crops), step(first, train_crops)))
