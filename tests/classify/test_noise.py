"""Noise by key, against published numbers, statistics and torch's own layers."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn
from torchvision.ops import StochasticDepth

from fattr.attributes import attribute
from fattr.classify.network import AttributeNet, TrainingNet
from fattr.classify.noise import GOLDEN, KeyedNoise, Keys, key_noise, mixed, uniform


def test_the_mixing_is_splitmix64():
    """Its first numbers from the seed 1234567, as published with many implementations."""
    counters = 1234567 + torch.arange(1, 6) * GOLDEN
    assert mixed(counters).numpy().view(np.uint64).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@pytest.fixture(scope="module")
def drawn():
    """Of 300 neighbouring keys, three layers, 40 columns."""
    return np.stack([uniform(torch.arange(300), layer, 40).numpy() for layer in range(3)])


def test_numbers_are_uniform(drawn):
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert scipy.stats.kstest(drawn.ravel(), "uniform").pvalue > 0.01


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["layers", "samples", "columns"])
def test_neighbours_are_independent(drawn, axis):
    one, other = (np.take(drawn, i, axis).ravel() for i in (0, 1))
    assert abs(scipy.stats.spearmanr(one, other).statistic) < 4 / np.sqrt(len(one))
    shifted = np.moveaxis(drawn, axis, 0)
    pairs = np.corrcoef(shifted[:-1].ravel(), shifted[1:].ravel())[0, 1]
    assert abs(pairs) < 4 / np.sqrt(shifted[1:].size)


def test_a_samples_numbers_are_its_keys_alone():
    keys = torch.tensor([5, -3, 2**62, 8])
    together = uniform(keys, 2, 7)
    for row, key in zip(together, keys, strict=True):
        assert torch.equal(uniform(key[None], 2, 7)[0], row)


@pytest.mark.parametrize("whole", [False, True])
def test_noise_sets_to_zero_and_scales(whole):
    keys, p = Keys(), 0.3
    keys.now = torch.arange(2000)
    layer = KeyedNoise(keys, 0, p=p, whole=whole)
    x = torch.full((2000, 2, 3, 4), 7.0)
    got = layer(x)
    assert torch.equal(got, layer(x))
    kept = got.flatten(1) != 0
    assert torch.equal(got.flatten(1)[kept], torch.full((int(kept.sum()),), 7 / (1 - p)))
    shares = kept.float().mean(dim=1)
    assert (set(shares.tolist()) == {0.0, 1.0}) == whole
    deviation = np.sqrt(p * (1 - p) / (2000 if whole else kept.numel()))
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=4 * deviation)
    assert layer.eval()(x) is x


@pytest.mark.parametrize("name", ["tiny", "convnext_tiny", "efficientnet_b0"])
def test_every_noisy_layer_of_a_network_is_replaced_by_its_like(name):
    network = AttributeNet(name, (attribute("smiling"),), dropout=0.25)
    torchs = [m for m in network.modules() if isinstance(m, nn.Dropout | StochasticDepth)]
    names = list(network.state_dict())
    key_noise(network)
    own = [m for m in network.modules() if isinstance(m, KeyedNoise)]
    assert [m.p for m in own] == [m.p for m in torchs]
    assert [m.whole for m in own] == [isinstance(m, StochasticDepth) for m in torchs]
    assert sorted(m.layer for m in own) == list(range(len(torchs)))
    assert not any(isinstance(m, nn.Dropout | StochasticDepth) for m in network.modules())
    assert list(network.state_dict()) == names


def test_a_sample_trains_alike_in_any_company():
    """In a network without batch statistics, with stochastic depth and dropout."""
    network = AttributeNet("convnext_tiny", (attribute("smiling"),), dropout=0.5)
    training = TrainingNet(network).train()
    crops = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8)
    keys = torch.arange(6) * 7
    with torch.no_grad():
        (together,) = training(crops, keys)
        (half,) = training(crops[1::2], keys[1::2])
        (others,) = training(crops, keys + 1)
    torch.testing.assert_close(half, together[1::2], rtol=1e-4, atol=1e-5)
    assert not torch.isclose(others, together, rtol=1e-3).any()
