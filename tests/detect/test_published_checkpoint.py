"""Our ResNet-50 network against the program that the published checkpoints come from."""

import subprocess
import sys

import pytest
import torch

from fattr.detect.network import RetinaFace, load_checkpoint

PACKAGE = "retinaface-pytorch==0.0.8"
REFERENCE = """
import sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import torch
from torch import nn
from retinaface.network import RetinaFace

torch.manual_seed(0)
network = RetinaFace(
    "Resnet50", pretrained=False, in_channels=256,
    return_layers={"layer2": 1, "layer3": 2, "layer4": 3}, out_channels=256,
).eval()
for module in network.modules():
    if isinstance(module, nn.BatchNorm2d):
        nn.init.uniform_(module.weight, 0.5, 1.5)
        nn.init.normal_(module.bias, 0, 0.1)
        nn.init.normal_(module.running_mean, 0, 0.1)
        nn.init.uniform_(module.running_var, 0.5, 1.5)
image = torch.randn(1, 3, 96, 160)
with torch.inference_mode():
    outputs = network(image)
torch.save(network.state_dict(), sys.argv[2] + "/state.pth")
torch.save([image, *outputs], sys.argv[2] + "/outputs.pth")
"""


def run(*arguments):
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """State and [image, boxes, classes, landmarks] of the published program's network."""
    code, made = tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("made")
    options = ("--no-deps", "--quiet", "--disable-pip-version-check", "--retries", "0")
    installed = run("-m", "pip", "install", *options, "--target", str(code), PACKAGE)
    if installed.returncode:
        last = (installed.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"pip cannot install {PACKAGE}: {last}")
    done = run("-c", REFERENCE, str(code), str(made))
    assert done.returncode == 0, done.stderr
    return tuple(
        torch.load(made / f"{name}.pth", weights_only=True) for name in ("state", "outputs")
    )


def test_the_same_tensors_give_the_same_outputs(published):
    state, (image, *wanted) = published
    ours = RetinaFace("resnet50").state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}
    network, backbone = load_checkpoint(state)
    assert backbone == "resnet50"
    with torch.inference_mode():
        outputs = network(image)
    for got, reference in zip(outputs, wanted, strict=True):
        assert reference.abs().max() > 0.1
        torch.testing.assert_close(got, reference, rtol=1e-4, atol=1e-4)
