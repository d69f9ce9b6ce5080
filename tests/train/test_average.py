import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fattr.attributes import attribute
from fattr.classify.network import AttributeNet
from fattr.train.average import Average

DECAY = 0.9
COUNTER = "num_batches_tracked"


@pytest.fixture(params=["with batch norm", "without"])
def network(request):
    """The one has buffers of both kinds, the other none."""
    torch.manual_seed(0)
    if request.param == "without":
        return nn.Linear(3, 2)
    return AttributeNet("mobilenet_v2", [attribute("smiling")])


@torch.no_grad()
def change(network):
    for tensor in [*network.parameters(), *network.buffers()]:
        tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)


def test_it_is_torchs_own_average_to_the_bit(network):
    average = Average(network, decay=DECAY)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True)
    for _ in range(3):
        change(network)
        average.update()
        theirs.update_parameters(network)
    got, wanted, now = average.state_dict(), theirs.state_dict(), network.state_dict()
    assert got.keys() == wanted.keys()
    assert got["n_averaged"] == wanted["n_averaged"] == 3
    floats = [name for name in got if not name.endswith(COUNTER)]
    assert [name for name in floats if not torch.equal(got[name], wanted[name])] == []
    assert any(not torch.equal(got[f"module.{name}"], now[name]) for name in now)
    counters = [name for name in now if name.endswith(COUNTER)]
    assert all(got[f"module.{name}"] == now[name] == 3 for name in counters)


def test_it_goes_on_from_its_state(network):
    average = Average(network, decay=DECAY)
    average.update()
    other = Average(network, decay=DECAY)
    other.load_state_dict(average.state_dict())
    change(network)
    average.update()
    other.update()
    got, wanted = other.state_dict(), average.state_dict()
    assert [name for name in got if not torch.equal(got[name], wanted[name])] == []
