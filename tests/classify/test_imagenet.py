import hashlib

import pytest
import torch
from torchvision import models

from fattr import weights
from fattr.classify import imagenet
from fattr.classify.backbones import BACKBONES
from fattr.errors import UsageError

DATA = b"weights of some network" * 100
DIGEST = hashlib.sha256(DATA).hexdigest()
NAME = f"some_network-{DIGEST[:8]}.pth"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Torch's cache, empty; nothing of the machine's own is read or written."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path):
    """Where files are fetched from: URLs of a folder."""
    (tmp_path / "server").mkdir()
    return tmp_path / "server"


def url_of(server, name=NAME):
    return (server / name).as_uri()


def refused(url):
    with pytest.raises(UsageError) as caught:
        imagenet.downloaded(url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_fetched_once(cache, server):
    (server / NAME).write_bytes(DATA)
    path = imagenet.downloaded(url_of(server))
    assert path == cache / NAME
    assert path.read_bytes() == DATA
    (server / NAME).unlink()
    assert imagenet.downloaded(url_of(server)) == path


def test_what_cannot_be_fetched_is_named_with_the_remedy(cache, server):
    url = url_of(server)
    message = refused(url)
    assert message.startswith(f"{NAME} cannot be downloaded (")
    assert message.endswith(f": fetch {url} by other means and use --init FILE")


def test_other_bytes_are_refused_and_not_kept(cache, server):
    (server / NAME).write_bytes(DATA + b".")
    assert "invalid hash value" in refused(url_of(server))
    assert list(cache.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused(cache, server):
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(DATA[:-1])
    got = hashlib.sha256(DATA[:-1]).hexdigest()
    assert refused(url_of(server)) == (
        f"{cache / NAME}: SHA-256 {got} found, {DIGEST[:8]}... expected; delete the file"
    )


@pytest.mark.parametrize("name", [n for n in BACKBONES if n not in ("tiny", "mobilenet_v2")])
def test_every_architecture_has_weights_under_a_name_that_states_their_hash(name, monkeypatch):
    asked = []
    monkeypatch.setattr(imagenet, "downloaded", asked.append)
    imagenet.imagenet_checkpoint(name)
    (url,) = asked
    assert url == models.get_model_weights(name).DEFAULT.url
    stated = url.removesuffix(".pth").rpartition("-")[2]
    assert len(stated) == 8
    int(stated, 16)


def test_mobilenet_v2_comes_with_a_package(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "imagenet_mobilenet_v2", lambda: tmp_path / "m.pth")
    assert imagenet.imagenet_checkpoint("mobilenet_v2") == tmp_path / "m.pth"


def test_a_backbone_without_weights_is_refused():
    with pytest.raises(UsageError) as caught:
        imagenet.imagenet_checkpoint("tiny")
    assert str(caught.value) == "no ImageNet weights exist for tiny: use --init none or FILE"


def test_an_unknown_backbone_is_refused():
    with pytest.raises(UsageError, match="unknown backbone 'resnet17'"):
        imagenet.imagenet_checkpoint("resnet17")
