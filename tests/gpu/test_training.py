"""What training promises on a GPU; selected without one, these fail.

Two workers share one GPU here, which NCCL refuses: they talk by gloo.
"""

import dataclasses

import numpy as np
import pytest
import torch
from training_group import distance, steps, trained, workers

from fattr.attributes import PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.labelled_crops import LabelledCrops
from fattr.train.plan import Recipe, TrainPlan

pytestmark = pytest.mark.gpu
ATTRIBUTES = (attribute("smiling"), PERCEIVED_GENDER_PRESENTATION)


@pytest.fixture(scope="module")
def group():
    assert torch.cuda.is_available(), "selected with -m gpu, but there is no CUDA device"
    with workers(2) as found:
        yield found


@pytest.fixture(scope="module")
def plan():
    return TrainPlan(
        backbone="tiny",
        attributes=ATTRIBUTES,
        seed=3,
        init_weights=None,
        recipe=Recipe(
            augmentation="photo",
            epochs=2,
            batch_size=8,
            learning_rate=0.03,
            optimizer="sgd",
            mixup_alpha=0.4,
            checkpoint_every=3,
            deterministic=True,
        ),
    )


def noise(n):
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (n, 64, 48, 3)).astype(np.uint8)
    targets, found = rng.integers(0, 2, (n, 2)), np.ones(n, bool)
    return LabelledCrops(crops, targets, found, found.astype(np.float32), {})


@pytest.mark.parametrize("num_samples", [8, 7])
def test_two_workers_share_their_batch_statistics(group, plan, num_samples):
    """And so train as one does, also where one has a sample more."""
    recipe = dataclasses.replace(plan.recipe, batch_size=num_samples)
    plan = dataclasses.replace(plan, recipe=recipe)
    data = noise(num_samples)
    batch = torch.from_numpy(data.crops), torch.from_numpy(data.targets)
    start, _ = group.run(1, steps, plan, *batch, 0, "cuda")[0]
    (alone, losses), *_ = group.run(1, steps, plan, *batch, 10, "cuda")
    (one, its), (other, others) = group.run(2, steps, plan, *batch, 10, "cuda")
    assert distance(one, other) == 0
    assert distance(one, alone) < 1e-2 * distance(alone, start)
    np.testing.assert_allclose(np.add(its, others), losses, rtol=1e-2)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("precision", ["fp32", "auto", "fp16"])
def test_a_stopped_run_continues_to_the_same_bits(group, plan, tmp_path, world_size, precision):
    recipe = dataclasses.replace(plan.recipe, precision=precision)
    plan = dataclasses.replace(plan, backbone="mobilenet_v3_small", recipe=recipe)
    arguments = plan, noise(80), noise(24)
    straight, stopped = (
        group.run(world_size, trained, *arguments, tmp_path / name, stops, "cuda")[0]
        for name, stops in (("straight", ()), ("stopped", (1, 2, 1, 2)))
    )
    assert distance(stopped.model, straight.model) == 0
    assert distance(stopped.best_weights, straight.best_weights) == 0
    losses = [[row["train_loss"] for row in s.history] for s in (straight, stopped)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"compile": True}, id="compiled"),
        pytest.param({"precision": "fp16"}, id="fp16"),
        pytest.param({"precision": "bf16"}, id="bf16"),
        pytest.param({"compile": True, "precision": "fp16", "channels_last": True}, id="all"),
    ],
)
@pytest.mark.filterwarnings("default")  # of torch's compiler
def test_what_makes_it_faster_does_not_change_what_is_learnt(group, plan, tmp_path, changes):
    plan = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, deterministic=False))
    faster = dataclasses.replace(plan, recipe=dataclasses.replace(plan.recipe, **changes))
    one, other = (
        group.run(1, trained, its, noise(80), noise(24), tmp_path / name, (), "cuda")[0]
        for name, its in (("plain", plan), ("faster", faster))
    )
    losses = [[row["train_loss"] for row in state.history] for state in (one, other)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    assert one.history[-1]["epoch"] == other.history[-1]["epoch"] == 2
