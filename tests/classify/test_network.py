import pickle

import numpy as np
import pytest
import torch
from torchvision import models

from fattr.attributes import attribute
from fattr.classify.network import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    AttributeNet,
    load_backbone,
)
from fattr.errors import UsageError

SMILING = (attribute("smiling"),)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_gives_a_logit_for_each_output(backbone, attributes):
    network = AttributeNet(backbone, attributes).eval()
    with torch.inference_mode():
        logits = network(torch.zeros((2, 64, 52, 3), dtype=torch.uint8))
    assert logits.shape == (2, 1 + 2 + 9 + 1)
    assert torch.isfinite(logits).all()


def test_pixels_are_normalised_as_torchvision_does():
    weights = models.MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    np.testing.assert_allclose(np.array(IMAGENET_MEAN) / 255, weights.mean, atol=1e-6)
    np.testing.assert_allclose(np.array(IMAGENET_STD) / 255, weights.std, atol=1e-6)


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


def test_torchvisions_features_are_taken_over(tmp_path):
    reference = models.mobilenet_v2(weights=None)
    torch.save(reference.state_dict(), tmp_path / "mobilenet.pth")
    network = AttributeNet("mobilenet_v2", SMILING)
    load_backbone(network, tmp_path / "mobilenet.pth")
    wanted = reference.features.state_dict()
    got = network.features.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


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
    assert str(caught.value) == f"{path}: not weights of this backbone's features"


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError) as caught:
        AttributeNet("vgg", SMILING)
    assert str(caught.value) == f"unknown backbone 'vgg': one of {sorted(BACKBONES)} expected"
