import dataclasses

import numpy as np
import pytest
import torch

from fattr.classify.network import AttributeNet
from fattr.labelled_crops import LabelledCrops
from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.loop import (
    Trainer,
    augmentation_seed,
    batches,
    build_network,
    epoch_order,
    fit,
    score,
)


class StoppedError(Exception):
    pass


class InterruptedContext(LocalContext):
    """Fails right after it kept the checkpoint of the second epoch."""

    def report(self, metrics, checkpoint):
        super().report(metrics, checkpoint)
        if metrics["epoch"] == 2:
            raise StoppedError


def numbered(n):
    """Crops whose every pixel is their own number."""
    crops = np.zeros((n, 8, 8, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    targets = np.stack([np.arange(n), np.arange(n)], axis=1)
    return LabelledCrops(crops, targets, np.ones(n, bool), np.ones(n, np.float32), {})


def assert_equal_state(one, other):
    for name in ("model", "ema", "best_weights"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys()
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=0)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, plan, train_crops, valid_crops):
    """The last checkpoint of four epochs without interruption."""
    folder = tmp_path_factory.mktemp("straight") / "latest"
    torch.manual_seed(11)
    fit(LocalContext(folder), plan, train_crops, valid_crops)
    return checkpoint.load(folder)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_share_the_batches_of_one(epoch, world_size, plan):
    """Worker r has every W-th crop, augmented as if it were alone."""
    data = numbered(37)
    alone = list(batches(data, plan, epoch=epoch, rank=0, world_size=1))
    assert len(alone) == 37 // plan.batch_size
    shares = [
        list(batches(data, plan, epoch=epoch, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for index, (crops, targets) in enumerate(alone):
        for rank, share in enumerate(shares):
            assert torch.equal(share[index][0], crops[rank::world_size])
            assert torch.equal(share[index][1], targets[rank::world_size])
        assert crops.shape == (plan.batch_size, 8, 8, 3)


def test_crops_and_targets_stay_together(plan):
    plan = dataclasses.replace(plan, augmentation="none")
    seen = []
    for crops, targets in batches(numbered(16), plan, epoch=0, rank=0, world_size=1):
        assert crops[:, 0, 0, 0].tolist() == targets[:, 0].tolist() == targets[:, 1].tolist()
        seen += targets[:, 0].tolist()
    assert sorted(seen) == list(range(16))


def test_each_epoch_has_its_own_order_of_all_samples():
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)
    np.testing.assert_array_equal(orders[1], epoch_order(50, seed=0, epoch=1))
    assert epoch_order(0, seed=0, epoch=0).tolist() == []


def test_every_sample_of_every_epoch_has_its_own_augmentation():
    seeds = {
        augmentation_seed(seed, epoch, position)
        for seed in range(3)
        for epoch in range(12)
        for position in range(12)
    }
    assert len(seeds) == 3 * 12 * 12
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_crop_is_augmented_anew_in_each_epoch_and_alike_in_each_run(plan, train_crops):
    def first(epoch):
        return next(batches(train_crops, plan, epoch=epoch, rank=0, world_size=1))[0]

    torch.manual_seed(5)
    once = first(0)
    torch.manual_seed(6)
    assert torch.equal(once, first(0))
    assert not torch.equal(once, first(1))


def test_equal_plans_give_equal_networks(plan):
    torch.manual_seed(1)
    one = build_network(plan).state_dict()
    after = torch.rand(2)
    torch.manual_seed(2)
    other = build_network(plan).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    third = build_network(dataclasses.replace(plan, seed=4)).state_dict()
    assert not torch.equal(one["features.0.weight"], third["features.0.weight"])
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), after)  # the caller's generator was not drawn from


def test_colours_are_learnt(straight):
    scores = [row["valid_score"] for row in straight.history]
    assert [row["epoch"] for row in straight.history] == [1, 2, 3, 4]
    assert straight.best_score == max(scores) > 0.95
    assert straight.best_epoch == 1 + scores.index(max(scores))
    assert straight.history[-1]["train_loss"] < straight.history[0]["train_loss"] / 2
    assert straight.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_the_best_weights_are_those_of_the_best_epoch(straight, plan, valid_crops, tmp_path):
    trainer = Trainer(LocalContext(tmp_path), plan, 80)
    trainer.ema.module.load_state_dict(straight.best_weights)
    assert trainer.validate(valid_crops) == straight.best_score


def test_an_interrupted_run_continues_to_the_same_weights(
    straight, plan, train_crops, valid_crops, tmp_path
):
    torch.manual_seed(11)
    with pytest.raises(StoppedError):
        fit(InterruptedContext(tmp_path / "latest"), plan, train_crops, valid_crops)
    assert checkpoint.load(tmp_path / "latest").epoch == 2
    torch.manual_seed(999)  # another process: nothing of the first run's generator is left
    fit(LocalContext(tmp_path / "latest"), plan, train_crops, valid_crops)
    resumed = checkpoint.load(tmp_path / "latest")
    assert_equal_state(straight, resumed)
    assert (resumed.epoch, resumed.best_epoch) == (4, straight.best_epoch)
    timeless = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in state.history]
        for state in (straight, resumed)
    ]
    assert timeless[0] == timeless[1]


def test_a_finished_run_is_not_trained_again(straight, plan, train_crops, valid_crops, tmp_path):
    checkpoint.save(tmp_path, straight)
    fit(LocalContext(tmp_path), plan, train_crops, valid_crops)
    assert_equal_state(straight, checkpoint.load(tmp_path))
    assert len(checkpoint.load(tmp_path).history) == 4


def test_the_score_leaves_out_what_has_no_label(plan):
    logits = np.float32([[5, 0, 1], [-5, 1, 0], [5, 0, 1], [5, 1, 0]])
    targets = np.array([[1, -1], [0, -1], [0, -1], [-1, -1]])
    assert score(logits, targets, plan.attributes) == pytest.approx(2 / 3)
    targets[:, 1] = [1, 0, 1, 1]
    assert score(logits, targets, plan.attributes) == pytest.approx((2 / 3 + 3 / 4) / 2)


@pytest.mark.full
def test_an_auxiliary_head_is_trained_kept_for_resuming_and_never_served(plan, tmp_path):
    """Inception-v3, two steps on noise."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (8, 75, 75, 3), np.uint8)
    targets = rng.integers(0, 2, (8, 2))
    data = LabelledCrops(crops, targets, np.ones(8, bool), np.ones(8, np.float32), {})
    wanted = dataclasses.replace(
        plan, backbone="inception_v3", epochs=1, batch_size=4, augmentation="none"
    )
    first = Trainer(LocalContext(tmp_path), wanted, 8).training.state_dict()
    fit(LocalContext(tmp_path / "latest"), wanted, data, data)
    state = checkpoint.load(tmp_path / "latest")
    own = {name for name in state.model if name.startswith("auxiliary.")}
    moved = {name for name in own if not torch.equal(state.model[name], first[name])}
    assert moved == own
    assert own
    served = AttributeNet("inception_v3", plan.attributes).state_dict().keys()
    assert state.best_weights.keys() == served
    resumed = Trainer(LocalContext(tmp_path), wanted, 8)
    resumed.restore(state)
    again = resumed.training.state_dict()
    assert all(torch.equal(again[name], state.model[name]) for name in own)


@pytest.mark.full
def test_first_weights_of_an_auxiliary_head_are_the_seeds(plan, tmp_path):
    wanted = dataclasses.replace(plan, backbone="inception_v3")
    torch.manual_seed(1)
    one, again = (Trainer(LocalContext(tmp_path), wanted, 80).training for _ in range(2))
    other = dataclasses.replace(wanted, seed=4)
    third = Trainer(LocalContext(tmp_path), other, 80).training
    first, second, different = (t.auxiliary.conv1.conv.weight for t in (one, again, third))
    assert torch.equal(first, second)
    assert not torch.equal(first, different)
