import itertools

import pytest
import torch

from fattr.attributes import attribute
from fattr.classify import cost as costs
from fattr.classify.cost import Cost, architectures_table, cost_table, count, measure
from fattr.errors import UsageError

SMILING = (attribute("smiling"),)


def test_counts_of_a_network_by_hand():
    """Three convolutions of stride 2 on 16 x 8 pixels, batch norms, and a linear layer of 64."""
    convolutions = [3 * 16 * 9, 16 * 32 * 9, 32 * 64 * 9]
    places = [8 * 4, 4 * 2, 2 * 1]
    parameters, multiply_adds = count("tiny", SMILING, (16, 8))
    assert parameters == sum(convolutions) + 2 * (16 + 32 + 64) + 64 + 1
    assert multiply_adds == sum(c * n for c, n in zip(convolutions, places, strict=True)) + 64


def test_the_time_is_the_median_after_the_warm_up(monkeypatch):
    """A clock by hand: runs of 100 (warm-up), 2, 40 and 4 seconds, of 8 crops each."""
    ticks = itertools.accumulate([0, 100, 0, 2, 0, 40, 0, 4])
    monkeypatch.setattr(costs.time, "perf_counter", lambda: float(next(ticks)))
    seen = []

    def network(crops):
        seen.append(len(crops))
        return crops

    assert costs.ms_per_image(network, torch.zeros(8, 4, 4, 3)) == 4000 / 8
    assert seen == [8] * 4


def test_measuring_leaves_the_callers_generator_alone():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    cost = measure("tiny", SMILING, (32, 24), device="cpu", batch_size=2)
    assert torch.equal(torch.rand(2), wanted)
    assert (cost.parameters, cost.multiply_adds) == count("tiny", SMILING, (32, 24))
    assert cost.backbone == "tiny"
    assert cost.batch_size == 2


def test_crops_too_small_for_a_backbone_are_refused_before_anything_runs():
    with pytest.raises(UsageError, match="vgg16_bn needs crops of 32 px or more a side, got 31x40"):
        measure("vgg16_bn", SMILING, (31, 40), device="cpu", batch_size=1)


def test_a_cost_is_a_row_under_its_header():
    one = Cost(
        backbone="resnet18",
        parameters=11_180_000,
        multiply_adds=1_814_400_000,
        ms_alone=12.345,
        ms_batched=8.5,
        batch_size=16,
    )
    header, row = cost_table([one]).splitlines()
    assert row.split() == ["resnet18", "11.18", "M", "1814", "M", "12.35", "8.50"]
    assert header.endswith("ms/image, 16 at once")
    assert len(header) == len(row)


def test_the_table_has_every_backbone_and_says_which_need_larger_crops(monkeypatch):
    def without_a_clock(name, attributes, size_hw, *, device, batch_size):
        return Cost(
            backbone=name,
            parameters=0,
            multiply_adds=0,
            ms_alone=0,
            ms_batched=0,
            batch_size=batch_size,
        )

    monkeypatch.setattr(costs, "measure", without_a_clock)
    head, table, *too_small = architectures_table(SMILING, (60, 31), device="cpu", batch_size=4)
    assert head.startswith("crops of 60x31 (height x width), 1 attributes, cpu, ")
    names = [line.split()[0] for line in table.splitlines()[1:]]
    assert too_small == [
        f"{name} needs crops of {px} px or more a side"
        for name, px in (("vgg16_bn", 32), ("inception_v3", 75), ("convnext_tiny", 32))
    ]
    assert set(names) == set(costs.BACKBONES) - {"vgg16_bn", "inception_v3", "convnext_tiny"}
