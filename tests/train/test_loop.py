import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from torchvision.transforms.v2.functional import resize

from fattr.attributes import Attribute, Kind
from fattr.classify.network import AttributeNet
from fattr.errors import CannotTrainError
from fattr.labelled_crops import LabelledCrops
from fattr.train import checkpoint
from fattr.train.batches import (
    epoch_order,
    mirrored_targets,
    mixup_share,
    reduced_hw,
    resized,
    sample_seed,
)
from fattr.train.context import LocalContext
from fattr.train.input import Feed
from fattr.train.loop import Trainer, build_network, fit
from fattr.train.losses import multi_task_loss
from fattr.train.numerics import dtype_of
from fattr.train.validate import Measured, figures, some_of

TARGETS = np.zeros((80, 2), int)


def numbered(n):
    """Crops whose every pixel is their own number."""
    crops = np.zeros((n, 8, 8, 3), np.uint8) + np.arange(n, dtype=np.uint8)[:, None, None, None]
    targets = np.stack([np.arange(n), np.arange(n)], axis=1)
    return LabelledCrops(crops, targets, np.ones(n, bool), np.ones(n, np.float32), {})


def with_recipe(plan, **changes):
    return dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **changes))


def last_state(folder):
    return checkpoint.newest(LocalContext(folder).checkpoints())


def all_of(data):
    """What a trainer validates on."""
    return Measured(LocalContext(Path()), data, np.arange(len(data)))


def batches(data, plan, *, epoch, rank, world_size):
    """This worker's part of each whole global batch of an epoch."""
    with Feed(data, plan, num_processes=0) as feed:
        yield from feed.epoch(epoch, 0, rank, world_size)


def run_epoch(trainer, data):
    with Feed(data, trainer.plan, num_processes=0) as feed:
        return trainer.run_epoch(feed.epoch(trainer.epoch, trainer.position, 0, 1), data.size_hw)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, plan, train_crops, valid_crops):
    """The last checkpoint of four epochs without interruption."""
    folder = tmp_path_factory.mktemp("straight")
    fit(LocalContext(folder), plan, train_crops, valid_crops)
    return last_state(folder)


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_share_the_batches_of_one(epoch, world_size, plan):
    """Worker r has every W-th crop, augmented as if it were alone."""
    data = numbered(37)
    alone = list(batches(data, plan, epoch=epoch, rank=0, world_size=1))
    assert len(alone) == 37 // plan.recipe.batch_size
    shares = [
        list(batches(data, plan, epoch=epoch, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for index, (crops, targets) in enumerate(alone):
        for rank, share in enumerate(shares):
            assert torch.equal(share[index][0], crops[rank::world_size])
            assert torch.equal(share[index][1], targets[rank::world_size])
        assert crops.shape == (plan.recipe.batch_size, 8, 8, 3)


def test_crops_and_targets_stay_together(plan):
    plan = with_recipe(plan, augmentation="none")
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
        sample_seed(seed, epoch, position)
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
    assert straight.best_value == max(scores) > 0.95
    assert straight.best_epoch == 1 + scores.index(max(scores))
    assert straight.history[-1]["train_loss"] < straight.history[0]["train_loss"] / 2
    assert straight.history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_the_best_weights_are_those_of_the_best_epoch(straight, plan, valid_crops, tmp_path):
    trainer = Trainer(LocalContext(tmp_path), plan, TARGETS)
    trainer.ema.module.load_state_dict(straight.best_weights)
    assert trainer.validate(*[all_of(valid_crops)] * 2)["valid_score"] == straight.best_value


def test_the_score_leaves_out_what_has_no_label(plan):
    logits = np.float32([[5, 0, 1], [-5, 1, 0], [5, 0, 1], [5, 1, 0]])
    targets = np.array([[1, -1], [0, -1], [0, -1], [-1, -1]])
    assert figures(logits, targets, plan.attributes)["score"] == pytest.approx(2 / 3)
    targets[:, 1] = [1, 0, 1, 1]
    both = figures(logits, targets, plan.attributes)["score"]
    assert both == pytest.approx((2 / 3 + 3 / 4) / 2)


def test_an_epochs_figures_are_those_of_other_libraries(plan):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(60, 3)).astype(np.float32)
    targets = rng.integers(0, 2, (60, 2))
    targets[:9, 0] = -1
    got = figures(logits, targets, plan.attributes)
    known, truth = logits[9:, 0], targets[9:, 0]
    presentation = logits[:, 1:].argmax(axis=1)
    assert got["accuracy/smiling"] == pytest.approx(((known >= 0) == truth).mean())
    assert got["f1/smiling"] == pytest.approx(sklearn.metrics.f1_score(truth, known >= 0))
    assert got["average_precision/smiling"] == pytest.approx(
        sklearn.metrics.average_precision_score(truth, known)
    )
    accuracy = got["accuracy/perceived_gender_presentation"]
    assert accuracy == pytest.approx((presentation == targets[:, 1]).mean())
    assert got["accuracy"] == pytest.approx((got["accuracy/smiling"] + accuracy) / 2)


def test_mirrored_faces_have_mirrored_labels(plan):
    """Bright on the left is class 0, on the right class 1, whatever augmentation did."""
    facing = Attribute(
        name="facing",
        kind=Kind.CATEGORICAL,
        description="for tests",
        classes=("left", "right"),
        mirrored=(1, 0),
    )
    crops = np.zeros((64, 16, 16, 3), np.uint8)
    crops[:32, :, :8], crops[32:, :, 8:] = 200, 200
    targets = np.repeat([0, 1], 32)[:, None]
    targets[::8] = -1
    found = np.ones(64, bool)
    data = LabelledCrops(crops, targets, found, found.astype(np.float32), {})
    plan = dataclasses.replace(with_recipe(plan, augmentation="photo"), attributes=(facing,))
    seen = set()
    for epoch in range(2):
        for got, labels in batches(data, plan, epoch=epoch, rank=0, world_size=1):
            is_right = got[:, :, 8:].float().mean((1, 2, 3)) > got[:, :, :8].float().mean((1, 2, 3))
            known = labels[:, 0] >= 0
            assert torch.equal(is_right[known].long(), labels[known, 0])
            seen |= set(labels[:, 0].tolist())
    assert seen == {-1, 0, 1}
    np.testing.assert_array_equal(mirrored_targets(np.array([1]), (facing,)), [0])


@pytest.mark.parametrize(("augmentation", "least", "most"), [("photo", 130, 190), ("none", 0, 0)])
def test_half_the_crops_are_mirrored(plan, augmentation, least, most):
    """Of 320: 160 expected, three standard deviations are 27."""
    crops = np.zeros((64, 16, 16, 3), np.uint8)
    crops[:, :, 8:] = 200
    found = np.ones(64, bool)
    data = LabelledCrops(crops, np.zeros((64, 2), int), found, found.astype(np.float32), {})
    plan = with_recipe(plan, augmentation=augmentation)
    num_mirrored = 0
    for epoch in range(5):
        for got, _ in batches(data, plan, epoch=epoch, rank=0, world_size=1):
            left, right = (part.float().mean((1, 2, 3)) for part in got.chunk(2, dim=2))
            num_mirrored += int((left > right).sum())
    assert least <= num_mirrored <= most


def test_mixup_mixes_pictures_and_losses(plan, train_crops, tmp_path):
    plan = with_recipe(plan, dropout=0.0, mixup_alpha=0.2)
    trainer, seen = Trainer(LocalContext(tmp_path), plan, TARGETS), []
    trainer.network.eval()
    trainer.model = lambda crops, keys: (seen.append(crops) or trainer.network(crops),)
    crops = torch.from_numpy(train_crops.crops[:8])
    targets = torch.from_numpy(train_crops.targets[:8])
    mixed = 0.7 * crops.numpy() + 0.3 * np.roll(crops.numpy(), 4, axis=0)
    with torch.no_grad():
        logits = trainer.network(torch.from_numpy(mixed))
    losses = [
        float(multi_task_loss(logits, of, plan.attributes)) for of in (targets, targets.roll(4, 0))
    ]
    got = trainer.step(crops, targets, 0.7)
    np.testing.assert_allclose(seen[0], mixed, atol=1e-3)
    assert float(got) == pytest.approx(0.7 * losses[0] + 0.3 * losses[1], rel=1e-5)


def test_shares_of_mixup_are_a_beta_folded_at_a_half(plan):
    assert mixup_share(plan, epoch=0, step=0) == 1
    plan = with_recipe(plan, mixup_alpha=0.4)
    shares = [mixup_share(plan, epoch=e, step=s) for e in range(20) for s in range(100)]
    assert min(shares) >= 0.5
    folded = scipy.stats.beta(0.4, 0.4)
    wanted = [folded.cdf(x) - folded.cdf(1 - x) for x in (0.6, 0.8, 0.95)]
    got = [np.mean(np.array(shares) <= x) for x in (0.6, 0.8, 0.95)]
    assert got == pytest.approx(wanted, abs=0.04)
    assert shares[7] == mixup_share(plan, epoch=0, step=7)


@pytest.mark.parametrize(
    ("epoch", "size_hw"),
    [
        pytest.param(0, (64, 48), id="first"),
        pytest.param(2, (88, 72), id="between"),
        pytest.param(6, (128, 104), id="last-third"),
        pytest.param(8, (128, 104), id="last"),
    ],
)
def test_crops_grow(plan, epoch, size_hw):
    plan = with_recipe(plan, first_scale=0.5, epochs=9)
    assert reduced_hw((128, 104), plan.recipe, epoch) == size_hw
    whole = with_recipe(plan, first_scale=1.0).recipe
    assert reduced_hw((128, 104), whole, epoch) == (128, 104)


def test_resized_crops_are_torchvisions(train_crops):
    crops = torch.from_numpy(train_crops.crops[:3])
    planes = crops.permute(0, 3, 1, 2).float()
    wanted = resize(planes, [16, 8], antialias=True).permute(0, 2, 3, 1)
    torch.testing.assert_close(resized(crops, (16, 8)), wanted)
    assert resized(crops, (32, 24)) is crops


def first_epoch(plan, data, folder):
    trainer = Trainer(LocalContext(folder), plan, TARGETS)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    run_epoch(trainer, data)
    return before, trainer.network.state_dict()


def test_a_frozen_backbone_stays_and_the_heads_learn(plan, train_crops, tmp_path):
    before, after = first_epoch(with_recipe(plan, frozen_epochs=1), train_crops, tmp_path)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) != name.startswith("heads."), name


@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_parts_of_a_batch_add_up_to_it(plan, train_crops, tmp_path, clip_norm):
    """With a frozen backbone, whose batch statistics would depend on the part."""
    plan = with_recipe(plan, frozen_epochs=1, optimizer="sgd", clip_norm=clip_norm)
    whole = first_epoch(plan, train_crops, tmp_path)[1]
    parts = first_epoch(with_recipe(plan, accumulate=4), train_crops, tmp_path)[1]
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)


def test_clipped_steps_are_short(plan, train_crops, tmp_path):
    plan = with_recipe(plan, optimizer="sgd", weight_decay=0.0, clip_norm=1e-3, warmup_frac=0.01)
    before, after = first_epoch(plan, train_crops, tmp_path)
    learnt = [n for n, tensor in after.items() if tensor.ndim and "running" not in n]
    moved = torch.stack([(after[n].float() - before[n].float()).norm() for n in learnt]).norm()
    # Ten steps of norm rate * 1e-3, which Nesterov momentum of 0.9 makes at most ten times longer.
    assert 0 < moved <= 10 * 10 * plan.recipe.learning_rate * 1e-3


def test_bf16_learns_as_well(plan, train_crops, valid_crops, tmp_path):
    fit(
        LocalContext(tmp_path),
        with_recipe(plan, precision="bf16"),
        train_crops,
        valid_crops,
    )
    assert last_state(tmp_path).best_value > 0.95


def test_frozen_batch_statistics_stay_and_weights_learn(plan, train_crops, tmp_path):
    before, after = first_epoch(with_recipe(plan, freeze_batch_norm=True), train_crops, tmp_path)
    for name, tensor in after.items():
        is_statistic = name in ("mean", "std") or name.split(".")[-1] in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        )
        assert torch.equal(tensor, before[name]) == is_statistic, name


def test_repeatable_algorithms_are_asked_for_while_training_alone(
    plan, train_crops, valid_crops, tmp_path
):
    seen = []

    class Looking(LocalContext):
        def report(self, metrics, checkpoint):
            super().report(metrics, checkpoint)
            seen.append(torch.are_deterministic_algorithms_enabled())

    for wanted in (True, False):
        recipe = with_recipe(plan, epochs=1, deterministic=wanted)
        fit(Looking(tmp_path / str(wanted)), recipe, train_crops, valid_crops)
        assert not torch.are_deterministic_algorithms_enabled()
    assert seen == [True, False]


def test_precision_by_device():
    cpu = torch.device("cpu")
    assert dtype_of("auto", cpu) is dtype_of("fp32", cpu) is torch.float32
    assert (dtype_of("bf16", cpu), dtype_of("fp16", cpu)) == (torch.bfloat16, torch.float16)


def test_a_run_that_stalls_is_stopped(plan, train_crops, valid_crops, tmp_path):
    plan = with_recipe(plan, learning_rate=1e-30, patience=2, epochs=9)
    fit(LocalContext(tmp_path), plan, train_crops, valid_crops)
    state = last_state(tmp_path)
    assert (state.epoch, state.best_epoch) == (state.best_epoch + 2, state.best_epoch)
    assert state.epoch < 9


def test_a_metric_that_an_epoch_lacks_is_never_the_best(plan, train_crops, valid_crops, tmp_path):
    """Without a true face in valid there is no average precision; the first epoch is kept."""
    valid = dataclasses.replace(valid_crops, targets=np.zeros_like(valid_crops.targets))
    only = dataclasses.replace(plan, attributes=plan.attributes[:1])
    data = [dataclasses.replace(d, targets=d.targets[:, :1]) for d in (train_crops, valid)]
    wanted = with_recipe(only, best_metric="average_precision", epochs=2)
    fit(LocalContext(tmp_path), wanted, *data)
    state = last_state(tmp_path)
    assert (state.best_value, state.best_epoch) == (-np.inf, 1)
    assert state.best_weights


def test_weights_that_are_not_finite_end_the_run(plan, train_crops, valid_crops, tmp_path):
    trainer = Trainer(LocalContext(tmp_path), plan, TARGETS)
    next(trainer.ema.module.parameters()).data.fill_(float("nan"))
    with pytest.raises(CannotTrainError, match="lower --learning-rate"):
        trainer.validate(all_of(valid_crops), all_of(train_crops))


@pytest.mark.parametrize("metric", ["score", "accuracy", "f1", "average_precision", "loss"])
def test_the_best_epoch_is_by_the_metric_asked_for(
    plan, train_crops, valid_crops, tmp_path, metric
):
    plan = with_recipe(plan, best_metric=metric, epochs=3)
    fit(LocalContext(tmp_path), plan, train_crops, valid_crops)
    state = last_state(tmp_path)
    values = [row[f"valid_{metric}"] * (-1 if metric == "loss" else 1) for row in state.history]
    assert state.best_value == max(values)
    assert state.best_epoch == 1 + values.index(max(values))


def test_a_loss_that_is_not_finite_ends_the_run(plan, train_crops, valid_crops, tmp_path):
    plan = with_recipe(plan, learning_rate=1e30, optimizer="sgd")
    with pytest.raises(CannotTrainError, match="NaN or infinite by epoch 1: lower --learning-rate"):
        fit(LocalContext(tmp_path), plan, train_crops, valid_crops)
    assert not any(tmp_path.iterdir())


def full_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory")


def full_machine(*_):
    return torch.empty(10**15)


@pytest.mark.parametrize("full", [full_gpu, full_machine])
def test_too_little_memory_names_a_batch_size(
    plan, train_crops, valid_crops, tmp_path, monkeypatch, full
):
    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(CannotTrainError, match="batches of 8: try --batch-size 4"):
        fit(LocalContext(tmp_path), plan, train_crops, valid_crops)


def test_some_of_the_data_are_always_the_same():
    chosen = some_of(30, 10, seed=1)
    assert len(set(chosen.tolist())) == 10
    assert sorted(chosen.tolist()) == chosen.tolist() == some_of(30, 10, seed=1).tolist()
    assert chosen.tolist() != some_of(30, 10, seed=2).tolist()
    assert some_of(30, 99, seed=1).tolist() == list(range(30))


class WeighedContext(LocalContext):
    """Notes the process's memory after each epoch, in bytes."""

    def report(self, metrics, checkpoint):
        super().report(metrics, checkpoint)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.weights.append(pages * os.sysconf("SC_PAGE_SIZE"))


@pytest.mark.full
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_over_epochs(plan, train_crops, valid_crops, tmp_path):
    context = WeighedContext(tmp_path)
    context.weights = []
    fit(context, with_recipe(plan, epochs=60), train_crops, valid_crops)
    settled, last = np.median(context.weights[15:25]), np.median(context.weights[-10:])
    # A batch kept from each of the 350 steps between would be 6 MB.
    assert last - settled < 4e6


@pytest.mark.full
def test_an_auxiliary_head_is_trained_kept_for_resuming_and_never_served(plan, tmp_path):
    """Inception-v3, two steps on noise."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (8, 75, 75, 3), np.uint8)
    targets = rng.integers(0, 2, (8, 2))
    data = LabelledCrops(crops, targets, np.ones(8, bool), np.ones(8, np.float32), {})
    short = with_recipe(plan, epochs=1, batch_size=4, augmentation="none")
    wanted = dataclasses.replace(short, backbone="inception_v3")
    first = Trainer(LocalContext(tmp_path), wanted, TARGETS).training.state_dict()
    fit(LocalContext(tmp_path), wanted, data, data)
    state = last_state(tmp_path)
    own = {name for name in state.model if name.startswith("auxiliary.")}
    moved = {name for name in own if not torch.equal(state.model[name], first[name])}
    assert moved == own
    assert own
    served = AttributeNet("inception_v3", plan.attributes).state_dict().keys()
    assert state.best_weights.keys() == served
    resumed = Trainer(LocalContext(tmp_path), wanted, TARGETS)
    resumed.restore(state)
    again = resumed.training.state_dict()
    assert all(torch.equal(again[name], state.model[name]) for name in own)


@pytest.mark.full
def test_first_weights_of_an_auxiliary_head_are_the_seeds(plan, tmp_path):
    wanted = dataclasses.replace(plan, backbone="inception_v3")
    torch.manual_seed(1)
    one, again = (Trainer(LocalContext(tmp_path), wanted, TARGETS).training for _ in range(2))
    other = dataclasses.replace(wanted, seed=4)
    third = Trainer(LocalContext(tmp_path), other, TARGETS).training
    first, second, different = (t.auxiliary.conv1.conv.weight for t in (one, again, third))
    assert torch.equal(first, second)
    assert not torch.equal(first, different)
