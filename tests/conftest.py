"""Fixtures that more than one test file uses."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from fattr import storage


@pytest.fixture(scope="session")
def moto_endpoint():
    """URL of an S3 server in a thread of this process."""
    from moto.server import ThreadedMotoServer  # a second to import

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def moto_client(moto_endpoint):
    """One client for all tests: making one takes 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        set_aws_environment(patch, moto_endpoint)
        return storage._client_of_process.__wrapped__(0)


@pytest.fixture
def use_endpoint(monkeypatch):
    """A function that points the AWS environment, and a new client, at a URL."""
    forget_client = storage._client_of_process.cache_clear

    def point_at(url: str) -> None:
        set_aws_environment(monkeypatch, url)
        forget_client()

    yield point_at
    forget_client()


@pytest.fixture
def s3_bucket(moto_endpoint, moto_client, monkeypatch) -> str:
    """URI of a fresh, empty bucket."""
    set_aws_environment(monkeypatch, moto_endpoint)
    monkeypatch.setattr(storage, "_client_of_process", lambda _: moto_client)
    name = f"bucket-{uuid.uuid4().hex}"
    moto_client.create_bucket(Bucket=name)
    return f"s3://{name}"


def set_aws_environment(patch: pytest.MonkeyPatch, url: str) -> None:
    """The whole AWS environment, so that nothing of the machine's own is used."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    values = {
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_ENDPOINT_URL": url,
    }
    for name, value in values.items():
        patch.setenv(name, value)


# Photographs and models


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """One face, (512, 512, 3)."""
    import skimage.data

    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def photo_folder(astronaut, tmp_path_factory) -> Path:
    """Photographs, and what else lies in a folder of photographs; nobody writes into it.

    The names say what to expect; an image of ``faces`` has that many.
    """
    import matplotlib.cbook
    import skimage.data

    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        hopper_jpg = file.read()
    hopper = np.asarray(Image.open(io.BytesIO(hopper_jpg)).convert("RGB"))
    tagged = Image.Exif()
    tagged[0x0112], tagged[0x013B] = 6, "SECRET-ARTIST"  # orientation, artist
    files = {
        "1-face.jpg": hopper_jpg,
        "1-face-4000px.jpg": encoded(Image.fromarray(astronaut).resize((4000, 4000))),
        "1-face-named-wrongly.jpg": encoded(Image.fromarray(astronaut), "PNG"),
        "1-face-rotated.jpg": encoded(Image.fromarray(np.rot90(astronaut)), exif=tagged),
        "1-face-tiny.png": encoded(Image.fromarray(astronaut).resize((80, 80)), "PNG"),
        "2-faces.jpg": encoded(Image.fromarray(np.hstack([astronaut, hopper[:512]]))),
        "cat.png": encoded(Image.fromarray(skimage.data.chelsea()), "PNG"),
        "empty.jpg": b"",
        "notes.txt": b"a list of no images\n",
        "sub folder/truncated 100%.jpg": hopper_jpg[: len(hopper_jpg) // 2],
        ".hidden.jpg": hopper_jpg,
        "_work/part.jpg": hopper_jpg,
    }
    folder = tmp_path_factory.mktemp("photographs")
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **{"quality": 92} | options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_bundle_folder(tmp_path_factory) -> Callable[..., Path]:
    """A function that writes a bundle of an untrained network whose outputs differ by face."""
    import torch

    from fattr import bundle
    from fattr.attributes import attribute
    from fattr.classify.calibration import Calibration
    from fattr.classify.export import onnx_bytes, weights_bytes
    from fattr.classify.network import AttributeNet
    from fattr.crop import named_rule
    from fattr.runinfo import versions

    def make(name: str, attributes: list[str], crop_rule: str, *, research_only: bool) -> Path:
        chosen = tuple(attribute(one) for one in attributes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(name))
            network = AttributeNet("tiny", chosen).eval()
        with torch.no_grad():
            for head in network.heads.values():
                head.weight *= 5
        rule = named_rule(crop_rule, (64, 52))
        spec = bundle.BundleSpec(
            name=name,
            backbone="tiny",
            attributes=chosen,
            crop_rule=rule,
            calibration=Calibration({attributes[0]: 0.5}, {}, {}),
            licence="for tests" + research_only * " only",
            research_only=research_only,
            training={},
            versions=versions(),
        )
        folder = tmp_path_factory.mktemp("models") / name
        bundle.save(
            folder, spec, weights=weights_bytes(network), onnx=onnx_bytes(network, rule.size_hw)
        )
        return folder

    return make


@pytest.fixture(scope="session")
def bundles(make_bundle_folder) -> SimpleNamespace:
    """Folders of three models: all kinds of attribute, overlapping ones, only sensitive ones."""
    return SimpleNamespace(
        people=make_bundle_folder(
            "people",
            ["age", "perceived_gender_presentation", "smiling"],
            "fairface",
            research_only=False,
        ),
        looks=make_bundle_folder(
            "looks",
            ["eyeglasses", "smiling", "young", "wearing_hat"],
            "celeba",
            research_only=True,
        ),
        private=make_bundle_folder("private", ["age", "young"], "celeba", research_only=False),
    )
