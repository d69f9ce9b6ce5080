import hashlib
import io
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fattr.detect import source
from fattr.detect.source import NORMALISATIONS
from fattr.errors import UsageError


class WritesAFile:
    """Unpickled, it runs code: here, code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def refused(path):
    with pytest.raises(UsageError) as caught:
        source.find(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def saved(path, content, **kwargs):
    torch.save(content, path, **kwargs)
    return path


def test_the_shipped_detector_is_found_by_name(shipped):
    found = source.find(source.SHIPPED)
    assert (found.name, found.sha256) == (source.SHIPPED, hashlib.sha256(found.data).hexdigest())
    assert found.normalisation is NORMALISATIONS["bgr_caffe"]


@pytest.mark.parametrize("name", ["", "retinaface", "no/such/file.pth", "."])
def test_what_is_neither_a_name_nor_a_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = "retinaface_mobilenet025 or a checkpoint file expected"
    assert refused(name) == f"unknown detector {name!r}: {wanted}"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<html>404</html>", id="html"),
        pytest.param(bytes(range(256)) * 40, id="noise"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="broken-zip"),
        pytest.param(pickle.dumps([1, 2], protocol=2), id="a-pickled-list"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_garbage_is_refused(content, suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    assert refused(path).startswith(f"file{suffix}: not a checkpoint of plain tensors: ")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_a_download_is_refused(share, suffix, state, tmp_path):
    path = tmp_path / f"whole{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    data = path.read_bytes()
    part = tmp_path / f"part{suffix}"
    part.write_bytes(data[: int(len(data) * share)])
    assert refused(part).startswith(f"part{suffix}: not a checkpoint of plain tensors: ")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(torch.zeros(3), id="one-tensor"),
        pytest.param([torch.zeros(3)], id="list"),
        pytest.param({}, id="nothing"),
        pytest.param({1: torch.zeros(3)}, id="numbered"),
        pytest.param({"epoch": 3}, id="a-number"),
        pytest.param({"state_dict": 3}, id="a-number-inside"),
        pytest.param({"body.stage1.0.0.weight": "text"}, id="text-for-a-tensor"),
        pytest.param({"fc.weight": torch.zeros(3)}, id="another-network"),
    ],
)
def test_tensors_of_something_else_are_refused(content, tmp_path):
    assert "not a" in refused(saved(tmp_path / "other.pth", content))


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_never_run(new_format, state, tmp_path):
    trace = tmp_path / "was-run"
    content = state | {"extra": WritesAFile(trace)}
    path = saved(tmp_path / "evil.pth", content, _use_new_zipfile_serialization=new_format)
    torch.load(io.BytesIO(path.read_bytes()), weights_only=False)
    assert trace.exists()  # the trap works: whoever unpickles it, runs it
    trace.unlink()
    assert refused(path).startswith("evil.pth: not a checkpoint of plain tensors: ")
    assert not trace.exists()


def test_code_in_a_plain_pickle_is_never_run(tmp_path):
    trace = tmp_path / "was-run"
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps(WritesAFile(trace), protocol=2))
    refused(path)
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["plain", "module", "state_dict", "legacy", "safetensors"])
def test_a_checkpoint_is_read_in_every_usual_form(kind, state, tmp_path):
    path = tmp_path / ("net.safetensors" if kind == "safetensors" else "net.pth")
    match kind:
        case "plain":
            torch.save(state, path)
        case "module":
            torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
        case "state_dict":
            torch.save({"epoch": 250, "state_dict": state}, path)
        case "legacy":
            torch.save(state, path, _use_new_zipfile_serialization=False)
        case "safetensors":
            save_file(state, path)
    found = source.find(str(path))
    assert (found.name, found.data) == (path.name, path.read_bytes())
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    loaded = source.load_network(found)
    assert not loaded.training
    tensors = loaded.state_dict()
    assert tensors.keys() == state.keys()
    assert all(torch.equal(tensors[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("file", "sidecar", "normalisation"),
    [
        pytest.param("mine.pth", None, "bgr_caffe", id="biubug6-unless-told"),
        pytest.param("retinaface_resnet50_2020-07-20.pth", None, "rgb_imagenet", id="by-its-name"),
        pytest.param(
            "mine.pth", {"normalisation": "rgb_imagenet"}, "rgb_imagenet", id="by-a-sidecar"
        ),
        pytest.param(
            "retinaface_resnet50_2020-07-20.pth",
            {"normalisation": "bgr_caffe"},
            "bgr_caffe",
            id="the-sidecar-wins",
        ),
    ],
)
def test_what_a_checkpoint_was_trained_on(file, sidecar, normalisation, state, tmp_path):
    path = saved(tmp_path / file, state)
    if sidecar:
        (tmp_path / f"{file}.json").write_text(json.dumps(sidecar))
    assert source.find(str(path)).normalisation is NORMALISATIONS[normalisation]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"normalisation": "caffe"}', '{"normalisation": ["bgr_caffe"]}', "\x00"],
)
def test_a_sidecar_that_says_nothing_useful_is_refused(text, state, tmp_path):
    path = saved(tmp_path / "mine.pth", state)
    sidecar = tmp_path / "mine.pth.json"
    sidecar.write_text(text)
    wanted = "normalisation must be one of ['bgr_caffe', 'rgb_imagenet']"
    assert refused(path) == f"{sidecar}: {wanted}"
