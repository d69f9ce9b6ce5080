"""Every architecture against torchvision's own: its features, its size, its cost; and it learns."""

import pytest
import torch
from torch import nn
from torchvision import models

from fattr.attributes import PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify.backbones import BACKBONES, backbone_named, check_crop_size
from fattr.classify.classifier import load_network
from fattr.classify.cost import count
from fattr.classify.export import weights_bytes
from fattr.classify.network import AttributeNet, TrainingNet, load_backbone
from fattr.errors import UsageError
from fattr.train.losses import joint_loss, multi_task_loss

ATTRIBUTES = (attribute("smiling"), PERCEIVED_GENDER_PRESENTATION)
FROM_TORCHVISION = [name for name in BACKBONES if name != "tiny"]
# Tens of millions of parameters: seconds each.
HEAVY = {"vgg16_bn", "resnet50", "inception_v3", "convnext_tiny"}


def marked(names):
    return [pytest.param(n, marks=[pytest.mark.full] if n in HEAVY else []) for n in names]


def crops_of(size_hw, n=2):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, *size_hw, 3), dtype=torch.uint8, generator=generator)


def torchvision_classifier(name):
    options = {"init_weights": False} if name == "inception_v3" else {}
    return models.get_model(name, weights=None, **options)


def trained_looking(name):
    """With the batch statistics of some crops, so that features do not vanish."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        reference = torchvision_classifier(name).train()
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        auxiliary = getattr(reference, "AuxLogits", None)
        reference.AuxLogits = None  # Inception's, in training mode, needs crops of 299
        with torch.no_grad():
            reference(torch.randn(6, 3, 112, 96))
        reference.AuxLogits = auxiliary
    return reference.eval()


def without_last_layer(reference):
    """The classifier up to what its last linear layer takes, for one whole forward pass."""
    if isinstance(reference, models.VGG):
        reference.avgpool = nn.AdaptiveAvgPool2d(1)  # fattr's has none of its linear layers
        reference.classifier = nn.Identity()
    elif isinstance(reference, models.ResNet | models.Inception3):
        reference.fc = nn.Identity()
    else:
        reference.classifier[-1] = nn.Identity()
    if isinstance(reference, models.Inception3):
        reference.transform_input = True  # as its ImageNet weights are used
    return reference


@pytest.mark.parametrize("name", marked(FROM_TORCHVISION))
def test_with_torchvisions_checkpoint_the_features_are_torchvisions(name, tmp_path):
    reference = trained_looking(name)
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    network = AttributeNet(name, ATTRIBUTES).eval()
    load_backbone(network, tmp_path / "weights.pth")
    crops = crops_of((112, 96))
    imagenet = models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (imagenet.mean, imagenet.std))
    seen = []
    for head in network.heads.values():
        head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        wanted = without_last_layer(reference)((crops.permute(0, 3, 1, 2) / 255 - mean) / std)
        network(crops)
    scale = float(wanted.abs().max())
    assert float((wanted[0] - wanted[1]).abs().max()) > 0.05 * scale  # the crops are told apart
    for features in seen:
        torch.testing.assert_close(features / scale, wanted / scale, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", marked(BACKBONES))
def test_every_architecture_learns_saves_and_loads(name, attributes):
    """Two steps at the smallest crops it takes; its bundle's weights then say the same."""
    px = max(BACKBONES[name].min_px, 32)
    crops, targets = crops_of((px, px + 3)), torch.tensor([[1, 0, 3, -1], [0, 1, -1, 1]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        training = TrainingNet(AttributeNet(name, attributes)).train()
        before = {n: p.detach().clone() for n, p in training.named_parameters()}
        optimizer = torch.optim.AdamW(training.parameters(), lr=0.01)
        for _ in range(2):
            outputs = training(crops, torch.arange(2))
            assert {logits.shape for logits in outputs} == {(2, 1 + 2 + 9 + 1)}
            loss = joint_loss([multi_task_loss(x, targets, attributes) for x in outputs])
            assert torch.isfinite(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    still = {n for n, p in training.named_parameters() if torch.equal(p, before[n])}
    assert still == set()
    network = training.network.eval()
    loaded = load_network(name, attributes, weights_bytes(network))
    assert loaded.state_dict().keys() == network.state_dict().keys()
    with torch.inference_mode():
        assert torch.equal(loaded(crops), network(crops))


@pytest.mark.full
def test_the_auxiliary_head_teaches_the_layers_below_it_and_is_not_kept(attributes):
    training = TrainingNet(AttributeNet("inception_v3", attributes)).train()
    assert any(name.startswith("auxiliary.") for name in training.state_dict())
    assert not any("aux" in name.lower() for name in training.network.state_dict())
    _, auxiliary = training(crops_of((80, 75)), torch.arange(2))
    auxiliary.sum().backward()
    taught = {
        name.split(".")[0]
        for name, parameter in training.network.features.named_parameters()
        if parameter.grad is not None
    }
    names = [name for name, _ in training.network.features.named_children()]
    below = set(names[: names.index("Mixed_6e") + 1])
    assert taught == below - {"maxpool1", "maxpool2"}


def last_layers(reference):
    """What fattr leaves out of a torchvision classifier."""
    if isinstance(reference, models.Inception3):
        return [reference.AuxLogits, reference.fc]
    if isinstance(reference, models.ResNet):
        return [reference.fc]
    start = 0 if isinstance(reference, models.VGG) else -1
    return [m for m in reference.classifier[start:] if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("name", FROM_TORCHVISION)
def test_parameters_and_multiply_adds_are_those_torchvision_states(name):
    """At 224 px but for Inception's 299; the layers that differ are counted by hand."""
    stated = models.get_model_weights(name).DEFAULT.meta
    with torch.device("meta"):
        left_out = last_layers(torchvision_classifier(name))
    linear = [layer for layer in left_out if isinstance(layer, nn.Linear)]
    width = 512 if name == "vgg16_bn" else linear[-1].in_features
    size = 299 if name == "inception_v3" else 224
    parameters, multiply_adds = count(name, ATTRIBUTES, (size, size))
    lost = sum(p.numel() for layer in left_out for p in layer.parameters())
    assert parameters == stated["num_params"] - lost + 3 * (width + 1)
    lost = sum(layer.weight.numel() for layer in linear)
    wanted = 1e9 * stated["_ops"] - lost + 3 * width
    assert multiply_adds == pytest.approx(wanted, rel=1e-3, abs=6e5)  # stated to 1e6 or so


@pytest.mark.parametrize("name", BACKBONES)
def test_the_smallest_crop_is_the_smallest_that_torch_takes(name):
    min_px = BACKBONES[name].min_px
    with torch.device("meta"):
        features = AttributeNet(name, ATTRIBUTES).eval().features
        maps = features(torch.zeros(1, 3, min_px, min_px + 20))
        assert min(maps.shape[2:]) >= 1
        if min_px > 1:
            with pytest.raises(RuntimeError):
                features(torch.zeros(1, 3, min_px + 20, min_px - 1))


# Inception has its own, which the comparison of features covers.
@pytest.mark.parametrize("name", [name for name in FROM_TORCHVISION if name != "inception_v3"])
def test_pixels_are_normalised_as_the_weights_expect(name):
    wanted = models.get_model_weights(name).DEFAULT.transforms()
    assert [v / 255 for v in BACKBONES[name].mean] == pytest.approx(wanted.mean)
    assert [v / 255 for v in BACKBONES[name].std] == pytest.approx(wanted.std)


@pytest.mark.parametrize("size_hw", [(74, 104), (104, 74)])
def test_too_small_crops_are_refused(size_hw):
    check_crop_size("inception_v3", (75, 75))
    with pytest.raises(UsageError) as caught:
        check_crop_size("inception_v3", size_hw)
    assert str(caught.value) == (
        f"backbone inception_v3 needs crops of 75 px or more a side, got {size_hw[0]}x{size_hw[1]} "
        "(height x width): take larger crops or another backbone"
    )


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError) as caught:
        backbone_named("vgg")
    assert str(caught.value) == f"unknown backbone 'vgg': one of {sorted(BACKBONES)} expected"
