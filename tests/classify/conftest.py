"""A small network with a head of every kind, and its two exports."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify.export import onnx_bytes, weights_bytes
from fattr.classify.network import AttributeNet


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks on a busy machine: more threads only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def attributes():
    return (attribute("smiling"), PERCEIVED_GENDER_PRESENTATION, AGE, attribute("bald"))


@pytest.fixture(scope="session")
def network(attributes):
    """With random batch norms: as after training, evaluation differs from training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = AttributeNet("tiny", attributes, dropout=0.3)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, 0, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return net.eval()


@pytest.fixture(scope="session")
def onnx_model(network):
    return onnx_bytes(network, (32, 24))


@pytest.fixture(scope="session")
def safetensors_model(network):
    return weights_bytes(network)
