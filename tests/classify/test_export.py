"""The ONNX file of every architecture says what torch says."""

import numpy as np
import pytest
import torch
from torch import nn

from fattr.attributes import AGE, attribute
from fattr.classify.backbones import BACKBONES
from fattr.classify.classifier import onnx_forward, torch_forward
from fattr.classify.export import onnx_bytes
from fattr.classify.network import AttributeNet

ATTRIBUTES = (attribute("smiling"), AGE)
SIZE_HW = (80, 76)  # near the least that Inception takes
OFTEN = ("mobilenet_v2", "resnet18", "efficientnet_b0")


def trained_looking(name):
    """Random weights with the batch statistics of some crops, so that features do not vanish."""
    torch.manual_seed(0)
    network = AttributeNet(name, ATTRIBUTES)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.randint(0, 256, (6, *SIZE_HW, 3), dtype=torch.uint8))
    return network.eval()


def assert_onnx_equals_torch(name):
    with torch.random.fork_rng(devices=[]):
        network = trained_looking(name)
    crops = np.random.default_rng(1).integers(0, 256, (3, *SIZE_HW, 3)).astype(np.uint8)
    wanted = torch_forward(network, device="cpu")(crops)
    assert np.abs(wanted[0] - wanted[1]).max() > 1e-2  # the crops are told apart
    got = onnx_forward(onnx_bytes(network, SIZE_HW), num_threads=1)(crops)
    np.testing.assert_allclose(got, wanted, atol=1e-3, rtol=0)


@pytest.mark.full
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0"])
def test_onnx_equals_torch_for_some(name):
    assert_onnx_equals_torch(name)


@pytest.mark.drills
@pytest.mark.parametrize("name", BACKBONES)
def test_onnx_equals_torch_for_all(name):
    assert_onnx_equals_torch(name)
