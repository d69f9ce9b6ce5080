import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from fattr.attributes import attribute
from fattr.classify.network import AttributeNet, TrainingNet
from fattr.train.optim import build_optimizer, build_schedule


def sgd(rate=0.4):
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def rates(schedule, optimizer, n):
    seen = []
    for _ in range(n):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(("num_steps", "warmup"), [(50, 5), (40, 20), (10, 1)])
def test_the_schedule_is_torchs_linear_then_cosine(num_steps, warmup):
    optimizer = sgd()
    schedule = build_schedule(optimizer, num_steps=num_steps, warmup_frac=warmup / num_steps)
    got = rates(schedule, optimizer, num_steps)
    rising = sgd()
    linear = LinearLR(rising, start_factor=1 / warmup, total_iters=max(1, warmup - 1))
    falling = sgd()
    cosine = CosineAnnealingLR(falling, T_max=num_steps - warmup)
    wanted = rates(linear, rising, warmup) + rates(cosine, falling, num_steps - warmup)
    assert got == pytest.approx(wanted, rel=1e-6)
    assert max(got) == pytest.approx(0.4)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("num_steps", [1, 2])
def test_a_run_of_hardly_any_step_has_a_rate(num_steps):
    optimizer = sgd()
    got = rates(build_schedule(optimizer, num_steps=num_steps, warmup_frac=0.1), optimizer, 1)
    assert got == [0.4]


def test_only_matrices_decay():
    """One step without gradients: what shrinks by rate times decay is decayed."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for parameter in model.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    build_optimizer(model, name="adamw", learning_rate=0.1, weight_decay=0.5).step()
    left = {name: p.detach().flatten()[0].item() for name, p in model.named_parameters()}
    decayed = {"0.weight", "3.weight"}
    assert left == pytest.approx({name: 0.95 if name in decayed else 1.0 for name in left})


def test_a_frozen_backbone_is_features_and_neck():
    """Whose weights come from ImageNet; the heads, and an auxiliary one, learn from the start."""
    training = TrainingNet(AttributeNet("mobilenet_v3_small", (attribute("smiling"),)))
    optimizer = build_optimizer(training, name="adamw", learning_rate=0.1, weight_decay=0.0)
    build_schedule(optimizer, num_steps=10, warmup_frac=0.1, frozen_steps=5)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    learning = {name for name, p in training.named_parameters() if rates[id(p)] > 0}
    assert learning == {"network.heads.smiling.weight", "network.heads.smiling.bias"}
