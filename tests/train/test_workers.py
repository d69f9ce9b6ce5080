"""Workers that are processes of their own must do together what one does alone."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from training_group import (
    communicate,
    distance,
    drawn_until,
    mates,
    measured,
    steps,
    trained,
    without_statistics,
    workers,
)

from fattr.train.context import LocalContext
from fattr.train.loop import Trainer, build_network
from fattr.train.validate import figures, predict_logits, some_of

pytestmark = pytest.mark.full  # processes to start


@pytest.fixture(scope="module")
def group():
    with workers(3) as found:
        yield found


@pytest.fixture(scope="module")
def noisy(plan):
    """Dropout, MixUp, parts, and no batch statistics, over 2 epochs of 10 steps."""
    changes = {"epochs": 2, "mixup_alpha": 0.4, "accumulate": 2, "checkpoint_every": 3}
    return without_statistics(plan, **changes, optimizer="sgd", learning_rate=0.03)


def assert_moved_alike(one, other, start, *, within):
    """By the share of the way that the weights went."""
    assert one.keys() == other.keys()
    assert distance(one, start) > 0.05
    assert distance(one, other) < within * distance(one, start)


def timeless(history):
    return [
        {k: v for k, v in row.items() if k not in ("seconds", "data_wait_share")} for row in history
    ]


def test_what_workers_tell_one_another(group):
    """Three of them, of 7 rows."""
    told = group.run(3, communicate)
    for one in told:
        assert one["agreed"] == [True, False]
        assert one["total"] == [3.0, 30.0]
    assert [one["gathered"] is None for one in told] == [False, True, True]
    rows = [part[:, 0].tolist() for part in told[0]["gathered"]]
    assert rows == [[0, 3, 6], [1, 4], [2, 5]]


@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 16), (2, 6), (3, 8), (3, 7)])
def test_partners_are_the_same_for_any_number_of_workers(group, world_size, batch_size):
    """Of 16 in two, each worker has its own; of the others they must exchange them."""
    half = batch_size // 2
    for own, found in group.run(world_size, mates, batch_size):
        assert found == [(row - half) % batch_size for row in own]
    alone = LocalContext(Path())
    assert mates(0, 1, batch_size)[1] == [(r - half) % batch_size for r in range(batch_size)]
    assert alone.world_size == 1


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_train_as_one(group, noisy, train_crops, valid_crops, tmp_path, world_size):
    """A batch of 8 gives three workers 3, 3 and 2 samples."""
    data = train_crops, valid_crops
    alone = trained(0, 1, noisy, *data, tmp_path / "one")
    together = group.run(world_size, trained, noisy, *data, tmp_path / "more")[0]
    start = build_network(noisy).state_dict()
    assert_moved_alike(together.best_weights, alone.best_weights, start, within=1e-4)
    start = {f"network.{name}": tensor for name, tensor in start.items()}
    assert_moved_alike(together.model, alone.model, start, within=1e-4)
    for mine, theirs in zip(timeless(together.history), timeless(alone.history), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_workers_that_leave_and_join_see_every_sample_once(
    group, noisy, train_crops, valid_crops, tmp_path
):
    """Two, then one, then two, each to a checkpoint within the epoch of 80 samples."""
    seen = []
    for world_size, stop in ((2, 1), (1, 1), (2, 2)):  # after steps 3, 6, 10
        drawn = group.run(world_size, drawn_until, noisy, train_crops, valid_crops, tmp_path, stop)
        seen += [index for one in drawn for index in one]
    assert len(seen) == 80
    assert sorted(seen) == list(range(80))


def test_workers_that_leave_and_join_end_where_one_does(
    group, noisy, train_crops, valid_crops, tmp_path
):
    data = train_crops, valid_crops
    alone = trained(0, 1, noisy, *data, tmp_path / "one")
    for world_size, stop in ((2, 2), (1, 1), (3, 3)):
        group.run(world_size, drawn_until, noisy, *data, tmp_path / "more", stop)
    together = group.run(2, trained, noisy, *data, tmp_path / "more")[0]
    start = {f"network.{name}": t for name, t in build_network(noisy).state_dict().items()}
    assert_moved_alike(together.model, alone.model, start, within=1e-4)
    for mine, theirs in zip(timeless(together.history), timeless(alone.history), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"frozen_epochs": 1, "accumulate": 2}], ids=["", "parts"])
@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_that_were_stopped_continue_to_the_same_bits(
    group, plan, train_crops, valid_crops, tmp_path, world_size, changes
):
    """With batch statistics, which each worker has for itself."""
    changes = {"epochs": 2, "mixup_alpha": 0.4, "checkpoint_every": 3} | changes
    recipe = dataclasses.replace(plan.recipe, **changes)
    plan = dataclasses.replace(plan, recipe=recipe)
    data = train_crops, valid_crops
    straight = group.run(world_size, trained, plan, *data, tmp_path / "straight")[0]
    stopped = group.run(world_size, trained, plan, *data, tmp_path / "stopped", (1, 2, 1, 2))[0]
    for name in ("model", "ema", "best_weights"):
        mine, theirs = getattr(stopped, name), getattr(straight, name)
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert timeless(stopped.history) == timeless(straight.history)


@pytest.mark.parametrize("world_size", [2, 3])
def test_figures_are_those_of_all_samples_once(group, plan, valid_crops, world_size):
    network = build_network(plan).eval()
    chosen = some_of(60, 31, seed=5)
    logits = predict_logits(network, valid_crops, plan.attributes, torch.device("cpu"))
    wanted = figures(logits[chosen], valid_crops.targets[chosen], plan.attributes)
    arguments = network, valid_crops, chosen, plan.attributes
    got = group.run(world_size, measured, *arguments)
    assert got[0] == pytest.approx(wanted, rel=1e-5)
    assert got[1:] == [{}] * (world_size - 1)


@pytest.mark.drills
def test_a_deep_network_with_all_its_noise_trains_alike(group, plan):
    """ConvNeXt, 20 steps: stochastic depth in 17 layers, dropout, MixUp; two workers and one."""
    recipe = dataclasses.replace(plan.recipe, optimizer="sgd", dropout=0.3, learning_rate=0.02)
    plan = dataclasses.replace(plan, backbone="convnext_tiny", recipe=recipe)
    generator = torch.Generator().manual_seed(0)
    crops = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, 2, (8, 2), generator=generator)
    alone, losses = steps(0, 1, plan, crops, targets, 20)
    (one, its), (other, others) = group.run(2, steps, plan, crops, targets, 20)
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = Trainer(LocalContext(Path()), plan, targets.numpy()).training.state_dict()
    assert_moved_alike(one, alone, start, within=1e-4)
    np.testing.assert_allclose(np.add(its, others), losses, rtol=1e-4)


class UnpreparedContext(LocalContext):
    """Says that there are others, and never asks them."""

    def prepare(self, model):
        return model


@pytest.mark.parametrize(
    ("rank", "world_size", "frozen", "told"),
    [(0, 2, False, 1), (1, 2, False, 0), (0, 1, False, 0), (0, 2, True, 0)],
)
def test_batch_statistics_of_each_worker_are_told_once(
    plan, caplog, rank, world_size, frozen, told
):
    recipe = dataclasses.replace(plan.recipe, freeze_batch_norm=frozen)
    with caplog.at_level(logging.WARNING):
        context = UnpreparedContext(Path(), rank, world_size)
        Trainer(context, dataclasses.replace(plan, recipe=recipe), np.zeros((8, 2), int))
    assert sum("own batch statistics" in r.getMessage() for r in caplog.records) == told
