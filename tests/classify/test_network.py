import pickle

import pytest
import torch
from torch.nn import functional as F
from torchvision import models
from torchvision.models.inception import InceptionAux

from fattr.attributes import attribute
from fattr.classify.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD
from fattr.classify.network import AttributeNet, AuxiliaryHead, TrainingNet, load_backbone
from fattr.errors import UsageError

SMILING = (attribute("smiling"),)


def test_logits_stand_in_the_attributes_order(network, attributes):
    """Each slice of the output is what that attribute's own head says."""
    crops = torch.randint(0, 256, (3, 32, 24, 3), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(crops)
        mean, std = (torch.tensor(values) for values in (IMAGENET_MEAN, IMAGENET_STD))
        pixels = ((crops - mean) / std).permute(0, 3, 1, 2)
        pooled = network.features(pixels).mean(dim=(2, 3))
        heads = [network.heads[a.name](pooled) for a in attributes]
    torch.testing.assert_close(logits, torch.cat(heads, dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({}, id="nothing"),
        pytest.param([1, 2], id="a-list"),
        pytest.param({1: torch.zeros(2)}, id="numbered"),
        pytest.param({"features.0.0.weight": torch.zeros(2)}, id="one-tensor"),
        pytest.param(b"<html>404</html>", id="html"),
        pytest.param(b"", id="empty-file"),
        pytest.param(pickle.dumps({"a": 1}, protocol=2), id="pickle"),
    ],
)
def test_a_file_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(UsageError) as caught:
        load_backbone(AttributeNet("mobilenet_v2", SMILING), path)
    assert str(caught.value) == f"{path}: not torchvision's weights of mobilenet_v2"


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError) as caught:
        AttributeNet("vgg", SMILING)
    assert str(caught.value) == f"unknown backbone 'vgg': one of {sorted(BACKBONES)} expected"


@pytest.mark.parametrize(
    ("backbone", "other"), [("resnet18", "resnet34"), ("mobilenet_v3_small", "mobilenet_v3_large")]
)
def test_weights_of_a_larger_relative_are_refused(backbone, other, tmp_path):
    """All names of resnet18 are in resnet34's checkpoint, with the same shapes."""
    path = tmp_path / "weights.pth"
    torch.save(models.get_model(other, weights=None).state_dict(), path)
    with pytest.raises(UsageError) as caught:
        load_backbone(AttributeNet(backbone, SMILING), path)
    assert str(caught.value) == f"{path}: not torchvision's weights of {backbone}"


def test_a_network_without_auxiliary_head_trains_as_it_is(network):
    crops = torch.randint(0, 256, (3, 32, 24, 3), dtype=torch.uint8)
    training = TrainingNet(network).eval()
    with torch.inference_mode():
        (logits,) = training(crops, torch.arange(3))
        torch.testing.assert_close(logits, network(crops), rtol=0, atol=0)
    assert training.state_dict().keys() == {f"network.{name}" for name in network.state_dict()}


def test_the_auxiliary_head_is_torchvisions_behind_the_pooling(attributes):
    """Of a map of 17 x 17, pooled as torchvision does it; 5 x 5 is then left as it is."""
    reference = InceptionAux(768, 13).eval()
    state = reference.state_dict()
    for name in ("weight", "bias"):
        parts = state.pop(f"fc.{name}").split([a.num_logits for a in attributes])
        state |= {f"heads.{a.name}.{name}": p for a, p in zip(attributes, parts, strict=True)}
    auxiliary = AuxiliaryHead(attributes).eval()
    auxiliary.load_state_dict(state)
    maps = torch.randn(2, 768, 17, 17, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        got = auxiliary(F.avg_pool2d(maps, kernel_size=5, stride=3))
        torch.testing.assert_close(got, reference(maps), rtol=1e-4, atol=1e-5)
