"""The shipped detector on both backends, and photographs that every installation has."""

from __future__ import annotations

import matplotlib.cbook
import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from fattr.detect import source
from fattr.detect.ncnn_backend import NcnnBackend
from fattr.detect.torch_backend import TorchBackend

THRESHOLDS = {"score_threshold": 0.5, "nms_iou_threshold": 0.4}


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small networks on a busy machine: more threads only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shipped():
    return source.shipped()


@pytest.fixture(scope="session")
def network(shipped):
    return source.load_network(shipped)


@pytest.fixture(scope="session")
def ncnn_backend(shipped):
    return NcnnBackend(shipped.data, shipped.normalisation, num_threads=1, **THRESHOLDS)


@pytest.fixture(scope="session")
def torch_backend(shipped, network):
    return TorchBackend(network, shipped.normalisation, device="cpu", **THRESHOLDS)


@pytest.fixture(scope="session", params=["ncnn", "torch"])
def backend(request):
    return request.getfixturevalue(f"{request.param}_backend")


@pytest.fixture(scope="session")
def astronaut():
    """One face, (512, 512, 3)."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def hopper():
    """One face, (600, 512, 3)."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return np.asarray(Image.open(file).convert("RGB"))
