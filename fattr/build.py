"""The only module that turns settings into objects; below it, classes take plain arguments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fattr import weights
from fattr.attributes import Attribute
from fattr.bundle import Bundle
from fattr.classify.classifier import (
    AttributeClassifier,
    load_network,
    onnx_forward,
    torch_forward,
)
from fattr.config import DetectConfig
from fattr.detect.backends import OnnxBackend, TorchBackend
from fattr.detect.detector import Backend, FaceDetector, Normalisation
from fattr.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

CAFFE_MEANS = Normalisation("bgr", (104, 117, 123), (1, 1, 1))  # biubug6, yakhyo
IMAGENET_STATISTICS = Normalisation(  # ternaus
    "rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
)
NORMALISATIONS = {"bgr_caffe": CAFFE_MEANS, "rgb_imagenet": IMAGENET_STATISTICS}
DEFAULT_DETECTOR = "retinaface_mobilenet025"
GPU_BATCH_SIZE = 8


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` is whichever is there."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class DetectorSource:
    """Which detector, identified by the hash of its weights."""

    name: str
    sha256: str


def detector_source(config: DetectConfig) -> DetectorSource:
    """The detector the settings name, its file hashed.

    Raises:
        UsageError: neither a shipped name nor a file.
    """
    if config.detector == DEFAULT_DETECTOR:
        return DetectorSource(DEFAULT_DETECTOR, weights.RETINAFACE_MOBILENET025_SHA256)
    path = Path(config.detector)
    if not path.is_file():
        raise UsageError(
            f"unknown detector {config.detector!r}: {DEFAULT_DETECTOR} or a checkpoint file"
        )
    return DetectorSource(path.name, weights.sha256(path.read_bytes()))


def build_detector(
    config: DetectConfig, *, device: str, batch_size: int = 1, num_threads: int = 1
) -> FaceDetector:
    """The detector of the settings: onnxruntime for the shipped weights on CPU, else torch."""
    backend: Backend
    if config.detector == DEFAULT_DETECTOR and device == "cpu":
        backend = OnnxBackend(
            weights.retinaface_mobilenet025_onnx(),
            CAFFE_MEANS,
            score_threshold=config.score_threshold,
            nms_iou_threshold=config.nms_iou_threshold,
            num_threads=num_threads,
        )
    else:
        backend = _torch_backend(config, device)
    return FaceDetector(backend, long_side=config.detect_size, batch_size=batch_size)


def _torch_backend(config: DetectConfig, device: str) -> TorchBackend:
    from fattr.detect.from_onnx import state_dict_of
    from fattr.detect.network import load_checkpoint

    state: Mapping[str, Tensor]
    if config.detector == DEFAULT_DETECTOR:
        state, normalisation = state_dict_of(weights.retinaface_mobilenet025_onnx()), CAFFE_MEANS
    else:
        path = Path(config.detector)
        state, normalisation = _read_checkpoint(path), _normalisation_of(path)
    return TorchBackend(
        load_checkpoint(state)[0],
        normalisation,
        score_threshold=config.score_threshold,
        nms_iou_threshold=config.nms_iou_threshold,
        device=device,
    )


def _read_checkpoint(path: Path) -> Mapping[str, Tensor]:
    """Tensors of a .safetensors or .pth file; no code in it is run."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as err:
        problem = str(err).splitlines()[0]
        raise UsageError(f"{path}: not a checkpoint of plain tensors: {problem}") from err
    tensors: Mapping[str, Tensor] = loaded.get("state_dict", loaded)
    return tensors


def _normalisation_of(path: Path) -> Normalisation:
    """What the checkpoint was trained on: from ``FILE.json``, the published name, or the usual."""
    sidecar = path.with_name(path.name + ".json")
    if sidecar.is_file():
        stated = json.loads(sidecar.read_text()).get("normalisation")
        if stated not in NORMALISATIONS:
            raise UsageError(f"{sidecar}: normalisation must be one of {sorted(NORMALISATIONS)}")
        return NORMALISATIONS[stated]
    ternaus = path.name.startswith("retinaface_resnet50_2020-07-20")
    return IMAGENET_STATISTICS if ternaus else CAFFE_MEANS


def build_classifier(bundle: Bundle, *, device: str, num_threads: int = 1) -> AttributeClassifier:
    """A bundle's classifier: onnxruntime on CPU, torch on a GPU."""
    attributes: tuple[Attribute, ...] = bundle.spec.attributes
    if device == "cpu":
        forward = onnx_forward(bundle.onnx(), num_threads=num_threads)
    else:
        network = load_network(bundle.spec.backbone, attributes, bundle.weights())
        forward = torch_forward(network, device=device)
    return AttributeClassifier(forward, attributes, bundle.spec.calibration)
