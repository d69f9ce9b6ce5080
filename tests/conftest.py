"""Fixtures that more than one test file uses."""

from __future__ import annotations

import io
import logging
import uuid
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from s3_server import set_aws_environment

from fattr import storage
from fattr.storage import s3


@pytest.fixture(scope="session")
def moto_endpoint():
    """URL of an S3 server in a thread of this process."""
    from moto.server import ThreadedMotoServer  # a second to import

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for each request
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
        return s3._client_of_process.__wrapped__(0, False, s3.READ_TIMEOUT_S)


@pytest.fixture
def use_endpoint(monkeypatch):
    """A function that points the AWS environment, and a new client, at a URL."""

    def point_at(url: str) -> None:
        set_aws_environment(monkeypatch, url)
        forget_client()

    yield point_at
    forget_client()


def forget_client() -> None:
    """The environment has changed: what was made from it is of no use."""
    s3._client_of_process.cache_clear()
    s3._session_of_process.cache_clear()


@pytest.fixture
def s3_bucket(moto_endpoint, moto_client, monkeypatch) -> str:
    """URI of a fresh, empty bucket."""
    set_aws_environment(monkeypatch, moto_endpoint)
    monkeypatch.setattr(s3, "_client_of_process", lambda *_: moto_client)
    s3._session_of_process.cache_clear()
    name = f"bucket-{uuid.uuid4().hex}"
    moto_client.create_bucket(Bucket=name)
    return f"s3://{name}"


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
        "coffee.png": encoded(Image.fromarray(skimage.data.coffee()), "PNG"),
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
    from fattr.runs.record import versions

    exported: dict[tuple[int, ...], bytes] = {}

    def make(name: str, attributes: list[str], crop_rule: str, *, research_only: bool) -> Path:
        chosen = tuple(attribute(one) for one in attributes)
        rule = named_rule(crop_rule, (64, 52))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = AttributeNet("tiny", chosen).eval()
        with torch.no_grad():
            for head in network.heads.values():
                head.weight *= 5
        widths = tuple(a.num_logits for a in chosen)
        if widths not in exported:  # seconds; heads of equal widths have equal weights here
            exported[widths] = onnx_bytes(network, rule.size_hw)
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
        bundle.save(folder, spec, weights=weights_bytes(network), onnx=exported[widths])
        return folder

    return make


@pytest.fixture(scope="session")
def models(make_bundle_folder) -> SimpleNamespace:
    """Folders of three bundles: all kinds of attribute, binary ones, sensitive ones only."""
    people = ["age", "perceived_gender_presentation", "smiling"]
    looks = ["eyeglasses", "smiling", "young", "wearing_hat"]
    private = ["age", "perceived_gender_presentation", "young"]
    return SimpleNamespace(
        people=make_bundle_folder("people", people, "fairface", research_only=False),
        looks=make_bundle_folder("looks", looks, "celeba", research_only=True),
        private=make_bundle_folder("private", private, "celeba", research_only=False),
    )


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, object]]]:
    """A function that reads a table of an annotate output, in order of image and face.

    A row has the ``name`` of its image's file instead of what depends on where the image lies.
    """
    import pyarrow.parquet as pq

    def read(output: str | Path, table: str) -> list[dict[str, object]]:
        rows = []
        for entry in storage.list_files(storage.join(str(output), table)):
            files, path = storage.filesystem(entry.uri)
            with files.open_input_file(path) as file:
                rows += pq.read_table(file).to_pylist()
        for row in rows:
            uri = row.pop("image_uri")
            row["name"] = (unquote(uri) if uri.startswith("file:") else uri).rpartition("/")[2]
            row.pop("image_id")
            row.pop("etag", None)
        return sorted(rows, key=lambda row: (row["name"], row.get("face_index", 0)))

    return read


@pytest.fixture(scope="session")
def ray_cluster(moto_endpoint):
    """A local Ray that all tests share; its workers know the S3 server."""
    from fattr.on_ray.session import ray_session

    with pytest.MonkeyPatch.context() as patch:
        set_aws_environment(patch, moto_endpoint)
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers import helpers of tests
        session = ray_session({"GIVEN_TO_WORKERS": "1"})
        session.__enter__()
    yield
    session.__exit__(None, None, None)
